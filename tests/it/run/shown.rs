//! `tlm show` of artifacts: some of what is in them, decoded.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::inputs::made;
use crate::run::space::{RECIPE, Space};

/// A recipe whose results have all that is shown.
fn space() -> Space {
    let space = Space::new();
    let odd = "\u{1b}[31m\u{202e}red\u{7}\n\n语言模型在训练之前需要很多文本，文本要先被分成词元，然后再被打包成序列，每个序列都有相同的长度，模型从头到尾地阅读它们\n\n";
    space.write("texts/a.txt", format!("{odd}the cat sat on the mat"));
    space.write("lines.jsonl", "{\"text\": \"a\"}\n5\n{\"text\": \"\"}\n");
    let more = "let part  = dataset.part(ds, parts: 2, part: 2)\n\
                let moved = dataset.remap(dataset.pack(split.train, base, seq: 32), base, tok)\n\
                let seen  = dataset.count(part)\n\
                let lines = corpus.jsonl(\"lines.jsonl\", malformed: skip)\n\
                plan default = [part, moved, seen, lines, counts]\n";
    let (head, rest) = RECIPE.split_once("plan default = [ds, dev]\n").expect("the plan");
    space.write("r.tlm", [head, more, rest].concat());
    made(&space, "part");
    space
}

/// Returns what is shown of the content of what a step made.
fn content(space: &Space, step: &str) -> String {
    let shown = space.tlm(&["show", step]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let lines = shown.out.lines().filter_map(|line| line.strip_prefix("    "));
    lines.fold(String::new(), |all, line| all + "  " + line + "\n")
}

fn golden(name: &str, text: &str) {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path("../../golden/shown");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn texts_tokens_and_numbers_are_shown_of_what_steps_made() {
    let space = space();
    let mut all = String::new();
    for step in ["text", "lines", "base", "counts", "ds", "part", "moved", "seen"] {
        writeln!(all, "{step}\n{}", content(&space, step)).expect("text");
    }
    assert!(!all.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{all}");
    golden("content", &all);
}

#[test]
fn what_can_not_be_decoded_is_said() {
    let space = space();
    let folder = |step: &str| made(&space, step);
    let (part, tok) = (folder("part"), folder("tok"));
    // Without its tokenizer a dataset shows ids, and without its files that they are gone.
    let remove = |path: &Path| {
        writable(path);
        fs::remove_dir_all(path).expect("removed");
    };
    remove(&tok);
    let shown = content(&space, "part");
    assert!(shown.contains("as ids: its `tokenizer` is gone from the store"), "{shown}");
    remove(&part);
    assert_eq!(content(&space, "part"), "  gone from the store; a run makes it again\n");
    // What was made elsewhere has none, and what is damaged says so.
    let own = Space::new();
    fs::create_dir(own.path("own")).expect("created");
    let mut writer = tlm::data::DatasetWriter::create(&own.path("own"), 2, 9).expect("created");
    writer.push(&[1, 2, 3, 4, 5]).expect("written");
    writer.finish().expect("written");
    own.write("r.tlm", "let own = adopt(\"own\", as: Dataset)\nplan default = own\n");
    let path = made(&own, "own");
    let shown = content(&own, "own");
    assert!(shown.contains("nothing that it was made from is a tokenizer of 9 tokens"), "{shown}");
    assert!(shown.contains("sequence 1 of 2: \"3 4 5\""), "{shown}");
    writable(&path);
    fs::write(path.join("meta.json"), "{").expect("written");
    let shown = content(&own, "own");
    assert!(
        shown.contains("can't be shown: `") && shown.contains("meta.json`: not the JSON"),
        "{shown}"
    );
}

/// Lets an object of the store be changed.
fn writable(path: &Path) {
    let changed = Command::new("chmod").arg("-R").arg("u+w").arg(path).status();
    assert!(changed.expect("it starts").success());
}
