//! Datasets: from token caches of InternEvo, and in parts.

use tlm::data::Dataset;

use crate::run::inputs::made;
use crate::run::space::{Run, Space};

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
