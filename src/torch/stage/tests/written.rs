//! Folders that stages write, against what transformers makes of them (`scripts/reference/written.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;
use tch::Tensor;
use tlm::data::Tokenizer;

use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, json as stored, numbers, open};
use crate::stage::tests::inherit::inherit_params;
use crate::stage::tests::train::train_params;
use crate::stage::tests::{Bench, checkpoint, letters, reference_data, scratch, tokenizer};

/// Runs a stage for each way to come to a checkpoint: tied and untied, with biases, with a rope base of its own.
fn folders() -> BTreeMap<&'static str, (Bench, &'static str)> {
    let (plain, biased) = (checkpoint("model_plain"), checkpoint("model_biased"));
    let (tokens, fewer) = (tokenizer(letters(64)), tokenizer(letters(24)));
    let data = reference_data();
    let run = |stage: &str, params, inputs: &[(&str, &Path)]| {
        let bench = Bench::new(params, inputs);
        bench.done(stage);
        bench
    };
    let shape = json!({
        "depth": 2, "width": 16, "heads": 4, "kv_heads": 2, "ffn": 24, "tied": true, "bias": false, "activations": 1,
        "shortcut": 0.0, "rope_theta": 500.0, "context": 64,
    });
    let small = json!({"depth": 1, "width": 8, "heads": 2, "ffn": 12});
    let inherit = |donor: &Path| {
        let inputs: [(&str, &Path); 2] = [("donor", donor), ("tokenizer", fewer.path())];
        run("model.inherit", inherit_params(&small, "l2"), &inputs)
    };
    let trained: [(&str, &Path); 2] = [("init", biased.path()), ("data", data.path())];
    BTreeMap::from([
        ("opened_plain", (run("model.open", json!({}), &[("source", plain.path())]), "out")),
        ("opened_biased", (run("model.open", json!({}), &[("source", biased.path())]), "out")),
        ("inherited_plain", (inherit(plain.path()), "out")),
        ("inherited_biased", (inherit(biased.path()), "out")),
        ("trained_biased", (run("train.run", train_params(96, 32), &trained), "model")),
        ("initial", {
            let params = json!({"shape": shape, "law": "residual", "std": 0.3, "seed": 0});
            (run("model.init", params, &[("tokenizer", tokens.path())]), "out")
        }),
    ])
}

#[test]
fn folders_written_here_are_the_same_models_in_transformers() {
    let folders = folders();
    if option_env!("TLM_WRITE_REFERENCE").is_some() {
        for (name, (bench, output)) in &folders {
            let target = scratch().join("written").join(name);
            fs::create_dir_all(&target).unwrap();
            for entry in fs::read_dir(bench.path(output)).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let stored = stored("model_written.json");
    for (name, (bench, output)) in &folders {
        let folder = bench.path(output);
        let expected = &stored["cases"][name];
        let text = stored["text"].as_str().unwrap();
        let ids = Tokenizer::open(&folder).unwrap().encode(text).unwrap();
        assert_eq!(json!(ids), expected["ids"], "{name}");
        let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
        let logits = open(&folder).logits(&Tensor::from_slice(&ids).unsqueeze(0)).unwrap();
        check_close(name, &f32_values(&logits).unwrap(), &numbers(&expected["logits"]), 1e-4);
    }
}
