//! Datasets: from token caches of InternEvo, and in parts.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use tlm::data::array::Array;
use tlm::data::mix::splitmix;
use tlm::data::{Dataset, Statistics, Tokenizer};

use crate::run::inputs::made;
use crate::run::space::{Run, Space, tokenizer};

/// Lines of a token cache.
fn cache(documents: &[&[u32]]) -> String {
    let line = |tokens: &&[u32]| serde_json::json!({"tokens": tokens}).to_string() + "\n";
    documents.iter().map(line).collect()
}

/// A `.meta` file as numpy writes it.
fn meta(rows: &[[i32; 2]]) -> Vec<u8> {
    let header =
        format!("{{'descr': '<i4', 'fortran_order': False, 'shape': ({}, 2), }}", rows.len());
    let numbers = rows.iter().flatten().flat_map(|number| number.to_le_bytes());
    let head = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()];
    head.concat().into_iter().chain(numbers).collect()
}

fn run(space: &Space, args: &str) -> Run {
    space.write(
        "r.tlm",
        format!(
            "use std.{{dataset, tokenizer}}\nlet tok = tokenizer.open(\"tokenizer.json\")\n\
             let ds = dataset.internevo({args})\nplan default = ds\n"
        ),
    );
    space.run(&[])
}

/// Returns all tokens of a dataset.
#[track_caller]
fn tokens(space: &Space, args: &str) -> Vec<u32> {
    let ended = run(space, args);
    assert_eq!(ended.code, Some(0), "{ended}");
    let data = Dataset::open(&made(space, "ds")).expect("a dataset");
    let mut tokens = Vec::new();
    (0..data.len()).for_each(|at| data.sequence(at, &mut tokens).expect("tokens"));
    tokens
}

#[test]
fn token_caches_are_packed_with_an_end_after_each_document() {
    let space = Space::new();
    space.write("cache/b.bin", cache(&[&[5, 6, 7], &[8]]));
    space.write("cache/b.bin.meta", meta(&[[0, 3], [19, 1]]));
    space.write("cache/a.bin", "\n".to_owned() + &cache(&[&[1, 2, 0], &[]]));
    assert_eq!(tokens(&space, "\"cache\", tok, seq: 8"), [1, 2, 0, 5, 6, 7, 0, 8, 0]);
    let long = "\"cache/*.bin\", tok, seq: 6, min_tokens: 3";
    assert_eq!(tokens(&space, long), [1, 2, 0, 5, 6, 7, 0]);
    // As numpy itself writes it.
    for file in ["a.bin", "a.bin.meta"] {
        let path = format!("{}/tests/golden/stages/cache/en/{file}", env!("CARGO_MANIFEST_DIR"));
        space.write(&format!("own/{file}"), std::fs::read(path).expect("readable"));
    }
    assert_eq!(tokens(&space, "\"own\", tok, seq: 5")[..6], [0, 1, 60, 61, 62, 63]);
}

#[test]
fn what_is_wrong_with_a_token_cache_is_told_with_file_and_line() {
    let two = cache(&[&[5, 6, 7], &[8]]);
    let bin = |lines: &str| vec![("cache/b.bin", lines.as_bytes().to_vec())];
    let both = |rows: &[[i32; 2]]| {
        vec![("cache/b.bin", two.clone().into_bytes()), ("cache/b.bin.meta", meta(rows))]
    };
    for (files, args, told) in [
        (
            bin(&cache(&[&[1], &[2, 273]])),
            "",
            "b.bin:2`: token 1 is id 273, but the vocabulary has 273",
        ),
        (
            bin("{\"tokens\": [1, -2]}\n"),
            "",
            "b.bin:1`: no `{\"tokens\": [...]}`: invalid value: integer `-2`",
        ),
        (bin("{\"tokens\": [1, 4294967296]}\n"), "", "invalid value: integer `4294967296`"),
        (
            bin("\n{\"token\": [1]}\n"),
            "",
            "b.bin:2`: no `{\"tokens\": [...]}`: missing field `tokens`",
        ),
        (bin("{\"tokens\": [1, null]}\n"), "", "b.bin:1`: no"),
        (bin("{\"tokens\": [1, 2"), "", "b.bin:1`: no"),
        (bin("{}\n"), ", malformed: skip", "0 tokens are too few for one sequence of 1"),
        (both(&[[0, 3], [20, 1]]), "", "row 1 says byte 20 and 1 tokens, but in `"),
        (both(&[[0, 3], [19, 2]]), "", "line 2 is at byte 19 and has 1"),
        (both(&[[0, 3]]), "", "has 1 rows, but in `"),
        (both(&[[0, 3], [19, 1], [40, 1]]), "", "has 3 rows, but in `"),
        (vec![("cache/b.bin.meta", meta(&[]))], "", "b.bin.meta` comes without its `.bin` file"),
        (
            vec![("cache/b.bin", two.clone().into_bytes()), ("cache/b.bin.meta", vec![1, 2])],
            "",
            "b.bin.meta`: no array as numpy writes it",
        ),
    ] {
        let space = Space::new();
        files.into_iter().for_each(|(name, bytes)| space.write(name, bytes));
        let run = run(&space, &format!("\"cache\", tok, seq: 1{args}"));
        assert_eq!(run.code, Some(1), "{told}\n{run}");
        run.says(&[told]);
    }
    let space = Space::new();
    space.write("cache/b.bin", cache(&[&[1, 2], &[900], &[3]]));
    let skip = "\"cache\", tok, seq: 4, malformed: skip";
    assert_eq!(tokens(&space, skip), [1, 2, 0, 3, 0]);
    let log = space.tlm(&["log", "ds"]).out;
    assert!(log.contains("left out 0 documents as too short, 1 malformed lines"), "{log}");
}

#[test]
fn parts_of_a_dataset_are_views_that_have_each_sequence_once() {
    let space = Space::new();
    let recipe = |part: &str| {
        format!(
            "use std.{{corpus, dataset, tokenizer}}\nlet tok = tokenizer.open(\"tokenizer.json\")\n\
             let text = corpus.text(\"texts/*.txt\")\nlet ds = dataset.pack(text, tok, seq: 8)\n\
             let part = dataset.part(ds, {part})\nplan default = part\n"
        )
    };
    let ids = |args: &str| -> Vec<u64> {
        space.write("r.tlm", recipe(args));
        let data = Dataset::open(&made(&space, "part")).expect("a dataset");
        (0..data.len()).map(|at| data.sequence_id(at)).collect()
    };
    let parts: Vec<_> = (1..=3).map(|part| ids(&format!("parts: 3, part: {part}"))).collect();
    let mut all = parts.concat();
    assert!(parts.iter().all(|part| part.len().abs_diff(all.len() / 3) <= 1), "{parts:?}");
    assert_eq!(all, ids("parts: 1, part: 1"), "in the order of training");
    assert_ne!(parts[0], ids("parts: 3, part: 1, seed: 1"));
    all.sort_unstable();
    assert_eq!(all, (0..all.len() as u64).collect::<Vec<_>>());
    space.write("r.tlm", recipe("parts: 2, part: 3"));
    space.run(&[]).says(&["there is no part 3 of 2"]);
}

/// A recipe that packs the texts, prunes the tokenizer, and does more.
fn remapping(more: &str, wanted: &str) -> String {
    format!(
        "use std.{{corpus, dataset, tokenizer}}\n\
         let old = tokenizer.open(\"tokenizer.json\")\n\
         let text = corpus.text(\"texts\", delimiter: \"\\n\\n\")\n\
         let new = tokenizer.prune(old, tokenizer.count(text, old), keep: 265)\n\
         let ds = dataset.pack(text, old, seq: 8)\n\
         {more}\nplan default = [{wanted}]\n"
    )
}

#[track_caller]
fn check_remapped(space: &Space, more: &str, ways: [u64; 2]) {
    space.write("r.tlm", remapping(more, "packed, moved"));
    check_made(space, more, ways);
}

/// Checks that the recipe moves a dataset's ids to those that it packs, documents mapped and encoded in so many ways.
#[track_caller]
fn check_made(space: &Space, more: &str, ways: [u64; 2]) {
    let (packed, moved) = (made(space, "packed"), made(space, "moved"));
    let of = |folder: &std::path::Path, name: &str| std::fs::read(folder.join(name)).expect(name);
    for name in ["tokens.u16", "documents.u64", "meta.json"] {
        assert_eq!(of(&moved, name), of(&packed, name), "{name}: {more}");
    }
    let counts = Statistics::read(&moved).expect("readable").expect("there").counts;
    assert_eq!([counts["mapped_documents"], counts["encoded_documents"]], ways, "{more}");
}

#[test]
fn a_remapped_dataset_is_that_which_the_other_tokenizer_packs() {
    let space = Space::new();
    // Documents whose tokens are all kept, some whose tokens are not, one with the end-of-text token's own text.
    let texts = ["the cat sat", "abcabc abc", "x <|endoftext|> the the", "\u{1f980} on", "x"];
    space.write("texts/a.txt", texts.join("\n\n"));
    space.write("texts/b.txt", "\n\n the the the the");
    let packed = "let packed = dataset.pack(text, new, seq: 8)\n";
    let remap =
        |from: &str, args: &str| format!("{packed}let moved = dataset.remap({from}, new{args})\n");
    check_remapped(&space, &remap("ds, old", ", check: 100%"), [3, 3]);
    check_remapped(&space, &remap("ds, old", ", by: text"), [0, 6]);
    check_remapped(&space, &remap("dataset.pack(text, new, seq: 8), new", ""), [6, 0]);
    let log = space.tlm(&["log", "moved"]).out;
    assert!(log.contains("mapped 6 documents of "), "{log}");
    // One that was not pruned from the other has no ids in common with it, whatever its texts.
    let mut other = tokenizer();
    other["model"]["merges"].as_array_mut().expect("merges").swap(0, 5);
    space.write("tokenizer.json", other.to_string());
    space.write("other.json", tokenizer().to_string());
    let other = "let other = tokenizer.open(\"other.json\")\n";
    let args = "dataset.pack(text, other, seq: 8), other";
    check_remapped(&space, &format!("{other}{}", remap(args, "")), [0, 6]);
    // What was made is in the ids of the second tokenizer, and what it was made of in those of the first.
    let count = format!(
        "{}let packed2 = tokenizer.prune(NEW, dataset.count(moved), keep: 260)",
        remap("ds, old", "")
    );
    for (name, code) in [("new", Some(0)), ("old", Some(3))] {
        space.write("r.tlm", remapping(&count.replace("NEW", name), "packed2"));
        assert_eq!(space.run(&[]).code, code, "{name}");
    }
    space.write("r.tlm", remapping(&remap("ds, new", ""), "moved"));
    space.run(&[]).says(&["`dataset.remap` gets token ids of two tokenizers"]);
}

/// A tokenizer of another model, with the first token for what is unknown, and one more that ends texts.
fn other_model(model: &Json, unknown: &str, end: usize, decoder: &Json) -> String {
    let added = |id: usize, text: &str| {
        json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(0, unknown), added(end, "<|endoftext|>")],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "decoder": decoder, "model": model,
    })
    .to_string()
}

#[test]
fn unigram_and_wordpiece_are_remapped_by_ids_but_for_unknown_words() {
    let letters = "abcdehnostx";
    let words = ["▁the", "▁cat", "▁sat", "▁on", "▁x", "at", "th", "▁th"];
    let singles = letters.chars().map(String::from).chain(["▁".to_owned()]);
    let plain: Vec<String> = singles.chain(words.map(str::to_owned)).collect();
    let unigram = {
        let pieces =
            plain.iter().enumerate().map(|(at, text)| (text.as_str(), -1.0 - at as f64 / 8.0));
        let vocab: Vec<_> = [("<unk>", 0.0)].into_iter().chain(pieces).collect();
        let model = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": vocab});
        let decoder = json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true,
        });
        other_model(&model, "<unk>", vocab.len(), &decoder)
    };
    let wordpiece = {
        let inside =
            plain.iter().filter(|text| !text.starts_with('▁')).map(|text| format!("##{text}"));
        let texts = ["[UNK]".to_owned()].into_iter().chain(plain.iter().cloned()).chain(inside);
        let vocab: BTreeMap<_, _> = texts.zip(0..).collect();
        let model = json!({
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 20, "vocab": vocab,
        });
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"Regex": " ?##"}, "content": ""}, {"type": "Fuse"},
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]});
        other_model(&model, "[UNK]", vocab.len(), &decoder)
    };
    // In the last two documents a token is pruned, and a character is unknown.
    let texts = ["the cat sat", "the the cat on", "x on the", "sat ath", "the ☃ sat"];
    for (tokenizer, keep, ways) in [(unigram, 20, [5, 1]), (wordpiece, 30, [4, 2])] {
        let space = Space::new();
        space.write("tokenizer.json", tokenizer);
        space.write("texts/a.txt", texts.join("\n\n"));
        space.write("texts/b.txt", "\n\nthe the cat");
        let more = "let packed = dataset.pack(text, new, seq: 8)\n\
                    let moved = dataset.remap(ds, old, new, check: 100%)\n";
        let recipe = remapping(more, "packed, moved").replace("265", &keep.to_string());
        space.write("r.tlm", recipe);
        check_made(&space, more, ways);
    }
}

#[test]
fn what_can_not_be_remapped_is_told() {
    let space = Space::new();
    // `t`, `h`, `e` apart are not what the text `the` is encoded to.
    let apart = [84, 72, 69];
    let ids = |text: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer().to_string())
            .expect("written");
        Tokenizer::open(folder.path()).expect("opens").encode(text).expect("encoded")
    };
    space.write("cache/a.bin", cache(&[&ids("the the the"), &apart]));
    let cached = |args: &str| {
        format!(
            "let cached = dataset.internevo(\"cache\", old, seq: 4)\n\
             let moved = dataset.remap(cached, old, new{args})\n"
        )
    };
    for (more, told) in [
        (
            "let moved = dataset.remap(dataset.part(ds, parts: 2, part: 1), old, new)".to_owned(),
            "`data` is a view",
        ),
        (
            cached(", check: 100%"),
            "document 1: token 0 is id 84 (\"t\"), but its text is encoded to id 258 (\"the\")",
        ),
        (cached(", by: text").replace("seq: 4", "seq: 7"), "are too few for one sequence of 7"),
    ] {
        space.write("r.tlm", remapping(&more, "moved"));
        let run = space.run(&[]);
        assert_eq!(run.code, Some(1), "{more}\n{run}");
        run.says(&[told]);
    }
    // Unless nobody looks, or all texts are encoded anew.
    for args in [", check: 0%", ", by: text"] {
        space.write("r.tlm", remapping(&cached(args), "moved"));
        assert_eq!(space.run(&[]).code, Some(0), "{args}");
    }
}

#[test]
fn results_do_not_depend_on_threads_or_on_the_order_in_which_folders_list_files() {
    // More text than one thread takes at once.
    let words = ["the cat", " sat", " on the", " mat", "abc", "\n\n", " xyz ", "\u{1f980}"];
    let word = |at: u64| words[splitmix(at) as usize % words.len()];
    let text = |file: u64| (0..25_000).map(|at| word(file << 32 | at)).collect::<String>();
    let made = |cpus: usize, files: [u64; 4]| {
        let space = Space::new();
        for file in files {
            space.write(&format!("texts/{file}.txt"), text(file));
            space.write(&format!("cache/{file}.bin"), cache(&[&[5, 6, file as u32], &[8]]));
            space.write(&format!("cache/{file}.bin.meta"), meta(&[[0, 3], [19, 1]]));
        }
        let run = format!("run {{ cpus: {cpus} }}");
        space.write(
            "r.tlm",
            format!(
                r#"use std.{{corpus, dataset, tokenizer}}
let old    = tokenizer.open("tokenizer.json") {run}
let text   = corpus.text("texts", delimiter: "\n\n") {run}
let same   = corpus.text("texts/*.txt", delimiter: "\n\n") {run}
let counts = tokenizer.count(text, old) {run}
let new    = tokenizer.prune(old, counts, keep: 265) {run}
let ds     = dataset.pack(same, old, seq: 8) {run}
let cached = dataset.internevo("cache", old, seq: 2) {run}
let moved  = dataset.remap(ds, old, new, check: 50%) {run}
let seen   = dataset.count(moved) {run}
let part   = dataset.part(cached, parts: 2, part: 1) {run}
let mixed  = corpus.shuffle(corpus.mix([text, same], weights: [1, 2]) {run}) {run}
plan default = [seen, part, mixed]
"#
            ),
        );
        let run = space.run(&[]);
        assert_eq!(run.code, Some(0), "{run}");
        space.objects()
    };
    assert_eq!(made(1, [0, 1, 2, 3]), made(2, [3, 1, 0, 2]));
}

/// Returns how often each id occurs.
#[track_caller]
fn counts(space: &Space, of: &str) -> Vec<u64> {
    space.write("r.tlm", remapping(&format!("let counts = dataset.count({of})"), "counts"));
    let counts = made(space, "counts").join("counts.u64");
    Array::<u64>::open(&counts).expect("counts").iter().collect()
}

#[test]
fn a_dataset_s_ids_are_counted_and_a_view_s_as_often_as_it_trains_them() {
    let space = Space::new();
    let data = |folder: &std::path::Path| Dataset::open(folder).expect("a dataset");
    let count = |ids: &[u32]| {
        let mut counts = vec![0; 273];
        ids.iter().for_each(|id| counts[*id as usize] += 1);
        counts
    };
    space.write("r.tlm", remapping("", "ds"));
    let whole = data(&made(&space, "ds"));
    let mut ids = Vec::new();
    whole.tokens(0..whole.meta().tokens as usize, &mut ids).expect("tokens");
    assert_eq!(counts(&space, "ds"), count(&ids));
    let part = "dataset.part(ds, parts: 3, part: 2)";
    space.write("r.tlm", remapping(&format!("let part = {part}"), "part"));
    let view = data(&made(&space, "part"));
    let trained = |index: usize| {
        let mut ids = Vec::new();
        view.sequence(index, &mut ids).expect("tokens");
        ids[1..].to_vec()
    };
    let ids: Vec<u32> = (0..view.len()).flat_map(trained).collect();
    assert_eq!(counts(&space, part), count(&ids));
}

#[test]
fn an_id_outside_the_vocabulary_is_told_with_its_place() {
    let remap = "dataset.remap(data, tok, tok)";
    for (call, vocab, id) in [
        ("dataset.count(data)", 300, 400),
        ("dataset.count(data)", 70_000, 80_000_u32),
        (remap, 273, 300),
    ] {
        let space = Space::new();
        std::fs::create_dir(space.path("data")).expect("created");
        let mut writer =
            tlm::data::DatasetWriter::create(&space.path("data"), 4, vocab).expect("created");
        writer.push(&[1; 50]).expect("written");
        writer.finish().expect("written");
        let name = if vocab > 1 << 16 { "tokens.u32" } else { "tokens.u16" };
        let width = if vocab > 1 << 16 { 4 } else { 2 };
        let mut bytes = std::fs::read(space.path("data").join(name)).expect("readable");
        bytes[17 * width..18 * width].copy_from_slice(&id.to_le_bytes()[..width]);
        space.write(&format!("data/{name}"), bytes);
        space.write(
            "r.tlm",
            format!(
                "use std.{{dataset, tokenizer}}\nlet data = adopt(\"data\", as: Dataset)\n\
                 let tok = tokenizer.open(\"tokenizer.json\")\nlet n = {call}\nplan default = n\n"
            ),
        );
        let run = space.run(&[]);
        assert_eq!(run.code, Some(1), "{run}");
        run.says(&[name, &format!("token 17 is id {id}, but the vocabulary has {vocab}")]);
    }
}
