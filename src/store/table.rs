//! The table: where the log has which key, as one block of bytes that is read at once and searched as it lies.
//!
//! It is derived, and [`sealed`]. It says up to which point of the log it goes; one that is missing, damaged or of another
//! log is made again. Numbers are u32 LE, places u64 LE: the point (place and end of the last frame, its header), the
//! numbers of damaged records, keys, records and objects; then where each bucket of keys begins, the keys in order with
//! their records, the records' places with their first objects, and the objects' digests. Records and objects are counted
//! in the order of the log.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::Digest;
use crate::store::log::{HEADER, Point};
use crate::store::record::{DIGEST, Encoded, Output};
use crate::store::sealed;

const NAME: [u8; 8] = *b"tlmtable";

/// The bytes before the buckets.
const FRONT: usize = sealed::FRONT + 2 * 8 + HEADER + 4 * 4;
/// The bytes of a key with its record, and of a record.
const KEY: usize = DIGEST + 4;
const RECORD: usize = 8 + 4;

/// A table, which may be empty.
#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    damaged: u32,
    keys: u32,
    records: u32,
    objects: u32,
}

/// Records behind those of a table, which their numbers go on from.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last record under a key counts.
    keys: BTreeMap<Digest, u32>,
    /// Their places and first objects.
    records: Vec<(u64, u32)>,
    objects: Vec<Digest>,
}

impl Tail {
    /// Adds a record; returns false if the bytes are none.
    pub(super) fn push(&mut self, at: u64, bytes: &[u8]) -> bool {
        let record = Encoded::of(bytes);
        let Some((record, outputs)) = record.and_then(|record| Some((record, record.outputs()?)))
        else {
            return false;
        };
        let number = self.records.len() as u32;
        self.keys.insert(record.recipe, number);
        self.keys.insert(record.content, number);
        self.records.push((at, self.objects.len() as u32));
        self.objects.extend(outputs.values().filter_map(|output| match output {
            Output::Object { digest, .. } => Some(*digest),
            Output::Scalar(_) => None,
        }));
        true
    }

    pub(super) fn find(&self, key: &Digest) -> Option<u32> {
        self.keys.get(key).copied()
    }

    pub(super) fn place(&self, record: u32) -> u64 {
        self.records[record as usize].0
    }

    pub(super) fn objects(&self, record: u32) -> &[Digest] {
        let first = |record: usize| self.records.get(record).map(|(_, first)| *first as usize);
        let end = first(record as usize + 1).unwrap_or(self.objects.len());
        &self.objects[first(record as usize).unwrap_or(end)..end]
    }
}

impl Table {
    /// Returns a table without keys.
    pub(super) fn empty() -> Self {
        Self::make(Point::default(), Counts::default(), &[], &[], &[])
    }

    /// Takes the bytes of a table; none when they are damaged.
    pub(super) fn of(bytes: Vec<u8>) -> Option<Self> {
        sealed::open(NAME, &bytes)?;
        let counts = Counts::of(bytes.get(..FRONT)?);
        (bytes.len() == counts.end()).then_some(Self { bytes, counts })
    }

    /// Returns a table with the records of this one and of the tail behind it, up to a point.
    pub(super) fn extended(&self, tail: &Tail, point: Point, damaged: usize) -> Self {
        let old = self.counts;
        let keys = self.merged(tail);
        let mut records = self.bytes[old.records_at()..old.objects_at()].to_vec();
        for (at, first) in &tail.records {
            records.extend(at.to_le_bytes());
            records.extend((old.objects + first).to_le_bytes());
        }
        let mut objects = self.bytes[old.objects_at()..].to_vec();
        tail.objects.iter().for_each(|object| objects.extend(object.as_bytes()));
        let counts = Counts {
            damaged: damaged as u32,
            keys: (keys.len() / KEY) as u32,
            records: (records.len() / RECORD) as u32,
            objects: (objects.len() / DIGEST) as u32,
        };
        Self::make(point, counts, &keys, &records, &objects)
    }

    /// Returns the keys of this table and of a tail in order; of equal ones that of the tail.
    fn merged(&self, tail: &Tail) -> Vec<u8> {
        let mut old = self.slots(0..self.counts.keys).iter().peekable();
        let mut keys = Vec::with_capacity(KEY * (old.len() + tail.keys.len()));
        for (key, record) in &tail.keys {
            while let Some(slot) = old.next_if(|slot| slot[..DIGEST] <= key.as_bytes()[..]) {
                if slot[..DIGEST] != key.as_bytes()[..] {
                    keys.extend(slot);
                }
            }
            keys.extend(key.as_bytes());
            keys.extend((self.counts.records + record).to_le_bytes());
        }
        old.for_each(|slot| keys.extend(slot));
        keys
    }

    fn make(point: Point, counts: Counts, keys: &[u8], records: &[u8], objects: &[u8]) -> Self {
        let numbers = [counts.damaged, counts.keys, counts.records, counts.objects];
        let mut content = point.encode().to_vec();
        content.extend(numbers.map(u32::to_le_bytes).as_flattened());
        content.extend(starts(keys, counts).into_iter().flat_map(u32::to_le_bytes));
        [keys, records, objects].iter().for_each(|part| content.extend_from_slice(part));
        Self { bytes: sealed::seal(NAME, &content), counts }
    }

    /// Returns the bytes to write.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the table's own digest.
    pub(super) fn digest(&self) -> Digest {
        self.array(NAME.len()).into()
    }

    /// Returns how far the log is covered.
    pub(super) fn point(&self) -> Point {
        Point::decode(&self.array(sealed::FRONT))
    }

    /// Returns how many damaged records were left out.
    pub(super) fn damaged(&self) -> usize {
        self.counts.damaged as usize
    }

    /// Returns how many objects there are, the same ones each time.
    pub(super) fn object_count(&self) -> u32 {
        self.counts.objects
    }

    /// Returns the number of the last record under a key.
    pub(super) fn find(&self, key: &Digest) -> Option<u32> {
        let bucket = FRONT + 4 * self.counts.bucket(key.as_bytes());
        let slots = self.slots(self.number(bucket)..self.number(bucket + 4));
        let found = slots.binary_search_by(|slot| slot[..DIGEST].cmp(key.as_bytes())).ok()?;
        slots[found].last_chunk().map(|number| u32::from_le_bytes(*number))
    }

    /// Returns where a record lies in the log.
    pub(super) fn place(&self, record: u32) -> u64 {
        u64::from_le_bytes(self.array(self.counts.record_at(record)))
    }

    /// Returns the numbers of a record's objects.
    pub(super) fn objects(&self, record: u32) -> Range<u32> {
        let first = |record| match record == self.counts.records {
            true => self.counts.objects,
            false => self.number(self.counts.record_at(record) + 8),
        };
        first(record)..first(record + 1)
    }

    pub(super) fn object(&self, number: u32) -> Digest {
        self.array(self.counts.objects_at() + DIGEST * number as usize).into()
    }

    fn slots(&self, range: Range<u32>) -> &[[u8; KEY]] {
        let at = |number: u32| self.counts.keys_at() + KEY * number as usize;
        self.bytes[at(range.start)..at(range.end)].as_chunks().0
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.bytes[at..].first_chunk().expect("the length was checked")
    }
}

impl Counts {
    fn of(front: &[u8]) -> Self {
        let (numbers, _) = front[FRONT - 16..].as_chunks();
        let number = |at: usize| u32::from_le_bytes(numbers[at]);
        Self { damaged: number(0), keys: number(1), records: number(2), objects: number(3) }
    }

    /// Returns how many bits of a key name its bucket: about four keys share one.
    fn bits(self) -> u32 {
        (self.keys / 4).checked_ilog2().unwrap_or(0)
    }

    fn bucket(self, key: &[u8]) -> usize {
        let front = u64::from(u32::from_be_bytes([key[0], key[1], key[2], key[3]]));
        (front << self.bits() >> 32) as usize
    }

    fn keys_at(self) -> usize {
        FRONT + 4 * ((1 << self.bits()) + 1)
    }

    fn records_at(self) -> usize {
        self.keys_at() + KEY * self.keys as usize
    }

    fn record_at(self, record: u32) -> usize {
        self.records_at() + RECORD * record as usize
    }

    fn objects_at(self) -> usize {
        self.record_at(self.records)
    }

    fn end(self) -> usize {
        self.objects_at() + DIGEST * self.objects as usize
    }
}

/// Returns where each bucket of keys begins, and where the last one ends.
fn starts(keys: &[u8], counts: Counts) -> Vec<u32> {
    let mut starts = vec![0; (1 << counts.bits()) + 1];
    for slot in keys.chunks_exact(KEY) {
        starts[counts.bucket(slot) + 1] += 1;
    }
    let mut passed = 0;
    for start in &mut starts {
        passed += *start;
        *start = passed;
    }
    starts
}
