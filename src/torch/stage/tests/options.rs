//! What a training does besides: validations, spikes, teachers, an optimiser that goes on, documents apart.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, open};
use crate::stage::tests::train::{keep_params, log, train_params};
use crate::stage::tests::{
    Bench, checkpoint, dataset, empty_data, long_data, output, reference_data, set_config,
};

fn with(mut params: Value, changes: &[(&str, Value)]) -> Value {
    for (name, value) in changes {
        params[*name] = value.clone();
    }
    params
}

/// Returns the numbers of one name in a log, as they are written.
fn column(bench: &Bench, name: &str) -> Vec<Value> {
    log(bench)
        .iter()
        .filter(|line| line.get(name).is_some())
        .map(|line| line[name].clone())
        .collect()
}

fn flat(folder: &Path) -> Vec<f32> {
    f32_values(&open(folder).flat).unwrap()
}

#[test]
fn validations_come_after_equal_parts_and_change_nothing() {
    let (data, valid, init) = (long_data(), reference_data(), checkpoint("model_biased"));
    let mut inputs: Vec<(&str, &Path)> = vec![("init", init.path()), ("data", data.path())];
    let plain = Bench::new(train_params(64 * 6, 64), &inputs);
    plain.done("train.run");
    inputs.push(("valid", valid.path()));
    let whole = Bench::new(train_params(64 * 6, 64), &inputs);
    whole.done("train.run");
    assert_eq!(flat(&plain.path("model")), flat(&whole.path("model")));
    let losses = column(&whole, "valid_loss");
    assert_eq!(losses.len(), 4);
    let steps: Vec<_> =
        log(&whole).iter().filter(|l| l.get("loss").is_none()).map(|l| l["step"].clone()).collect();
    assert_eq!(steps, [2, 3, 5, 6]);
    // The last one is what is measured afterwards.
    let model = whole.path("model");
    let params = json!({"skip": 0, "skip_from": 0, "dtype": "f32", "attention": "sequence"});
    let inputs_after: [(&str, &Path); 2] = [("model", &model), ("data", valid.path())];
    let loss = output(&Bench::new(params, &inputs_after).done("eval.perplexity"), "loss");
    assert_eq!(losses[3].as_f64().unwrap(), loss);
    // An interrupted run has each line once.
    let parts = Bench::new(train_params(64 * 6, 64), &inputs);
    for stop_after in [2, 1, 2] {
        parts.stopped("train.run", stop_after);
    }
    parts.done("train.run");
    assert_eq!(log(&parts), log(&whole));
    // More validations than steps are one a step.
    let often = Bench::new(with(train_params(128, 64), &[("validations", json!(9))]), &inputs);
    often.done("train.run");
    assert_eq!(column(&often, "valid_loss").len(), 2);
    let none = empty_data();
    *inputs.last_mut().unwrap() = ("valid", none.path());
    Bench::new(train_params(64, 64), &inputs).fails("train.run", "the selection is empty");
}

#[test]
fn steps_far_above_those_before_are_told_left_out_or_an_error() {
    let mut tokens = [5_u16, 9, 2, 7, 7, 1, 3, 4].repeat(100);
    tokens[8 * 50..8 * 51].copy_from_slice(&[63, 0, 63, 0, 63, 0, 63, 0]);
    tokens.push(5);
    let (data, init) = (dataset(&tokens, 8), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let params = |on_spike: &str| {
        with(train_params(8 * 200, 8), &[("lr", json!(1e-6)), ("on_spike", json!(on_spike))])
    };
    let skipping = Bench::new(params("skip"), &inputs);
    skipping.done("train.run");
    let skipped: Vec<Value> = log(&skipping)
        .iter()
        .filter(|l| l.get("skipped").is_some())
        .map(|l| l["step"].clone())
        .collect();
    assert!(!skipped.is_empty() && skipped.len() <= 2, "{skipped:?}");
    let ignoring = Bench::new(params("ignore"), &inputs);
    ignoring.done("train.run");
    assert!(column(&ignoring, "skipped").is_empty());
    assert_ne!(flat(&ignoring.path("model")), flat(&skipping.path("model")));
    Bench::new(params("stop"), &inputs).fails("train.run", "is far above those before");
}

#[test]
fn an_optimiser_goes_on_where_another_training_left_it() {
    // All sequences are in each batch, so that their order doesn't matter.
    let (data, init) = (reference_data(), checkpoint("model_biased"));
    let constant = [("schedule", json!("constant")), ("warmup", json!(0.0))];
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let whole = Bench::new(with(train_params(32 * 8, 32), &constant), &inputs);
    whole.done("train.run");
    let first = Bench::new(with(keep_params(32 * 4, 32, 1, 1), &constant), &inputs);
    first.done("train.keep");
    let (model, optimiser) = (first.path("model"), first.path("optimiser"));
    let mut inputs: Vec<(&str, &Path)> =
        vec![("init", &model), ("data", data.path()), ("optimiser", &optimiser)];
    let second = Bench::new(with(train_params(32 * 4, 32), &constant), &inputs);
    second.stopped("train.run", 2);
    second.done("train.run");
    check_close("weights", &flat(&second.path("model")), &flat(&whole.path("model")), 1e-5);
    let fresh = Bench::new(with(train_params(32 * 4, 32), &constant), &inputs[..2]);
    fresh.done("train.run");
    let off = flat(&fresh.path("model"))
        .iter()
        .zip(flat(&whole.path("model")))
        .any(|(a, b)| (a - b).abs() > 1e-3);
    assert!(off, "a fresh optimiser does as well");
    let other = checkpoint("model_plain");
    inputs[0] = ("init", other.path());
    Bench::new(train_params(32, 32), &inputs).fails("train.run", "lm_head.weight");
    inputs[2] = ("optimiser", other.path());
    Bench::new(train_params(32, 32), &inputs).run("train.run", usize::MAX).0.unwrap_err();
}

#[test]
fn a_teacher_pulls_a_model_towards_its_predictions() {
    let (data, init, teacher) =
        (long_data(), checkpoint("model_plain"), checkpoint("model_biased"));
    let inputs: [(&str, &Path); 3] =
        [("init", init.path()), ("data", data.path()), ("teacher", teacher.path())];
    let params = |temperature: f64| {
        with(
            train_params(64 * 20, 64),
            &[("distill", json!(1.0)), ("temperature", json!(temperature))],
        )
    };
    let bench = Bench::new(params(1.0), &inputs);
    bench.done("train.run");
    let losses: Vec<f64> =
        column(&bench, "distill_loss").iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses[19] < 0.5 * losses[0], "{losses:?}");
    Bench::new(params(0.0), &inputs).fails("train.run", "`temperature` is 0, not above zero");
    set_config(teacher.path(), &json!({"max_position_embeddings": 7}));
    Bench::new(params(1.0), &inputs).fails("train.run", "the teacher's context is 7");
    set_config(teacher.path(), &json!({"max_position_embeddings": 64, "vocab_size": 63}));
    Bench::new(params(1.0), &inputs).run("train.run", usize::MAX).0.unwrap_err();
}

#[test]
fn documents_apart_and_layers_computed_again_train_alike_when_interrupted() {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let starts: Vec<u8> =
        [0_u64, 3, 21, 150].iter().flat_map(|start| start.to_le_bytes()).collect();
    fs::write(data.path().join("documents.u64"), starts).unwrap();
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let params =
        |attention: &str| with(train_params(64 * 6, 64), &[("attention", json!(attention))]);
    let apart = Bench::new(params("document"), &inputs);
    apart.done("train.run");
    let together = Bench::new(params("sequence"), &inputs);
    together.done("train.run");
    assert_ne!(log(&apart), log(&together));
    for attention in ["document", "sequence"] {
        let mut again = Bench::new(params(attention), &inputs);
        again.recompute = true;
        again.stopped("train.run", 3);
        again.done("train.run");
        let wanted = if attention == "document" { &apart } else { &together };
        assert_eq!(flat(&again.path("model")), flat(&wanted.path("model")), "{attention}");
    }
}
