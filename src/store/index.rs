//! The index: finds records in the log by their keys.
//!
//! What is far back in the log is found by the table, what came since by having been read. A record is checked when it is
//! read; if the table turns out to be wrong, or the log damaged, the whole log is read again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Digest, in_chunks};
use crate::store::log::{self, Point};
use crate::store::past::Past;
use crate::store::presence::Presence;
use crate::store::record::Encoded;
use crate::store::table::{Table, Tail};
use crate::store::{Output, Record, atomic, object_path};

/// How much of the log may lie behind the table before the table is made anew.
const TAIL_BYTES: u64 = 256 << 10;

/// All records by both keys; the last one under a key counts.
#[derive(Debug)]
pub(super) struct Index {
    root: PathBuf,
    /// None while there is none on disk.
    log: Option<File>,
    table: Table,
    tail: Tail,
    /// How far the log has been read.
    point: Point,
    damaged: usize,
    /// Opened when it is first needed.
    presence: Option<Presence>,
    /// How much of the log may lie behind the table.
    tail_bytes: u64,
}

/// Where the last record under a key is found, by its number there.
#[derive(Clone, Copy)]
enum Slot {
    Tail(u32),
    Table(u32),
}

impl Index {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        Self::with_tail(root, TAIL_BYTES)
    }

    /// Opens an index that is only read.
    pub(super) fn open_only(root: &Path) -> io::Result<Self> {
        Self::with_tail(root, u64::MAX)
    }

    fn with_tail(root: &Path, tail_bytes: u64) -> io::Result<Self> {
        let table = fs::read(table_path(root)).ok().and_then(Table::of);
        let table = table.unwrap_or_else(Table::empty);
        let mut index = Self {
            root: root.to_owned(),
            log: None,
            tail: Tail::default(),
            point: table.point(),
            damaged: table.damaged(),
            presence: None,
            tail_bytes,
            table,
        };
        index.refresh()?;
        index.fold();
        Ok(index)
    }

    /// Reads what other processes appended.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        match File::open(path(&self.root)) {
            Ok(log) => {
                self.go_on(&log)?;
                self.log = Some(log);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns where the last record under a key lies, without reading it, if its objects are there or were when that was
    /// first asked.
    pub(super) fn find(&mut self, key: Digest) -> Option<u64> {
        let slot = self.slot(&key)?;
        self.is_whole(slot).then(|| self.place_of(slot))
    }

    /// The same for many keys, without the places.
    pub(super) fn find_all(&mut self, keys: &[Digest]) -> Vec<bool> {
        // So that it was looked at before all of them, wherever they are found.
        self.open_presence();
        let slots = |keys: &[Digest]| keys.iter().map(|key| self.slot(key)).collect::<Vec<_>>();
        let slots = in_chunks(keys, slots).into_iter().flatten();
        slots.map(|slot| slot.is_some_and(|slot| self.is_whole(slot))).collect()
    }

    fn slot(&self, key: &Digest) -> Option<Slot> {
        let in_tail = self.tail.find(key).map(Slot::Tail);
        in_tail.or_else(|| self.table.find(key).map(Slot::Table))
    }

    /// Returns whether all objects of a record are there.
    fn is_whole(&mut self, slot: Slot) -> bool {
        match slot {
            Slot::Tail(record) => {
                let mut objects = self.tail.objects(record).iter();
                objects.all(|object| object_path(&self.root, *object).exists())
            }
            Slot::Table(record) => {
                self.open_presence();
                let Some(presence) = &mut self.presence else { return false };
                self.table.objects(record).all(|object| presence.is_there(object, &self.table))
            }
        }
    }

    fn open_presence(&mut self) {
        self.presence.get_or_insert_with(|| Presence::open(&self.root, &self.table));
    }

    /// Returns how far the log was read, and the folders of objects, encoded, as they were before any were looked for; none
    /// while none were.
    pub(super) fn seen(&self) -> Option<(Point, Vec<u8>)> {
        Some((self.point, self.presence.as_ref()?.folders().encode()))
    }

    fn place_of(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Tail(record) => self.tail.place(record),
            Slot::Table(record) => self.table.place(record),
        }
    }

    /// Reads the last record under a key.
    pub(super) fn get(&mut self, key: Digest) -> Option<Record> {
        let place = self.place(key)?;
        let found =
            self.read(place).filter(|record| [record.recipe, record.content].contains(&key));
        found.or_else(|| {
            self.distrust();
            let place = self.place(key)?;
            self.read(place)
        })
    }

    fn place(&self, key: Digest) -> Option<u64> {
        self.slot(&key).map(|slot| self.place_of(slot))
    }

    /// Reads the record at a place; after damage, what is found next is what the log has.
    pub(super) fn read_at(&mut self, place: u64) -> Option<Record> {
        let found = self.read(place);
        if found.is_none() {
            self.distrust();
        }
        found
    }

    /// Reads the record at a place; none when it is damaged.
    pub(super) fn read(&self, place: u64) -> Option<Record> {
        let bytes = log::read(self.log.as_ref()?, place).ok()??;
        Encoded::of(&bytes)?.decode()
    }

    /// Reads what the last record under a key has made; none when it is damaged.
    pub(super) fn outputs(&self, key: &Digest) -> Option<BTreeMap<String, Output>> {
        let bytes = log::read(self.log.as_ref()?, self.place(*key)?).ok()??;
        let record = Encoded::of(&bytes)?;
        [record.recipe, record.content].contains(key).then(|| record.outputs())?
    }

    /// Returns what the records are called and what they took.
    pub(super) fn past(&self) -> io::Result<Past> {
        let past = self.log.as_ref().map(|log| Past::open(&past_path(&self.root), log));
        past.unwrap_or_else(|| Ok(Past::default()))
    }

    /// Reads the whole log: all records, oldest first, and how many were damaged.
    pub(super) fn read_all(&self) -> (Vec<Arc<Record>>, usize) {
        let mut records = Vec::new();
        let each = |_, bytes: &[u8]| {
            let record = Encoded::of(bytes).and_then(|record| record.decode());
            let is_one = record.is_some();
            records.extend(record.map(Arc::new));
            is_one
        };
        let scanned = self.log.as_ref().map(|log| log::scan(log, Point::default(), each));
        let damaged = scanned.and_then(Result::ok).map_or(self.damaged, |(_, gaps)| gaps.len());
        (records, damaged)
    }

    /// Appends a record durably.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        let encoded = record.encode();
        let path = path(&self.root);
        let log = atomic::open_locked(&path)?;
        self.go_on(&log)?;
        let (frame, next) = self.point.frame(&encoded)?;
        atomic::append(&log, &path, self.point.end, &frame)?;
        self.tail.push(self.point.end, &encoded);
        self.point = next;
        // The locked one unlocks when it is closed, and the one before may have been replaced.
        self.log = Some(File::open(&path)?);
        Ok(())
    }

    /// Writes the log anew with the records that stay, and without what is damaged.
    pub(super) fn rewrite(&mut self, stays: impl Fn(&Record) -> bool) -> io::Result<()> {
        let path = path(&self.root);
        let _lock = atomic::open_locked(&path)?;
        self.refresh()?;
        let (mut bytes, mut point) = (Vec::new(), Point::default());
        for record in self.read_all().0.iter().filter(|record| stays(record)) {
            let (frame, next) = point.frame(&record.encode())?;
            bytes.extend(frame);
            point = next;
        }
        atomic::write(&path, &bytes)?;
        self.distrust();
        Ok(())
    }

    /// Remembers which objects are there.
    pub(super) fn keep_presence(&mut self) -> io::Result<()> {
        self.presence.as_mut().map_or(Ok(()), Presence::keep)
    }

    /// Reads on in the log, or from its start if it is another one.
    fn go_on(&mut self, log: &File) -> io::Result<()> {
        if !self.point.is_on(log) {
            self.forget();
        }
        let tail = &mut self.tail;
        let (point, gaps) = log::scan(log, self.point, |at, bytes| tail.push(at, bytes))?;
        self.point = point;
        self.damaged += gaps.len();
        Ok(())
    }

    fn forget(&mut self) {
        self.log = None;
        self.table = Table::empty();
        self.tail = Tail::default();
        self.point = Point::default();
        self.damaged = 0;
        self.presence = None;
    }

    /// Reads the log from its start.
    fn distrust(&mut self) {
        self.forget();
        // If that fails, nothing is found: steps run again.
        if self.refresh().is_ok() {
            self.fold();
        }
    }

    /// Makes the table anew when much lies behind it.
    fn fold(&mut self) {
        if self.point.end - self.table.point().end <= self.tail_bytes {
            return;
        }
        let mut presence = Presence::open(&self.root, &self.table);
        self.table = self.table.extended(&self.tail, self.point, self.damaged);
        self.tail = Tail::default();
        presence.extend(&self.table);
        // A store that can only be read is searched all the same.
        let _ = atomic::write_derived(&table_path(&self.root), self.table.bytes())
            .and_then(|()| presence.keep());
        self.presence = Some(presence);
    }
}

/// Returns where the log of a store lies.
pub(super) fn path(root: &Path) -> PathBuf {
    root.join("index")
}

/// Returns where the table of a store lies.
pub(super) fn table_path(root: &Path) -> PathBuf {
    root.join("index.table")
}

/// Returns where a store remembers what its records are called and took.
pub(super) fn past_path(root: &Path) -> PathBuf {
    root.join("index.past")
}

#[cfg(test)]
mod tests;
