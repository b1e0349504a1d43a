//! Pruning beside the published algorithm, which `scripts/reference/compact.py` follows (`tests/reference/compact.json`), and
//! pruned tokenizers as transformers reads them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tlm::data::Tokenizer;
use tlm::data::tokenizer::Part;
use tlm::data::tokenizer::files::Files;
use tlm::data::tokenizer::open::open_tokenizer;
use tlm::data::tokenizer::prune::{Target, prune};

#[derive(Deserialize)]
struct Reference {
    tokenizer: Value,
    /// By name: the counts of parts of the text, which orphan nothing, and those of tokens.
    counts: BTreeMap<String, Vec<u64>>,
    cases: Vec<Case>,
}

/// What the published algorithm makes of some counts.
#[derive(Deserialize)]
struct Case {
    counts: String,
    keep: usize,
    kept: Vec<u32>,
    orphans: usize,
}

#[test]
fn pruning_is_the_published_algorithm_where_that_orphans_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/compact.json");
    let reference: Reference = reference("compact.json");
    let mut differing = 0;
    for case in reference.cases {
        let (json, counts) = (reference.tokenizer.clone(), &reference.counts[&case.counts]);
        let files = Files { path: path.clone(), json, config: Map::new() };
        let pruned = prune(files, counts, Target::Keep(case.keep), |_| true);
        let pruned = pruned.unwrap().expect("not stopped");
        assert_eq!((pruned.old_ids.len(), pruned.report.orphans), (case.keep, 0));
        if case.orphans == 0 {
            assert_eq!(pruned.old_ids, case.kept, "{} of {}", case.keep, case.counts);
        } else {
            assert_ne!(pruned.old_ids, case.kept);
            differing += 1;
        }
    }
    assert_eq!(differing, 4);
}

/// What transformers makes of a pruned tokenizer (`scripts/reference/pruned.py`).
#[derive(Deserialize)]
struct Loaded {
    tokens: usize,
    sha256: String,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

fn reference<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("a reference")
}

#[test]
fn pruned_tokenizers_have_the_ids_that_transformers_has() {
    let texts: Vec<Text> = reference("tokenizer_ids.json");
    let texts: Vec<&str> = texts.iter().map(|one| &*one.text).filter(|t| !t.is_empty()).collect();
    let known: BTreeMap<String, Loaded> = reference("pruned.json");
    assert_eq!(known.len(), 4);
    for (name, known) in known {
        let folder = tempfile::tempdir().expect("a folder");
        let model = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/reference/sentencepiece/{name}.model"));
        open_tokenizer(&model, None, folder.path()).expect("opened");
        let old = Tokenizer::open(folder.path()).expect("a tokenizer");
        let counter = old.counter();
        for text in &texts {
            counter.add(Part { text, is_first: true }).expect("counted");
        }
        let files = Files::read(folder.path()).expect("readable");
        let pruned = prune(files, &counter.finish(), Target::Coverage(0.9), |_| true);
        let pruned = pruned.expect("pruned").expect("not stopped");
        assert_eq!(pruned.report.tokens, known.tokens, "{name}");
        let new = Tokenizer::of(pruned.files).expect("a tokenizer");
        let mut digest = Sha256::new();
        for text in &texts {
            for id in new.encode(text).expect("encoded") {
                digest.update(id.to_le_bytes());
            }
            digest.update((-1i32).to_le_bytes());
        }
        let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, known.sha256, "{name}");
    }
}
