//! What a step's key is made of: edits of a recipe, and exactly which steps have another key then (the vectors of a good key:
//! cosmetic edits change nothing, others what is downstream of them).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tlm::base::{Digest, SourceMap};
use tlm::graph;
use tlm::sema::{self, Overlay};
use tlm::store::Store;

/// text -> split -> { ds -> train -> m, dev -> m }, tok -> { ds, dev }
const RECIPE: &str = r#"use std.{corpus, dataset, eval, model, tokenizer, train}

param budget : Tokens = 50M tokens

axis rate : Ratio = [50%, 25%]
axis by   = [{lr: 2e-4, wd: 0.1}, {lr: 1e-4, wd: 0.0}]

let text  = corpus.text("a.txt", delimiter: "ab")
let split = corpus.split(text, valid: 2%)
let tok   = tokenizer.open("tok.json")
let ds    = dataset.pack(split.train, tok, seq: 256)
let dev   = dataset.pack(split.valid, tok, seq: 256)
let init  = model.init(tok, shape: {depth: 2, width: 64})
let r     = train.run(init, ds, tokens: budget * rate, batch: 4096 tokens, lr: by.lr, weight_decay: by.wd)
let m     = eval.perplexity(r.model, dev)

plan default = m over rate * by
"#;

/// Returns the key of each step, by its label and what it is given.
fn keys(folder: &Path, recipe: &str, numerics: &str) -> BTreeSet<(String, Digest)> {
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", recipe);
    let loaded = sema::load(&mut sources, file, folder, &Overlay::default()).finish();
    let (program, _) = loaded.unwrap_or_else(|found| panic!("{found:?}"));
    let expanded = sema::expand(&program, &[]).finish();
    let (expansion, _) = expanded.unwrap_or_else(|found| panic!("{found:?}"));
    let store = tempfile::tempdir().expect("a folder");
    let store = Store::open(store.path()).expect("opens");
    let plan = graph::plan(expansion, &store, numerics).finish();
    let (plan, _) = plan.unwrap_or_else(|found| panic!("{found:?}"));
    plan.steps().map(|planned| (planned.step.label().to_owned(), planned.recipe)).collect()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two"), ("tok.json", "{}")] {
        fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

/// Compares the labels whose keys are others than before an edit.
#[track_caller]
fn changes(what: &str, edit: &[(&str, &str)], expected: &[&str]) {
    let folder = folder();
    let mut recipe = RECIPE.to_owned();
    for (from, to) in edit {
        assert!(recipe.contains(from), "{what}: no `{from}`");
        recipe = recipe.replace(from, to);
    }
    let before = keys(folder.path(), RECIPE, "cpu/test");
    let after = keys(folder.path(), &recipe, "cpu/test");
    let known: BTreeSet<Digest> = before.iter().map(|(_, key)| *key).collect();
    let new: BTreeSet<&str> =
        after.iter().filter(|(_, key)| !known.contains(key)).map(|(label, _)| &**label).collect();
    assert_eq!(new.into_iter().collect::<Vec<_>>(), expected, "{what}");
}

#[test]
fn cosmetic_edits_change_no_key() {
    let same = |what: &str, edit: &[(&str, &str)]| changes(what, edit, &[]);
    same("comments and blanks", &[("let text  =", "# A comment.\n\n\nlet text =\t ")]);
    same(
        "another layout",
        &[("shape: {depth: 2, width: 64}", "shape: {\n  depth: 2,\n  width: 64,\n}")],
    );
    same("a doc comment", &[("let r ", "## The run.\nlet r ")]);
    same("an equal number", &[("2e-4", "0.0002"), ("2%", "0.02"), ("4096 tokens", "4_096")]);
    same("other units", &[("50M tokens", "50_000k tokens")]);
    same("negative zero", &[("wd: 0.0", "wd: -0.0")]);
    same("the order of a record's fields", &[("{depth: 2, width: 64}", "{width: 64, depth: 2}")]);
    same(
        "the order of parameters",
        &[
            ("seq: 256)", "seq: 256)"),
            (
                "tokens: budget * rate, batch: 4096 tokens",
                "batch: 4096 tokens, tokens: budget * rate",
            ),
        ],
    );
    same("a renamed value", &[("let split", "let parts"), ("(split.", "(parts.")]);
    same("a renamed axis", &[("rate", "part")]);
    same("the order of an axis's values", &[("[50%, 25%]", "[25%, 50%]")]);
    same("fewer values of an axis", &[("[50%, 25%]", "[50%]")]);
    same(
        "a default written out",
        &[("valid: 2%", "valid: 2%, seed: 0"), ("width: 64}", "width: 64, tied: true}")],
    );
    same(
        "how it is run",
        &[(
            "by.wd)",
            "by.wd) run { limit: 1h, retries: 3, micro_batch: 4, recompute: true, cpus: 1, mem: 1GiB }",
        )],
    );
    same(
        "an alias of a module",
        &[("use std.{corpus,", "use std.corpus as c\nuse std.{"), ("corpus.", "c.")],
    );
    same(
        "a function around it",
        &[(
            "let dev   = dataset.pack(split.valid, tok, seq: 256)",
            "fn pack(x: Corpus) = dataset.pack(x, tok, seq: 256)\nlet dev = pack(split.valid)",
        )],
    );
    same("an equal file", &[("\"a.txt\"", "\"b.txt\"")]);
    same(
        "a plan's place",
        &[("plan default = m over rate * by", "plan default = m vary rate, by")],
    );
}

#[test]
fn other_edits_change_what_is_downstream() {
    let all = ["dev", "ds", "m", "r", "split", "text"];
    changes("a file's content", &[("a.txt", "c.txt")], &all);
    changes("a text", &[("\"ab\"", "\"a\"")], &all);
    changes("an early number", &[("valid: 2%", "valid: 3%")], &["dev", "ds", "m", "r", "split"]);
    changes("a seed", &[("valid: 2%", "valid: 2%, seed: 1")], &["dev", "ds", "m", "r", "split"]);
    changes("a late number", &[("4096 tokens", "2048 tokens")], &["m", "r"]);
    changes("a field of a record", &[("depth: 2", "depth: 3")], &["init", "m", "r"]);
    changes(
        "a swapped input",
        &[
            ("pack(split.train", "pack(split.valid"),
            (
                "dev   = dataset.pack(split.valid, tok, seq: 256)",
                "dev = dataset.pack(split.train, tok, seq: 256)",
            ),
        ],
        &["m", "r"],
    );
    changes("a param", &[("50M tokens", "60M tokens")], &["m", "r"]);
    changes("one more value", &[("[50%, 25%]", "[50%, 25%, 100%]")], &["m", "r"]);
    changes(
        "the last step",
        &[("eval.perplexity(r.model, dev)", "eval.perplexity(r.model, dev, dtype: bf16)")],
        &["m"],
    );
    changes(
        "the device of a tensor step",
        &[("by.wd)", "by.wd) run { device: cuda }")],
        &["m", "r"],
    );
}

#[test]
fn only_tensor_steps_see_the_class_of_numerics() {
    let folder = folder();
    let [cpu, cuda] = ["cpu/1", "cuda/1"].map(|numerics| keys(folder.path(), RECIPE, numerics));
    let new: BTreeSet<_> = cuda.difference(&cpu).map(|(label, _)| label.as_str()).collect();
    assert_eq!(new.into_iter().collect::<Vec<_>>(), ["init", "m", "r"]);
}

#[test]
fn what_could_be_taken_for_each_other_has_different_keys() {
    let folder = folder();
    let stage = "stage s(; a: Str = \"\", b: Str = \"\", n: [Float] = [], i: Int = 0, t: Bool = false) -> File  version 1\n  \
                 shell \"echo {a} {b} {n} {i} {t} > {out}\"\n";
    let calls = [
        "s(a: \"ab\", b: \"c\")",
        "s(a: \"a\", b: \"bc\")",
        "s(a: \"abc\")",
        "s(b: \"abc\")",
        "s(n: [1, 2])",
        "s(n: [2, 1])",
        "s(n: [12])",
        "s(i: 1)",
        "s(t: true)",
        "s(a: \"1\")",
        "s(a: \"true\")",
        "s()",
    ];
    let mut seen: BTreeMap<Digest, &str> = BTreeMap::new();
    for call in calls {
        for (_, key) in keys(folder.path(), &format!("{stage}plan p = {call}"), "cpu/1") {
            assert_eq!(seen.insert(key, call), None, "{call}");
        }
    }
}
