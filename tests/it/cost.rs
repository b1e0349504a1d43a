//! Parameters and floating-point operations of models, against transformers and PyTorch (`scripts/reference/cost.py`), and of each
//! tensor stage a rule.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;
use tlm::base::Value;
use tlm::graph::Shape;
use tlm::sema::STDLIB;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(path).expect("readable")
}

#[test]
fn models_are_counted_as_transformers_and_pytorch_count_them() {
    let cases: Vec<Json> =
        serde_json::from_str(&read("tests/reference/model_cost.json")).expect("JSON");
    assert_eq!(cases.len(), 4);
    for case in cases {
        let name = &case["name"];
        let config: Value = serde_json::from_value(case["config"].clone()).expect("a config");
        let shape = Shape::of_config(&config).expect("a shape");
        assert_eq!(Some(shape.params()), case["params"].as_f64(), "{name}");
        let Some(seq) = case["seq"].as_f64() else { continue };
        let tokens = seq * case["batch"].as_f64().expect("a number");
        // PyTorch counts all pairs of positions, we those that the mask leaves.
        let causal = (seq + 1.0) / (2.0 * seq);
        let counted = |pass: &str| {
            let part = |kind: &str| case[pass][kind].as_f64().expect("a number");
            part("linear") + part("attention") * causal
        };
        assert_eq!(shape.forward(tokens, seq), counted("forward"), "{name}");
        assert_eq!(shape.training(tokens, seq), counted("training"), "{name}");
    }
}

/// The base run of the paper: its digest (section 6) has 5.64 GFLOP a token and 2.8e20 in all.
#[test]
fn the_base_run_costs_what_the_digest_says() {
    let fields = [("depth", 20), ("width", 1792), ("heads", 14), ("head_dim", 128), ("ffn", 4864)];
    let fields = fields.map(|(name, size)| (name, Value::Int(size)));
    let shape = Value::map(fields.into_iter().chain([("tied", Value::Bool(false))]));
    let shape = Shape::of_recipe(&shape, 48_000.0).expect("a shape");
    assert_eq!(format!("{:.2}", shape.training(1e9, 2048.0) / 1e18), "5.64");
    assert_eq!(format!("{:.2e}", shape.training(50e9, 2048.0)), "2.82e20");
}

#[test]
fn what_is_no_model_of_the_family_has_no_shape() {
    let sizes = [
        ("vocab_size", 64),
        ("hidden_size", 16),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 4),
        ("intermediate_size", 32),
    ];
    let config = |model: &str| {
        let sizes = sizes.map(|(name, size)| (name, Value::Int(size)));
        Value::map(sizes.into_iter().chain([("model_type", Value::Str(model.to_owned()))]))
    };
    assert!(Shape::of_config(&config("llama")).is_some());
    assert_eq!(Shape::of_config(&config("mamba")), None);
    assert_eq!(Shape::of_config(&Value::Null), None);
    assert_eq!(Shape::of_recipe(&Value::map([("depth", Value::Int(0))]), 64.0), None);
}

/// A stage of the standard library.
pub(crate) struct Declared {
    /// `train.run`
    pub(crate) name: String,
    /// 0 as long as it is planned.
    pub(crate) version: u64,
    pub(crate) tensor: bool,
}

/// Returns the stages of the standard library.
pub(crate) fn declared() -> Vec<Declared> {
    let stage = |module: &str, text: &str| {
        let (name, rest) = text.split_once('(').expect("arguments");
        let version = rest.split_once(" version ").expect("a version").1;
        let words: Vec<_> = version.lines().next().expect("a line").split(' ').collect();
        Declared {
            name: format!("{module}.{name}"),
            version: words[0].parse().expect("a number"),
            tensor: words.contains(&"tensor"),
        }
    };
    let stages = STDLIB
        .iter()
        .flat_map(|(module, text)| text.split("\nstage ").skip(1).map(|text| stage(module, text)));
    stages.collect()
}

/// A stage without tensors costs nothing; of each other one the rule and the page say what.
#[test]
fn each_tensor_stage_has_a_rule() {
    let (rules, page) = (read("src/graph/cost/rules.rs"), read("docs/cost.md"));
    let mut missing = Vec::new();
    for Declared { name, .. } in declared().into_iter().filter(|stage| stage.tensor) {
        if !rules.contains(&format!("\"{name}\"")) {
            missing.push(format!("{name} in src/graph/cost/rules.rs"));
        }
        if !page.contains(&format!("`{name}`")) {
            missing.push(format!("{name} in docs/cost.md"));
        }
    }
    assert_eq!(missing, [""; 0]);
}
