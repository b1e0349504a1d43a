//! What the records of the log are called and what they took, so that a plan finds the like of its steps without reading all.
//!
//! The memo is [`sealed`]. It holds the point of the log up to which it goes, and for each record up to there, in the order of
//! the log, an entry: its place, its three names (u64 LE each), how long it took (f64 LE, s) and the size of all it made (u64
//! LE). What came since is read; the memo of another log does not count.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::base::text::name_at;
use crate::base::{Encoder, FastMap};
use crate::store::log::{self, Point};
use crate::store::record::Encoded;
use crate::store::{Found, Record, atomic, sealed};

const NAME: [u8; 8] = *b"tlm past";

/// The bytes of an entry.
const ENTRY: usize = 6 * 8;

/// How much of the log may lie behind the memo before it is written anew.
const TAIL_BYTES: u64 = 256 << 10;

/// A name that records share, hashed: two names may be one, so whoever reads a record sees what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u64);

/// The names of a step, from its own to that of all like it. Those of a step without axes may be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Stage, label and axis values.
    pub whole: Name,
    /// Stage and label.
    pub label: Name,
    /// The stage.
    pub stage: Name,
}

/// All records of a store, by name.
#[derive(Debug, Default)]
pub struct Past {
    entries: Vec<u8>,
}

/// A record by what it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Took {
    /// Where the record is to be read.
    pub found: Found,
    /// How long it took.
    pub seconds: f64,
    /// The size of all it made.
    pub bytes: u64,
}

impl Names {
    /// Returns the names of a step.
    pub fn of<S: Display>(stage: &str, label: &str, point: &[(S, S)]) -> Self {
        let mut out = Encoder::default();
        let mut name = |parts: &[&str]| {
            out.begin("tlm past");
            parts.iter().for_each(|part| out.text(part));
            Name(out.digest().seed())
        };
        Self {
            whole: name(&[stage, &name_at(label, point)]),
            label: name(&[stage, label]),
            stage: name(&[stage]),
        }
    }

    /// Returns each of them once.
    pub fn each(self) -> impl Iterator<Item = Name> {
        let label = (self.label != self.whole).then_some(self.label);
        [self.whole, self.stage].into_iter().chain(label)
    }
}

impl Past {
    /// Reads the memo at a path, and what the log has behind it.
    pub(super) fn open(path: &Path, log: &File) -> io::Result<Self> {
        let known = read(path).filter(|(point, _)| point.is_on(log));
        let (from, entries) = known.unwrap_or_default();
        let mut past = Self { entries };
        let (point, _) = log::scan(log, from, |at, bytes| past.add_frame(at, bytes))?;
        if point.end - from.end > TAIL_BYTES {
            // A store that can only be read is searched all the same.
            let _ = atomic::write_derived(path, &past.encode(point));
        }
        Ok(past)
    }

    /// Returns whether the memo at a path says what its log says, or is not of this log, and so does not count.
    pub(super) fn is_right(path: &Path, log: &File) -> io::Result<bool> {
        let Some((end, entries)) = read(path) else { return Ok(false) };
        let mut past = Self::default();
        log::scan(log, Point::default(), |at, bytes| past.add_frame(at, bytes))?;
        Ok(!end.is_on(log) || past.entries.starts_with(&entries))
    }

    /// Adds the record of a frame; returns whether there is one.
    fn add_frame(&mut self, at: u64, bytes: &[u8]) -> bool {
        let record = Encoded::of(bytes).and_then(|record| record.decode());
        record.map(|record| self.add(at, &record)).is_some()
    }

    fn add(&mut self, at: u64, record: &Record) {
        let names = Names::of(&record.stage, &record.label, &record.point);
        let bytes: u64 = record.objects().map(|(_, bytes)| bytes).sum();
        let Names { whole, label, stage } = names;
        let seconds = record.seconds.to_bits();
        let entry = [at, whole.0, label.0, stage.0, seconds, bytes];
        self.entries.extend(entry.map(u64::to_le_bytes).as_flattened());
    }

    fn encode(&self, point: Point) -> Vec<u8> {
        sealed::seal(NAME, &[&point.encode()[..], &self.entries].concat())
    }

    /// Returns the latest records of these names, so many of each, the latest first.
    pub fn latest(
        &self,
        names: impl IntoIterator<Item = Name>,
        most: usize,
    ) -> FastMap<Name, Vec<Took>> {
        let mut found: FastMap<Name, Vec<Took>> =
            names.into_iter().map(|name| (name, Vec::new())).collect();
        let (entries, _) = self.entries.as_chunks::<ENTRY>();
        for entry in entries.iter().rev() {
            let (words, _) = entry.as_chunks();
            let word = |at: usize| u64::from_le_bytes(words[at]);
            let [whole, label, stage] = [1, 2, 3].map(|at| Name(word(at)));
            for name in (Names { whole, label, stage }).each() {
                if let Some(records) = found.get_mut(&name)
                    && records.len() < most
                {
                    records.push(Took {
                        found: Found { place: word(0) },
                        seconds: f64::from_bits(word(4)),
                        bytes: word(5),
                    });
                }
            }
        }
        found
    }
}

fn read(path: &Path) -> Option<(Point, Vec<u8>)> {
    let file = fs::read(path).ok()?;
    let (point, entries) = sealed::open(NAME, &file)?.split_first_chunk()?;
    entries.len().is_multiple_of(ENTRY).then(|| (Point::decode(point), entries.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::{Digest, Value};
    use crate::store::Store;

    fn record(label: &str, at: u32) -> Record {
        let key = |what: &str| Digest::of(format!("{what} {label} {at}").as_bytes());
        Record {
            recipe: key("recipe"),
            content: key("content"),
            stage: "train.run".to_owned(),
            label: label.to_owned(),
            point: vec![("seed".to_owned(), at.to_string())],
            outputs: BTreeMap::new(),
            // Some hundred of these are more than may lie behind the memo.
            manifest: Value::Str("x".repeat(1 << 10)),
            seconds: f64::from(at),
            finished_unix: 0,
            origin: BTreeMap::new(),
        }
    }

    /// Checks what a store tells of the latest records, whatever became of its memo.
    #[track_caller]
    fn check(root: &Path, label: &str, latest: &[f64]) {
        let store = Store::open(root).unwrap();
        let names = Names::of("train.run", label, &[("seed", "3")]);
        let found = store.past().latest(names.each(), 2);
        let seconds: Vec<_> = found[&names.label].iter().map(|took| took.seconds).collect();
        assert_eq!(seconds, latest);
        let own = store.read(found[&names.whole][0].found).unwrap();
        assert_eq!((&*own.label, own.seconds), (label, 3.0));
    }

    #[test]
    fn the_latest_of_a_name_are_found_in_the_memo_and_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let (root, memo) = (folder.path().join("store"), folder.path().join("store/index.past"));
        let write = |label: &str, numbers: std::ops::Range<u32>| {
            let store = Store::open(&root).unwrap();
            numbers.for_each(|at| store.record(&record(label, at)).unwrap());
        };
        write("r1", 0..5);
        check(&root, "r1", &[4.0, 3.0]);
        assert!(!memo.exists(), "so few are read each time");
        write("r2", 0..300);
        check(&root, "r2", &[299.0, 298.0]);
        assert!(memo.exists());
        write("r1", 7..9);
        check(&root, "r1", &[8.0, 7.0]);
    }

    #[test]
    fn a_memo_that_is_damaged_or_of_another_log_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let (root, memo) = (folder.path().join("store"), folder.path().join("store/index.past"));
        let write = |root: &Path, label: &str| {
            let store = Store::open(root).unwrap();
            (0..300).for_each(|at| store.record(&record(label, at)).unwrap());
            store.past();
        };
        write(&root, "r1");
        let whole = fs::read(&memo).unwrap();
        let mut bad = whole.clone();
        bad[100] ^= 1;
        let log = File::open(root.join("index")).unwrap();
        assert!(Past::is_right(&memo, &log).unwrap());
        for content in [&bad[..], &whole[..90], b""] {
            fs::write(&memo, content).unwrap();
            assert!(!Past::is_right(&memo, &log).unwrap());
            check(&root, "r1", &[299.0, 298.0]);
        }
        let (point, mut entries) = read(&memo).unwrap();
        entries[16] ^= 1;
        fs::write(&memo, Past { entries }.encode(point)).unwrap();
        assert!(!Past::is_right(&memo, &log).unwrap(), "whole, but wrong");
        let other = folder.path().join("other");
        write(&other, "r2");
        fs::copy(other.join("index.past"), &memo).unwrap();
        check(&root, "r1", &[299.0, 298.0]);
    }
}
