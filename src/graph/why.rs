//! Why a step has to run: its manifest against the nearest one in the store, field by field.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use crate::base::text::name_at;
use crate::base::{Span, Value};
use crate::graph::plan::{Plan, Planned};
use crate::sema::steps::Step;
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
    pub nearest: Option<Arc<Record>>,
    /// What differs from it.
    pub changes: Vec<Change>,
}

/// The stored steps, for comparison with those of a plan.
#[derive(Debug)]
pub struct History {
    /// The latest first.
    records: Vec<Past>,
    /// The latest [`COMPARED`] records by stage and name: the whole one, the label, and none.
    groups: BTreeMap<(String, String), Vec<usize>>,
}

/// How many records of the same name, of the same label and of the same stage a step is compared with: all would make a plan's
/// time grow with steps times records.
const COMPARED: usize = 8;

type Fields = BTreeMap<String, serde_json::Value>;

#[derive(Debug)]
struct Past {
    record: Arc<Record>,
    fields: OnceCell<Fields>,
}

impl Past {
    fn fields(&self) -> &Fields {
        self.fields.get_or_init(|| fields(&self.record.manifest))
    }
}

impl History {
    /// Reads what the store has.
    pub fn of(store: &Store) -> Self {
        let mut history = Self { records: Vec::new(), groups: BTreeMap::new() };
        // What was recorded again under the same key is the same step.
        let mut seen = BTreeSet::new();
        for record in store.records().into_iter().rev() {
            if seen.insert(record.recipe) {
                history.add(record);
            }
        }
        history
    }

    fn add(&mut self, record: Arc<Record>) {
        for name in names(&record.label, &record.point) {
            let group = self.groups.entry((record.stage.clone(), name)).or_default();
            if group.len() < COMPARED {
                group.push(self.records.len());
            }
        }
        self.records.push(Past { record, fields: OnceCell::new() });
    }

    /// Compares a step with the stored record of its stage that differs in the fewest fields; of equals the one of the same
    /// label, then of the same axis values, then the latest.
    pub fn why(&self, plan: &Plan, planned: Planned<'_>) -> Why {
        let now = fields(&plan.manifest(planned.id));
        let step = planned.step;
        let group =
            |name| self.groups.get(&(step.stage().name.clone(), name)).into_iter().flatten();
        // In order, and `min_by_key` takes the first of equals.
        let near: BTreeSet<usize> =
            names(step.label(), step.point()).into_iter().flat_map(group).copied().collect();
        let distance = |past: &&Past| {
            let record = &past.record;
            let differing = differing(past.fields(), &now).count();
            (differing, record.label != step.label(), !is_at(&record.point, step))
        };
        let nearest = near.into_iter().map(|at| &self.records[at]).min_by_key(distance);
        let Some(past) = nearest else {
            return Why { nearest: None, changes: Vec::new() };
        };
        let change = |field: &String| Change {
            field: field.clone(),
            before: past.fields().get(field).cloned(),
            now: now.get(field).cloned(),
            span: argument(field).and_then(|name| step.arg_span(name)),
        };
        let mut changes: Vec<_> = differing(past.fields(), &now).map(change).collect();
        changes.sort_by(|a, b| a.field.cmp(&b.field));
        Why { nearest: Some(Arc::clone(&past.record)), changes }
    }
}

/// Returns the names by which a step's like are found, each once.
fn names<S: Display>(label: &str, point: &[(S, S)]) -> BTreeSet<String> {
    BTreeSet::from([name_at(label, point), label.to_owned(), String::new()])
}

/// Returns whether a step has these axis values.
fn is_at(point: &[(String, String)], step: &Step) -> bool {
    let own = step.point().iter().map(|(axis, value)| (&**axis, &**value));
    own.eq(point.iter().map(|(axis, value)| (&**axis, &**value)))
}

fn argument(field: &str) -> Option<&str> {
    let name = field.strip_prefix("params.").or_else(|| field.strip_prefix("inputs."))?;
    name.split('.').next()
}

/// Flattens a manifest to paths; a manifest read back from the index compares equal to one just made.
fn fields(manifest: &Value) -> Fields {
    let mut out = BTreeMap::new();
    let json = serde_json::to_value(manifest).expect("manifests are plain data");
    flatten(String::new(), json, &mut out);
    out
}

fn flatten(path: String, json: serde_json::Value, out: &mut Fields) {
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

/// Returns the names of the fields that differ.
fn differing<'f>(before: &'f Fields, now: &'f Fields) -> impl Iterator<Item = &'f String> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let other = now.iter().filter(|(name, value)| before.get(*name) != Some(*value));
    gone.chain(other.map(|(name, _)| name))
}
