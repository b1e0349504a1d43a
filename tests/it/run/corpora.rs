//! Corpora from files of many kinds, and what is made of them; what is wrong is told with file and place.

use std::fmt::Write;

use tlm::data::Corpus;

use crate::run::inputs::{gzip, made};
use crate::run::space::{Run, Space};

/// A recipe that makes one corpus, called `text`.
fn recipe(call: &str) -> String {
    format!("use std.{{corpus}}\n\nlet text = {call}\n\nplan default = text\n")
}

#[track_caller]
fn documents(space: &Space, call: &str) -> Vec<String> {
    space.write("r.tlm", recipe(call));
    let corpus = Corpus::open(&made(space, "text")).expect("a corpus");
    (0..corpus.documents()).map(|at| corpus.document(at).expect("text").to_owned()).collect()
}

/// Returns a field of the only corpus.
fn field(space: &Space, name: &str) -> String {
    let shown = space.tlm(&["show", "text"]).out;
    let line = shown.lines().find_map(|line| line.strip_prefix(&format!("  out.{name} = ")));
    line.unwrap_or_else(|| panic!("no `{name}` in:\n{shown}")).to_owned()
}

fn run(space: &Space, call: &str) -> Run {
    space.write("r.tlm", recipe(call));
    space.run(&[])
}

/// Returns what is told of calls that fail, without the folder they run in.
fn told(space: &Space, calls: &[&str]) -> String {
    let folder = space.path("");
    let mut all = String::new();
    for call in calls {
        let run = run(space, call);
        assert_eq!(run.code, Some(1), "{call}\n{run}");
        let failed = run.all("failed").next().expect("a failure");
        let text = |name: &str| {
            let text = failed[name].as_str().unwrap_or("nothing");
            text.replace(folder.to_str().expect("text"), "")
        };
        writeln!(all, "{call}\n  {}\n  help: {}\n", text("message"), text("help")).expect("text");
    }
    all
}

#[track_caller]
fn golden(name: &str, text: &str) {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path("../../golden/corpora");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn json_lines_come_plain_or_compressed_from_files_and_folders_in_the_order_of_paths() {
    let space = Space::new();
    let lines = |texts: &[&str]| {
        let line = |text: &&str| format!("{}\n", serde_json::json!({"id": 1, "text": text}));
        texts.iter().map(line).collect::<String>()
    };
    space.write("data/b.jsonl", lines(&["one", "", "zwei\nü"]) + "\n  \n");
    space.write("data/c/d.jsonl.gz", gzip(&lines(&["three"])));
    let packed = zstd::encode_all(lines(&["four", "five"]).trim_end().as_bytes(), 3);
    space.write("data/a.zst", packed.expect("compressed"));
    let all = ["four", "five", "one", "zwei\nü", "three"];
    assert_eq!(documents(&space, r#"corpus.jsonl("data")"#), all);
    assert_eq!((field(&space, "documents"), field(&space, "rejected")), ("5".into(), "0".into()));
    assert_eq!(documents(&space, r#"corpus.jsonl("data/**/*.jsonl*")"#), all[2..]);
    space.write("meta.jsonl", r#"{"text": 1, "meta": {"text": "inner"}}"#);
    assert_eq!(documents(&space, r#"corpus.jsonl("meta.jsonl", field: "meta.text")"#), ["inner"]);
}

/// Lines of which some are no records.
const MALFORMED: &str =
    "{\"text\": \"good\"}\n{\"text\": 5}\nnull\n{\"text\": \"a\n{\"text\": \"also good\"}\n";

#[test]
fn malformed_lines_are_left_out_where_the_recipe_says_so_and_counted() {
    let space = Space::new();
    space.write("a.jsonl", MALFORMED);
    let call = r#"corpus.jsonl("a.jsonl", malformed: skip)"#;
    assert_eq!(documents(&space, call), ["good", "also good"]);
    assert_eq!(field(&space, "rejected"), "3");
    let log = space.tlm(&["log", "text"]).out;
    assert!(log.contains("a.jsonl:2`: `text` is a number, not a text"), "{log}");
    assert!(log.contains("a.jsonl:4`: no line of JSON: EOF while parsing a string"), "{log}");
}

#[test]
fn what_is_wrong_with_files_is_told_with_the_place() {
    let space = Space::new();
    space.write("malformed.jsonl", MALFORMED);
    space.write("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"\n");
    space.write("latin.jsonl", b"\n{\"text\": \"caf\xe9\"}\n");
    space.write("empty.jsonl", "\n\n{\"text\": \"\"}\n");
    space.write("bad.jsonl", "1\n2\n");
    space.write("cut.jsonl.gz", &gzip(&"{\"text\": \"abc\"}\n".repeat(99))[..40]);
    space.write("empty.txt", "");
    space.write("late.txt", ["a\n\n".repeat(9).into_bytes(), vec![0xe2, 0x82]].concat());
    space.write("c.parquet", include_bytes!("../../golden/stages/c.parquet"));
    space.write("cut.parquet", &include_bytes!("../../golden/stages/c.parquet")[..2000]);
    let text = told(
        &space,
        &[
            r#"corpus.jsonl("malformed.jsonl")"#,
            r#"corpus.jsonl("malformed.jsonl", field: "txt")"#,
            r#"corpus.jsonl("broken.jsonl")"#,
            r#"corpus.jsonl("latin.jsonl")"#,
            r#"corpus.jsonl("empty.jsonl")"#,
            r#"corpus.jsonl("bad.jsonl", malformed: skip)"#,
            r#"corpus.jsonl("cut.jsonl.gz")"#,
            r#"corpus.text("empty.txt")"#,
            r#"corpus.text("late.txt", delimiter: "\n\n")"#,
            r#"corpus.text("late.txt", delimiter: "")"#,
            r#"corpus.parquet("empty.txt")"#,
            r#"corpus.parquet("cut.parquet")"#,
            r#"corpus.parquet("c.parquet")"#,
            r#"corpus.parquet("c.parquet", field: "id")"#,
            r#"corpus.parquet("c.parquet", field: "meta.tags.list.element")"#,
            r#"corpus.parquet("c.parquet", field: "meta.text")"#,
        ],
    );
    golden("reading", &text);
}

#[test]
fn a_column_of_parquet_files_is_read_in_all_row_groups() {
    let space = Space::new();
    space.write("c.parquet", include_bytes!("../../golden/stages/c.parquet"));
    let call = r#"corpus.parquet("c.parquet", field: "meta.text", malformed: skip)"#;
    let found = documents(&space, call);
    let one = |at: &usize| format!("{at} the cat sat on ümlaut");
    let mut wanted: Vec<_> = [0, 1, 2, 3, 4, 6, 7].iter().map(one).collect();
    wanted.extend(vec!["again".to_owned(); 8]);
    assert_eq!(found, wanted);
    assert_eq!(field(&space, "rejected"), "1");
}
