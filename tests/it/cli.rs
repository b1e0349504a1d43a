//! The program itself: exit codes, and what goes where.

use std::path::Path;

use assert_cmd::Command;

fn tlm(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tlm"));
    let output = program.env_clear().current_dir(folder).args(args).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

#[test]
fn check_finds_all_mistakes_of_a_recipe() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(
        dir.path().join("a.tlm"),
        "lett a = 1\nlet b = 3x\nlet d : Count = 90s\nlet c = f(1\n",
    )
    .expect("written");
    let (code, out, err) = tlm(dir.path(), &["check", "a.tlm"]);
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    for part in [
        "tlm::parse::unknown_item",
        "did you mean `let`?",
        "tlm::parse::unknown_unit",
        "tlm::parse::unclosed",
        "tlm::sema::unknown_name",
        "tlm::sema::wrong_type",
        "5 errors",
    ] {
        assert!(err.contains(part), "no `{part}` in:\n{err}");
    }
    let (code, out, _) = tlm(dir.path(), &["check", "--json", "a.tlm"]);
    let found: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, found.as_array().map(Vec::len)), (3, Some(5)));
    assert_eq!(
        (&found[1]["labels"][0]["line"], &found[1]["labels"][0]["column"]),
        (&2.into(), &10.into())
    );
}

#[test]
fn check_accepts_the_quickstart() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, _, err) = tlm(root, &["check", "examples/quickstart/quickstart.tlm"]);
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn exit_codes_tell_usage_program_and_environment_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("latin.tlm"), b"let a = \"\xe9\"").expect("written");
    for (args, expected, message) in [
        (&["chekc"][..], 2, "unrecognized subcommand"),
        (&["check", "none.tlm"], 4, "can't read"),
        (&["check", "latin.tlm"], 3, "not UTF-8 at byte 9"),
        (&["ls"], 4, "no store at"),
        (&["verify", "--store", "nowhere"], 4, "name one with `--store DIR`"),
    ] {
        let (code, _, err) = tlm(dir.path(), args);
        assert_eq!(code, expected, "{args:?}: {err}");
        assert!(err.contains(message), "{args:?}: {err}");
    }
}

#[test]
fn ls_and_verify_read_a_store() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(tlm::store::Store::open(&dir.path().join(".tlm")).expect("opens"));
    assert_eq!(tlm(dir.path(), &["ls"]), (0, "0 records\n".to_owned(), String::new()));
    assert_eq!(tlm(dir.path(), &["verify"]).1, "0 records verified\n");
}
