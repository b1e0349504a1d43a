//! Which ids each word has and how often it came: a table that forgets everything when it is full.

use std::ops::{Range, RangeInclusive};

/// Slots that a table begins with, and has at most: 16 MiB.
const SLOTS: Range<usize> = 1 << 12..1 << 19;
/// Bytes of long words and numbers of ids that are kept at most.
const KEPT: usize = 8 << 20;
/// Words of more bytes are seldom seen again.
const LONGEST: usize = 128;
/// What characters of Han and Kana begin with, whose words are not parted: what is not short is a clause, which is seldom seen again either.
const CLAUSES: RangeInclusive<u8> = 0xe3..=0xe9;
/// Bytes that fit into a slot.
const SHORT: usize = 15;
/// Marks the key of a word that does not, and the value of a word with another number of ids than one.
const LONG: u128 = 0xff << 120;
/// The lowest bytes of a key, by how many.
const MASKS: [u128; SHORT + 1] = {
    let (mut masks, mut len) = ([0; SHORT + 1], 1);
    while len <= SHORT {
        masks[len] = masks[len - 1] << 8 | 0xff;
        len += 1;
    }
    masks
};
const SEVERAL: u64 = 1 << 63;

/// A place in the table, valid until the next word is added.
#[derive(Clone, Copy)]
pub(super) struct Slot(usize);

/// What a word is looked up by.
#[derive(Clone, Copy)]
pub(super) struct Key {
    /// The bytes of a short word and their number; of a long one `LONG`, half of its hash, and what `Words` fills in.
    packed: u128,
    hash: u64,
}

impl Key {
    /// Returns the key of a range of bytes, which must not be empty.
    #[inline]
    pub(super) fn of(bytes: &[u8], range: Range<usize>) -> Self {
        let len = range.len();
        if len > SHORT {
            let hash = hash_long(&bytes[range]);
            return Self { packed: LONG | u128::from(hash >> 32) << 64, hash };
        }
        let around = match bytes.get(range.start..range.start + 16).map(TryInto::try_into) {
            Some(Ok(sixteen)) => u128::from_le_bytes(sixteen),
            _ => {
                let mut padded = [0; 16];
                padded[..len].copy_from_slice(&bytes[range]);
                u128::from_le_bytes(padded)
            }
        };
        let packed = around & MASKS[len] | (len as u128) << 120;
        Self { packed, hash: mix(packed as u64, (packed >> 64) as u64) }
    }
}

#[inline]
fn mix(low: u64, high: u64) -> u64 {
    let product =
        u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xd1b5_4a32_d192_ed03);
    product as u64 ^ (product >> 64) as u64
}

fn hash_long(word: &[u8]) -> u64 {
    let (eights, rest) = word.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let begin = mix(word.len() as u64, u64::from_le_bytes(last));
    eights.iter().fold(begin, |hash, &eight| mix(hash, u64::from_le_bytes(eight)))
}

/// Aligned so that none lies across two lines of a processor's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Entry {
    key: u128,
    /// The id, or `SEVERAL`, their number and where they begin in `ids`.
    value: u64,
    count: u64,
}

/// The table.
pub(super) struct Words {
    entries: Vec<Entry>,
    used: usize,
    ids: Vec<u32>,
    long: Vec<u8>,
}

impl Words {
    pub(super) fn new() -> Self {
        let entries = vec![Entry::default(); SLOTS.start];
        Self { entries, used: 0, ids: Vec::new(), long: Vec::new() }
    }

    /// Returns where a word is.
    #[inline]
    pub(super) fn find(&self, key: Key, word: &[u8]) -> Option<Slot> {
        let mut at = self.first(key.hash);
        loop {
            let entry = &self.entries[at];
            if entry.key == key.packed
                || word.len() > SHORT
                    && entry.key >> 64 == key.packed >> 64
                    && self.long_word(entry.key) == word
            {
                return Some(Slot(at));
            }
            if entry.key == 0 {
                return None;
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
    }

    fn first(&self, hash: u64) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    fn long_word(&self, key: u128) -> &[u8] {
        &self.long[(key as u64 >> 32) as usize..][..key as u32 as usize]
    }

    /// Returns whether a word is worth keeping.
    #[inline]
    pub(super) fn keeps(word: &[u8]) -> bool {
        word.len() <= SHORT || word.len() <= LONGEST && !CLAUSES.contains(&word[word.len() - 3])
    }

    /// Returns whether there is no room for another word.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() == SLOTS.end && self.is_dense()
            || self.ids.len() > KEPT / size_of::<u32>()
            || self.long.len() > KEPT
    }

    fn is_dense(&self) -> bool {
        self.used > self.entries.len() / 8 * 5
    }

    /// Adds a word that is not there.
    pub(super) fn add(&mut self, key: Key, word: &[u8], ids: &[u32]) -> Slot {
        if self.is_dense() {
            self.grow();
        }
        let mut packed = key.packed;
        if word.len() > SHORT {
            packed |= (self.long.len() as u128) << 32 | word.len() as u128;
            self.long.extend_from_slice(word);
        }
        let value = match *ids {
            [id] => u64::from(id),
            _ => {
                let start = self.ids.len() as u64;
                self.ids.extend_from_slice(ids);
                SEVERAL | (ids.len() as u64) << 32 | start
            }
        };
        self.used += 1;
        self.put(key.hash, Entry { key: packed, value, count: 0 })
    }

    fn put(&mut self, hash: u64, entry: Entry) -> Slot {
        let mut at = self.first(hash);
        while self.entries[at].key != 0 {
            at = (at + 1) & (self.entries.len() - 1);
        }
        self.entries[at] = entry;
        Slot(at)
    }

    fn grow(&mut self) {
        let larger = vec![Entry::default(); self.entries.len() * 4];
        for entry in std::mem::replace(&mut self.entries, larger) {
            if entry.key != 0 {
                let hash = match entry.key & LONG == LONG {
                    true => hash_long(self.long_word(entry.key)),
                    false => mix(entry.key as u64, (entry.key >> 64) as u64),
                };
                self.put(hash, entry);
            }
        }
    }

    /// Appends the ids of a word.
    #[inline]
    pub(super) fn append(&self, slot: Slot, out: &mut Vec<u32>) {
        let value = self.entries[slot.0].value;
        if value & SEVERAL == 0 {
            out.push(value as u32);
        } else {
            out.extend_from_slice(self.several(value));
        }
    }

    fn several(&self, value: u64) -> &[u32] {
        &self.ids[value as u32 as usize..][..(value >> 32) as usize & 0x7fff_ffff]
    }

    /// Notes that a word came.
    #[inline]
    pub(super) fn count(&mut self, slot: Slot) {
        self.entries[slot.0].count += 1;
    }

    /// Adds up how often each id came and forgets all words.
    pub(super) fn clear(&mut self, counts: &mut [u64]) {
        for entry in std::mem::replace(&mut self.entries, vec![Entry::default(); SLOTS.start]) {
            if entry.count > 0 {
                let one = [entry.value as u32];
                let ids = match entry.value & SEVERAL {
                    0 => &one,
                    _ => self.several(entry.value),
                };
                ids.iter().for_each(|&id| counts[id as usize] += entry.count);
            }
        }
        (self.used, self.ids, self.long) = (0, Vec::new(), Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_lengths_are_found_with_their_ids_and_counted() {
        let text: String = ('a'..='z').cycle().take(LONGEST + 26).collect();
        let words: Vec<_> =
            (1..=LONGEST).flat_map(|len| (0..26).map(move |at| at..at + len)).collect();
        let mut table = Words::new();
        let ids = |word: &Range<usize>| vec![word.len() as u32; word.start % 4];
        let mut counts = vec![0; LONGEST + 1];
        for round in 0..2 {
            for range in &words {
                let (word, key) =
                    (&text.as_bytes()[range.clone()], Key::of(text.as_bytes(), range.clone()));
                assert_eq!(table.find(key, word).is_some(), round == 1);
                let slot =
                    table.find(key, word).unwrap_or_else(|| table.add(key, word, &ids(range)));
                table.count(slot);
                let mut out = Vec::new();
                table.append(slot, &mut out);
                assert_eq!(out, ids(range));
            }
        }
        table.clear(&mut counts);
        let expected = 2 * (0..26).map(|start| start % 4).sum::<u64>();
        assert_eq!(counts[1..], vec![expected; LONGEST]);
    }
}
