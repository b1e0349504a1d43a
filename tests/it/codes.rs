//! Every error code, rendered in full: `tests/golden/codes/PHASE.NAME.tlm` is a recipe with that mistake, the `.snap` beside it
//! what the program says to it. And its page, `docs/codes/PHASE.NAME.md`: the first recipe has that mistake, the last has none.
//! The first line of a recipe may hold another command than `tlm check`; `[long]` in it is a file too long to be kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tlm::base::FileId;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("tests/golden/codes")).expect("the folder");
    let mut cases: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "tlm"));
    cases.sort();
    cases
}

fn code(case: &Path) -> String {
    let name = case.file_stem().and_then(|name| name.to_str()).expect("text");
    format!("tlm::{}", name.replace('.', "::"))
}

/// What a command said.
struct Told {
    code: i32,
    out: String,
    errors: String,
}

impl Told {
    /// Returns the codes of the findings.
    fn codes(&self) -> BTreeSet<&str> {
        self.errors.lines().filter(|line| line.starts_with("tlm::")).collect()
    }
}

/// Runs the command that stands in the first line of a recipe, by default `tlm check`.
fn run(text: &str, name: &str, folder: &Path) -> Told {
    let store = tempfile::tempdir().expect("a folder");
    let default = format!("check {name}");
    let first = text.lines().next().unwrap_or_default();
    let command = first.strip_prefix("# $ tlm ").unwrap_or(&default);
    let long = store.path().join("long.tlm");
    fs::File::create(&long).and_then(|file| file.set_len(100 << 20)).expect("writable");
    let long = long.to_str().expect("text");
    let command = command.replace("[long]", long);
    let output = Command::new(env!("CARGO_BIN_EXE_tlm"))
        .env_clear()
        .envs([
            ("TLM_STORE", store.path().join("store").as_os_str()),
            ("CUDA_VISIBLE_DEVICES", "".as_ref()),
        ])
        .current_dir(folder)
        .args(command.split(' '))
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text").replace(long, "[long]");
    let code = output.status.code().expect("no signal");
    Told { code, out: text(output.stdout), errors: text(output.stderr) }
}

/// Runs a case and returns its exit code and what it says.
fn told(case: &Path) -> String {
    let text = fs::read_to_string(case).expect("readable");
    let name = case.file_name().and_then(|name| name.to_str()).expect("text");
    let folder = case.parent().expect("in a folder");
    let told = run(&text, name, folder);
    assert_eq!(told.out, "", "{name}");
    let errors = told.errors.replace(folder.to_str().expect("text"), "[folder]");
    format!("exit code {}\n{errors}", told.code)
}

#[test]
fn mistakes_are_told_in_full() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden/codes");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for case in cases() {
        let told = told(&case);
        let code = code(&case);
        assert!(told.lines().any(|line| line == code), "no {code} in {told}");
        let name = case.file_stem().and_then(|name| name.to_str()).expect("text");
        settings.bind(|| insta::assert_snapshot!(name, told));
    }
}

/// Returns the codes that the sources name.
fn used() -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => used.extend(codes_in(&fs::read_to_string(path).expect("text"))),
            }
        }
    }
    used
}

#[test]
fn every_code_has_a_case() {
    let cases: BTreeSet<_> = cases().iter().map(|case| code(case)).collect();
    assert_eq!(apart(&cases, &used()), (vec![], vec![]), "cases without code, codes without case");
}

#[test]
fn every_code_is_documented() {
    let text = fs::read_to_string(root().join("docs/language.md")).expect("readable");
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.contains("`tlm::"));
    let mut phases = Vec::new();
    let mut documented = BTreeSet::new();
    for row in rows {
        let code = row.split('`').nth(1).expect("a code");
        let page = code.trim_start_matches("tlm::").replace("::", ".");
        let link = format!("| [`{code}`](codes/{page}.md) | ");
        assert!(row.starts_with(&link), "begin the row of docs/language.md with `{link}`");
        phases.push(code.rsplit_once("::").expect("a phase").0);
        documented.insert(code.to_owned());
    }
    assert_eq!(
        apart(&documented, &used()),
        (vec![], vec![]),
        "rows without code, codes without row"
    );
    phases.dedup();
    let once: BTreeSet<_> = phases.iter().collect();
    assert_eq!(once.len(), phases.len(), "keep the rows of a phase together: {phases:?}");
}

/// Codes whose pages have no recipes, and why not.
const UNSHOWN: [(&str, &str); 5] = [
    ("tlm::exec::no_worker", "building the missing program mends it, not another recipe"),
    ("tlm::parse::not_a_file", "there is no recipe"),
    ("tlm::parse::not_utf8", "a page is UTF-8"),
    ("tlm::parse::too_long", "a page is short"),
    ("tlm::graph::unreadable", "the mistake is in the folder, not in the recipe"),
];

/// The widest line of a page: it is shown with an indent of two.
const WIDE: usize = 78;

fn pages() -> BTreeMap<String, String> {
    let entries = fs::read_dir(root().join("docs/codes")).expect("the folder");
    let page = |path: PathBuf| (code(&path), fs::read_to_string(path).expect("readable"));
    entries.map(|entry| page(entry.expect("an entry").path())).collect()
}

/// Returns the recipes of a page.
fn recipes(page: &str) -> Vec<&str> {
    let blocks = page.split("```tlm\n").skip(1);
    blocks.map(|block| block.split_once("```").expect("a block ends").0).collect()
}

/// Runs a recipe in a folder with the files that pages name.
fn tried(recipe: &str) -> Told {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("data")).expect("created");
    for name in ["a.txt", "data/a.txt"] {
        fs::write(folder.path().join(name), "A text.\n").expect("written");
    }
    let base = root().join("tests/golden/codes/parts/base.tlm");
    fs::copy(base, folder.path().join("base.tlm")).expect("copied");
    fs::write(folder.path().join("recipe.tlm"), recipe).expect("written");
    run(recipe, "recipe.tlm", folder.path())
}

/// Returns what is only in the one set, and what only in the other.
fn apart<'s>(
    one: &'s BTreeSet<String>,
    other: &'s BTreeSet<String>,
) -> (Vec<&'s str>, Vec<&'s str>) {
    let only = |a: &'s BTreeSet<String>, b| a.difference(b).map(String::as_str).collect();
    (only(one, other), only(other, one))
}

#[test]
fn every_code_has_a_page() {
    let pages: BTreeSet<_> = pages().into_keys().collect();
    let used = used();
    let (missing, idle) = apart(&used, &pages);
    assert_eq!(missing, [""; 0], "write docs/codes/PHASE.NAME.md, and list it in src/cli/pages.rs");
    assert_eq!(idle, [""; 0], "remove the pages of what is no code");
    let unshown = UNSHOWN.map(|(code, _)| code.to_owned());
    assert!(pages.is_superset(&unshown.into()), "leave out of `UNSHOWN` what is no code");
}

#[test]
fn pages_have_one_form_and_are_what_is_told() {
    for (code, page) in pages() {
        let told = crate::reference::check(&["explain", &code], 0, &[&code]);
        let shown: Vec<_> =
            told.lines().skip(1).map(|l| l.strip_prefix("  ").unwrap_or(l)).collect();
        let written: Vec<_> = page.lines().collect();
        assert_eq!(written.first(), Some(&&*format!("# {code}")));
        assert_eq!(shown, written[1..], "list {code} in src/cli/pages.rs");
        for line in written {
            assert!(line.chars().count() <= WIDE, "{code}: break the line `{line}`");
        }
    }
}

#[test]
fn pages_show_the_mistake_and_then_none() {
    for (code, page) in pages() {
        let recipes = recipes(&page);
        if let Some((_, why)) = UNSHOWN.iter().find(|(unshown, _)| *unshown == code) {
            assert!(recipes.is_empty(), "{code}: {why}, so its page has no recipe");
            continue;
        }
        let [wrong, .., right] = &recipes[..] else {
            panic!("{code}: show a wrong recipe and a right one")
        };
        let told = tried(wrong);
        assert_eq!(told.codes(), [&*code].into(), "{wrong}\n{}", told.errors);
        let told = tried(right);
        assert_eq!((told.code, told.codes()), (0, [].into()), "{code}: {right}\n{}", told.errors);
        let styled = tlm::syntax::format(FileId(0), right).expect("no mistakes");
        let fits = styled.lines().all(|line| line.chars().count() <= WIDE);
        assert!(!fits || styled == *right, "{code}: write it as `tlm fmt` does:\n{styled}");
    }
}

/// Returns the quoted texts that begin with `tlm::`.
fn codes_in(text: &str) -> impl Iterator<Item = String> {
    let whole = |part: &&str| part.strip_prefix("tlm::").is_some_and(|name| !name.is_empty());
    text.split('"').filter(whole).map(str::to_owned)
}
