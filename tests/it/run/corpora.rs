//! Corpora from files of many kinds, and what is made of them; what is wrong is told with file and place.

use std::fmt::Write;
use std::io::Read;

use tlm::data::{Corpus, CorpusWriter, Statistics};

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
    // Two frames, as `cat a.zst b.zst` makes them.
    let packed = ["four", "five"].map(|text| zstd::encode_all(lines(&[text]).as_bytes(), 3));
    space.write("data/a.zst", packed.map(|packed| packed.expect("compressed")).concat());
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
    let statistics = Statistics::read(&made(&space, "text")).expect("readable").expect("there");
    let counts = [("bytes", 13), ("documents", 2), ("malformed", 3)];
    assert_eq!(statistics.counts, counts.map(|(name, count)| (name.to_owned(), count)).into());
    let first: Vec<_> = statistics.first.iter().map(|place| (place.file, place.record)).collect();
    assert_eq!(first, [(1, 2), (1, 3), (1, 4)]);
    assert_eq!(statistics.first[0].why, "`text` is a number, not a text");
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
    let mut latin = include_bytes!("../../golden/stages/c.parquet").to_vec();
    let text = b"0 the cat sat on ";
    let at = latin.windows(text.len()).position(|bytes| bytes == text).expect("the text");
    latin[at + text.len()] = 0xff;
    space.write("latin.parquet", latin);
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
            r#"corpus.parquet("latin.parquet", field: "meta.text")"#,
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

#[test]
fn corpora_are_mixed_evenly_by_weight() {
    let space = Space::new();
    let texts = |letter: &str, count: usize| {
        (0..count).map(|at| format!("{letter}{at:02}")).collect::<Vec<_>>().join("\n")
    };
    for (letter, count) in [("a", 90), ("b", 10), ("c", 50)] {
        space.write(&format!("{letter}.txt"), texts(letter, count));
    }
    let read = |name: &str| format!(r#"corpus.text("{name}.txt", delimiter: "\n")"#);
    let all = ["a", "b", "c"].map(read).join(", ");
    let mix = |args: &str| documents(&space, &format!("corpus.mix([{all}], {args})"));
    let of = |texts: &[String], letter: &str| -> Vec<String> {
        texts.iter().filter(|text| text.starts_with(letter)).cloned().collect()
    };
    // The second one ends first, after ten documents.
    let mixed = mix("weights: [60%, 20%, 20%]");
    assert!((50..=52).contains(&mixed.len()), "{}", mixed.len());
    for (letter, share) in [("a", 0.6), ("b", 0.2), ("c", 0.2)] {
        for end in 1..mixed.len() {
            let count = of(&mixed[..end], letter).len() as f64;
            assert!((count - share * end as f64).abs() <= 1.0, "{letter} {end}");
        }
        let own = of(&mixed, letter);
        assert!(own.iter().enumerate().all(|(at, text)| *text == format!("{letter}{at:02}")));
    }
    // All are used, and those that ended start over.
    let mixed = mix("weights: [6, 2, 2], by: documents, until: all");
    assert_eq!(of(&mixed, "c").len(), 50);
    assert!((147..=150).contains(&of(&mixed, "a").len()));
    assert_eq!(of(&mixed, "b")[10..20], of(&mixed, "b")[..10]);
    // The order in the list counts, so it is part of the key.
    assert_eq!(mix("weights: [1, 1, 1]")[..3], ["a00", "b00", "c00"]);
    let list = [read("c"), read("a")].join(", ");
    let swapped = documents(&space, &format!("corpus.mix([{list}], weights: [1, 1])"));
    assert_eq!(swapped[..3], ["c00", "a00", "c01"]);
}

/// Writes some lines as documents, and returns the call that reads them.
fn lines(space: &Space, lines: &[String]) -> String {
    space.write("lines.txt", lines.join("\n"));
    r#"corpus.text("lines.txt", delimiter: "\n")"#.to_owned()
}

/// Returns documents of several words each, no two of which are alike.
fn many(count: usize) -> Vec<String> {
    let word = |at: usize| format!("w{}", tlm::data::mix::splitmix(at as u64) % 5000);
    let document = |at: usize| (0..40).map(|i| word(at * 40 + i)).collect::<Vec<_>>().join(" ");
    (0..count).map(document).collect()
}

#[test]
fn documents_are_filtered_by_length_script_and_pattern() {
    let space = Space::new();
    let texts =
        ["short", "eine längere Zeile", "это строка", "语言模型 language", "line 1234567890"];
    let text = lines(&space, &texts.map(str::to_owned));
    for (args, left) in [
        ("min_bytes: 18", &["eine längere Zeile", "это строка", "语言模型 language"][..]),
        ("max_bytes: 18 bytes", &["short", "line 1234567890"]),
        ("min_chars: 6, max_chars: 15", &["это строка", "语言模型 language", "line 1234567890"]),
        (r#"scripts: ["Han", "Cyrillic"]"#, &["это строка"]),
        (r#"scripts: ["Han"], share: 30%"#, &["语言模型 language"]),
        (r#"matches: "[0-9]{{3}}""#, &["line 1234567890"]),
        (r#"matches: "^\\p{{Lu}}|e$", excludes: "(?i)E$""#, &[]),
        (r#"excludes: "[ \\d]""#, &["short"]),
    ] {
        let call = format!("corpus.filter({text}, {args})");
        match left {
            [] => assert_eq!(run(&space, &call).code, Some(1), "{args}"),
            left => assert_eq!(documents(&space, &call), left, "{args}"),
        }
    }
}

#[test]
fn of_equal_and_nearly_equal_documents_the_first_stays() {
    let space = Space::new();
    let first = many(50);
    let mut texts = first.clone();
    texts.extend(first[..10].iter().map(|text| text.to_uppercase().replace(' ', "  ")));
    // One word of forty changes five of 36 runs of words.
    texts.extend(first[10..20].iter().map(|text| text.replacen(' ', " other ", 1)));
    let text = lines(&space, &texts);
    assert_eq!(
        documents(&space, &format!("corpus.dedup({text})")),
        [&texts[..50], &texts[60..]].concat()
    );
    assert_eq!(documents(&space, &format!("corpus.dedup({text}, fold: false)")), texts);
    assert_eq!(documents(&space, &format!("corpus.dedup_near({text})")), texts[..50]);
    let none = format!("corpus.dedup_near({text}, similarity: 99%)");
    assert_eq!(documents(&space, &none), [&texts[..50], &texts[60..]].concat());
}

#[test]
fn a_document_stays_on_its_side_however_the_corpus_grows() {
    let space = Space::new();
    let texts = many(400);
    let side = |texts: &[String], side: &str| {
        let text = lines(&space, texts);
        documents(&space, &format!("corpus.dedup(corpus.split({text}, valid: 20%).{side})"))
    };
    let held = side(&texts[..200], "valid");
    assert!((20..60).contains(&held.len()), "{}", held.len());
    let mut more = texts.clone();
    more.rotate_left(300);
    let later = side(&more, "valid");
    assert!(held.iter().all(|text| later.contains(text)));
    assert!(side(&more, "train").iter().all(|text| !later.contains(text)));
    // What was split is split again, but not in the same way.
    let text = lines(&space, &texts);
    let again = |share: &str| {
        format!(
            "corpus.dedup(corpus.split(corpus.split({text}, valid: 20%).train, valid: {share}).valid)"
        )
    };
    assert!((10..60).contains(&documents(&space, &again("10%")).len()));
    let same = run(&space, &again("20%"));
    assert_eq!(same.code, Some(1), "{same}");
    same.says(&["those of the other were split off before", "give another `seed`"]);
    // Each side of a small corpus gets one.
    for share in ["0.1%", "99.9%"] {
        let text = lines(&space, &texts[..3]);
        let call = |side| format!("corpus.dedup(corpus.split({text}, valid: {share}).{side})");
        let sides = ["valid", "train"].map(|side| documents(&space, &call(side)).len());
        assert!(sides == [1, 2] || sides == [2, 1], "{sides:?}");
    }
}

#[test]
fn parts_and_shuffled_documents_are_those_of_the_corpus() {
    let space = Space::new();
    let texts = many(300);
    let text = lines(&space, &texts);
    let part = |at: usize| documents(&space, &format!("corpus.part({text}, parts: 3, part: {at})"));
    let mut parts = (1..=3).map(part).collect::<Vec<_>>().concat();
    assert_eq!(parts.len(), 300);
    let mut mixed = documents(&space, &format!("corpus.shuffle({text})"));
    assert_ne!(mixed, texts);
    assert_ne!(mixed, documents(&space, &format!("corpus.shuffle({text}, seed: 1)")));
    let mut texts = texts;
    [&mut parts, &mut mixed, &mut texts].iter_mut().for_each(|texts| texts.sort());
    assert!(parts == texts && mixed == texts);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let made = |cpus: usize| {
        let space = Space::new();
        let run = format!("run {{ cpus: {cpus} }}");
        let texts = many(3000);
        let json: String =
            texts.iter().map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect();
        space.write("a.jsonl", json);
        space.write(
            "r.tlm",
            format!(
                r#"use std.{{corpus}}
let text  = corpus.jsonl("a.jsonl") {run}
let some  = corpus.filter(text, excludes: "w12 ") {run}
let once  = corpus.dedup(some) {run}
let near  = corpus.dedup_near(once, similarity: 4%, ngram: 1, bands: 50, rows: 1) {run}
let split = corpus.split(near, valid: 10%) {run}
let part  = corpus.part(text, parts: 2, part: 1) {run}
plan default = [split, part]
"#
            ),
        );
        let run = space.run(&[]);
        assert_eq!(run.code, Some(0), "{run}");
        space.objects()
    };
    assert_eq!(made(1), made(2));
}

#[test]
fn what_leaves_nothing_or_makes_no_sense_is_told() {
    let space = Space::new();
    space.write("one.txt", "one\n\none\n\none");
    let one = r#"corpus.text("one.txt", delimiter: "\n\n")"#;
    let calls = [
        "corpus.filter(ONE, min_chars: 9)",
        r#"corpus.filter(ONE, matches: "(a")"#,
        r#"corpus.filter(ONE, scripts: ["latn", "latim"])"#,
        r#"corpus.filter(ONE, scripts: ["Klingon"])"#,
        "corpus.split(ONE, valid: 1%).train",
        r#"corpus.split(corpus.text("one.txt"), valid: 1%).train"#,
        "corpus.part(ONE, parts: 2, part: 3)",
        "corpus.part(ONE, parts: 9, part: 1)",
        "corpus.mix([ONE, ONE], weights: [1])",
        "corpus.mix([ONE, ONE], weights: [1, 0])",
    ];
    let calls = calls.map(|call| call.replace("ONE", one));
    golden("making", &told(&space, &calls.each_ref().map(String::as_str)));
}

#[test]
fn an_empty_corpus_is_told_where_it_is_first_read() {
    let space = Space::new();
    std::fs::create_dir(space.path("none")).expect("created");
    CorpusWriter::create(&space.path("none")).expect("created").finish().expect("written");
    for call in [
        "corpus.dedup(NONE)",
        "corpus.dedup_near(NONE)",
        "corpus.filter(NONE, min_chars: 0)",
        "corpus.part(NONE, parts: 1, part: 1)",
        "corpus.shuffle(NONE)",
        "corpus.split(NONE, valid: 10%).train",
        "corpus.mix([NONE], weights: [1])",
    ] {
        let run = run(&space, &call.replace("NONE", "adopt(\"none\", as: Corpus)"));
        assert_eq!(run.code, Some(1), "{call}\n{run}");
        run.says(&["has no documents", "help: l"]);
    }
    for call in [
        "tokenizer.count(empty, tok)",
        "tokenizer.retrain(empty, tok, size: 280)",
        "tokenizer.inspect(tok, empty)",
        "dataset.pack(empty, tok, seq: 8)",
    ] {
        space.write(
            "r.tlm",
            format!(
                "use std.{{dataset, tokenizer}}\nlet empty = adopt(\"none\", as: Corpus)\n\
                 let tok = tokenizer.open(\"tokenizer.json\")\nlet made = {call}\n\
                 plan default = made\n"
            ),
        );
        let run = space.run(&[]);
        assert_eq!(run.code, Some(1), "{call}\n{run}");
        run.says(&["has no documents", "help: l"]);
    }
}

#[test]
fn damaged_text_of_a_corpus_is_told_with_the_place() {
    let space = Space::new();
    std::fs::create_dir(space.path("own")).expect("created");
    let mut writer = CorpusWriter::create(&space.path("own")).expect("created");
    ["one", "two"].iter().for_each(|text| writer.push(text).expect("written"));
    writer.finish().expect("written");
    space.write("own/text.bin", b"onet\xffo");
    let run = run(&space, r#"corpus.dedup(adopt("own", as: Corpus))"#);
    assert_eq!(run.code, Some(1), "{run}");
    run.says(&["text.bin`: document 1 is not UTF-8 at byte 4"]);
}

#[test]
fn a_line_that_is_too_long_is_told_and_passed() {
    let space = Space::new();
    // The limit and a byte, packed: the file itself is small.
    let long = std::io::repeat(b'x').take((256 << 20) + 1);
    let text = std::io::Cursor::new("{\"text\": \"a\"}\n")
        .chain(long)
        .chain(std::io::Cursor::new("\n{\"text\": \"b\"}\n"));
    space.write("a.zst", zstd::encode_all(text, 1).expect("compressed"));
    let call = r#"corpus.jsonl("a.zst", malformed: skip)"#;
    assert_eq!(documents(&space, call), ["a", "b"]);
    let log = space.tlm(&["log", "text"]).out;
    assert!(log.contains("a.zst:2`: longer than a line may be, 268,435,456 bytes"), "{log}");
}

/// Returns the most memory that a step of the only run had in use, in MiB.
fn peak(space: &Space, step: &str) -> i64 {
    let shown = space.tlm(&["show", step]).out;
    let line = shown.lines().find_map(|line| line.strip_prefix("  origin.peak_bytes = "));
    line.and_then(|bytes| bytes.parse::<i64>().ok()).expect("a peak") >> 20
}

#[test]
fn memory_does_not_grow_with_the_corpus() {
    let peaks = |mib: usize| {
        let space = Space::new();
        let document = "the cat sat on the mat ".repeat(89);
        let text = (document + "\n").repeat(512);
        space.write("large.txt", text.repeat(mib));
        space.write(
            "r.tlm",
            r#"use std.{corpus}
let text  = corpus.text("large.txt", delimiter: "\n")
let whole = corpus.text("large.txt")
let some  = corpus.filter(text, min_chars: 9, excludes: "dog")
plan default = [some, whole]
"#,
        );
        let run = space.run(&[]);
        assert_eq!(run.code, Some(0), "{run}");
        ["text", "whole", "some"].map(|step| peak(&space, step))
    };
    let (small, large) = (peaks(1), peaks(96));
    // Buffers of some MiB fill up only in the large one.
    for (small, large) in small.iter().zip(&large) {
        assert!(large - small < 48, "{small} MiB against {large} MiB");
    }
}
