//! Learned masks: their gradient, what is folded and cut, what they find, interruption.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tch::Tensor;

use crate::nn::llama::Llama;
use crate::nn::masks::{Learner, Masks};
use crate::nn::runtime::f32_values;
use crate::nn::select::{Layers, layers, most_important};
use crate::nn::tests::{check_close, ids, json as stored, open, trained};
use crate::nn::weights::{Safetensors, Weights, Writer};
use crate::stage::inherit::{Cutter, Shape, target};
use crate::stage::tests::train::train_params;
use crate::stage::tests::{Bench, checkpoint, long_data, output};

fn learner(model: &Llama, shape: Value) -> (Learner, crate::nn::config::Config) {
    let shape: Shape = serde_json::from_value(shape).unwrap();
    let target = target(&shape, &model.config).unwrap();
    let masks = Masks::new(&model.config, &target, tch::Device::Cpu).unwrap().unwrap();
    (Learner::new(model, masks, 3).unwrap(), target)
}

/// Gives each gate log-odds of its own.
fn stir(learner: &Learner) {
    let numbers = learner.odds();
    let count = numbers.numel();
    let odds: Vec<f32> = (0..count).map(|at| ((at * 37) % 41) as f32 / 20.0 - 0.7).collect();
    numbers.shallow_clone().copy_(&Tensor::from_slice(&odds));
}

const SHAPE: &str = r#"{"depth": 1, "width": 10, "heads": 2, "kv_heads": 1, "ffn": 20}"#;

#[test]
fn what_is_cut_has_the_logits_of_the_model_under_masks() {
    let input = ids(&stored("model_logits.json")["ids"]);
    for name in ["model_plain", "model_biased", "model_pangu"] {
        let donor = checkpoint(name);
        let model = open(donor.path());
        let (mut learner, target) = learner(&model, serde_json::from_str(SHAPE).unwrap());
        stir(&learner);
        let learned = learner.masks().importance().unwrap();
        let layers = layers(Layers::Important, model.config.depth, target.depth, &learned.layers);
        let selection = most_important(&model.config, &target, &learned, layers);
        learner.fold(&model, &selection).unwrap();
        let masked = f32_values(&learner.masked().logits(&input).unwrap()).unwrap();
        let cutter = Cutter::new(&model.config, &model, &selection, None);
        let small = Cut { cutter };
        let small = Llama::load(target, &small, tch::Device::Cpu, tch::Kind::Float).unwrap();
        let pruned = f32_values(&small.logits(&input).unwrap()).unwrap();
        check_close(name, &pruned, &masked, 1e-5);
    }
}

/// A model as it is cut.
struct Cut<'a> {
    cutter: Cutter<'a>,
}

impl Weights for Cut<'_> {
    fn load(&self, name: &str, _shape: &[i64]) -> Result<Tensor, tlm::stage::StageError> {
        self.cutter.cut(name)
    }
}

/// The chain rule against differences of the loss under the same chance.
#[test]
fn gates_learn_along_the_slope_of_the_loss() {
    let model = open(checkpoint("model_biased").path());
    let (mut learner, _) = learner(&model, serde_json::from_str(SHAPE).unwrap());
    stir(&learner);
    let text = ids(&stored("model_logits.json")["ids"]);
    let rows = trained(&text);
    let mut gradient = model.flat.zeros_like();
    learner.draw(&model, 0).unwrap();
    let loss =
        learner.masked().backward(&rows, 1.0, &mut gradient, None).unwrap().read().unwrap().nll;
    let slopes = learner.slopes(&model, &gradient).unwrap();
    let slopes = f32_values(&slopes).unwrap();
    let before = f32_values(learner.odds()).unwrap();
    let mut checked = 0;
    for at in (0..learner.odds().numel()).step_by(2) {
        let mut at_loss = |by: f32| {
            let mut odds = before.clone();
            odds[at] += by;
            learner.odds().shallow_clone().copy_(&Tensor::from_slice(&odds));
            learner.draw(&model, 0).unwrap();
            f64::from(learner.masked().nll(&rows).unwrap().sum(tch::Kind::Double).double_value(&[])
                as f32)
        };
        let (up, down) = (at_loss(0.02), at_loss(-0.02));
        // A gate that opens or shuts in between has no slope there.
        let slope = (up - down) / 0.04;
        if (up + down - 2.0 * loss).abs() < 0.01 * (up - down).abs() {
            checked += 1;
            let near = (slope - f64::from(slopes[at])).abs() <= 0.03 * slope.abs() + 1e-3;
            assert!(near, "gate {at}: {slope} but {}", slopes[at]);
        }
    }
    assert!(checked >= 10, "{checked}");
}

fn learn(donor: &Path, data: &Path, shape: &Value, steps: u64) -> Bench {
    let params = json!({
        "shape": shape, "tokens": 64 * steps, "batch": 64, "mask_lr": 1.0, "lr": 1e-4, "warmup": 0.1, "shrinking": 0.2,
        "dtype": "f32", "seed": 0,
    });
    Bench::new(params, &[("donor", donor), ("data", data)])
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Three neurons of four do nothing: their columns of down are zero.
fn dull(donor: &Path) {
    let model = open(donor);
    let weights = Safetensors::open(donor).unwrap();
    let tensors: Vec<(String, Tensor)> = model
        .config
        .tensors()
        .into_iter()
        .map(|(name, shape)| {
            let value = weights.load(&name, &shape).unwrap();
            if name.contains("down_proj.weight") {
                let open: Vec<f32> =
                    (0..shape[1]).map(|at| if at % 4 == 1 { 1.0 } else { 0.0 }).collect();
                (name, value * Tensor::from_slice(&open))
            } else {
                (name, value)
            }
        })
        .collect();
    drop(weights);
    let path = donor.join("model.safetensors");
    let mut writer = Writer::create(&path, model.config.tensors(), ("format", "pt")).unwrap();
    tensors.iter().for_each(|(name, value)| writer.push(name, value).unwrap());
    writer.finish().unwrap();
}

#[test]
fn neurons_that_do_something_are_found_and_the_shape_is_reached() {
    let (init, data) = (checkpoint("model_plain"), long_data());
    // What an untrained neuron does is of no use.
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let trained = Bench::new(train_params(64 * 40, 64), &inputs);
    trained.done("train.run");
    let donor = &trained.path("model");
    dull(donor);
    let ffn = open(donor).config.ffn;
    let bench = learn(donor, data.path(), &json!({"ffn": ffn / 4}), 60);
    let events = bench.done("model.learn_masks");
    assert!(events.contains("\"name\":\"ffn\""), "{events}");
    // By chance it would be a quarter of those kept.
    for neurons in read(&bench.path("model/selection.json"))["neurons"].as_array().unwrap() {
        let neurons: Vec<i64> = serde_json::from_value(neurons.clone()).unwrap();
        let live = neurons.iter().filter(|&at| at % 4 == 1).count();
        assert!(4 * live >= 3 * neurons.len(), "{neurons:?}");
    }
    let log = fs::read_to_string(bench.path("log/log.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let size = last["ffn"].as_f64().unwrap();
    assert!((size / (ffn as f64 / 4.0) - 1.0).abs() < 0.2, "{size}");
    assert_eq!(open(&bench.path("model")).config.ffn, ffn / 4);
    // What was learned cuts the same out of the donor as it was.
    let importance = bench.path("importance");
    let inputs: [(&str, &Path); 2] = [("donor", donor), ("importance", &importance)];
    let params = json!({"shape": {"ffn": ffn / 4}, "layers": "important", "keep_layers": null});
    let cut = Bench::new(params, &inputs);
    cut.done("model.cut");
    let neurons = |bench: &Bench, name: &str| read(&bench.path(name))["neurons"].clone();
    assert_eq!(neurons(&cut, "out/selection.json"), neurons(&bench, "model/selection.json"));
}

#[test]
fn learning_goes_on_after_an_interruption_to_the_same_bits() {
    let (donor, data) = (checkpoint("model_biased"), long_data());
    let shape: Value = serde_json::from_str(SHAPE).unwrap();
    let run = || learn(donor.path(), data.path(), &shape, 12);
    let (whole, parts) = (run(), run());
    let loss = output(&whole.done("model.learn_masks"), "loss");
    parts.stopped("model.learn_masks", 5);
    let events = parts.done("model.learn_masks");
    assert!(events.contains("resumes after step 5"), "{events}");
    assert_eq!(output(&events, "loss"), loss);
    for file in ["model/model.safetensors", "importance/importance.json", "log/log.jsonl"] {
        assert!(
            fs::read(whole.path(file)).unwrap() == fs::read(parts.path(file)).unwrap(),
            "{file}"
        );
    }
}

#[test]
fn masks_that_have_nothing_to_do_are_refused() {
    let (donor, data) = (checkpoint("model_plain"), long_data());
    let fails = |shape: Value, said| {
        learn(donor.path(), data.path(), &shape, 2).fails("model.learn_masks", said);
    };
    fails(json!({}), "there is nothing to leave out");
    fails(json!({"width": 1000}), "`shape.width` is 1000");
}
