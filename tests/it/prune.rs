//! Pruning beside the published algorithm, which `scripts/reference/compact.py` follows (`tests/reference/compact.json`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tlm::data::tokenizer::files::Files;
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
    let json = std::fs::read(&path).expect("readable");
    let reference: Reference = serde_json::from_slice(&json).expect("a reference");
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
