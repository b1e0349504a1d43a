//! Forward, backward and inheritance against values from PyTorch and transformers (`scripts/reference/model.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::nn::config::Config;
use crate::nn::decode::Decoder;
use crate::nn::layout::deinterleave;
use crate::nn::llama::Llama;
use crate::nn::runtime::f32_values;
use crate::nn::weights::Safetensors;

pub(crate) fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(reference(name)).unwrap()).unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

pub(crate) fn open(folder: &Path) -> Llama {
    let weights = Safetensors::open(folder).unwrap();
    Llama::load(Config::read(folder).unwrap(), &weights, Device::Cpu, Kind::Float).unwrap()
}

pub(crate) fn ids(rows: &Value) -> Tensor {
    let rows: Vec<Vec<i64>> = serde_json::from_value(rows.clone()).unwrap();
    let width = rows[0].len() as i64;
    Tensor::from_slice(&rows.concat()).view([-1, width])
}

/// Checks that the largest difference is within `tolerance` of the largest number.
#[track_caller]
pub(crate) fn check_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let off = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= tolerance * largest, "{what}: off by {off}, largest {largest}");
}

#[track_caller]
fn check_logits(folder: &str, key: &str) {
    let stored = json("model_logits.json");
    let got = open(&reference(folder)).logits(&ids(&stored["ids"])).unwrap();
    check_close(folder, &f32_values(&got).unwrap(), &numbers(&stored[key]), 1e-4);
}

#[test]
fn logits_match_transformers() {
    check_logits("model_plain", "plain");
    check_logits("model_biased", "biased");
}

#[test]
fn a_model_trained_here_has_the_same_logits_in_transformers() {
    check_logits("model_trained", "trained");
}

/// Gradients of the first step in `stored`.
#[track_caller]
fn check_gradients(folder: &str, stored: &Value) {
    let model = open(&reference(folder));
    let tokens = json("model_train.json")["tokens"].clone();
    let tokens: Vec<i64> = serde_json::from_value(tokens).unwrap();
    let rows: Vec<i64> = (0..4).flat_map(|i| tokens[i * 8..i * 8 + 9].to_vec()).collect();
    let rows = Tensor::from_slice(&rows).view([4, 9]);
    let mut gradient = model.flat.zeros_like();
    let (inputs, targets) = (rows.narrow(1, 0, 8), rows.narrow(1, 1, 8));
    let nll = model.backward(&inputs, &targets, 1.0 / 32.0, &mut gradient).unwrap();
    let expected = stored["losses"][0].as_f64().unwrap();
    assert!((nll / 32.0 - expected).abs() < 1e-4, "{} instead of {expected}", nll / 32.0);
    assert_eq!(model.layout.parts.len(), stored["gradients"].as_object().unwrap().len());
    for part in &model.layout.parts {
        let count = part.shape.iter().product();
        let mut got = gradient.narrow(0, part.offset, count).view(&part.shape[..]);
        if part.rotary {
            got = deinterleave(&got, model.config.head_dim).unwrap();
        }
        let expected = numbers(&stored["gradients"][&part.name]);
        check_close(&part.name, &f32_values(&got).unwrap(), &expected, 1e-4);
    }
}

#[test]
fn gradients_match_pytorch() {
    check_gradients("model_plain", &json("model_train.json"));
}

#[test]
fn gradients_of_a_tied_and_biased_model_match_pytorch() {
    check_gradients("model_biased", &json("model_train_biased.json"));
}

/// Checks that gradients by hand are those by one graph, to `tolerance` of the largest of each leaf.
#[track_caller]
fn check_by_hand(folder: &Path, tolerance: f32) {
    let model = open(folder);
    let rows =
        (Tensor::arange(4 * 9, (Kind::Int64, Device::Cpu)) * 7).remainder(model.config.vocab);
    let rows = rows.view([4, 9]);
    let (inputs, targets) = (rows.narrow(1, 0, 8), rows.narrow(1, 1, 8));
    let [by_hand, by_graph] = [true, false].map(|is_by_hand| {
        let mut gradient = model.flat.ones_like();
        let backward = if is_by_hand { Llama::backward_by_hand } else { Llama::backward_by_graph };
        (backward(&model, &inputs, &targets, 0.5, &mut gradient).unwrap(), gradient)
    });
    assert!((by_hand.0 / by_graph.0 - 1.0).abs() < 1e-6, "{} and {}", by_hand.0, by_graph.0);
    for part in &model.layout.parts {
        let of = |gradient: &Tensor| {
            f32_values(&gradient.narrow(0, part.offset, part.shape.iter().product())).unwrap()
        };
        check_close(&part.name, &of(&by_hand.1), &of(&by_graph.1), tolerance);
    }
}

#[test]
fn gradients_by_hand_are_those_by_one_graph() {
    for folder in ["model_plain", "model_biased", "model_pangu"] {
        check_by_hand(&reference(folder), 1e-5);
    }
}

/// Checks losses and what a decoder tells of the next token against logits by tensors.
#[track_caller]
fn check_without_gradient(folder: &Path) {
    let model = open(folder);
    let rows =
        (Tensor::arange(2 * 7, (Kind::Int64, Device::Cpu)) * 5).remainder(model.config.vocab);
    let rows = rows.view([2, 7]);
    let logits = model.logits(&rows).unwrap().view([2, 7, -1]);
    let expected = logits.log_softmax(-1, Kind::Float).gather(2, &rows.unsqueeze(-1), false);
    let nll = model.nll(&rows, &rows).unwrap();
    check_close("losses", &f32_values(&nll).unwrap(), &f32_values(&expected.neg()).unwrap(), 1e-5);
    let mut decoder = Decoder::new(&model, 2, 7).unwrap();
    for _ in 0..2 {
        for (start, count) in [(0, 4), (4, 1), (5, 1), (6, 1)] {
            let told = decoder.read(&rows.narrow(1, start, count)).unwrap();
            let expected = logits.select(1, start + count - 1);
            let [told, expected] = [&told, &expected].map(|values| f32_values(values).unwrap());
            check_close("the next token", &told, &expected, 1e-5);
        }
        decoder.clear();
    }
}

#[test]
fn losses_and_decoders_agree_with_logits() {
    for folder in ["model_plain", "model_biased", "model_pangu"] {
        check_without_gradient(&reference(folder));
    }
}
