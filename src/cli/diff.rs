//! `tlm diff`: two steps of the store side by side, and where what they are made of first differs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::base::{Digest, Value};
use crate::cli::change::{self, json as shown};
use crate::cli::explain::made;
use crate::cli::{Console, DiffArgs, Exit, FAILED, USAGE, stored};
use crate::graph::{Change, changes, fields};
use crate::report::number;
use crate::store::{Output, Record, Store};

/// `tlm diff`
pub(super) fn diff(args: &DiffArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    let is_of_recipes =
        !args.change.words().is_empty() || args.profile.is_some() || args.format.is_some();
    let Some(now) = args.now.as_ref().filter(|_| !is_of_recipes) else {
        let message = "two steps are compared by their names alone".to_owned();
        return Err(console.fail(USAGE, message, "write `tlm diff A B`, or name recipes"));
    };
    let store = stored::open(&args.store, console)?;
    let before = stored::find_pinned(&store, &args.before, console)?;
    let now = stored::find_pinned(&store, now, console)?;
    let comparison = Comparison::of(&store, &before, &now);
    match args.json {
        true => writeln!(console.out, "{}", comparison.json())?,
        false => write!(console.out, "{}", comparison.text())?,
    }
    match before.recipe == now.recipe {
        true => Ok(()),
        false => Err(Exit::Code(FAILED)),
    }
}

/// What differs between two steps.
struct Comparison<'r> {
    sides: [&'r Record; 2],
    changes: Vec<Change>,
    /// The steps in which the two lineages differ by themselves, inputs first.
    forks: Vec<Fork>,
    /// Steps that the store no longer knows.
    lost: BTreeSet<Digest>,
}

/// Two steps in the same place of two lineages, and what differs but for what comes from steps before.
struct Fork {
    sides: [Arc<Record>; 2],
    changes: Vec<Change>,
}

impl<'r> Comparison<'r> {
    fn of(store: &Store, before: &'r Arc<Record>, now: &'r Arc<Record>) -> Self {
        let records = store.records().into_iter().map(|record| (record.recipe, record)).collect();
        let (forks, lost) = forks(&records, before, now);
        Self { sides: [before, now], changes: between(before, now), forks, lost }
    }

    fn text(&self) -> String {
        let [before, now] = self.sides;
        if before.recipe == now.recipe {
            return format!("both are {}\n", head(before));
        }
        let mut out = format!("A  {}\nB  {}\n", head(before), head(now));
        out += &section("recipe", self.changes.iter().map(change::told));
        out += &section("results", self.results());
        out += &section("first differ in", self.forks.iter().map(Fork::text));
        let lost = self.lost.iter().map(|key| format!("{} is no longer in the store", key.short()));
        out + &section("unknown", lost)
    }

    /// Returns a line for each output: numbers and texts side by side, and whether files differ.
    fn results(&self) -> Vec<String> {
        let line = |(name, [before, now]): (&str, [Option<&Output>; 2])| match (before, now) {
            (Some(Output::Object { digest: a, .. }), Some(Output::Object { digest: b, .. })) => {
                match a == b {
                    true => format!("{name}: the same"),
                    false => format!("{name}: {} -> {}", a.short(), b.short()),
                }
            }
            _ => {
                let text = |output: Option<&Output>| output.map_or("nothing".to_owned(), plain);
                let (before_text, now_text) = (text(before), text(now));
                let delta = delta(before, now).map(|delta| {
                    let sign = if delta > 0.0 { "+" } else { "" };
                    format!("  ({sign}{})", number::float(delta, number::decimals([delta])))
                });
                format!("{name}: {before_text} -> {now_text}{}", delta.unwrap_or_default())
            }
        };
        self.outputs().into_iter().map(line).collect()
    }

    fn outputs(&self) -> BTreeMap<&str, [Option<&Output>; 2]> {
        let [before, now] = self.sides.map(|record| &record.outputs);
        let names = before.keys().chain(now.keys());
        names.map(|name| (&**name, [before.get(name), now.get(name)])).collect()
    }

    fn json(&self) -> Json {
        let [before, now] = self.sides;
        let result = |(name, [before, now]): (&str, [Option<&Output>; 2])| {
            let value = |output: Option<&Output>| match output {
                None => Json::Null,
                Some(Output::Scalar(value)) => shown(value),
                Some(Output::Object { digest, .. }) => json!(digest),
            };
            json!({
                "name": name, "a": value(before), "b": value(now), "delta": delta(before, now),
            })
        };
        json!({
            "format": 1,
            "equal": before.recipe == now.recipe,
            "a": named(before),
            "b": named(now),
            "fields": self.changes.iter().map(field).collect::<Vec<_>>(),
            "results": self.outputs().into_iter().map(result).collect::<Vec<_>>(),
            "diverging": self.forks.iter().map(Fork::json).collect::<Vec<_>>(),
            "lost": self.lost,
        })
    }
}

impl Fork {
    fn text(&self) -> String {
        let [before, now] = [0, 1].map(|side| {
            let record = &self.sides[side];
            format!("{} {}", record.name(), record.recipe.short())
        });
        let changes: Vec<_> = self.changes.iter().map(change::told).collect();
        let [a, b] = &self.sides;
        let same = if a.outputs == b.outputs { "; they made the same" } else { "" };
        format!("{before}, {now} ({}): {}{same}", b.stage, changes.join(", "))
    }

    fn json(&self) -> Json {
        let [before, now] = &self.sides;
        let fields: Vec<_> = self.changes.iter().map(field).collect();
        json!({ "a": named(before), "b": named(now), "fields": fields })
    }
}

/// Walks back through two lineages side by side; returns where they differ by themselves, inputs first, and what of them is
/// no longer known.
fn forks(
    records: &BTreeMap<Digest, Arc<Record>>,
    before: &Arc<Record>,
    now: &Arc<Record>,
) -> (Vec<Fork>, BTreeSet<Digest>) {
    let (mut forks, mut lost, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut open = vec![([Arc::clone(before), Arc::clone(now)], None)];
    while let Some((sides, own)) = open.pop() {
        let [before, now] = &sides;
        if let Some(changes) = own {
            forks.push(Fork { sides, changes });
            continue;
        }
        if before.recipe == now.recipe || !seen.insert([before.recipe, now.recipe]) {
            continue;
        }
        let (upstream, own): (Vec<_>, Vec<_>) =
            between(before, now).into_iter().partition(Change::is_upstream);
        // Inputs of different stages are not each other's counterparts.
        let upstream = if before.stage == now.stage { upstream } else { Vec::new() };
        if !own.is_empty() {
            open.push((sides, Some(own)));
        }
        for change in upstream.into_iter().rev() {
            let keys =
                [&change.before, &change.now].into_iter().flatten().filter_map(Value::as_digest);
            let (known, unknown): (Vec<_>, Vec<_>) =
                keys.map(|key| records.get(&key).ok_or(key)).partition(Result::is_ok);
            lost.extend(unknown.into_iter().filter_map(Result::err));
            let known: Vec<_> = known.into_iter().flatten().map(Arc::clone).collect();
            open.extend(<[_; 2]>::try_from(known).ok().map(|sides| (sides, None)));
        }
    }
    (forks, lost)
}

fn between(before: &Record, now: &Record) -> Vec<Change> {
    changes(&fields(&before.manifest), &fields(&now.manifest))
}

fn head(record: &Record) -> String {
    let name = record.name();
    format!("{name} ({}), key {}, {}", record.stage, record.recipe.short(), made(record))
}

/// Returns a headed part of the text; nothing without lines.
fn section(title: &str, lines: impl IntoIterator<Item = String>) -> String {
    let lines: String = lines.into_iter().map(|line| format!("  {line}\n")).collect();
    if lines.is_empty() { lines } else { format!("{title}\n{lines}") }
}

fn plain(output: &Output) -> String {
    match output {
        Output::Scalar(value) => number::exact(value),
        Output::Object { digest, .. } => digest.short(),
    }
}

fn delta(before: Option<&Output>, now: Option<&Output>) -> Option<f64> {
    let real = |output: Option<&Output>| match output?.scalar()? {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    Some(real(now)? - real(before)?)
}

fn named(record: &Record) -> Json {
    json!({
        "name": record.name(),
        "stage": record.stage,
        "key": record.recipe,
    })
}

fn field(change: &Change) -> Json {
    let value = |value: &Option<Value>| value.as_ref().map(shown);
    json!({ "field": change.field, "a": value(&change.before), "b": value(&change.now) })
}
