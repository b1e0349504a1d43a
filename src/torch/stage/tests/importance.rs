//! Importance and cutting by it: against PyTorch, against the donor under masks, repeated, refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tch::Tensor;

use crate::nn::config::Config;
use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, ids, json as stored, numbers, open};
use crate::nn::weights::{Safetensors, Weights, Writer};
use crate::stage::tests::{Bench, checkpoint, empty_data, long_data, output, reference_data};

fn importance(donor: &Path, criterion: &str) -> Bench {
    let data = reference_data();
    let params =
        json!({"criterion": criterion, "layers": "units", "tokens": 32, "dtype": "f32", "seed": 0});
    let mut bench = Bench::new(params, &[("donor", donor), ("data", data.path())]);
    bench.micro_batch = Some(3);
    bench.done("model.importance");
    bench
}

fn cut(donor: &Path, importance: &Path, shape: &Value, layers: &str) -> Bench {
    let inputs: [(&str, &Path); 2] = [("donor", donor), ("importance", importance)];
    Bench::new(json!({"shape": shape, "layers": layers, "keep_layers": null}), &inputs)
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Numbers were written by `scripts/reference/importance.py`.
#[test]
fn importance_is_that_of_pytorch() {
    let donor = checkpoint("model_plain");
    for criterion in ["taylor", "activation"] {
        let got = read(&importance(donor.path(), criterion).path("out/importance.json"));
        for (name, wanted) in stored("model_importance.json")[criterion].as_object().unwrap() {
            let flat = |value: &Value| match value[0].is_array() {
                true => value.as_array().unwrap().iter().flat_map(numbers).collect(),
                false => numbers(value),
            };
            let (got, wanted): (Vec<f32>, Vec<f32>) = (flat(&got[name]), flat(wanted));
            check_close(&format!("{criterion} {name}"), &got, &wanted, 1e-4);
        }
    }
}

/// Writes a copy of a donor in which all that a selection leaves out is zero. RMSNorm's mean goes over fewer dimensions in the
/// smaller model, which gains and epsilon make up for.
fn mask(donor: &Path, selection: &Value) {
    let config = Config::read(donor).unwrap();
    let part = selection["hidden"].as_array().unwrap().len() as f64 / config.width as f64;
    let kept = |value: &Value| -> Vec<i64> { serde_json::from_value(value.clone()).unwrap() };
    let marks = |kept: &[i64], count: i64, each: i64| -> Tensor {
        let marks: Vec<f32> = (0..count * each)
            .map(|at| if kept.contains(&(at / each)) { 1.0 } else { 0.0 })
            .collect();
        Tensor::from_slice(&marks)
    };
    let hidden = marks(&kept(&selection["hidden"]), config.width, 1);
    let weights = Safetensors::open(donor).unwrap();
    let masked: Vec<(String, Tensor)> = config
        .tensors()
        .into_iter()
        .map(|(name, shape)| {
            let value = weights.load(&name, &shape).unwrap();
            let mut parts = name.split('.').skip(2);
            let layer = name.starts_with("model.layers").then(|| parts.next().unwrap());
            let at = layer.map(|layer| {
                let layer: i64 = layer.parse().unwrap();
                kept(&selection["layers"]).iter().position(|&kept| kept == layer)
            });
            let of = |what: &str, count: i64, each: i64| match at {
                Some(Some(at)) => marks(&kept(&selection[what][at]), count, each),
                _ => marks(&[], count, each),
            };
            let heads = || of("heads", config.heads, config.head_dim);
            let masked = if name.ends_with("norm.weight") {
                value * &hidden * part.sqrt()
            } else if name.contains("o_proj.weight") {
                value * hidden.unsqueeze(1) * heads()
            } else if name.contains("down_proj.weight") {
                value * hidden.unsqueeze(1) * of("neurons", config.ffn, 1)
            } else if name.contains("o_proj.bias") || name.contains("down_proj.bias") {
                value * &hidden * if at == Some(None) { 0.0 } else { 1.0 }
            } else if name.ends_with(".bias") {
                value
            } else {
                value * &hidden
            };
            (name, masked)
        })
        .collect();
    drop(weights);
    let path = donor.join("model.safetensors");
    let mut writer = Writer::create(&path, config.tensors(), ("format", "pt")).unwrap();
    masked.iter().for_each(|(name, value)| writer.push(name, value).unwrap());
    writer.finish().unwrap();
    Config { eps: config.eps * part, ..config }.write(donor).unwrap();
}

#[test]
fn what_is_cut_has_the_logits_of_the_donor_under_masks() {
    let shape = json!({"depth": 1, "width": 10, "heads": 2, "kv_heads": 2, "ffn": 20});
    let input = ids(&stored("model_logits.json")["ids"]);
    for name in ["model_plain", "model_biased"] {
        for (criterion, layers) in [("taylor", "important"), ("activation", "ends")] {
            let donor = checkpoint(name);
            let measured = importance(donor.path(), criterion);
            let bench = cut(donor.path(), &measured.path("out"), &shape, layers);
            bench.done("model.cut");
            let pruned = f32_values(&open(&bench.path("out")).logits(&input).unwrap()).unwrap();
            mask(donor.path(), &read(&bench.path("out/selection.json")));
            let masked = f32_values(&open(donor.path()).logits(&input).unwrap()).unwrap();
            check_close(&format!("{name} {criterion}"), &pruned, &masked, 1e-5);
        }
    }
}

#[test]
fn the_most_important_units_stay() {
    let donor = checkpoint("model_plain");
    let measured = importance(donor.path(), "taylor");
    let scores = read(&measured.path("out/importance.json"));
    let shape = json!({"depth": 1, "width": 5});
    let bench = cut(donor.path(), &measured.path("out"), &shape, "important");
    bench.done("model.cut");
    let selection = read(&bench.path("out/selection.json"));
    let best = |scores: &Value, keep: usize| -> Value {
        let scores = numbers(scores);
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(keep);
        order.sort_unstable();
        json!(order)
    };
    assert_eq!(selection["layers"], best(&scores["layers"], 1));
    assert_eq!(selection["hidden"], best(&scores["hidden"], 5));
}

#[test]
fn a_selection_can_be_repeated() {
    let donor = checkpoint("model_plain");
    let measured = importance(donor.path(), "activation");
    let shape = json!({"depth": 1, "width": 8, "heads": 2, "kv_heads": 1, "ffn": 12});
    let first = cut(donor.path(), &measured.path("out"), &shape, "important");
    first.done("model.cut");
    let folder = tempfile::tempdir_in(crate::stage::tests::scratch()).unwrap();
    let copied = folder.path().join("selection.json");
    fs::copy(first.path("out/selection.json"), &copied).unwrap();
    let again = cut(donor.path(), folder.path(), &shape, "important");
    again.done("model.cut");
    let weights = |bench: &Bench| fs::read(bench.path("out/model.safetensors")).unwrap();
    assert!(weights(&first) == weights(&again));
    let refused = |change: fn(&mut Value), expected: &str| {
        let mut selection = read(&first.path("out/selection.json"));
        change(&mut selection);
        fs::write(&copied, selection.to_string()).unwrap();
        cut(donor.path(), folder.path(), &shape, "important").fails("model.cut", expected);
    };
    refused(|selection| selection["donor"]["width"] = json!(17), "is of a donor of another shape");
    refused(|selection| selection["hidden"][0] = json!(16), "is of a donor of another shape");
    refused(|selection| selection["layers"] = json!("all"), "not the JSON expected");
}

/// What `eval.perplexity` measures of a model without a layer is what the layer is worth.
#[test]
fn layers_are_measured_by_leaving_them_out() {
    let (donor, data) = (checkpoint("model_biased"), reference_data());
    let params = json!({"criterion": "activation", "layers": "skip", "tokens": 32, "dtype": "f32", "seed": 0});
    let bench = Bench::new(params, &[("donor", donor.path()), ("data", data.path())]);
    bench.done("model.importance");
    let loss = |skip: u64, skip_from: u64| {
        let params =
            json!({"skip": skip, "skip_from": skip_from, "dtype": "f32", "attention": "sequence"});
        let bench = Bench::new(params, &[("model", donor.path()), ("data", data.path())]);
        output(&bench.done("eval.perplexity"), "loss")
    };
    let layers = numbers(&read(&bench.path("out/importance.json"))["layers"]);
    let expected = [0, 1].map(|layer| (loss(1, layer) - loss(0, 0)) as f32);
    check_close("layers", &layers, &expected, 1e-5);
    let small = cut(donor.path(), &bench.path("out"), &json!({"depth": 1}), "important");
    small.done("model.cut");
    let worth_more = if expected[0] > expected[1] { 0 } else { 1 };
    assert_eq!(read(&small.path("out/selection.json"))["layers"], json!([worth_more]));
}

#[test]
fn interrupted_importance_goes_on_to_the_same_bits() {
    let (donor, data) = (checkpoint("model_plain"), long_data());
    for criterion in ["taylor", "activation"] {
        let layers = if criterion == "taylor" { "skip" } else { "units" };
        let params = json!({
            "criterion": criterion, "layers": layers, "tokens": 300, "dtype": "f32", "seed": 1,
        });
        let inputs: [(&str, &Path); 2] = [("donor", donor.path()), ("data", data.path())];
        let mut bench = Bench::new(params, &inputs);
        (bench.micro_batch, bench.stop_on) = (Some(3), "tokens_per_s");
        bench.done("model.importance");
        let measured = || fs::read(bench.path("out/importance.json")).unwrap();
        let whole = measured();
        bench.stopped("model.importance", 4);
        // A state goes on with its own number of sequences at once.
        let events = bench.done("model.importance");
        assert!(events.contains("resumes after 12 sequences"), "{events}");
        assert!(measured() == whole, "{criterion}");
        let state = bench.state("sums.bin");
        let mut bytes = fs::read(&state).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&state, bytes).unwrap();
        let events = bench.done("model.importance");
        assert!(events.contains("can't use the saved state, it is damaged"), "{events}");
        assert!(measured() == whole, "{criterion}");
    }
}

#[test]
fn importance_that_cannot_be_measured_or_used_is_refused() {
    let (donor, empty) = (checkpoint("model_plain"), empty_data());
    let params =
        json!({"criterion": "taylor", "layers": "units", "tokens": 32, "dtype": "f32", "seed": 0});
    let inputs: [(&str, &Path); 2] = [("donor", donor.path()), ("data", empty.path())];
    Bench::new(params.clone(), &inputs).fails("model.importance", "the selection is empty");
    let data = long_data();
    let inputs: [(&str, &Path); 2] = [("donor", donor.path()), ("data", data.path())];
    Bench::new(params, &inputs).done("model.importance");
    let measured = importance(donor.path(), "activation");
    let path = measured.path("out/importance.json");
    let mut short = read(&path);
    short["neurons"][1].as_array_mut().unwrap().pop();
    fs::write(&path, short.to_string()).unwrap();
    let bench = cut(donor.path(), &measured.path("out"), &json!({}), "important");
    bench.fails("model.cut", "does not have a number for each unit");
    let wide = cut(donor.path(), &measured.path("out"), &json!({"width": 17}), "important");
    wide.fails("model.cut", "`shape.width` is 17");
}
