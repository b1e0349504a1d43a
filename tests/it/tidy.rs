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

/// What may be named only below some paths; everything else goes through what those offer.
const HOMES: [(&str, &[&str]); 28] = [
    ("tch::", &["torch/"]),
    ("tokenizers::", &["data/tokenizer/"]),
    ("aho_corasick::", &["data/tokenizer/added.rs"]),
    ("ahash::", &["data/tokenizer/retrain.rs"]),
    ("base64::", &["data/tokenizer/charsmap.rs", "cli/serve.rs"]),
    ("httparse::", &["cli/serve/http.rs"]),
    ("compact_str::", &["data/tokenizer/retrain.rs"]),
    ("regex_automata::", &["data/tokenizer/split.rs"]),
    ("regex_syntax::", &["data/tokenizer/split.rs"]),
    ("crc32c::", &["data/train_log.rs"]),
    ("petgraph::", &["graph/"]),
    ("nom::", &["syntax/"]),
    ("miette::", &["diag/"]),
    ("clap::", &["cli/"]),
    ("blake3::", &["base/digest.rs", "base/canon.rs", "base/pieces.rs"]),
    ("csv::", &["report/export.rs"]),
    ("indicatif::", &["report/"]),
    ("parquet::", &["stage/corpus_parquet.rs"]),
    ("regex::", &["stage/corpus_filter.rs"]),
    ("safetensors::", &["data/safetensors.rs", "data/tensor_file.rs", "torch/stage/tests/"]),
    (
        "zip::",
        &["data/wheel.rs", "data/torch_file.rs", "data/tensor_file/", "stage/source_unpack.rs"],
    ),
    ("tar::", &["stage/source_unpack.rs"]),
    ("ureq::", &["stage/download.rs"]),
    ("unicode_script::", &["data/tokenizer/retrain.rs", "stage/corpus_filter.rs"]),
    ("unicode_width::", &["base/text.rs"]),
    ("signal_hook::", &["exec/stop.rs", "stage/guard.rs", "stage/worker.rs"]),
    ("clippy::disallowed_methods", &["base/world.rs"]),
    ("unsafe {", &["data/mapped.rs", "torch/nn/"]),
];

#[test]
fn each_capability_has_one_home() {
    let mut strays = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (what, homes) in HOMES {
                let begins =
                    |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                let used = code.match_indices(what).any(|(at, _)| begins(at));
                if used && !homes.iter().any(|home| path.starts_with(home)) {
                    let place = format!("{}:{}", path.display(), number + 1);
                    strays.push(format!("{place}: `{what}` belongs into {}", homes.join(" or ")));
                }
            }
        }
    }
    assert_eq!(strays, [""; 0], "offer what is needed from its home");
}

#[test]
fn only_one_file_writes_into_the_store() {
    let writers =
        ["fs::rename", "fs::write", "File::create", "OpenOptions", "tempfile_in", "NamedTempFile"];
    for (path, text) in sources() {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let exempt = ["atomic.rs", "tests.rs"].iter().any(|name| path.ends_with(name));
        let inside = path.starts_with("store") && !exempt;
        let used = writers.iter().find(|writer| inside && code.contains(**writer));
        assert_eq!(used, None, "{}: move it to store/atomic.rs", path.display());
    }
}

#[test]
fn no_test_file_is_forgotten() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for path in glob::glob(&root.join("**/*.rs").to_string_lossy()).expect("a pattern") {
        let path = path.expect("readable");
        let (folder, name) = (path.parent().expect("below it"), path.file_stem().expect("a name"));
        let parent = match folder == root {
            true => root.join("main.rs"),
            false => folder.with_extension("rs"),
        };
        let line = format!("mod {};", name.to_string_lossy());
        let listed = std::fs::read_to_string(&parent).expect("readable").contains(&line);
        assert!(listed || name == "main", "`{line}` is missing in {}", parent.display());
    }
}
