//! Why a step has to run: its manifest against the nearest one in the store, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{FastMap, Span, Value, in_chunks};
use crate::graph::key;
use crate::graph::plan::{Plan, Planned};
use crate::sema::steps::{Input, Step};
use crate::store::{Name, Names, Record, Store, Took};

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

/// The stored steps that are like some of a plan, for comparison.
#[derive(Debug)]
pub struct History {
    /// The latest first.
    records: Vec<Past>,
    /// The latest [`COMPARED`] of them by name.
    groups: FastMap<Name, Vec<usize>>,
}

/// How many records of the same name, of the same label and of the same stage a step is compared with: all would make a plan's
/// time grow with steps times records.
const COMPARED: usize = 8;

/// The fields of a manifest by their paths, as `params.lr`.
pub type Fields = BTreeMap<String, Value>;

#[derive(Debug)]
struct Past {
    record: Arc<Record>,
    fields: Fields,
}

impl History {
    /// Reads what the store has that is like these steps.
    pub fn of<'s>(store: &Store, steps: impl Iterator<Item = &'s Step>) -> Self {
        let latest = store.past().latest(steps.flat_map(|step| names(step).each()), COMPARED);
        let places: BTreeSet<_> = latest.values().flatten().map(|took| took.found).collect();
        // The latest first.
        let places: Vec<_> = places.into_iter().rev().collect();
        let read = places.iter().copied().zip(store.read_all(&places));
        let (places, records): (Vec<_>, Vec<_>) =
            read.filter_map(|(found, record)| Some((found, Arc::new(record?)))).unzip();
        let past = |record: &Arc<Record>| Past {
            record: Arc::clone(record),
            fields: fields(&record.manifest),
        };
        let records = in_chunks(&records, |part| part.iter().map(past).collect::<Vec<_>>());
        let numbers: FastMap<_, _> = places.iter().zip(0..).collect();
        let number = |took: &Took| numbers.get(&took.found).copied();
        let groups = latest.into_iter();
        let groups = groups.map(|(name, group)| (name, group.iter().filter_map(number).collect()));
        Self { records: records.into_iter().flatten().collect(), groups: groups.collect() }
    }

    /// Compares a step with the stored record of its stage that differs in the fewest fields; of equals the one of the same
    /// label, then of the same axis values, then the latest.
    pub fn why(&self, plan: &Plan, planned: Planned<'_>) -> Why {
        let now = fields(&plan.manifest(planned.id));
        let step = planned.step;
        let group = |name| self.groups.get(&name).into_iter().flatten();
        // In order, and `min_by_key` takes the first of equals.
        let near: BTreeSet<usize> = names(step).each().flat_map(group).copied().collect();
        let distance = |past: &&Past| {
            let record = &past.record;
            let differing = differing(&past.fields, &now).count();
            (differing, record.label != step.label(), !is_at(&record.point, step))
        };
        let near = near.into_iter().map(|at| &self.records[at]);
        // Other names may have the same hash.
        let near = near.filter(|past| past.record.stage == step.stage().name);
        let nearest = near.min_by_key(distance);
        let Some(past) = nearest else {
            return Why { nearest: None, changes: Vec::new() };
        };
        let mut changes = changes(&past.fields, &now);
        changes.iter_mut().for_each(|change| change.span = Some(place(step, &change.field)));
        Why { nearest: Some(Arc::clone(&past.record)), changes }
    }
}

/// Returns the names by which a step's like are found.
fn names(step: &Step) -> Names {
    Names::of(&step.stage().name, step.label(), step.point())
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
