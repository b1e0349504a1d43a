//! `tlm verify`: whether the store holds what it says.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::{Digest, text};
use crate::cli::{Console, ENVIRONMENT, Exit, StoreArgs, stored};
use crate::graph::key;
use crate::store::{Damage, Findings, Output, Record, Store, StoreError};

/// How often it is told how far it is.
const EVERY_S: f64 = 2.0;
/// How often it is looked whether all is done.
const TICK: Duration = Duration::from_millis(20);
/// How many steps are named of those that made or use something.
const NAMED: usize = 3;

/// `tlm verify`
pub(super) fn verify(
    args: &StoreArgs,
    repair: bool,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let store = stored::open(args, console)?;
    let findings = look_through(&store, console).map_err(|error| console.store_error(&error))?;
    store.keep_checked();
    let records = store.records();
    let moved = match repair {
        true => store.repair(&findings).map_err(|error| console.store_error(&error))?,
        false => Vec::new(),
    };
    let mut lines: Vec<_> =
        findings.damaged.iter().map(|damage| damaged(damage, &store, &records)).collect();
    lines.extend(about_index(&findings));
    lines.extend(findings.derived.iter().map(|path| derived(path, repair)));
    lines.extend(moved.iter().map(|path| format!("moved to `{}`", path.display())));
    lines.extend(verdict(&findings, repair, records.len()));
    writeln!(console.out, "{}", lines.join("\n"))?;
    // What can't be mended stays told: an index with gaps.
    match findings.is_clean() || (repair && findings.gaps.is_empty()) {
        true => Ok(()),
        false => Err(Exit::Code(ENVIRONMENT)),
    }
}

/// Verifies on a thread of its own, and tells how far it is.
fn look_through(store: &Store, console: &mut Console<'_>) -> Result<Findings, StoreError> {
    let objects = store.recorded_objects();
    let (done, all) = (AtomicU64::new(0), objects.values().sum());
    let (began, mut told_s) = (Instant::now(), 0.0);
    let tell = |read| {
        done.fetch_add(read, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        let verifier = scope.spawn(|| store.verify(&objects, &tell));
        while !verifier.is_finished() {
            thread::sleep(TICK);
            let now_s = began.elapsed().as_secs_f64();
            if now_s - told_s >= EVERY_S {
                told_s = now_s;
                let done = done.load(Ordering::Relaxed);
                console.say(format_args!("{}\n", progress(done, all, now_s)));
            }
        }
        verifier.join().expect("verifying does not panic")
    })
}

/// Returns how far it is after so many seconds.
fn progress(done: u64, all: u64, now_s: f64) -> String {
    let whole = format!("verified {} of {}", text::bytes(done), text::bytes(all));
    match done {
        0 => whole,
        _ => {
            let left_s = now_s * (all.saturating_sub(done)) as f64 / done as f64;
            format!("{whole}, about {} left", text::duration(left_s))
        }
    }
}

/// Says what is the matter with an object, which steps made it and which use it.
fn damaged(damage: &Damage, store: &Store, records: &[Arc<Record>]) -> String {
    let object = store.object_path(damage.digest);
    let mut out = format!("damaged: {}", object.display());
    for difference in &damage.differences {
        let inner = difference.path.strip_prefix(&object).unwrap_or(&difference.path);
        out += &match inner.as_os_str().is_empty() {
            true => format!("\n  {}", difference.what),
            false => format!("\n  {}: {}", inner.display(), difference.what),
        };
    }
    let outputs = outputs_with(damage.digest, records);
    let makers =
        names(records.iter().filter(|record| outputs.iter().any(|(key, _)| *key == record.recipe)));
    let uses = |record: &&Arc<Record>| {
        key::used(&record.manifest).iter().any(|used| outputs.contains(used))
    };
    let users = names(records.iter().filter(uses));
    out += &format!("\n  made by {makers}; used by {users}");
    out
}

/// Returns the steps and outputs that an object is.
fn outputs_with(object: Digest, records: &[Arc<Record>]) -> BTreeSet<(Digest, &str)> {
    let is_it =
        |output: &Output| matches!(output, Output::Object { digest, .. } if *digest == object);
    let outputs = records.iter().flat_map(|record| {
        record.outputs.iter().map(|(name, output)| (record.recipe, name.as_str(), output))
    });
    outputs.filter(|(.., output)| is_it(output)).map(|(key, name, _)| (key, name)).collect()
}

/// Names steps: the first few, and how many more there are.
fn names<'r>(records: impl Iterator<Item = &'r Arc<Record>>) -> String {
    let names: BTreeSet<_> =
        records.map(|record| format!("{} ({})", record.name(), record.stage)).collect();
    let mut named: Vec<_> = names.iter().take(NAMED).cloned().collect();
    match names.len().checked_sub(NAMED) {
        None if named.is_empty() => return "no step".to_owned(),
        None | Some(0) => {}
        Some(more) => named.push(format!("{more} more")),
    }
    named.join(", ")
}

fn about_index(findings: &Findings) -> Vec<String> {
    let gap = |gap: &std::ops::Range<u64>| {
        format!("damaged: bytes {gap:?} of the index; the steps recorded there run again")
    };
    let torn = findings.torn.iter().map(|torn| {
        format!("bytes {torn:?} of the index are half a record; the next run cuts them off")
    });
    findings.gaps.iter().map(gap).chain(torn).collect()
}

fn derived(path: &Path, repair: bool) -> String {
    let done = if repair { "removed" } else { "remove it" };
    format!("wrong: {}; {done}, it is made again when it is needed", path.display())
}

/// Returns the last line.
fn verdict(findings: &Findings, repair: bool, records: usize) -> Option<String> {
    let records = text::plural(records, "record");
    match (findings.damaged.len(), repair) {
        (0, _) if findings.is_clean() => Some(format!("{records} verified")),
        (0, _) => None,
        (count, true) => Some(format!(
            "{} set aside; the next `tlm run` makes what it needs",
            text::plural(count, "damaged object")
        )),
        (count, false) => Some(format!(
            "{} of {records}; `tlm verify --repair` sets them aside, and the next `tlm run` makes what it needs",
            text::plural(count, "damaged object")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_estimates_from_what_is_done() {
        assert_eq!(progress(0, 2048, 5.0), "verified 0 B of 2.0 KiB");
        assert_eq!(progress(512, 2048, 5.0), "verified 512 B of 2.0 KiB, about 15s left");
    }
}
