//! `tlm lock`, and `--locked`: the keys of a recipe's steps and the digests of what they made, in a file for version control.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::base::{Digest, Value, text};
use crate::cli::change::{json, told};
use crate::cli::explain::place_of;
use crate::cli::recipe::{self, Session};
use crate::cli::{Console, ENVIRONMENT, Exit, FAILED, PROGRAM, PlanArgs};
use crate::graph::{self, Change, Fields, Planned};
use crate::store::{Output, Record};

/// The version of the lock's form.
const FORMAT: u32 = 1;
/// How many steps are told of those that differ.
const TOLD: usize = 20;

/// The content of a lock.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Lock {
    format: u32,
    /// The version of tlm that wrote it.
    tlm: String,
    /// The recipe's local files by their paths from its folder.
    files: BTreeMap<String, Digest>,
    steps: Vec<Locked>,
}

/// A step in a lock.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Locked {
    name: String,
    key: Digest,
    /// What the key is made of, by path.
    fields: BTreeMap<String, Json>,
    /// Digests, numbers and texts; empty where it was not made yet.
    outputs: BTreeMap<String, Json>,
}

/// What differs between a lock and another.
#[derive(Default)]
struct Differences<'l> {
    /// Steps that differ by themselves.
    changed: Vec<(&'l Locked, Vec<Change>)>,
    /// Steps that only come after others that differ.
    after: Vec<&'l Locked>,
    added: Vec<&'l Locked>,
    removed: Vec<&'l Locked>,
    /// Local files of another content, new ones and missing ones.
    files: Vec<String>,
}

/// `tlm lock`
pub(super) fn lock(args: &PlanArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    let mut session = recipe::open(args, console)?;
    session.plan.settle(&session.store);
    let path = path(&session, console);
    let now = Lock::of(&session);
    let shown = shown(&session);
    let before = match Lock::read(&path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            console.say(format_args!(
                "warning: `{shown}` was no lock ({error}); it is written anew\n"
            ));
            None
        }
    };
    if before.as_ref() == Some(&now) {
        writeln!(console.out, "{shown} holds: {}", now.told())?;
        return Ok(());
    }
    write(&path, &now).map_err(|error| {
        let message = format!("can't write `{shown}`: {error}");
        console.fail(ENVIRONMENT, message, "make the recipe's folder writable")
    })?;
    let changes = before.map(|before| before.changes(&now)).unwrap_or_default();
    writeln!(console.out, "{changes}wrote {shown}: {}", now.told())?;
    Ok(())
}

/// A lock that holds for a run, if one was asked for.
pub(super) struct Held(Option<Lock>);

/// Refuses a plan with other keys than the recipe's lock has.
pub(super) fn hold(
    session: &Session,
    is_locked: bool,
    console: &mut Console<'_>,
) -> Result<Held, Exit> {
    if !is_locked {
        return Ok(Held(None));
    }
    let (shown, recipe) = (shown(session), session.source.path.display().to_string());
    let lock = Lock::read(&path(session, console)).map_err(|error| {
        let (code, why) = match error.kind() {
            io::ErrorKind::InvalidData => (PROGRAM, "it is no lock: "),
            _ => (ENVIRONMENT, ""),
        };
        let message = format!("can't read `{shown}`: {why}{error}");
        console.fail(code, message, &format!("`tlm lock {}` writes it", text::shell_word(&recipe)))
    })?;
    let now = Lock::of(session);
    let differences = lock.differences(&now);
    let count = differences.now().count();
    if count == 0 {
        return Ok(Held(Some(lock)));
    }
    let all = text::plural(now.steps.len(), "step");
    let message = format!(
        "{count} of {all} {} not as `{shown}` says:\n{}",
        if count == 1 { "is" } else { "are" },
        differences.told(Some(session)).trim_end()
    );
    let help =
        format!("undo what changed, or take it with `tlm lock {}`", text::shell_word(&recipe));
    Err(console.fail(PROGRAM, message, &help))
}

impl Held {
    /// Tells which outputs are not those of the lock; `record` gives what is known of a step now. Returns how to end then.
    pub(super) fn check(
        &self,
        session: &Session,
        record: impl Fn(&Planned<'_>) -> Option<Record>,
        console: &mut Console<'_>,
    ) -> Result<(), u8> {
        let Some(lock) = &self.0 else { return Ok(()) };
        let locked: BTreeMap<_, _> = lock.steps.iter().map(|step| (step.key, step)).collect();
        let mut others = Vec::new();
        for planned in session.plan.steps() {
            let Some((locked, record)) = locked.get(&planned.recipe).zip(record(&planned)) else {
                continue;
            };
            others.extend(other_outputs(locked, &outputs(&record)));
        }
        if others.is_empty() {
            return Ok(());
        }
        let message =
            format!("what was made is not what `{}` says:\n{}", shown(session), listed(&others));
        let help = "a stage that gives other bytes each time, or another machine; \
                    if that is fine, `tlm lock` takes what there is now";
        console.fail(FAILED, message.trim_end(), help);
        Err(FAILED)
    }
}

impl Lock {
    fn of(session: &Session) -> Self {
        let sources = session.plan.sources();
        let files = sources.flat_map(|source| session.named(source.paths, source.digests));
        let step = |planned: Planned<'_>| {
            let fields = graph::fields(&session.plan.manifest(planned.id));
            let record = session.plan.record(planned.id, &session.store);
            Locked {
                name: planned.step.name(),
                key: planned.recipe,
                fields: fields.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
                outputs: record.as_ref().map(outputs).unwrap_or_default(),
            }
        };
        let steps = session.plan.steps().map(step).collect();
        let tlm = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, tlm, files: files.collect(), steps }
    }

    fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let lock: Self = serde_json::from_str(&text)?;
        match lock.format {
            FORMAT => Ok(lock),
            other => {
                let message = format!("its form is {other}, and this tlm knows {FORMAT}");
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }

    fn told(&self) -> String {
        let made = self.steps.iter().filter(|step| !step.outputs.is_empty()).count();
        format!("{}, {made} with outputs", text::plural(self.steps.len(), "step"))
    }

    /// Returns what is another in `now`.
    fn differences<'l>(&'l self, now: &'l Self) -> Differences<'l> {
        let keys = |lock: &Self| lock.steps.iter().map(|step| step.key).collect::<BTreeSet<_>>();
        let (own_keys, now_keys) = (keys(self), keys(now));
        let mut gone: BTreeMap<&str, Vec<&Locked>> = BTreeMap::new();
        for step in self.steps.iter().rev().filter(|step| !now_keys.contains(&step.key)) {
            gone.entry(&step.name).or_default().push(step);
        }
        let mut differences =
            Differences { files: self.other_files(now), ..Differences::default() };
        for step in now.steps.iter().filter(|step| !own_keys.contains(&step.key)) {
            let Some(before) = gone.get_mut(&*step.name).and_then(Vec::pop) else {
                differences.added.push(step);
                continue;
            };
            let mut changes = graph::changes(&before.values(), &step.values());
            changes.retain(|change| !change.is_upstream());
            match changes.is_empty() {
                true => differences.after.push(step),
                false => differences.changed.push((step, changes)),
            }
        }
        differences.removed = gone.into_values().flatten().collect();
        differences
    }

    fn other_files(&self, now: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.files.keys().chain(now.files.keys()).collect();
        let line = |name: &String| match (self.files.get(name), now.files.get(name)) {
            (Some(before), Some(now)) if before == now => None,
            (Some(_), Some(_)) => Some(format!("{name}: another content")),
            (None, _) => Some(format!("{name}: new")),
            (_, None) => Some(format!("{name}: gone")),
        };
        names.into_iter().filter_map(line).collect()
    }

    /// Tells all that is another in `now`, for people.
    fn changes(&self, now: &Self) -> String {
        let differences = self.differences(now);
        let locked: BTreeMap<_, _> = self.steps.iter().map(|step| (step.key, step)).collect();
        let pairs = now.steps.iter().filter_map(|step| Some((*locked.get(&step.key)?, step)));
        let others: Vec<_> =
            pairs.flat_map(|(before, now)| other_outputs(before, &now.outputs)).collect();
        let removed = differences.removed.iter().map(|step| format!("{}: gone", step.name));
        differences.told(None) + &listed(&removed.collect::<Vec<_>>()) + &listed(&others)
    }
}

impl Locked {
    fn values(&self) -> Fields {
        self.fields.iter().map(|(name, field)| (name.clone(), value(field))).collect()
    }
}

impl Differences<'_> {
    /// Returns the steps that are there now and were not.
    fn now(&self) -> impl Iterator<Item = &Locked> {
        let changed = self.changed.iter().map(|(step, _)| *step);
        changed.chain(self.after.iter().chain(&self.added).copied())
    }

    /// Tells what differs, with the places in the recipe if there is one.
    fn told(&self, session: Option<&Session>) -> String {
        let planned: BTreeMap<_, _> = session
            .into_iter()
            .flat_map(|session| session.plan.steps().map(|planned| (planned.recipe, planned)))
            .collect();
        let line = |step: &Locked, change: &Change| {
            let place = session.zip(planned.get(&step.key)).map(|(session, planned)| {
                place_of(graph::place(planned.step, &change.field), session)
            });
            format!("{}: {}{}", step.name, told(change), place.unwrap_or_default())
        };
        let changed = self.changed.iter();
        let mut lines: Vec<_> = changed
            .flat_map(|(step, changes)| changes.iter().map(|change| line(step, change)))
            .collect();
        lines.extend(self.added.iter().map(|step| format!("{}: new", step.name)));
        lines.extend(self.files.iter().cloned());
        if !self.after.is_empty() {
            lines.push(format!("and {} after these", text::plural(self.after.len(), "step")));
        }
        listed(&lines)
    }
}

fn listed(lines: &[String]) -> String {
    text::first_lines(lines, TOLD)
}

/// Returns what a lock holds of the outputs of a step.
fn outputs(record: &Record) -> BTreeMap<String, Json> {
    let output = |output: &Output| match output {
        Output::Object { digest, .. } => Json::String(digest.to_string()),
        Output::Scalar(value) => json(value),
    };
    record.outputs.iter().map(|(name, made)| (name.clone(), output(made))).collect()
}

/// Returns a line for each output that a lock has another of.
fn other_outputs(locked: &Locked, now: &BTreeMap<String, Json>) -> Vec<String> {
    let other = |(name, before): (&String, &Json)| {
        let now = now.get(name).filter(|now| *now != before)?;
        let change = Change {
            field: format!("{}.{name}", locked.name),
            before: Some(value(before)),
            now: Some(value(now)),
            span: None,
        };
        Some(told(&change))
    };
    locked.outputs.iter().filter_map(other).collect()
}

/// Returns what JSON shows of a value, its digests as such.
fn value(shown: &Json) -> Value {
    match shown {
        Json::String(text) => text.parse().map_or_else(|_| Value::Str(text.clone()), Value::Digest),
        Json::Array(items) => Value::List(items.iter().map(value).collect()),
        Json::Object(fields) => Value::map(fields.iter().map(|(name, field)| (name, value(field)))),
        other => serde_json::from_value(other.clone()).expect("JSON shows a value"),
    }
}

/// Returns the lock's path as the user may know it.
fn shown(session: &Session) -> String {
    format!("{}.lock", session.source.path.display())
}

fn path(session: &Session, console: &Console<'_>) -> PathBuf {
    console.world.cwd().join(shown(session))
}

/// Writes a lock: whole or not at all.
fn write(path: &Path, lock: &Lock) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(lock).expect("plain data");
    text.push('\n');
    let folder = path.parent().unwrap_or(Path::new("/"));
    let open = fs::Permissions::from_mode(0o666);
    let mut file =
        tempfile::Builder::new().prefix(".lock").permissions(open).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
