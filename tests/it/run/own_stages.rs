//! Stages that a recipe declares, and artifacts from elsewhere.

use std::time::Duration;

use crate::run::space::{Run, Space, eventually, processes_of, signal, start, wait};

/// text -> loud -> upper; words of both.
const RECIPE: &str = r#"use std.{corpus}

param times : Count = 2
param name  : Str   = "it's; $(touch owned) `touch owned`"

artifact Words { count: Count }

stage shout(raw: File; times: Count in 1 .. 5, name: Str) -> {
  text: File, words: Count, said: Str
}  version 1 uses "shout.py" shell """
  python3 shout.py {raw} {text} {words} {times} {name} {said}
"""

stage list(text: Corpus) -> Words  version 1 shell "ls {text} > {out}; echo 7 > {out.count}"

let loud  = shout("texts/a.txt", times: times, name: name)
let upper = corpus.text(loud.text)
let words = list(upper)

plan default = words

report sizes = table([loud.words, loud.said, upper.documents, words.count])
"#;

const SHOUT: &str = "import json, sys
raw, text, words, times, name, said = sys.argv[1:]
whole = open(raw).read().upper() * int(times)
open(text, 'w').write(whole)
json.dump(len(whole.split()), open(words, 'w'))
json.dump(name, open(said, 'w'))
print('shouted', name)
";

fn space() -> Space {
    let space = Space::with(RECIPE);
    space.write("shout.py", SHOUT);
    space
}

#[test]
fn a_command_gets_its_values_as_words_and_its_outputs_are_known() {
    let space = space();
    let run = space.run(&[]);
    run.check(0, &["loud", "upper", "words"]);
    let again = space.tlm(&["run", "r.tlm"]);
    assert!(again.out.contains("it's; $(touch owned) `touch owned`"), "{again:?}");
    assert!(!space.path("owned").exists());
    let log = space.tlm(&["log", "loud"]);
    assert!(log.out.contains("shouted it's; $(touch owned)"), "{log:?}");
    space.check_store();
}

#[test]
fn what_a_command_is_made_of_is_part_of_its_key() {
    type Edit = fn(&Space);
    let edits: [(&str, Edit, &[&str]); 6] = [
        ("nothing", |_| {}, &[]),
        ("a file it uses", |s| s.write("shout.py", s.read("shout.py") + "\n# new\n"), &["loud"]),
        ("its text", |s| s.edit("python3 shout", "python3 -B shout"), &["loud"]),
        ("its version", |s| s.edit("}  version 1", "}  version 2"), &["loud"]),
        ("a parameter", |s| s.edit("Count = 2", "Count = 3"), &["loud", "upper", "words"]),
        ("run settings", |s| s.edit("name: name)", "name: name) run { retries: 1 }"), &[]),
    ];
    for (what, edit, expected) in edits {
        let space = space();
        space.run(&[]).check(0, &["loud", "upper", "words"]);
        edit(&space);
        let run = space.run(&[]);
        assert_eq!((run.code, &run.steps("finished")[..]), (Some(0), expected), "{what}: {run}");
    }
}

#[test]
fn a_command_that_fails_or_leaves_something_out_is_told() {
    let cases = [
        ("open(text, 'w').write(whole)", "pass", "did not write its output `text`"),
        ("open(text, 'w').write(whole)", "sys.exit('no luck')", "no luck"),
        ("json.dump(len(whole.split())", "json.dump([1]", "wrote `[1]` for `words`"),
        ("json.dump(len(whole.split())", "json.dump(float('nan')", "wrote `NaN` for `words`"),
    ];
    for (from, to, expected) in cases {
        let space = space();
        let script = space.read("shout.py");
        assert!(script.contains(from));
        space.write("shout.py", script.replace(from, to));
        let run = space.run(&[]);
        run.check(1, &[]);
        run.says(&[expected, "step `loud` (shout) failed"]);
        assert_eq!(space.tlm(&["ls"]).out, "0 records\n");
    }
}

#[test]
fn a_command_that_is_stopped_takes_its_processes_along() {
    let space = space();
    space.write("shout.py", "import time\nopen('began', 'w')\ntime.sleep(600)\n");
    let child = start(&mut space.run_command(&[]));
    eventually("the command to start", || space.path("began").exists().then_some(()));
    signal(child.id(), "INT");
    let run = Run::of(wait(child));
    run.check(130, &[]);
    eventually("its processes to end", || processes_of(&space.path("")).is_empty().then_some(()));
    space.edit("name: name)", "name: name) run { limit: 1s }");
    let run = space.run(&[]);
    run.says(&["took longer than"]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(processes_of(&space.path("")), [0; 0]);
}

#[test]
fn what_was_made_elsewhere_is_adopted_and_checked() {
    let space = Space::with(
        r#"use std.{corpus, tokenizer}

let base  = adopt("base", as: Tokenizer)
let old   = adopt("old", as: Corpus)
let count = tokenizer.count(old, base)

plan default = [count, base.size, old.documents]

report sizes = table([base.size, old.documents, old.size])
"#,
    );
    space.write("base/tokenizer.json", space.read("tokenizer.json"));
    space.write("old/text.bin", "two texts");
    space.write("old/offsets.u64", [0u64, 3, 9].map(u64::to_le_bytes).concat());
    let run = space.run(&[]);
    run.check(0, &["base", "count", "old"]);
    space.run(&[]).check(0, &[]);
    space.write("old/text.bin", "two TEXTS");
    space.run(&[]).check(0, &["count", "old"]);
    space.write("old/text.bin", "two");
    let run = space.run(&[]);
    run.check(1, &[]);
    run.says(&["old", "step `old` (source.adopt) failed"]);
    space.edit("as: Corpus)", "as: Corpus, digest: \"abc\")");
    space.write("old/text.bin", "two texts");
    let run = space.run(&[]);
    run.says(&["has digest ", "the recipe wants abc"]);
}

#[test]
fn a_command_takes_a_list_of_artifacts() {
    let space = Space::with(
        r#"stage one(text: File) -> File  version 1 shell "cat {text} > {out}"
stage all(texts: [File]) -> File  version 1 shell "cat {texts} > {out}"
let joined = all([one("texts/b.txt"), one("texts/a.txt")])
plan default = joined
"#,
    );
    let run = space.run(&[]);
    assert_eq!(run.code, Some(0), "{run}");
    let path = crate::run::inputs::made(&space, "joined");
    let joined = std::fs::read_to_string(path).expect("readable");
    assert_eq!(joined, space.read("texts/b.txt") + &space.read("texts/a.txt"));
}
