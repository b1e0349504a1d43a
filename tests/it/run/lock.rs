//! `tlm lock`, and `--locked`: runs that may not differ from what was written down.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value as Json;

use crate::run::space::{ALL, Space, check};

/// A folder whose recipe ran and is locked.
fn locked() -> Space {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    check(&space.tlm(&["lock", "r.tlm"]), 0, &["wrote r.tlm.lock: 7 steps, 7 with outputs\n"]);
    space
}

#[test]
fn a_lock_has_keys_files_and_outputs_and_stays_as_it_is() {
    let space = locked();
    let text = space.read("r.tlm.lock");
    let lock: Json = serde_json::from_str(&text).expect("JSON");
    let steps = lock["steps"].as_array().expect("steps");
    let names: BTreeSet<_> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
    assert_eq!(names, ALL.into_iter().collect());
    let digest = tlm::base::Digest::of(space.read("texts/a.txt").as_bytes()).to_string();
    assert_eq!(lock["files"]["texts/a.txt"], Json::String(digest));
    let split = steps.iter().find(|step| step["name"] == "split").expect("a step");
    assert_eq!(
        (&split["fields"]["params.seed"], &split["fields"]["version"]),
        (&7.into(), &3.into())
    );
    let shown = space.tlm(&["show", "split"]).out;
    for digest in [&split["key"], &split["outputs"]["train"]] {
        let digest = digest.as_str().expect("a digest");
        assert!(shown.contains(digest), "no {digest} in {shown}");
    }
    check(&space.tlm(&["lock", "r.tlm"]), 0, &["r.tlm.lock holds: 7 steps, 7 with outputs\n"]);
    // Where the recipe lies and what else is in the store does not matter.
    let other = Space::new();
    other.run(&["-s", "keep=265"]);
    other.run(&[]);
    check(&other.tlm(&["lock", "r.tlm"]), 0, &["wrote"]);
    assert_eq!(other.read("r.tlm.lock"), text);
}

#[test]
fn a_locked_run_refuses_other_keys_and_says_why() {
    let space = locked();
    check(&space.tlm(&["run", "--locked", "r.tlm"]), 0, &["nothing to do"]);
    // Cosmetic edits change no key; a plan of fewer steps is held too.
    space.edit("let split  =", "# A comment.\nlet split =");
    check(&space.tlm(&["run", "--locked", "r.tlm", "words"]), 0, &["nothing to do"]);

    space.edit("seed: 7", "seed: 8");
    space.write("texts/a.txt", "other\n\ntexts");
    let runs = fs::read_dir(space.path(".tlm/runs")).expect("there").count();
    for command in ["run", "plan"] {
        let refused = space.tlm(&[command, "--locked", "r.tlm", "-s", "keep=265"]);
        check(
            &refused,
            3,
            &[
                "error: 6 of 7 steps are not as `r.tlm.lock` says:\n",
                "  text: inputs.files: another content   at r.tlm:5:26\n",
                "  split: seed: 7 -> 8   at r.tlm:7:",
                "  tok: keep: 270 -> 265   at r.tlm:10:",
                "  texts/a.txt: another content\n",
                "  and 3 steps after these\n",
                "help: undo what changed, or take it with `tlm lock r.tlm`",
            ],
        );
    }
    let after = fs::read_dir(space.path(".tlm/runs")).expect("there").count();
    assert_eq!(after, runs, "a refused run began");
    check(
        &space.tlm(&["lock", "r.tlm"]),
        0,
        &[
            "  split: seed: 7 -> 8\n",
            "  texts/a.txt: another content\n",
            "7 steps, 1 with outputs\n",
        ],
    );
    space.run(&["--locked"]).check(0, &["counts", "dev", "ds", "split", "text", "tok"]);
}

#[test]
fn steps_that_come_and_go_are_told() {
    let space = locked();
    space.edit(
        "plan default = [ds, dev]",
        "let more = corpus.split(text, valid: 1%)\nplan default = [ds, more.train]",
    );
    check(
        &space.tlm(&["plan", "--locked", "r.tlm"]),
        3,
        &["error: 1 of 7 steps is not", "  more: new\n"],
    );
    check(&space.tlm(&["lock", "r.tlm"]), 0, &["  more: new\n", "  dev: gone\n"]);
}

#[test]
fn other_outputs_than_the_locked_ones_end_with_1() {
    let space = Space::with(
        "stage draw() -> File  version 1 shell \"od -N 16 -t x8 /dev/urandom > {out}\"\nlet drawn = draw()\nplan default = drawn\n",
    );
    space.run(&[]).check(0, &["drawn"]);
    check(&space.tlm(&["lock", "r.tlm"]), 0, &["1 step, 1 with outputs"]);
    check(&space.tlm(&["run", "--locked", "r.tlm"]), 0, &[]);
    fs::remove_dir_all(space.path(".tlm")).expect("removed");
    check(
        &space.tlm(&["run", "--locked", "r.tlm"]),
        1,
        &["what was made is not what `r.tlm.lock` says:\n  drawn.out: ", "`tlm lock`"],
    );
    check(&space.tlm(&["lock", "r.tlm"]), 0, &["  drawn.out: ", "wrote r.tlm.lock"]);
    check(&space.tlm(&["run", "--locked", "r.tlm"]), 0, &[]);
}

#[test]
fn a_lock_that_is_missing_or_none_is_refused() {
    let space = Space::new();
    let refused = ["run", "--locked", "r.tlm"];
    check(&space.tlm(&refused), 4, &["can't read `r.tlm.lock`", "`tlm lock r.tlm` writes it"]);
    for (lock, why) in [
        ("<<<<<<< ours\n", "it is no lock"),
        (r#"{"format": 2, "tlm": "9", "files": {}, "steps": []}"#, "its form is 2"),
    ] {
        space.write("r.tlm.lock", lock);
        check(&space.tlm(&refused), 3, &["can't read `r.tlm.lock`", why]);
    }
    check(
        &space.tlm(&["lock", "r.tlm"]),
        0,
        &["warning: `r.tlm.lock` was no lock", "7 steps, 0 with outputs"],
    );
    space.run(&["--locked"]).check(0, &ALL);
}
