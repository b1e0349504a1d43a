//! What runs, and what does not run again.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::run::space::{ALL, Run, Space, text, tokenizer};

#[test]
fn the_first_run_makes_all_and_the_second_nothing() {
    let space = Space::new();
    let first = space.run(&[]);
    first.check(0, &ALL);
    assert_eq!((&first.summary()["ran"], &first.summary()["reused"]), (&7.into(), &0.into()));
    let second = space.run(&[]);
    second.check(0, &[]);
    assert_eq!(second.steps("reused"), ALL);
    second.says(&["nothing to do: all 7 steps fresh"]);
    space.check_store();
}

#[test]
fn an_edit_runs_exactly_what_depends_on_it() {
    type Edit = fn(&Space) -> &'static [&'static str];
    let edits: &[(&str, Edit, &[&str])] = &[
        ("a comment", |s| edited(s, "let text", "# New.\nlet text"), &[]),
        ("another layout", |s| edited(s, "(text, valid", "(\n  text,\n  valid"), &[]),
        ("a renamed binding", |s| edited(s, "counts", "frequencies"), &[]),
        ("a run block", |s| edited(s, "seed: 7)", "seed: 7) run { limit: 1h, retries: 1 }"), &[]),
        ("the same number", |s| edited(s, "25%", "0.25"), &[]),
        ("a touched file", touch, &[]),
        ("a moved file", move_file, &[]),
        ("another report", |s| edited(s, "dev.tokens", "dev.sequences"), &[]),
        ("another number", |s| edited(s, "seq: 16", "seq: 8"), &["dev"]),
        ("a number from outside", |_| &["-s", "keep=265"], &["dev", "ds", "tok"]),
        (
            "an early number",
            |s| edited(s, "seed: 7", "seed: 8"),
            &["counts", "dev", "ds", "split", "tok"],
        ),
        (
            "a file's content",
            |s| written(s, "texts/b.txt", &text(9)),
            &["counts", "dev", "ds", "split", "text", "tok"],
        ),
        (
            "one file more",
            |s| written(s, "texts/c.txt", &text(9)),
            &["counts", "dev", "ds", "split", "text", "tok"],
        ),
    ];
    let clean = Space::new();
    clean.run(&[]).check(0, &ALL);
    for (what, edit, expected) in edits {
        let space = clean.copied();
        let args = edit(&space);
        let run = space.run(args);
        assert_eq!((run.code, &run.steps("finished")[..]), (Some(0), *expected), "{what}: {run}");
        assert_eq!(run.steps("reused").len() + expected.len(), ALL.len(), "{what}: {run}");
        space.run(args).check(0, &[]);
    }
}

fn edited(space: &Space, from: &str, to: &str) -> &'static [&'static str] {
    space.edit(from, to);
    &[]
}

fn written(space: &Space, name: &str, content: &str) -> &'static [&'static str] {
    space.write(name, content);
    &[]
}

fn touch(space: &Space) -> &'static [&'static str] {
    let file = fs::File::options().append(true).open(space.path("texts/a.txt")).expect("opens");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).expect("set");
    &[]
}

fn move_file(space: &Space) -> &'static [&'static str] {
    fs::rename(space.path("texts/a.txt"), space.path("texts/aa.txt")).expect("renamed");
    &[]
}

#[test]
fn what_comes_out_as_before_stops_the_rest() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    // Empty documents are left out, so the corpus is the same.
    space.write("texts/a.txt", text(0) + "\n\n");
    let run = space.run(&[]);
    run.check(0, &["text"]);
    assert_eq!(run.steps("reused").len(), ALL.len() - 1);
    run.says(&["reused split: its inputs came out as before"]);
    // From then on the other recipe is known too.
    let again = space.run(&[]);
    again.check(0, &[]);
    again.says(&["nothing to do"]);

    let mut other = tokenizer();
    other["version"] = "1.0".into();
    space.write("tokenizer.json", format!("{other:#}"));
    space.run(&[]).check(0, &["base"]);
    space.check_store();
}

/// Nothing runs, and even a step that could never run here does not end the run.
#[test]
fn what_the_store_has_for_the_inputs_need_not_run() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    space.write("texts/a.txt", text(0) + "\n\n");
    space.run(&["text"]).check(0, &["text"]);
    edited(&space, "seed: 7)", "seed: 7) run { mem: 900000GiB }");
    let planned = space.tlm(&["plan", "r.tlm"]);
    assert!(planned.out.starts_with("7 steps, all fresh"), "{planned:?}");
    let run = space.run(&[]);
    run.check(0, &[]);
    assert_eq!(run.steps("reused"), ALL);
    space.check_store();
}

#[test]
fn another_recipe_with_the_same_steps_finds_them() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    let recipe = space.read("r.tlm").replace("text ", "words_ ").replace("(text,", "(words_,");
    space.write("other.tlm", recipe);
    let run = space.tlm(&["run", "other.tlm", "words"]);
    assert_eq!(run.code, Some(0));
    assert!(run.err.contains("nothing to do: all 4 steps fresh"), "{}", run.err);
}

/// Returns where an output of a step lies.
fn object(space: &Space, run: &Run, step: &str, output: &str) -> std::path::PathBuf {
    let is_it = |event: &&Value| event["step"]["name"] == step;
    let event = run.all("finished").find(is_it).expect("it ran");
    let digest = event["artifacts"][output].as_str().expect("a digest");
    space.path(".tlm/objects").join(&digest[..2]).join(digest)
}

#[test]
fn a_lost_object_is_made_again_when_something_needs_it() {
    let space = Space::new();
    let first = space.run(&[]);
    let counts = object(&space, &first, "counts", "out");
    fs::remove_dir_all(&counts).expect("removed");
    let verified = space.tlm(&["verify"]);
    assert_eq!(verified.code, Some(4), "{verified:?}");
    assert!(verified.out.contains(&format!("{}\n  missing\n", counts.display())), "{verified:?}");
    // `tok` has its output already and nothing else needs the counts.
    space.run(&[]).check(0, &[]);
    assert!(!counts.exists());
    let why = space.tlm(&["why", "r.tlm", "counts"]);
    assert!(why.out.contains("its outputs are gone from the store"), "{why:?}");
    space.run(&["words"]).check(0, &["counts"]);
    assert!(counts.exists());

    fs::remove_dir_all(&counts).expect("removed");
    space.run(&["-s", "keep=265"]).check(0, &["counts", "dev", "ds", "tok"]);
    space.check_store();
}

#[test]
fn equal_steps_under_two_names_run_once() {
    let space = Space::new();
    space.edit("let base", "let same = corpus.split(text, valid: 25%, seed: 7)\nlet base");
    space.edit("[ds, dev]", "[ds, dev, same.valid]");
    space.run(&[]).check(0, &ALL);
    // Equal texts under two names are two steps with one result.
    space.edit(
        "let same = corpus.split(text, valid: 25%, seed: 7)",
        "let same = corpus.text(\"texts/*.txt\", delimiter: \"\\n\\n\")",
    );
    space.edit("same.valid", "same");
    space.run(&[]).check(0, &[]);
}
