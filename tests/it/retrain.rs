//! `tokenizer.retrain` is stopped while it learns, and tells that it does.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tlm::base::{Digest, Value};
use tlm::data::CorpusWriter;
use tlm::stage::action::PROTOCOL;
use tlm::stage::{Action, Context, REGISTRY, StageError};

/// Keeps events, and asks for a stop at the first that holds a text.
struct Events {
    kept: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    at: Option<&'static str>,
}

impl Write for Events {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let event = String::from_utf8_lossy(bytes);
        if self.at.is_some_and(|at| event.contains(at)) {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.kept.lock().expect("not poisoned").push_str(&event);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs the stage on a few words; returns how it ended, and its events.
fn retrain(stop_at: Option<&'static str>) -> (Result<(), StageError>, String) {
    let space = tempfile::tempdir().expect("a folder");
    let path = |name: &str| space.path().join(name);
    std::fs::create_dir(path("corpus")).expect("created");
    let mut corpus = CorpusWriter::create(&path("corpus")).expect("created");
    corpus.push("the cat sat on the mat, the cats sat there").expect("written");
    corpus.finish().expect("written");
    std::fs::create_dir(path("tokenizer")).expect("created");
    let json = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {}, "merges": []}
    }"#;
    std::fs::write(path("tokenizer/tokenizer.json"), json).expect("written");
    let input = |name: &str| (name.to_owned(), vec![path(name)]);
    let action = Action {
        protocol: PROTOCOL,
        key: Digest::of(b"key"),
        stage: "tokenizer.retrain".to_owned(),
        params: BTreeMap::from([("size".to_owned(), Value::Int(260))]),
        inputs: BTreeMap::from([input("corpus"), input("tokenizer")]),
        out: path("out"),
        state: path("state"),
        seed: 1,
        threads: 1,
        device: "cpu".to_owned(),
        micro_batch: None,
        recompute: false,
        shell: None,
    };
    let (kept, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
    let events = Events { kept: Arc::clone(&kept), stop: Arc::clone(&stop), at: stop_at };
    let (_, body) = REGISTRY.iter().find(|(name, _)| *name == action.stage).expect("a stage");
    let ended = body(&mut Context::new(action, stop, Box::new(events)));
    let kept = kept.lock().expect("not poisoned").clone();
    (ended, kept)
}

#[test]
fn learning_is_told_and_stops_at_once() {
    let started = r#""done":0,"total":260,"unit":"tokens""#;
    let (ended, events) = retrain(None);
    ended.expect("learned");
    for part in [started, r#""done":260,"total":260,"unit":"tokens""#] {
        assert!(events.contains(part), "{events}");
    }
    let (ended, events) = retrain(Some(started));
    assert!(matches!(ended, Err(StageError::Interrupted)), "{ended:?}");
    assert!(!events.contains("out.size"), "{events}");
}
