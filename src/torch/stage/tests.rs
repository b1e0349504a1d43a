//! Stages run whole, on tiny models.

#[path = "../../../tests/it/donor.rs"]
mod donor;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tlm::base::{Digest, Value};
use tlm::stage::action::{Action, PROTOCOL};
use tlm::stage::{Context, StageError};

use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, ids, json as stored, numbers, open, reference};
use crate::stage::REGISTRY;
use donor::donor;

/// One action in its own folder.
struct Bench {
    folder: tempfile::TempDir,
    params: serde_json::Value,
    inputs: BTreeMap<String, Vec<PathBuf>>,
}

/// Collects events, and asks the stage to stop after some progress.
struct Events {
    lines: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    stop_after: usize,
}

impl Write for Events {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock().unwrap();
        lines.extend(bytes);
        let seen = String::from_utf8_lossy(&lines).matches("\"metric\"").count();
        if seen >= self.stop_after {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Bench {
    fn new(params: serde_json::Value, inputs: &[(&str, &Path)]) -> Self {
        let inputs =
            inputs.iter().map(|(n, path)| ((*n).to_owned(), vec![path.to_path_buf()])).collect();
        let folder = tempfile::tempdir_in(scratch()).unwrap();
        Self { folder, params, inputs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    fn run(&self, stage: &str, stop_after: usize) -> (Result<(), StageError>, String) {
        let _ = fs::remove_dir_all(self.folder.path().join("out"));
        fs::create_dir_all(self.folder.path().join("out")).unwrap();
        fs::create_dir_all(self.folder.path().join("state")).unwrap();
        let params: BTreeMap<String, Value> = serde_json::from_value(self.params.clone()).unwrap();
        let action = Action {
            protocol: PROTOCOL,
            key: Digest::of(b"test"),
            stage: stage.to_owned(),
            params,
            inputs: self.inputs.clone(),
            out: self.folder.path().join("out"),
            state: self.folder.path().join("state"),
            seed: 1,
            threads: 1,
            device: "cpu".to_owned(),
            micro_batch: None,
        };
        let (stop, lines) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let events = Events { lines: Arc::clone(&lines), stop: Arc::clone(&stop), stop_after };
        let mut context = Context::new(action, stop, Box::new(events));
        let body = REGISTRY.iter().find(|(name, _)| *name == stage).unwrap().1;
        let result = body(&mut context);
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        (result, text)
    }

    #[track_caller]
    fn done(&self, stage: &str) -> String {
        let (result, events) = self.run(stage, usize::MAX);
        result.unwrap();
        events
    }

    #[track_caller]
    fn fails(&self, stage: &str, expected: &str) {
        match self.run(stage, usize::MAX).0 {
            Err(StageError::Failed(failure)) => {
                assert!(failure.message.contains(expected), "{}", failure.message);
                assert!(failure.help.is_some(), "no help: {}", failure.message);
            }
            other => panic!("did not fail: {other:?}"),
        }
    }
}

fn dataset(tokens: &[u16], seq: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    fs::write(folder.path().join("tokens.u16"), bytes).unwrap();
    let sequences = (tokens.len() - 1) / seq;
    let meta = json!({"seq": seq, "vocab": 64, "dtype": "u16", "tokens": tokens.len(), "sequences": sequences});
    fs::write(folder.path().join("meta.json"), meta.to_string()).unwrap();
    folder
}

fn reference_data() -> tempfile::TempDir {
    let tokens: Vec<u16> =
        serde_json::from_value(stored("model_train.json")["tokens"].clone()).unwrap();
    dataset(&tokens, 8)
}

fn long_data() -> tempfile::TempDir {
    let tokens: Vec<u16> = (0..400_u32).map(|i| (i * i % 61) as u16).collect();
    dataset(&tokens, 8)
}

fn train_params(tokens: u64, batch: u64) -> serde_json::Value {
    json!({
        "tokens": tokens, "batch": batch, "lr": 0.01, "lr_end": 0.1, "warmup": 0.2, "schedule": "cosine",
        "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "clip": 1.0, "dtype": "f32", "seed": 0,
    })
}

fn log(bench: &Bench) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(bench.path("log/log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ten_steps_match_pytorch() {
    let (data, init) = (reference_data(), reference("model_plain"));
    let bench = Bench::new(train_params(320, 32), &[("init", &init), ("data", data.path())]);
    let events = bench.done("train.run");
    assert!(events.contains("\"model.params\""), "{events}");
    let expected = stored("model_train.json");
    let column = |name: &str| -> Vec<f32> {
        log(&bench).iter().map(|line| line[name].as_f64().unwrap() as f32).collect()
    };
    check_close("losses", &column("loss"), &numbers(&expected["losses"]), 1e-4);
    check_close("norms", &column("grad_norm"), &numbers(&expected["norms"]), 1e-4);
    let trained = bench.path("model");
    let committed = reference("model_trained");
    if option_env!("TLM_WRITE_REFERENCE").is_some() {
        fs::create_dir_all(&committed).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(trained.join(name), committed.join(name)).unwrap();
        }
    }
    let flat = |folder: &Path| f32_values(&open(folder).flat).unwrap();
    check_close("weights", &flat(&trained), &flat(&committed), 1e-3);
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let (data, init) = (long_data(), reference("model_biased"));
    let inputs: [(&str, &Path); 2] = [("init", &init), ("data", data.path())];
    let whole = Bench::new(train_params(64 * 12, 64), &inputs);
    whole.done("train.run");
    let parts = Bench::new(train_params(64 * 12, 64), &inputs);
    for stop_after in [5, 4] {
        let (result, events) = parts.run("train.run", stop_after);
        assert!(matches!(result, Err(StageError::Interrupted)), "{result:?}");
        assert!(events.contains("checkpointed"), "{events}");
    }
    parts.done("train.run");
    let bytes = |bench: &Bench| fs::read(bench.path("model/model.safetensors")).unwrap();
    assert!(bytes(&whole) == bytes(&parts), "weights differ");
    let steps: Vec<u64> = log(&parts).iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
}

#[test]
fn zero_tokens_leave_the_model_as_it_is() {
    let (data, init) = (long_data(), reference("model_plain"));
    let bench = Bench::new(train_params(0, 64), &[("init", &init), ("data", data.path())]);
    bench.done("train.run");
    let (before, after) = (open(&init), open(&bench.path("model")));
    assert_eq!(f32_values(&before.flat).unwrap(), f32_values(&after.flat).unwrap());
}

#[test]
fn training_says_what_is_wrong() {
    let (data, init) = (long_data(), reference("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", &init), ("data", data.path())];
    Bench::new(train_params(640, 60), &inputs).fails("train.run", "not a multiple");
    let mut params = train_params(6400, 64);
    params["lr"] = json!(1e30);
    params["clip"] = json!(0.0);
    Bench::new(params, &inputs).fails("train.run", "at step");
}

#[test]
fn losses_of_units_add_up_to_the_perplexity() {
    let (data, model) = (long_data(), reference("model_plain"));
    let inputs: [(&str, &Path); 2] = [("model", &model), ("data", data.path())];
    let score = Bench::new(json!({"unit": "batch", "batch": 4, "dtype": "f32"}), &inputs);
    score.done("rounds.score");
    let nll = fs::read(score.path("out/nll.f64")).unwrap();
    let sum: f64 = nll.chunks(8).map(|eight| f64::from_le_bytes(eight.try_into().unwrap())).sum();
    let tokens = fs::read(score.path("out/tokens.u32")).unwrap();
    let count: u32 =
        tokens.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).sum();
    assert_eq!((nll.len(), count), (13 * 8, 49 * 8));
    let events = Bench::new(json!({"dtype": "f32"}), &inputs).done("eval.perplexity");
    let expected = (sum / f64::from(count)).exp();
    let got = events.lines().find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        (event["name"] == "perplexity").then(|| event["value"].as_f64().unwrap())
    });
    assert!((got.unwrap() / expected - 1.0).abs() < 1e-9, "{got:?} {expected}");
}

fn tokenizer(size: usize, id_map: Option<&[u32]>) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let vocab: BTreeMap<String, usize> = (0..size).map(|id| (format!("t{id}"), id)).collect();
    let json = json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": []});
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    if let Some(ids) = id_map {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        fs::write(folder.path().join("id_map.u32"), bytes).unwrap();
    }
    folder
}

fn inherit_params(shape: &serde_json::Value, criterion: &str) -> serde_json::Value {
    json!({"shape": shape, "criterion": criterion, "layers": "ends", "seed": 0})
}

#[test]
fn inheriting_the_same_shape_gives_the_same_logits() {
    let tokens = tokenizer(64, None);
    for donor in ["model_plain", "model_biased"] {
        let donor = reference(donor);
        for criterion in ["random", "l1", "l2"] {
            let inputs: [(&str, &Path); 2] = [("donor", &donor), ("tokenizer", tokens.path())];
            let bench = Bench::new(inherit_params(&json!({}), criterion), &inputs);
            bench.done("model.inherit");
            let input = ids(&stored("model_logits.json")["ids"]);
            let logits = |folder: &Path| f32_values(&open(folder).logits(&input).unwrap()).unwrap();
            assert_eq!(logits(&donor), logits(&bench.path("out")), "{criterion}");
        }
    }
}

#[test]
fn inheriting_gathers_embeddings_through_the_id_map() {
    let (tokens, donor) = (tokenizer(3, Some(&[5, 9, 40])), reference("model_plain"));
    let inputs: [(&str, &Path); 2] = [("donor", &donor), ("tokenizer", tokens.path())];
    let shape = json!({"depth": 1, "width": 8, "heads": 2, "kv_heads": 1, "ffn": 12});
    let bench = Bench::new(inherit_params(&shape, "l2"), &inputs);
    bench.done("model.inherit");
    let small = open(&bench.path("out"));
    assert_eq!((small.config.vocab, small.config.head_dim), (3, 4));
    let text = fs::read_to_string(bench.path("out/selection.json")).unwrap();
    let selection: serde_json::Value = serde_json::from_str(&text).unwrap();
    let hidden: Vec<i64> = serde_json::from_value(selection["hidden"].clone()).unwrap();
    let large = open(&donor);
    for (row, old) in [5, 9, 40].iter().enumerate() {
        for (column, from) in hidden.iter().enumerate() {
            let got = small.flat.double_value(&[row as i64 * 8 + column as i64]);
            assert_eq!(got, large.flat.double_value(&[old * 16 + from]));
        }
    }
}

#[test]
fn impossible_shapes_name_parameter_and_limit() {
    let (tokens, donor) = (tokenizer(64, None), reference("model_plain"));
    let inputs: [(&str, &Path); 2] = [("donor", &donor), ("tokenizer", tokens.path())];
    let check = |shape: &serde_json::Value, expected: &str| {
        Bench::new(inherit_params(shape, "l2"), &inputs).fails("model.inherit", expected);
    };
    check(&json!({"depth": 3}), "`shape.depth` is 3, but the donor has 2 layers");
    check(&json!({"width": 17}), "`shape.width` is 17, but the donor has 16 hidden dimensions");
    check(&json!({"ffn": 0}), "`shape.ffn` is 0");
    check(&json!({"heads": 3, "kv_heads": 2}), "2 query heads for each");
    let large = tokenizer(65, None);
    let inputs: [(&str, &Path); 2] = [("donor", &donor), ("tokenizer", large.path())];
    Bench::new(inherit_params(&json!({}), "l2"), &inputs)
        .fails("model.inherit", "embeddings for 64");
}

#[test]
fn a_new_model_has_the_shape_asked_for() {
    let tokens = tokenizer(64, None);
    let shape = json!({
        "depth": 2, "width": 64, "heads": 4, "kv_heads": 2, "tied": true, "rope_theta": 10000.0, "context": 128,
    });
    let params = json!({"shape": shape, "std": 0.02, "seed": 0});
    let bench = Bench::new(params, &[("tokenizer", tokens.path())]);
    bench.done("model.init");
    let model = open(&bench.path("out"));
    let config = &model.config;
    assert_eq!((config.head_dim, config.ffn, config.vocab), (16, 192, 64));
    let std = model.flat.narrow(0, 0, 64 * 64).std(true).double_value(&[]);
    assert!((std - 0.02).abs() < 0.002, "{std}");
}

#[test]
fn a_folder_opens_as_it_is() {
    let source = tempfile::tempdir_in(scratch()).unwrap();
    let tokens = tokenizer(64, None);
    for (folder, name) in [
        (reference("model_plain").as_path(), "config.json"),
        (&reference("model_plain"), "model.safetensors"),
        (tokens.path(), "tokenizer.json"),
    ] {
        fs::copy(folder.join(name), source.path().join(name)).unwrap();
    }
    let bench = Bench::new(json!({}), &[("source", source.path())]);
    bench.done("model.open");
    assert!(bench.path("out.tokenizer/tokenizer.json").exists());
    let flat = |folder: &Path| f32_values(&open(folder).flat).unwrap();
    assert_eq!(flat(source.path()), flat(&bench.path("out")));
    let weights = source.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 9]).unwrap();
    bench.fails("model.open", "not a whole safetensors file");
}

/// Returns the folder of the test program, which lies in cargo's target folder.
fn scratch() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

#[test]
fn the_donor_has_the_logits_of_transformers() {
    let bench = Bench::new(json!({}), &[("source", donor())]);
    bench.done("model.open");
    let model = open(&bench.path("out"));
    let expected = stored("model_donor.json");
    let stride = expected["stride"].as_i64().unwrap();
    let logits = model.logits(&ids(&expected["ids"])).unwrap();
    let got = f32_values(&logits.slice(1, None, None, stride)).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone()).unwrap();
    check_close("donor", &got, &rows.concat(), 1e-3);
}

#[test]
fn a_truncated_gguf_is_refused() {
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let cut = folder.path().join("cut.gguf");
    let bytes = fs::read(donor()).unwrap();
    for length in [20, 100_000, bytes.len() - 1] {
        fs::write(&cut, &bytes[..length]).unwrap();
        Bench::new(json!({}), &[("source", &cut)]).fails("model.open", "truncated");
    }
}
