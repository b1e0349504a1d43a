//! Why a step has to run: its manifest against the nearest one in the store, field by field.

use std::collections::BTreeMap;

use crate::base::{Span, Value};
use crate::graph::plan::Planned;
use crate::store::{Record, Store};

/// A field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `params.lr`
    pub field: String,
    /// What it was.
    pub before: Option<serde_json::Value>,
    /// What it is.
    pub now: Option<serde_json::Value>,
    /// Where the recipe says so.
    pub span: Option<Span>,
}

/// The stored step that is nearest to one, and what differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    /// The nearest record of the same stage; none when the stage never ran.
    pub nearest: Option<Record>,
    /// What differs from it.
    pub changes: Vec<Change>,
}

/// Compares a step with the stored record of its stage that differs in the fewest fields; of equals the one of the same
/// name, then the latest.
pub fn why(planned: &Planned, store: &Store) -> Why {
    let now = fields(&planned.manifest);
    let same_stage =
        store.records().into_iter().filter(|record| record.stage == planned.step.stage.name);
    let compared = same_stage.map(|record| (differing(&fields(&record.manifest), &now), record));
    let distance =
        |record: &Record, changes: &[String]| (changes.len(), record.label != planned.step.label);
    // `min_by_key` takes the first of equals, and the latest record is the last.
    let mut compared: Vec<_> = compared.collect();
    compared.reverse();
    let nearest = compared.into_iter().min_by_key(|(changes, record)| distance(record, changes));
    let Some((changes, record)) = nearest else {
        return Why { nearest: None, changes: Vec::new() };
    };
    let before = fields(&record.manifest);
    let change = |field: String| Change {
        before: before.get(&field).cloned(),
        now: now.get(&field).cloned(),
        span: argument(&field).and_then(|name| planned.step.arg_spans.get(name)).copied(),
        field,
    };
    Why { changes: changes.into_iter().map(change).collect(), nearest: Some(record) }
}

fn argument(field: &str) -> Option<&str> {
    let name = field.strip_prefix("params.").or_else(|| field.strip_prefix("inputs."))?;
    name.split('.').next()
}

/// Flattens a manifest to paths; a manifest read back from the index compares equal to one just made.
fn fields(manifest: &Value) -> BTreeMap<String, serde_json::Value> {
    let mut out = BTreeMap::new();
    let json = serde_json::to_value(manifest).expect("manifests are plain data");
    flatten(String::new(), json, &mut out);
    out
}

fn flatten(path: String, json: serde_json::Value, out: &mut BTreeMap<String, serde_json::Value>) {
    match json {
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                flatten(path, value, out);
            }
        }
        leaf => {
            out.insert(path, leaf);
        }
    }
}

fn differing(
    before: &BTreeMap<String, serde_json::Value>,
    now: &BTreeMap<String, serde_json::Value>,
) -> Vec<String> {
    let mut names: Vec<_> = before.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter(|name| before.get(*name) != now.get(*name)).cloned().collect()
}
