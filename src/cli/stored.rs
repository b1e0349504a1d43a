//! `tlm ls`, `tlm show`, `tlm log`: what the store holds.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Value, telling_digits, text};
use crate::cli::explain::made;
use crate::cli::recipe::store_path;
use crate::cli::{Console, ENVIRONMENT, Exit, StoreArgs, USAGE, samples};
use crate::exec::logged_name;
use crate::report::number;
use crate::store::{Output, Record, Store};

/// The fewest digits of a key that name a step.
const PREFIX: usize = 4;
/// The longest first line of a log that is looked at.
const HEAD_BYTES: u64 = 4096;

/// Opens a store that is there.
pub(super) fn open(args: &StoreArgs, console: &mut Console<'_>) -> Result<Store, Exit> {
    let path = store_path(args, console).unwrap_or_else(|| console.world.cwd().join(".tlm"));
    if !Store::is_one(&path) {
        let message = format!("no store at `{}`", path.display());
        return Err(console.fail(ENVIRONMENT, message, "name one with `--store DIR`"));
    }
    Store::open(&path).map_err(|error| console.store_error(&error))
}

/// `tlm ls`
pub(super) fn ls(args: &StoreArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    let store = open(args, console)?;
    let mut lines = lines(&store.records().iter().collect::<Vec<_>>());
    lines.push(text::plural(lines.len(), "record"));
    writeln!(console.out, "{}", lines.join("\n"))?;
    Ok(())
}

/// Returns a line for each record.
fn lines(records: &[&Arc<Record>]) -> Vec<String> {
    let digits = telling_digits(records.iter().map(|record| record.recipe));
    let line = |record: &&Arc<Record>| {
        let bytes = record.objects().map(|(_, bytes)| bytes).sum();
        line(&record.recipe.digits(digits), bytes, record)
    };
    records.iter().map(line).collect()
}

/// Returns a record's line, with the digits of its key and the bytes that are told of it.
pub(super) fn line(key: &str, bytes: u64, record: &Record) -> String {
    let (bytes, seconds) = (text::bytes(bytes), text::duration(record.seconds));
    let name = record.name();
    format!("{key}  {:20}  {bytes:>10}  {seconds:>7}  {name}", record.stage)
}

/// `tlm show`
pub(super) fn show(args: &StoreArgs, wanted: &str, console: &mut Console<'_>) -> Result<(), Exit> {
    let store = open(args, console)?;
    let record = find(&store, wanted, console)?;
    let name = record.name();
    let mut out = format!("{name} ({}), {}\n", record.stage, made(&record));
    out += &format!("  key      {}\n  content  {}\n", record.recipe, record.content);
    out += &fields("", &record.manifest);
    out += &fields("origin.", &Value::Map(record.origin.clone()));
    for (name, output) in &record.outputs {
        out += &match output {
            Output::Scalar(value) => format!("  {name} = {}\n", number::exact(value)),
            Output::Object { digest, bytes } => {
                let path = store.object_path(*digest);
                let mut told = format!("  {name}: {}, {}\n", path.display(), text::bytes(*bytes));
                for line in samples::lines(&store, &record, &path) {
                    told += &format!("    {line}\n");
                }
                told
            }
        };
    }
    write!(console.out, "{out}")?;
    Ok(())
}

/// Returns a line for each field of a map, and for each field of the maps in it.
fn fields(prefix: &str, map: &Value) -> String {
    let Value::Map(fields) = map else { return String::new() };
    let line = |(name, value): (&String, &Value)| match value {
        Value::Map(inner) if prefix.is_empty() => {
            let line = |(field, value)| format!("  {name}.{field} = {}\n", number::exact(value));
            inner.iter().map(line).collect::<String>()
        }
        value => format!("  {prefix}{name} = {}\n", number::exact(value)),
    };
    fields.iter().map(line).collect()
}

/// `tlm log`
pub(super) fn log(args: &StoreArgs, wanted: &str, console: &mut Console<'_>) -> Result<(), Exit> {
    let store = open(args, console)?;
    let path = match find_log(&store, wanted) {
        Some(path) => path,
        None => store.log_path(find(&store, wanted, console)?.recipe),
    };
    match std::fs::read(&path) {
        Ok(bytes) => console.out.write_all(&bytes)?,
        Err(error) => {
            let message = format!("can't read `{}`: {error}", path.display());
            return Err(console.fail(ENVIRONMENT, message, "the step wrote no log"));
        }
    }
    Ok(())
}

/// Returns the log of the key that starts so, or the latest of a step of this name. A step that failed has a log but no
/// record.
fn find_log(store: &Store, wanted: &str) -> Option<PathBuf> {
    let logs = store.logs();
    let has_key = |path: &&PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(wanted))
    };
    let keyed: Vec<_> = logs.iter().filter(has_key).collect();
    match &keyed[..] {
        [one] if wanted.len() >= PREFIX => Some((*one).clone()),
        _ => logs.into_iter().find(|path| is_log_of(path, wanted)),
    }
}

fn is_log_of(path: &Path, wanted: &str) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut first = String::new();
    let read = BufReader::new(file.take(HEAD_BYTES)).read_line(&mut first);
    let name = read.ok().and_then(|_| logged_name(first.trim_end()));
    name.is_some_and(|name| name == wanted || name.split('[').next() == Some(wanted))
}

/// Returns the record of a pin of this name, or else as [`find`] does.
pub(super) fn find_pinned(
    store: &Store,
    wanted: &str,
    console: &mut Console<'_>,
) -> Result<Arc<Record>, Exit> {
    let pins = store.pins().map_err(|error| console.store_error(&error))?;
    match pins.get(wanted) {
        Some(key) => find(store, &key.to_string(), console),
        None => find(store, wanted, console),
    }
}

/// Returns the record of this name, or of the key that starts so.
pub(super) fn find(
    store: &Store,
    wanted: &str,
    console: &mut Console<'_>,
) -> Result<Arc<Record>, Exit> {
    let mut records = store.records();
    // What was recorded again under the same key is the same step.
    let mut seen = BTreeSet::new();
    records.reverse();
    records.retain(|record| seen.insert(record.recipe));
    let is_wanted = |record: &&Arc<Record>| {
        let digits = record.recipe.to_string();
        record.label == wanted
            || record.name() == wanted
            || (wanted.len() >= PREFIX && digits.starts_with(wanted))
    };
    let found: Vec<_> = records.iter().filter(is_wanted).collect();
    match &found[..] {
        [one] => Ok(Arc::clone(one)),
        [] => {
            let names: BTreeSet<_> = records.iter().map(|record| record.label.as_str()).collect();
            let help = match text::did_you_mean(wanted, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`tlm ls` lists all".to_owned(),
            };
            Err(console.fail(USAGE, format!("the store has no step `{wanted}`"), &help))
        }
        several => {
            let lines = lines(several).join("\n");
            let message = format!("`{wanted}` names {} steps:\n{lines}", several.len());
            Err(console.fail(
                USAGE,
                message,
                "choose one by its whole name, or by the first digits of its key",
            ))
        }
    }
}
