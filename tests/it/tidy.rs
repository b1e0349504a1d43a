//! The house rules of `docs/architecture.md`: layers, file sizes, module docs.

use std::path::{Path, PathBuf};

const LEVELS: [(&str, u32); 11] = [
    ("base", 0),
    ("diag", 1),
    ("store", 1),
    ("syntax", 2),
    ("sema", 3),
    ("graph", 4),
    ("data", 5),
    ("stage", 6),
    ("exec", 7),
    ("report", 8),
    ("cli", 9),
];

fn level(module: &str) -> Option<u32> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let pattern = root.join("**/*.rs");
    let paths = glob::glob(&pattern.to_string_lossy()).expect("a pattern");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("readable");
        (path.strip_prefix(&root).expect("below src").to_owned(), text)
    };
    paths.map(|path| read(path.expect("readable"))).collect()
}

#[test]
fn modules_import_only_from_lower_levels() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let module =
            path.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let Some(own) = level(&module) else { continue };
        for (number, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != module && level(&used).is_some_and(|level| level >= own) {
                    broken.push(format!(
                        "{}:{}: `{module}` may not use `{used}`",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert_eq!(broken, [""; 0], "move the shared part to a lower level");
}

#[test]
fn files_are_documented_and_of_a_size_one_can_read() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{}: start it with a `//!` line", path.display());
        assert!(text.lines().count() <= 900, "{}: split it", path.display());
    }
}

#[test]
fn only_the_tensor_worker_uses_tch() {
    for (path, text) in sources() {
        let inside = path.starts_with("torch");
        assert!(
            inside || !["use tch::", " tch::"].iter().any(|used| text.contains(used)),
            "{}: move it to src/torch",
            path.display()
        );
    }
}
