//! Inputs that don't go together or are broken, in the stages that compute with a model: told before they do.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::stage::tests::train::train_params;
use crate::stage::tests::{
    Bench, checkpoint, dataset, letters, reference_data, set_config, tokenizer,
};

/// Stages that read a model and data, what they call the model, and their parameters.
fn stages() -> [(&'static str, &'static str, Value); 5] {
    let measured = |criterion: &str| json!({"criterion": criterion, "layers": "units", "tokens": 32, "dtype": "f32", "seed": 0});
    [
        ("train.run", "init", train_params(32, 32)),
        (
            "rounds.score",
            "model",
            json!({"unit": "sequence", "batch": 1, "dtype": "f32", "attention": "sequence"}),
        ),
        (
            "eval.perplexity",
            "model",
            json!({"skip": 0, "skip_from": 0, "dtype": "f32", "attention": "sequence"}),
        ),
        ("model.importance", "donor", measured("taylor")),
        ("model.importance", "donor", measured("activation")),
    ]
}

#[track_caller]
fn check(model: &Path, data: &Path, expected: &str) {
    for (stage, name, params) in stages() {
        let bench = Bench::new(params, &[(name, model), ("data", data)]);
        bench.fails(stage, expected);
        let written = fs::read_dir(bench.path("")).unwrap().count();
        assert_eq!(written, 0, "{stage} wrote something");
    }
}

#[test]
fn data_of_a_larger_vocabulary_is_refused() {
    let (model, data) = (checkpoint("model_plain"), reference_data());
    let meta = data.path().join("meta.json");
    let text = fs::read_to_string(&meta).unwrap().replace("\"vocab\":64", "\"vocab\":65");
    fs::write(&meta, text).unwrap();
    check(model.path(), data.path(), "has ids up to 64, but the model's vocabulary has 64");
}

#[test]
fn ids_beyond_the_vocabulary_are_told_by_file_and_place() {
    let (model, data) = (checkpoint("model_plain"), dataset(&[1, 2, 3, 4, 5, 6, 64, 7, 8], 8));
    check(model.path(), data.path(), "tokens.u16`: token 6 is id 64, but the vocabulary has 64");
}

#[test]
fn a_model_that_lacks_a_tensor_is_refused() {
    let (model, data) = (checkpoint("model_plain"), reference_data());
    set_config(model.path(), &json!({"num_hidden_layers": 3}));
    check(model.path(), data.path(), "tensor `model.layers.2.");
    set_config(model.path(), &json!({"num_hidden_layers": 2, "intermediate_size": 31}));
    check(model.path(), data.path(), "but `config.json` means [");
    let path = model.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    check(model.path(), data.path(), "model.safetensors`: not a whole safetensors file");
}

#[test]
fn questions_to_a_model_with_the_tokenizer_of_another_one_are_refused() {
    let (model, larger) = (checkpoint("model_plain"), tokenizer(letters(65)));
    fs::copy(larger.path().join("tokenizer.json"), model.path().join("tokenizer.json")).unwrap();
    let task = model.path().join("task.jsonl");
    let line = json!({"text": "$ %", "query": "$", "choices": ["%", "&"], "gold": 0});
    fs::write(&task, line.to_string()).unwrap();
    let base = json!({"skip": 0, "skip_from": 0, "dtype": "f32"});
    let mut choice = base.clone();
    for (name, value) in [
        ("shots", json!(0)),
        ("prompt", json!("{query}")),
        ("delimiter", json!("")),
        ("separator", json!("")),
    ] {
        choice[name] = value;
    }
    for (stage, params) in [("eval.last_word", base), ("eval.choice", choice)] {
        let bench = Bench::new(params, &[("model", model.path()), ("task", &task)]);
        bench.fails(stage, "tokenizer has 65 ids, but the model has embeddings for 64");
    }
}
