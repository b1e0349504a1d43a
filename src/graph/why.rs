//! Why a step has to run: its manifest against the nearest one in the store, field by field.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use crate::base::text::name_at;
use crate::base::{Span, Value};
use crate::graph::key;
use crate::graph::plan::{Plan, Planned};
use crate::sema::steps::{Input, Step};
use crate::store::{Record, Store};

/// A field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `params.lr`
    pub field: String,
    /// What it was.
    pub before: Option<Value>,
    /// What it is.
    pub now: Option<Value>,
    /// Where the recipe says so.
    pub span: Option<Span>,
}

impl Change {
    /// Returns whether it only says that a step before has another key.
    pub fn is_upstream(&self) -> bool {
        let is_key = |value: &Option<Value>| matches!(value, Some(Value::Digest(_)));
        self.field.ends_with(".step") && is_key(&self.before) && is_key(&self.now)
    }
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

/// The fields of a manifest by their paths, as `params.lr`.
pub type Fields = BTreeMap<String, Value>;

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
        let mut changes = changes(past.fields(), &now);
        changes.iter_mut().for_each(|change| change.span = Some(place(step, &change.field)));
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

/// Returns where a recipe says what a field of a step is: the argument, or else the whole call.
pub fn place(step: &Step, field: &str) -> Span {
    let name = field.strip_prefix("params.").or_else(|| field.strip_prefix("inputs."));
    let argument = name.and_then(|name| step.arg_span(name.split('.').next()?));
    let declared = || match (step.stage().shell(), field) {
        (Some(shell), "shell") => Some(shell.span),
        (Some(shell), "version") => Some(shell.version_span),
        _ => None,
    };
    let files = || {
        step.inputs().find(|(input, _)| Some(*input) == name).and_then(|(_, input)| match input {
            Input::Files(files) => Some(files.span),
            Input::Output(_) => None,
        })
    };
    argument.or_else(declared).or_else(files).unwrap_or_else(|| step.span())
}

/// Returns the fields in which two manifests differ, by name.
pub fn changes(before: &Fields, now: &Fields) -> Vec<Change> {
    let change = |field: &String| Change {
        field: field.clone(),
        before: before.get(field).cloned(),
        now: now.get(field).cloned(),
        span: None,
    };
    let mut changes: Vec<_> = differing(before, now).map(change).collect();
    changes.sort_by(|a, b| a.field.cmp(&b.field));
    changes
}

/// Flattens a manifest to paths.
pub fn fields(manifest: &Value) -> Fields {
    let mut out = BTreeMap::new();
    flatten(String::new(), manifest, &mut out);
    out
}

fn flatten(path: String, value: &Value, out: &mut Fields) {
    let below = |name: &str| match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    };
    match value {
        // A value that is known only later: how it is computed, and of what.
        Value::Map(_) if computed(value).is_some() => {
            out.extend(computed(value).map(|text| (below("output"), Value::Str(text))));
            let steps: BTreeSet<_> = key::used(value).into_iter().map(|(step, _)| step).collect();
            for (at, step) in steps.into_iter().enumerate() {
                let name = if at == 0 { "step".to_owned() } else { format!("{at}.step") };
                out.insert(below(&name), Value::Digest(step));
            }
        }
        Value::Map(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| flatten(below(name), value, out));
        }
        // Several of these.
        Value::List(items) if items.iter().any(|item| matches!(item, Value::Map(_))) => {
            let items = items.iter().enumerate();
            items.for_each(|(at, item)| flatten(below(&at.to_string()), item, out));
        }
        leaf => drop(out.insert(path, leaf.clone())),
    }
}

/// Returns how a value is computed, as `round(size)`, of outputs by their names; none when it is not.
fn computed(value: &Value) -> Option<String> {
    let Value::Map(fields) = value else { return None };
    let (Some(Value::Str(op)), Some(Value::List(args))) = (fields.get("op"), fields.get("args"))
    else {
        return None;
    };
    let text = |arg: &Value| match key::used(arg)[..] {
        _ if computed(arg).is_some() => computed(arg).unwrap_or_default(),
        [(_, output)] => output.to_owned(),
        _ => serde_json::to_string(arg).expect("values are plain data"),
    };
    (fields.len() == 2)
        .then(|| format!("{op}({})", args.iter().map(text).collect::<Vec<_>>().join(", ")))
}

/// Returns the names of the fields that differ.
fn differing<'f>(before: &'f Fields, now: &'f Fields) -> impl Iterator<Item = &'f String> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let other = now.iter().filter(|(name, value)| before.get(*name) != Some(*value));
    gone.chain(other.map(|(name, _)| name))
}
