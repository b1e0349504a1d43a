//! What the user's own files are taken as: single files, folders, links, compressed texts; and what is not taken.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use tlm::base::Digest;
use tlm::data::array::Array;
use tlm::data::{Corpus, Tokenizer};
use tlm::stage::action::PROTOCOL;
use tlm::stage::{Action, Context, REGISTRY, StageError};

use crate::run::space::{ALL, RECIPE, Space, text, tokenizer};

/// Runs the recipe and returns the path of a step's artifact.
#[track_caller]
pub(super) fn made(space: &Space, step: &str) -> PathBuf {
    let run = space.run(&[]);
    assert_eq!(run.code, Some(0), "{run}");
    let mut events = run.events.iter().filter(|event| event["step"]["name"] == step);
    let key = events.find_map(|event| event["step"]["key"].as_str()).expect("the step");
    let shown = space.tlm(&["show", key]).out;
    let line = shown.lines().find_map(|line| line.strip_prefix("  out: "));
    line.and_then(|line| line.split(", ").next()).expect("a path").into()
}

pub(super) fn gzip(text: &str) -> Vec<u8> {
    gzip_bytes(text.as_bytes())
}

pub(super) fn gzip_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("compressed");
    out.finish().expect("compressed")
}

/// Runs the recipe with another path of its texts, and returns the texts' documents.
#[track_caller]
fn documents(space: &Space, files: &str) -> Vec<String> {
    space.write("r.tlm", RECIPE.replace("texts/*.txt", files));
    let corpus = Corpus::open(&made(space, "text")).expect("a corpus");
    let document = |at| corpus.document(at).expect("text").to_owned();
    (0..corpus.documents()).map(document).collect()
}

fn split(texts: &[String]) -> Vec<String> {
    texts.iter().flat_map(|text| text.split("\n\n")).map(str::to_owned).collect()
}

#[test]
fn texts_come_plain_or_compressed_from_files_folders_and_links() {
    let space = Space::new();
    let plain = split(&[text(0), text(1)]);
    assert_eq!(documents(&space, "texts/*.txt"), plain);
    // Two members, as `cat a.gz b.gz` makes them.
    space.write("packed/a.txt.gz", [gzip(&text(0)), gzip(&format!("\n\n{}", text(1)))].concat());
    assert_eq!(documents(&space, "packed/a.txt.gz"), plain);
    space.write("packed/b", zstd::encode_all(text(2).as_bytes(), 3).expect("compressed"));
    assert_eq!(documents(&space, "packed"), split(&[text(0), text(1), text(2)]));
    symlink("../texts/b.txt", space.path("packed/0.txt")).expect("linked");
    symlink("packed", space.path("link")).expect("linked");
    assert_eq!(documents(&space, "link"), split(&[text(1), text(0), text(1), text(2)]));
    assert_eq!(documents(&space, "link/?.txt"), split(&[text(1)]));
    // A link's target is part of the key, the link's own place is not.
    space.write("texts/b.txt", text(5));
    assert_eq!(documents(&space, "link/0.txt"), split(&[text(5)]));
}

#[test]
fn a_name_that_is_not_utf8_is_told_only_where_it_is_asked_for() {
    let space = Space::new();
    let odd = space.path("texts").join(OsStr::from_bytes(b"odd\xff.dat"));
    fs::write(odd, "odd").expect("written");
    space.run(&[]).check(0, &ALL);
    space.edit("*.txt", "*");
    let run = space.run(&[]);
    assert_eq!((run.code, run.events.len()), (Some(3), 0), "{run}");
    run.says(&["tlm::graph::unreadable", "its name is not UTF-8"]);
}

#[test]
fn a_circle_of_links_in_a_folder_is_told() {
    let space = Space::new();
    for name in ["texts/one", "texts/two"] {
        symlink(".", space.path(name)).expect("linked");
    }
    for files in ["texts", "texts/**/*.txt"] {
        space.write("r.tlm", RECIPE.replace("texts/*.txt", files));
        let run = space.run(&[]);
        assert_eq!(run.code, Some(3), "{run}");
        run.says(&["tlm::graph::unreadable", "this link leads back to", "remove the link"]);
    }
}

/// A tokenizer without `<|endoftext|>`, which needs its configuration to part documents.
fn tokenizer_with_own_end(space: &Space) {
    let json = tokenizer().to_string().replace("<|endoftext|>", "<end>");
    space.write("tok/tokenizer.json", json);
    space.write("tok/tokenizer_config.json", r#"{"eos_token": "<end>"}"#);
}

#[test]
fn a_tokenizer_s_configuration_is_read_only_where_it_is_an_input() {
    let space = Space::new();
    tokenizer_with_own_end(&space);
    space.edit("\"tokenizer.json\"", "\"tok/tokenizer.json\"");
    let run = space.run(&[]);
    run.check(1, &["base", "counts", "split", "text", "tok"]);
    run.says(&["has no `<|endoftext|>` and its configuration no `eos_token`", "open the folder"]);
    for source in ["tok", "tok/tokenizer*.json"] {
        space.write("r.tlm", RECIPE.replace("tokenizer.json", source));
        let tokenizer = Tokenizer::open(&made(&space, "base")).expect("opens");
        assert!(tokenizer.end_of_text().is_ok(), "{source}");
    }
    // What a key knows changes with the file.
    space.write("tok/tokenizer_config.json", r#"{"eos_token": "<end>", "model_max_length": 9}"#);
    assert!(space.run(&[]).steps("finished").contains(&"base"));
    space.write("tok/tokenizer_more.json", "{}");
    space.run(&[]).says(&["`source` names 3 files", "name one file, a folder, or"]);
}

#[test]
fn opening_and_pruning_a_tokenizer_tell_how_far_they_are() {
    let space = Space::new();
    let run = space.run(&[]);
    for (step, tokens) in [("base", 273), ("tok", 270)] {
        let progress = run.all("progress").filter(|event| event["step"]["name"] == step);
        let last = progress.last().expect("progress");
        let told = (&last["done"], &last["total"], &last["unit"]);
        assert_eq!(told, (&tokens.into(), &tokens.into(), &"tokens".into()), "{run}");
    }
}

#[test]
fn a_pruned_tokenizer_says_which_old_id_each_of_its_tokens_has() {
    let space = Space::new();
    let (old, new) = (made(&space, "base"), made(&space, "tok"));
    let map = Array::<u32>::open(&new.join("id_map.u32")).expect("an id map");
    let map: Vec<u32> = map.iter().collect();
    assert_eq!(map.len(), 270, "`keep` of the recipe");
    assert!(map.windows(2).all(|pair| pair[0] < pair[1]), "{map:?}");
    let (old, new) = (Tokenizer::open(&old).expect("opens"), Tokenizer::open(&new).expect("opens"));
    for (new_id, &old_id) in map.iter().enumerate() {
        let of = |tokenizer: &Tokenizer, id| tokenizer.decode(&[id]).expect("text");
        assert_eq!(of(&new, new_id as u32), of(&old, old_id), "{new_id}");
    }
    // A text of kept tokens alone has the same tokens in both.
    let ids = new.encode(" the mat").expect("encoded");
    let through: Vec<u32> = ids.iter().map(|&id| map[id as usize]).collect();
    assert_eq!(through, old.encode(" the mat").expect("encoded"));
}

/// Writes to a file as soon as a stage tells how far it is.
struct Meddler(PathBuf);

impl Write for Meddler {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let mut file = fs::File::options().append(true).open(&self.0)?;
        file.write_all(b"\n")?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_is_written_to_while_a_stage_reads_it_is_told() {
    let space = Space::new();
    space.write("files/a.txt", "one");
    space.write("files/a.jsonl", "{\"text\": \"one\"}\n");
    space.write("files/a.parquet", include_bytes!("../../golden/stages/c.parquet"));
    space.write("files/a.bin", "{\"tokens\": [1, 2, 3]}\n");
    for (stage, name, params) in [
        ("corpus.text", "a.txt", json!({"delimiter": null})),
        ("corpus.jsonl", "a.jsonl", json!({"field": "text", "malformed": "fail"})),
        ("corpus.parquet", "a.parquet", json!({"field": "meta.text", "malformed": "skip"})),
        ("dataset.internevo", "a.bin", json!({"seq": 1, "min_tokens": 0, "malformed": "fail"})),
    ] {
        let path = space.path(&format!("files/{name}"));
        let action = json!({
            "protocol": PROTOCOL, "key": Digest::of(b"key"), "stage": stage, "params": {},
            "inputs": {"files": [path], "tokenizer": [space.path("")]}, "out": space.path("out"),
            "state": space.path("state"), "seed": 0, "threads": 1, "device": "cpu",
            "micro_batch": null, "recompute": false, "shell": null,
        });
        let mut action: Action = serde_json::from_value(action).expect("an action");
        action.params = serde_json::from_value(params).expect("values");
        let (_, body) = REGISTRY.iter().find(|(name, _)| *name == stage).expect("a stage");
        let mut context = Context::new(action, Arc::default(), Box::new(Meddler(path)));
        let Err(StageError::Failed(failure)) = body(&mut context) else { panic!("{stage}") };
        let told = format!("files/{name}` changed while it was read: it had ");
        assert!(failure.message.contains(&told), "{}", failure.message);
    }
}
