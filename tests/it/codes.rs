//! Every error code, rendered in full: `tests/golden/codes/PHASE.NAME.tlm` is a recipe with that mistake, the `.snap` beside it
//! what the program says to it. The first line of a recipe may hold another command than `tlm check`; `[long]` in it is a file
//! too long to be kept here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Runs a case and returns its exit code and what it says.
fn told(case: &Path) -> String {
    let store = tempfile::tempdir().expect("a folder");
    let text = fs::read_to_string(case).expect("readable");
    let name = case.file_name().and_then(|name| name.to_str()).expect("text");
    let default = format!("check {name}");
    let first = text.lines().next().unwrap_or_default();
    let command = first.strip_prefix("# $ tlm ").unwrap_or(&default);
    let folder = case.parent().expect("in a folder");
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
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{name}");
    let errors = String::from_utf8(output.stderr).expect("text");
    let errors = errors.replace(long, "[long]").replace(folder.to_str().expect("text"), "[folder]");
    format!("exit code {}\n{errors}", output.status.code().expect("no signal"))
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

#[test]
fn every_code_has_a_case() {
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
    let cases: BTreeSet<_> = cases().iter().map(|case| code(case)).collect();
    assert_eq!(cases, used);
}

#[test]
fn every_code_is_documented() {
    let text = fs::read_to_string(root().join("docs/language.md")).expect("readable");
    let documented =
        text.lines().filter_map(|line| line.strip_prefix("| `tlm::")?.split('`').next());
    let documented: BTreeSet<_> = documented.map(|code| format!("tlm::{code}")).collect();
    let cases: BTreeSet<_> = cases().iter().map(|case| code(case)).collect();
    assert_eq!(documented, cases);
}

/// Returns the quoted texts that begin with `tlm::`.
fn codes_in(text: &str) -> impl Iterator<Item = String> {
    let whole = |part: &&str| part.strip_prefix("tlm::").is_some_and(|name| !name.is_empty());
    text.split('"').filter(whole).map(str::to_owned)
}
