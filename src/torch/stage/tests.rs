//! Stages run whole, on tiny models.

mod choice;
#[path = "../../../tests/it/donor.rs"]
mod donor;
mod gguf;
mod importance;
mod inherit;
mod last_word;
mod losses;
mod made;
mod masks;
mod open;
mod options;
mod refused;
mod train;
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tlm::base::{Digest, Value};
use tlm::stage::action::{Action, FailureKind, PROTOCOL};
use tlm::stage::{Context, StageError};

use crate::nn::tests::{json as stored, reference};
use crate::stage::REGISTRY;

/// Random numbers come from one generator of the process, so no two tests may draw at once.
pub(crate) static RANDOM: Mutex<()> = Mutex::new(());

/// One action in its own folder.
struct Bench {
    folder: tempfile::TempDir,
    params: serde_json::Value,
    inputs: BTreeMap<String, Vec<PathBuf>>,
    seed: u64,
    threads: u32,
    micro_batch: Option<u32>,
    recompute: bool,
    /// The figure that is counted to stop after some progress.
    stop_on: &'static str,
}

/// Collects events, and asks the stage to stop after some progress.
struct Events {
    lines: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    stop_on: String,
    stop_after: usize,
}

impl Write for Events {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock().unwrap();
        lines.extend(bytes);
        let seen = String::from_utf8_lossy(&lines).matches(&self.stop_on).count();
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
        Self {
            folder,
            params,
            inputs,
            seed: 1,
            threads: 1,
            micro_batch: None,
            recompute: false,
            stop_on: "loss",
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
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
            seed: self.seed,
            threads: self.threads,
            device: "cpu".to_owned(),
            micro_batch: self.micro_batch,
            recompute: self.recompute,
            shell: None,
        };
        let (stop, lines) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let stop_on = format!("\"name\":\"{}\"", self.stop_on);
        let events =
            Events { lines: Arc::clone(&lines), stop: Arc::clone(&stop), stop_on, stop_after };
        let mut context = Context::new(action, stop, Box::new(events));
        let body = REGISTRY.iter().find(|(name, _)| *name == stage).unwrap().1;
        let alone = RANDOM.lock();
        let result = body(&mut context);
        drop(alone);
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        (result, text)
    }

    #[track_caller]
    fn done(&self, stage: &str) -> String {
        let (result, events) = self.run(stage, usize::MAX);
        result.unwrap();
        events
    }

    /// Runs a stage until it has told `stop_after` losses, or what it is to stop on.
    #[track_caller]
    fn stopped(&self, stage: &str, stop_after: usize) -> String {
        let (result, events) = self.run(stage, stop_after);
        assert!(matches!(result, Err(StageError::Interrupted)), "{result:?}");
        events
    }

    /// Runs a stage that fails on its input with this message, and returns its help.
    #[track_caller]
    fn fails(&self, stage: &str, expected: &str) -> String {
        match self.run(stage, usize::MAX).0 {
            Err(StageError::Failed(failure)) => {
                assert!(failure.message.contains(expected), "{}", failure.message);
                assert_eq!(failure.kind, FailureKind::Input, "{}", failure.message);
                failure.help.unwrap_or_else(|| panic!("no help: {}", failure.message))
            }
            other => panic!("did not fail: {other:?}"),
        }
    }
}

fn dataset(tokens: &[u16], seq: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    fs::write(folder.path().join("documents.u64"), 0_u64.to_le_bytes()).unwrap();
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

/// Returns a selection of no sequence.
fn empty_data() -> tempfile::TempDir {
    let folder = reference_data();
    let meta = folder.path().join("meta.json");
    let text = fs::read_to_string(&meta).unwrap();
    fs::write(&meta, text.replace("\"sequences\":4", "\"sequences\":0")).unwrap();
    fs::write(folder.path().join("sequences.u64"), []).unwrap();
    folder
}

/// Returns a tokenizer of these one-letter tokens; the first one ends texts.
fn tokenizer(tokens: impl IntoIterator<Item = char>) -> tempfile::TempDir {
    let tokens: Vec<String> = tokens.into_iter().map(String::from).collect();
    let vocab: BTreeMap<&String, usize> = tokens.iter().zip(0..).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    });
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokens[0]});
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// Returns the characters that stand for ids from zero in the tests' models.
fn letters(count: usize) -> impl Iterator<Item = char> {
    ('!'..).take(count)
}

/// Returns a copy of a reference model with a tokenizer.
fn checkpoint(name: &str) -> tempfile::TempDir {
    let folder = tokenizer(letters(64));
    for file in ["config.json", "model.safetensors"] {
        fs::copy(reference(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Changes fields of a checkpoint's config.
fn set_config(folder: &Path, changes: &serde_json::Value) {
    let path = folder.join("config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        json[name] = value.clone();
    }
    fs::write(&path, json.to_string()).unwrap();
}

/// Returns a scalar output that was told.
fn output(events: &str, name: &str) -> f64 {
    let told = events.lines().find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        (event["event"] == "output" && event["name"] == name).then(|| event["value"].as_f64())
    });
    told.flatten().unwrap_or_else(|| panic!("no number `{name}` in {events}"))
}

/// Returns the folder of the test program, which lies in cargo's target folder.
fn scratch() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}
