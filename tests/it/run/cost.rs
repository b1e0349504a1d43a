//! What a plan says of floating-point operations: as much as the recipe and the store tell, and until when the rest is unknown.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::run::space::{Space, check, name};

/// Two rounds, a donor, and a stage of the recipe's own.
const RECIPE: &str = r#"use std.{corpus, dataset, eval, model, rounds, tokenizer, train}

stage other(model: Checkpoint) -> Checkpoint  version 1  shell "cp -r {model} {out}"

param tokens : Tokens = 1000

let text   = corpus.text("texts/*.txt", delimiter: "\n\n")
let base   = tokenizer.open("tokenizer.json")
let tok    = tokenizer.prune(base, tokenizer.count(text, base), keep: 270)
let ds     = dataset.pack(text, tok, seq: 8)
let init   = model.init(tok, shape: {depth: 2, width: 64, ffn: 100})
let r1     = train.run(init, ds, tokens: tokens, batch: 64)
let losses = rounds.score(r1.model, ds, unit: batch, batch: 4)
let hard   = rounds.resample(ds, losses, rate: 100%)
let r2     = train.run(r1.model, hard, tokens: ds.tokens * 50%, batch: 64)
let m      = eval.perplexity(r2.model, hard)
let own    = eval.perplexity(other(r1.model), ds)
let donor  = model.open("m")
let cut    = train.run(model.inherit(donor, tok, shape: {width: 8}), ds, tokens: 1000, batch: 1000)
let big    = eval.speed(model.gqa(donor, kv_heads: 1), prefix: 2, new: 7, batch: 3)
let taught = train.run(init, ds, tokens: 64, batch: 64, teacher: r1.model, valid: ds, validations: 2)
let less   = eval.perplexity(init, ds, skip: 1)
let plain  = model.importance(init, ds, tokens: 64)
let skips  = model.importance(init, ds, tokens: 64, layers: skip)

plan default = [m, own, cut.loss, big, taught.loss, less, plain, skips]
plan words   = ds
"#;

fn space() -> Space {
    let space = Space::with(RECIPE);
    space.write("m/config.json", DONOR);
    space
}

/// The file of a donor whose weights no plan reads.
const DONOR: &str = r#"{"model_type": "llama", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 40,
"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;

/// Returns of each step to run that takes operations how many, or until which step that is not known.
fn flops(space: &Space, more: &[&str]) -> BTreeMap<String, Value> {
    let plan = space.tlm(&[&["plan", "--json", "r.tlm"], more].concat());
    assert_eq!(plan.code, Some(0), "{plan:?}");
    let lines = plan.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let due = lines.filter(|line| line["event"] == "due").map(|line| {
        let name = line["step"]["name"].as_str().expect("a name").to_owned();
        let flops = match (&line["flops"], &line["flops_after"]) {
            (Value::Null, Value::Null) => json!("never"),
            (Value::Null, until) => until.clone(),
            (flops, _) => flops.clone(),
        };
        (name, flops)
    });
    due.filter(|(_, flops)| *flops != json!(0.0)).collect()
}

#[track_caller]
fn costs(space: &Space, more: &[&str], expected: &[(&str, Value)]) {
    let expected = expected.iter().map(|(name, flops)| ((*name).to_owned(), flops.clone()));
    assert_eq!(flops(space, more), expected.collect());
}

/// Operations a token of the forward pass of `init`: twice 2 layers of 4 * 64 * 64 + 3 * 64 * 100 and a head of 270 * 64, and
/// attention of 64 by 64 to 4.5 positions on average in 2 layers, each 4.
const INIT: f64 = 2.0 * (2.0 * (16_384.0 + 19_200.0) + 17_280.0) + 4.0 * 64.0 * 4.5 * 2.0;

/// The same of `cut`: half as wide as the donor, with two heads of 4, and two of keys.
const CUT: f64 =
    2.0 * (3.0 * (8.0 * 4.0 * 2.0 * 4.0 + 3.0 * 8.0 * 20.0) + 270.0 * 8.0) + 4.0 * 8.0 * 4.5 * 3.0;

/// The same of the donor with one head of keys, over the 8 positions that writing 7 tokens after 2 reads.
const BIG: f64 = 2.0 * (3.0 * (16.0 * 4.0 * 2.0 * 5.0 + 3.0 * 16.0 * 40.0) + 300.0 * 16.0)
    + 4.0 * 16.0 * 4.5 * 3.0;

#[test]
fn operations_are_known_as_far_as_recipe_and_store_tell() {
    let space = space();
    let fixed = [
        ("r1", json!(3.0 * INIT * 1024.0)),
        ("cut", json!(3.0 * CUT * 1000.0)),
        ("plain", json!(3.0 * INIT * 64.0)),
        // Both layers are left out once.
        ("skips", json!((4.0 * INIT + (INIT + 2.0 * 17_280.0)) * 64.0)),
        ("big", json!(BIG * 24.0)),
    ];
    let (never, until) = (json!("never"), json!("ds"));
    let first = [
        &fixed[..],
        &[
            ("losses", until.clone()),
            ("r2", until.clone()),
            ("taught", until.clone()),
            ("less", until.clone()),
            ("m", until),
            ("own.model", never.clone()),
            ("own", json!("own.model")),
        ],
    ];
    costs(&space, &[], &first.concat());

    // Once the texts are packed, all else follows; the losses are of units of four, all of which are drawn.
    let packed = space.run(&["words"]);
    packed.check(0, &["base", "ds", "text", "tok", "tok.counts"]);
    let finished = packed.all("finished").find(|event| name(event) == "ds").expect("it ran");
    let tokens = finished["scalars"]["out.tokens"].as_f64().expect("a number");
    let half = (tokens / 2.0 / 64.0).ceil() * 64.0;
    let second = [
        &fixed[..],
        &[
            ("losses", json!(INIT * tokens)),
            ("r2", json!(3.0 * INIT * half)),
            ("m", json!(INIT * tokens)),
            // A teacher sees each token once, and a training of one step measures once.
            ("taught", json!(4.0 * INIT * 64.0 + INIT * tokens)),
            ("less", json!((INIT + 2.0 * 17_280.0) / 2.0 * tokens)),
            ("own.model", never),
            ("own", json!("own.model")),
        ],
    ];
    costs(&space, &[], &second.concat());
    // Nothing is computed of nothing.
    assert_eq!(flops(&space, &["-s", "tokens=0"]).get("r1"), None);
}

/// The best of models that are alike is like them; which of several shapes is best, nobody knows.
#[test]
fn the_best_of_several_has_what_they_have_in_common() {
    let space = Space::with(
        r#"use std.{corpus, dataset, eval, model, tokenizer, train}

let tok = tokenizer.open("tokenizer.json")
let few = tokenizer.prune(tok, tokenizer.count(corpus.text("texts/*.txt"), tok), keep: 270)
let ds  = dataset.pack(corpus.text("texts/*.txt"), few, seq: 8)

axis lr   : Float = [0.1, 0.2]
axis width = [64, 32]

let init  = model.init(few, shape: {depth: 2, width: width, heads: 1, ffn: 100})
let r     = train.run(init, ds, tokens: 0, batch: 64, lr: lr)
let m     = eval.perplexity(r.model, ds)
let alike = train.run(best(r.model, by: m.loss, over: lr), ds, tokens: 64, batch: 64)
let other = train.run(best(r.model, by: m.loss, over: width), ds, tokens: 64, batch: 64)

plan default = [alike.loss, other.loss]
"#,
    );
    let flops = flops(&space, &[]);
    assert_eq!(flops["alike[width=64]"], json!(3.0 * INIT * 64.0));
    assert_eq!(flops["other[lr=0.1]"], json!("other.init[lr=0.1]"));
}

/// A model that only the store knows: what the stage makes is copied from `m`, of which the recipe says nothing.
#[test]
fn a_model_in_the_store_tells_its_shape() {
    let space = Space::with(
        r#"use std.{corpus, dataset, train}

stage made() -> Checkpoint  version 1  shell "cp -r m {out}"

let m  = made()
let ds = dataset.pack(corpus.text("texts/*.txt"), m.tokenizer, seq: 8)
let r  = train.run(m, ds, tokens: 800, batch: 80)

plan default = r.loss
"#,
    );
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/model_plain");
    for name in ["config.json", "model.safetensors"] {
        space.write(&format!("m/{name}"), fs::read(model.join(name)).expect("readable"));
    }
    space.write("m/tokenizer.json", space.read("tokenizer.json"));
    let (unknown, known) = (json!("never"), json!(3.0 * PLAIN * 800.0));
    costs(&space, &[], &[("m", unknown), ("r", json!("m"))]);
    space.run(&["m"]).check(0, &["m"]);
    costs(&space, &[], &[("r", known.clone())]);
    space.run(&["ds"]).check(0, &["ds", "ds.corpus"]);
    costs(&space, &[], &[("r", known)]);
}

/// Operations a token of `tests/reference/model_plain`: 2 layers of width 16 with 4 heads and 2 of keys, an inner size of 32, and 64
/// tokens.
const PLAIN: f64 = 2.0 * (2.0 * (16.0 * 4.0 * 2.0 * 6.0 + 3.0 * 16.0 * 32.0) + 64.0 * 16.0)
    + 4.0 * 16.0 * 4.5 * 2.0;

#[test]
fn a_plan_tells_operations_and_hours() {
    let space = space();
    let head = |args: &[&str], expected: &[&str]| {
        check(&space.tlm(&[&["plan", "r.tlm"], args].concat()), 0, expected);
    };
    head(
        &["r1"],
        &[
            "7 steps: 0 fresh, 7 to run (5 of them after others), 5.51e8 FLOPs\n",
            "  r1          train.run           5.51e8   after init, ds\n",
            "  init        model.init                   after tok\n",
        ],
    );
    head(&["r1", "--flops-per-s", "1M"], &["5.51e8 FLOPs (0.15 GPU-hours at 1M FLOP/s)\n"]);
    head(&["words", "--flops-per-s", "1M"], &["5 to run (3 of them after others)\n"]);
    head(
        &[],
        &[
            ", over 6.73e8 FLOPs\n",
            "  FLOPs of 6 steps are not known until ds, own.model ran\n",
            "  FLOPs of 1 step are not known beforehand: other\n",
        ],
    );
    for rate in ["fast", "0", "-1T"] {
        let rate = format!("--flops-per-s={rate}");
        check(&space.tlm(&["plan", "r.tlm", &rate]), 2, &["is no number above zero", "400T"]);
    }
}

/// The rules of a plan and the stages fill in the same of a shape: what training costs is the same before and after the models are
/// there.
#[cfg(feature = "torch")]
#[test]
fn plans_and_stages_agree_on_shapes() {
    let space = Space::with(
        r#"use std.{corpus, dataset, model, tokenizer, train}

let tok = tokenizer.open("tokenizer.json")
let few = tokenizer.prune(tok, tokenizer.count(corpus.text("texts/*.txt"), tok), keep: 270)
let ds  = dataset.pack(corpus.text("texts/*.txt"), few, seq: 8)

let donor = model.open("donor")

axis cut = [
  model.inherit(donor, few, shape: {width: 16}),
  model.inherit(donor, few, shape: {width: 24, heads: 2}),
  model.inherit(donor, few, shape: {width: 20, heads: 1}),
  model.inherit(donor, few, shape: {width: 20, kv_heads: 2}),
  model.inherit(donor, few, shape: {width: 23}),
]
let own = model.inherit(donor, donor.tokenizer, shape: {heads: 1, ffn: 30})
axis new = [
  model.init(few, shape: {depth: 1, width: 64}),
  model.init(few, shape: {depth: 2, width: 192}),
  model.init(few, shape: {depth: 1, width: 40, heads: 2, kv_heads: 1, head_dim: 10, tied: false}),
]
let r = train.run(cut, ds, tokens: 64, batch: 64)
let s = train.run(new, ds, tokens: 64, batch: 64)
let t = train.run(own, dataset.pack(corpus.text("texts/*.txt"), donor.tokenizer, seq: 8), tokens: 64, batch: 64)

plan default = [r.loss, s.loss, t.loss] vary cut, new
plan models  = [cut, new, own] vary cut, new
"#,
    );
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stages/donor");
    for name in ["config.json", "model.safetensors"] {
        space.write(&format!("donor/{name}"), fs::read(model.join(name)).expect("readable"));
    }
    space.write("donor/tokenizer.json", space.read("tokenizer.json"));
    let before = flops(&space, &[]);
    assert_eq!(before.len(), 9);
    assert!(before.values().all(Value::is_number), "{before:?}");
    let run = space.run(&["models"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(flops(&space, &[]), before);
}
