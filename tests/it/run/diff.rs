//! `tlm diff`: what differs between two steps, and where that begins.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use tlm::base::{Digest, Value};
use tlm::store::{Output, Record, Store};

use crate::frames;
use crate::run::space::{ALL, Run, Space};

/// Returns the key of a step that just ran.
fn key(run: &Run, step: &str) -> String {
    let finished = run.all("finished").find(|line| line["step"]["name"] == step);
    let finished = finished.unwrap_or_else(|| panic!("{step} did not run: {run}"));
    finished["step"]["key"].as_str().expect("a key").to_owned()
}

#[track_caller]
fn diff(space: &Space, before: &str, now: &str, code: i32) -> (String, Json) {
    let text = space.tlm(&["diff", before, now]);
    let json = space.tlm(&["diff", "--json", before, now]);
    assert_eq!((text.code, json.code), (Some(code), Some(code)), "{text:?}{json:?}");
    (text.out, serde_json::from_str(&json.out).expect("JSON"))
}

/// Returns the steps where lineages diverge, and the fields.
fn diverging(json: &Json) -> Vec<(&str, Vec<&str>)> {
    let forks = json["diverging"].as_array().expect("a list").iter();
    forks
        .map(|fork| {
            let fields = fork["fields"].as_array().expect("a list").iter();
            let fields = fields.map(|field| field["field"].as_str().expect("text"));
            (fork["b"]["name"].as_str().expect("text"), fields.collect())
        })
        .collect()
}

#[test]
fn lineages_are_followed_back_to_where_they_differ() {
    let space = Space::new();
    let first = space.run(&[]);
    first.check(0, &ALL);
    space.edit("seed: 7", "seed: 8");
    let second = space.run(&["-s", "keep=265"]);
    let (before, now) = (key(&first, "dev"), key(&second, "dev"));
    let (text, json) = diff(&space, &before, &now, 1);
    assert_eq!(diverging(&json), [("split", vec!["params.seed"]), ("tok", vec!["params.keep"])]);
    for part in [
        "A  dev (dataset.pack), key ",
        "recipe\n  inputs.corpus.step: ",
        "results\n  out: ",
        "first differ in\n  split ",
        "(corpus.split): seed: 7 -> 8\n  tok ",
        "(tokenizer.prune): keep: 270 -> 265\n",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let result = |name: &str| {
        let results = json["results"].as_array().expect("a list").iter();
        results.clone().find(|result| result["name"] == name).expect("an output").clone()
    };
    let tokens = result("out.tokens");
    let [a, b, delta] = ["a", "b", "delta"].map(|side| tokens[side].as_f64().expect("a number"));
    assert_eq!(delta, b - a, "{tokens}");
    assert_eq!(result("out")["delta"], Json::Null);
    assert!(text.contains(&format!("  out.tokens: {a} -> {b}")), "{text}");
}

#[test]
fn equal_steps_end_with_0_and_names_and_pins_are_known() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    let (text, json) = diff(&space, "tok", "tok", 0);
    assert!(text.starts_with("both are tok (tokenizer.prune), key "), "{text}");
    assert_eq!((&json["equal"], &json["diverging"]), (&json!(true), &json!([])));
    space.tlm(&["pin", "tok", "--as", "old"]);
    let other = key(&space.run(&["-s", "keep=265"]), "tok");
    let (text, json) = diff(&space, "old", &other[..8], 1);
    let field = json!({ "field": "params.keep", "a": 270, "b": 265 });
    assert_eq!((&json["fields"], &json["equal"]), (&json!([field]), &json!(false)));
    assert!(text.contains("  out.size: 270 -> 265  (-5.000)"), "{text}");
    for (names, message) in [
        (["tok", "old"], "`tok` names 2 steps"),
        (["old", "odl"], "no step `odl`"),
        (["old", "0123"], "`tlm ls` lists all"),
    ] {
        let ended = space.tlm(&["diff", names[0], names[1]]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains(message), "{ended:?}");
    }
}

const COUNTED: &str = r#"stage count(; of: Count, by: Count) -> { n: Count }  version 1 shell """
  test {by} && echo {of} > {n}
"""
param more : Count = 1
axis size = [10, 20]
let c = count(of: size + more, by: if size == 10 then more else 3)
let same = count(of: 5, by: 5)
plan all = [c, same] over size
report counts = table([c.n, same.n], rows: size)
"#;

#[test]
fn recipes_are_compared_step_by_step_and_by_what_they_report() {
    let space = Space::with(COUNTED);
    space.write(
        "other.tlm",
        COUNTED.replace("of: 5, by: 5", "of: 6, by: 5")
            + "let d = count(of: 7, by: 7)\nplan d = d\n",
    );
    for args in [&["run", "r.tlm"][..], &["run", "r.tlm", "-s", "more=4"], &["run", "other.tlm"]] {
        assert_eq!(space.tlm(args).code, Some(0));
    }
    let check = |args: &[&str], code: i32, parts: &[&str]| {
        let ended = space.tlm(&[&["diff"], args].concat());
        assert_eq!(ended.code, Some(code), "{ended:?}");
        for part in parts {
            assert!(
                ended.out.contains(part) || ended.err.contains(part),
                "no `{part}` in {ended:?}"
            );
        }
    };
    check(
        &["r.tlm", "-s", "more=4"],
        1,
        &[
            "A  r.tlm, 3 steps\nB  r.tlm -s more=4, 3 steps\n",
            "1 the same, 2 differ, 2 of them by themselves, 0 only in A, 0 only in B",
            "| c[size=10] | count | by: 1 -> 4, of: 11 -> 14 |",
            "| 10   | c.n   | 11 | 14 |     3 |",
            "| 20   | c.n   | 21 | 24 |     3 |",
        ],
    );
    check(
        &["r.tlm", "other.tlm"],
        1,
        &[
            "1 differ",
            "1 only in B",
            "| d    | count |  only in B |",
            "| 10   | same.n | 5 | 6 |     1 |",
        ],
    );
    // What is not there yet stays open; what is the same ends with 0.
    check(&["r.tlm", "-s", "more=5"], 1, &["| 11 | … |     – |"]);
    check(&["r.tlm", "r.tlm"], 0, &["3 the same, 0 differ"]);
    check(&["r.tlm"], 2, &["there is nothing to compare `r.tlm` with"]);
    check(&["c", "same", "-s", "more=4"], 2, &["two steps are compared by their names alone"]);
    let json = space.tlm(&["diff", "r.tlm", "-s", "more=4", "--format", "json"]);
    let json: Json = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json[1]["report"], "counts");
}

/// Writes records into a new store, by name, and the names of the steps they use; `lr` differs as the name does.
fn lineage(space: &Space, steps: &[(&str, &str, &[&str])]) {
    let key = |name: &str| Digest::of(name.as_bytes());
    let record = |(name, stage, used): &(&str, &str, &[&str])| {
        let input = |(at, used): (usize, &&str)| {
            let output = Value::Str("out".to_owned());
            (format!("i{at}"), Value::map([("output", output), ("step", Value::Digest(key(used)))]))
        };
        let lr = name.rsplit(' ').next().expect("a last word").to_owned();
        Record {
            recipe: key(name),
            content: key(&format!("content of {name}")),
            stage: (*stage).to_owned(),
            label: (*name).to_owned(),
            point: Vec::new(),
            outputs: BTreeMap::from([("loss".to_owned(), Output::Scalar(Value::Float(0.5)))]),
            manifest: Value::map([
                ("stage", Value::Str((*stage).to_owned())),
                ("inputs", Value::map(used.iter().enumerate().map(input))),
                ("params", Value::map([("lr", Value::Str(lr))])),
            ]),
            seconds: 1.0,
            finished_unix: 0,
            origin: BTreeMap::new(),
        }
    };
    drop(Store::open(&space.path(".tlm")).expect("opens"));
    frames::write(&space.path(".tlm"), steps.iter().map(record));
}

#[test]
fn shared_steps_are_told_once_and_lost_ones_are_named() {
    let space = Space::new();
    lineage(
        &space,
        &[
            ("base 1", "s", &[]),
            ("base 2", "s", &[]),
            ("left a", "s", &["base 1"]),
            ("left b", "s", &["base 2"]),
            ("end x", "s", &["left a", "base 1", "gone 1", "other 1"]),
            ("other 1", "s", &["base 1"]),
            ("other 2", "another", &["base 2"]),
            ("last x", "s", &["left b", "base 2", "gone 2", "other 2"]),
        ],
    );
    let (text, json) = diff(&space, "end x", "last x", 1);
    let expected = [
        ("base 2", vec!["params.lr"]),
        ("left b", vec!["params.lr"]),
        ("other 2", vec!["params.lr", "stage"]),
    ];
    assert_eq!(diverging(&json), expected);
    assert!(text.contains("lr: 1 -> 2; they made the same\n"), "{text}");
    let lost = ["gone 1", "gone 2"].map(|name| Digest::of(name.as_bytes()));
    assert_eq!(json["lost"].as_array().map(Vec::len), Some(2), "{json}");
    for key in lost {
        assert!(text.contains(&format!("{} is no longer in the store", key.short())), "{text}");
    }
}
