//! `tlm gc`, `tlm pin`, `tlm unpin`: what is told before it goes, and that a run loses nothing.

use crate::run::space::{ALL, Run, Space, eventually, start, wait};

/// Runs the recipe with two values, as two experiments.
fn space() -> Space {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    space.run(&["-s", "keep=265"]).check(0, &["dev", "ds", "tok"]);
    space
}

#[test]
fn gc_says_first_what_goes_and_removes_it_when_told_to() {
    let space = space();
    let kept = space.tlm(&["gc"]);
    assert_eq!((kept.code, kept.out.lines().next()), (Some(0), Some("nothing to remove")));
    // The first run is forgotten as an old one would be.
    let runs = space.stored("runs");
    let first = runs.iter().min_by_key(|run| {
        let file = std::fs::metadata(space.path(".tlm/runs").join(run)).expect("there");
        file.modified().expect("known")
    });
    std::fs::remove_file(space.path(".tlm/runs").join(first.expect("two runs"))).expect("removed");
    let told = space.tlm(&["gc"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    for part in [
        "would remove 3 objects of 3 records, ",
        "; making them took ",
        "  tokenizer.prune ",
        "  dataset.pack ",
        " of objects stay\n`--delete` removes it\n",
    ] {
        assert!(told.out.contains(part), "no `{part}` in {told:?}");
    }
    assert!(space.tlm(&["plan", "r.tlm"]).out.contains("all fresh"));
    let removed = space.tlm(&["gc", "--delete"]);
    let expected =
        told.out.replace("would remove", "removed").replace("`--delete` removes it\n", "");
    assert_eq!((removed.code, removed.out), (Some(0), expected));
    space.check_store();
    space.run(&["-s", "keep=265"]).check(0, &[]);
    space.run(&[]).check(0, &["dev", "ds", "tok"]);
}

#[test]
fn a_pinned_step_stays_whatever_the_age_and_the_quota() {
    let space = space();
    let pinned = space.tlm(&["pin", "counts", "--as", "words"]);
    assert!(pinned.out.starts_with("pinned counts (") && pinned.out.ends_with(") as `words`\n"));
    let listed = space.tlm(&["pin"]);
    assert!(
        listed.out.starts_with("words  ") && listed.out.ends_with("  counts (tokenizer.count)\n")
    );
    let full = space.tlm(&["gc", "--keep-days", "0", "--max-size", "1KiB", "--delete"]);
    assert!(full.err.contains("warning: pins and recent runs alone need "), "{full:?}");
    assert_eq!(space.tlm(&["ls"]).out.lines().count(), 2, "{}", space.tlm(&["ls"]).out);
    space.run(&["words"]).check(0, &[]);
    for (args, code, parts) in [
        (&["unpin", "word"][..], 2, ["there is no pin `word`", "did you mean `words`?"]),
        (
            &["pin", "counts", "--as", "a/b"],
            2,
            ["`a/b` can't be", "choose another with `--as NAME`"],
        ),
        (&["pin", "cuonts"], 2, ["the store has no step `cuonts`", "did you mean `counts`?"]),
        (&["gc", "--max-size", "3 tokens"], 2, ["is no size", "write it as"]),
    ] {
        let ended = space.tlm(args);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(parts.iter().all(|part| ended.err.contains(part)), "{ended:?}");
    }
    assert_eq!(space.tlm(&["unpin", "words"]).code, Some(0));
    space.tlm(&["gc", "--keep-days", "0", "--delete"]);
    assert_eq!(space.tlm(&["ls"]).out, "0 records\n");
    space.check_store();
    space.run(&[]).check(0, &ALL);
}

#[test]
fn a_run_that_goes_on_loses_nothing_to_a_collector() {
    let space = Space::with(
        r#"use std.{corpus}

stage slow(text: Corpus) -> File version 1 shell "echo > began; while ! [ -e go ]; do sleep 0.01; done; ls {text} > {out}"
stage both(first: File; ) -> File version 1 shell "cp {first} {out}"

let text = corpus.text("texts/*.txt")
let list = slow(text)
let copy = both(list)

plan default = copy
"#,
    );
    let child = start(&mut space.run_command(&[]));
    eventually("the slow step", || space.path("began").exists().then_some(()));
    let collected = space.tlm(&["gc", "--keep-days", "0", "--delete"]);
    assert!(collected.out.starts_with("nothing to remove\n"), "{collected:?}");
    space.write("go", "");
    Run::of(wait(child)).check(0, &["copy", "list", "text"]);
    space.run(&[]).check(0, &[]);
    space.check_store();
}
