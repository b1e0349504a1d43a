//! `tlm gc`, `tlm pin`, `tlm unpin`: what the store keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{text, units};
use crate::cli::{Console, Exit, GcArgs, StoreArgs, USAGE, stored};
use crate::store::{Garbage, Policy, Record, Store, StoreError};

/// How many records are shown of those that go.
const SHOWN: usize = 10;

/// `tlm gc`
pub(super) fn gc(
    args: &StoreArgs,
    options: &GcArgs,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let max_bytes = options.max_size.as_deref().map(|size| max_size(size, console)).transpose()?;
    let store = stored::open(args, console)?;
    let policy = Policy {
        keep: Duration::from_hours(24 * u64::from(options.keep_days)),
        max_bytes,
        now: console.world.now(),
    };
    let garbage = match options.delete {
        true => store.collect(&policy),
        false => store.garbage(&policy),
    };
    let garbage = garbage.map_err(|error| console.store_error(&error))?;
    write!(console.out, "{}", told(&garbage, options.delete))?;
    if let Some(max) = max_bytes.filter(|max| garbage.kept_bytes > *max) {
        let (kept, max) = (text::bytes(garbage.kept_bytes), text::bytes(max));
        console.say(format_args!(
            "warning: pins and recent runs alone need {kept}, more than {max}\n\
             help: unpin something, or give a smaller `--keep-days`\n"
        ));
    }
    Ok(())
}

fn max_size(size: &str, console: &mut Console<'_>) -> Result<u64, Exit> {
    units::bytes(size).ok_or_else(|| {
        let message = format!("`--max-size {size}` is no size");
        console.fail(USAGE, message, "write it as `--max-size 200GiB`")
    })
}

/// Says what goes, or went.
fn told(garbage: &Garbage, is_gone: bool) -> String {
    let kept = format!("{} of objects stay\n", text::bytes(garbage.kept_bytes));
    if garbage.is_empty() {
        return format!("nothing to remove\n{kept}");
    }
    let verb = if is_gone { "removed" } else { "would remove" };
    let mut out = format!(
        "{verb} {} of {}, {}; making them took {}\n",
        text::plural(garbage.objects.len(), "object"),
        text::plural(garbage.records.len(), "record"),
        text::bytes(garbage.objects.values().sum()),
        text::duration(garbage.seconds()),
    );
    out += &records(garbage);
    if !garbage.others.is_empty() {
        let (count, bytes) = (garbage.others.len(), garbage.others.iter().map(|(_, bytes)| bytes));
        let bytes = text::bytes(bytes.sum());
        out +=
            &format!("{verb} {} that nobody needs, {bytes}\n", text::plural(count, "other file"));
    }
    out += &kept;
    if !is_gone {
        out += "`--delete` removes it\n";
    }
    out
}

/// Lists the records with the largest objects.
fn records(garbage: &Garbage) -> String {
    let size = |record: &Record| {
        let objects: BTreeMap<_, _> = record.objects().collect();
        objects.values().sum::<u64>()
    };
    let mut sized: Vec<_> = garbage.records.iter().map(|record| (size(record), record)).collect();
    sized.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let line = |(bytes, record): &(u64, &Arc<Record>)| {
        stored::line(&record.recipe.short(), *bytes, record)
    };
    text::first_lines(&sized.iter().map(line).collect::<Vec<_>>(), SHOWN)
}

/// `tlm pin`
pub(super) fn pin(
    args: &StoreArgs,
    step: Option<&str>,
    name: Option<&str>,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let store = stored::open(args, console)?;
    let Some(step) = step else { return list(&store, console) };
    let record = stored::find(&store, step, console)?;
    let own = record.name();
    let name = name.unwrap_or(&own);
    store.pin(name, record.recipe).map_err(|error| match error {
        StoreError::NoPinName { .. } => console.fail(USAGE, &error, &error.help()),
        _ => console.store_error(&error),
    })?;
    writeln!(console.out, "pinned {own} ({}) as `{name}`", record.recipe.short())?;
    Ok(())
}

fn list(store: &Store, console: &mut Console<'_>) -> Result<(), Exit> {
    let pins = store.pins().map_err(|error| console.store_error(&error))?;
    for (name, key) in pins {
        let state = match store.lookup(key) {
            Some(record) => format!("{} ({})", record.name(), record.stage),
            None => "not in the store".to_owned(),
        };
        writeln!(console.out, "{name}  {}  {state}", key.short())?;
    }
    Ok(())
}

/// `tlm unpin`
pub(super) fn unpin(args: &StoreArgs, name: &str, console: &mut Console<'_>) -> Result<(), Exit> {
    let store = stored::open(args, console)?;
    if store.unpin(name).map_err(|error| console.store_error(&error))? {
        return Ok(());
    }
    let pins = store.pins().map_err(|error| console.store_error(&error))?;
    let help = match text::did_you_mean(name, pins.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`tlm pin` lists all".to_owned(),
    };
    Err(console.fail(USAGE, format!("there is no pin `{name}`"), &help))
}
