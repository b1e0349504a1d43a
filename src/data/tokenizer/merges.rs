//! Byte-pair merging of one word, as the `BPE` model of `tokenizers` does it for the common options, and where text falls into words
//! that merges never cross.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::data::tokenizer::chars::Chars;
use crate::data::tokenizer::files::merge_parts;
use crate::data::tokenizer::spelling::{MARK, byte_chars, byte_piece};

/// Symbols of the longest word that is merged here: the time grows with the square of their number.
const LONGEST: usize = 512;
/// Symbols of words that are merged without asking for memory.
const SHORT: usize = 32;
/// No merge.
const NONE: u32 = u32::MAX;

/// An open-addressing table from pairs of numbers to a number. It is small, since most of its time goes into memory.
pub(super) struct Pairs {
    /// The pair and the number, each in as many bits as follows, or all bits for an empty slot.
    entries: Vec<u64>,
    /// Bits that say whether a pair may be there; small enough for a processor's cache.
    filter: Vec<u64>,
    shift: u32,
}

/// Bits of each number of a pair, and of the number that it has.
const KEY_BITS: u32 = 21;
const VALUE_BITS: u32 = 22;
const EMPTY: u64 = u64::MAX;
/// The filter has this many bits for a slot, as a power of two.
const FILTER_BITS: u32 = 2;

impl Pairs {
    /// Returns the table; `None` if it can't hold so many or so large numbers.
    fn new(pairs: impl ExactSizeIterator<Item = ((u32, u32), u32)>) -> Option<Self> {
        let slots = (pairs.len() * 4 / 3).next_power_of_two().max(64);
        let mut table = Self {
            entries: vec![EMPTY; slots],
            filter: vec![0; (slots << FILTER_BITS) / 64],
            shift: 64 - slots.ilog2(),
        };
        for ((left, right), value) in pairs {
            if left.max(right) >> KEY_BITS != 0 || value >= (1 << VALUE_BITS) - 1 {
                return None;
            }
            let hash = Self::hash(left, right);
            let (bit, at) = (table.bit(hash), table.slot(hash, left, right));
            table.filter[bit / 64] |= 1 << (bit % 64);
            table.entries[at] = Self::key(left, right) << VALUE_BITS | u64::from(value);
        }
        Some(table)
    }

    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << KEY_BITS | u64::from(right)
    }

    fn hash(left: u32, right: u32) -> u64 {
        let mixed = Self::key(left, right).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xd1b5_4a32_d192_ed03)
    }

    fn bit(&self, hash: u64) -> usize {
        (hash >> (self.shift - FILTER_BITS)) as usize
    }

    fn slot(&self, hash: u64, left: u32, right: u32) -> usize {
        let key = Self::key(left, right);
        let mut at = (hash >> self.shift) as usize;
        while self.entries[at] >> VALUE_BITS != key && self.entries[at] != EMPTY {
            at = (at + 1) & (self.entries.len() - 1);
        }
        at
    }

    /// Returns the number of a pair, or `NONE`.
    #[inline]
    fn get(&self, left: u32, right: u32) -> u32 {
        let hash = Self::hash(left, right);
        let bit = self.bit(hash);
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return NONE;
        }
        match self.entries[self.slot(hash, left, right)] {
            EMPTY => NONE,
            entry => entry as u32 & ((1 << VALUE_BITS) - 1),
        }
    }
}

/// What the characters of pieces stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// Themselves.
    Chars,
    /// Themselves, and `MARK` also for a blank.
    Marked,
    /// Bytes, as `ByteLevel` has it.
    Bytes,
}

/// What `merges` of a model says, and which symbols a word is made of at first.
pub(super) struct Merges {
    /// The rank of the merge of two ids.
    pairs: Pairs,
    /// By rank: the new id.
    merged: Vec<u32>,
    /// By character: its id plus one, or 0.
    symbols: Vec<u32>,
    /// Ids of the bytes of a character without one; `None` where the model says something else of such.
    bytes: Option<Vec<u32>>,
    /// What words begin as, of an alphabet of bytes.
    chars: Option<Chars>,
    /// Characters that some merge joins, the last of its left part and the first of its right part; not of an alphabet of bytes.
    neighbours: Pairs,
    /// The same by first bytes.
    neighbour_bytes: Vec<[bool; 256]>,
    /// Whether characters without an id are parted from their neighbours: they become bytes that no merge has.
    parts_unknown: bool,
    alphabet: Alphabet,
}

impl Merges {
    /// Returns the merges of a model; `None` when it is of another type, or has options that change how words are merged.
    pub(super) fn new(model: &Value, alphabet: Alphabet) -> Option<Self> {
        let empty = |name: &str| model[name].as_str().is_none_or(str::is_empty);
        let is_plain = empty("continuing_subword_prefix")
            && empty("end_of_word_suffix")
            && model["dropout"].as_f64().is_none_or(|p| p == 0.0);
        if !is_plain {
            return None;
        }
        let vocab = model["vocab"].as_object()?.iter();
        let ids =
            vocab.map(|(piece, id)| Some((piece.as_str(), u32::try_from(id.as_u64()?).ok()?)));
        let ids: HashMap<&str, u32> = ids.collect::<Option<_>>()?;
        let bytes = (0..=255u8).map(|byte| ids.get(byte_piece(byte).as_str()).copied());
        let bytes = model["byte_fallback"].as_bool().unwrap_or(false).then(|| bytes.collect());
        let mut merges = Self {
            pairs: Pairs::new([].into_iter())?,
            merged: Vec::new(),
            symbols: symbols(model)?,
            bytes: bytes.flatten(),
            chars: None,
            neighbours: Pairs::new([].into_iter())?,
            neighbour_bytes: vec![[false; 256]; 256],
            parts_unknown: false,
            alphabet,
        };
        merges.read(model["merges"].as_array()?, &ids)?;
        Some(merges)
    }

    fn read(&mut self, list: &[Value], ids: &HashMap<&str, u32>) -> Option<()> {
        let parts: Vec<(&str, &str)> = list.iter().map(merge_parts).collect::<Option<_>>()?;
        let (mut pairs, mut whole) = (Vec::new(), String::new());
        let is_byte: HashSet<u32> = self.bytes.iter().flatten().copied().collect();
        self.parts_unknown = self.bytes.is_some();
        for &(left, right) in &parts {
            let (first, second) = (*ids.get(left)?, *ids.get(right)?);
            whole.clear();
            whole.extend([left, right]);
            self.merged.push(*ids.get(whole.as_str())?);
            pairs.push((first, second));
            self.parts_unknown &= !is_byte.contains(&first) && !is_byte.contains(&second);
        }
        self.pairs = Pairs::new(pairs.iter().copied().zip(0..u32::MAX))?;
        if self.alphabet == Alphabet::Bytes {
            self.chars = Some(self.read_chars(ids, &parts, &pairs));
            return Some(());
        }
        let neighbours = parts.iter().map(|(left, right)| self.neighbour_chars(left, right));
        let neighbours = neighbours.collect::<Option<Vec<_>>>()?;
        self.neighbours = Pairs::new(neighbours.into_iter().map(|pair| (pair, 0)))?;
        if !self.parts_unknown {
            self.join_unknown_bytes();
        }
        Some(())
    }

    fn read_chars(
        &self,
        ids: &HashMap<&str, u32>,
        parts: &[(&str, &str)],
        pairs: &[(u32, u32)],
    ) -> Chars {
        let mut first_use = HashMap::new();
        for (&(left, right), rank) in pairs.iter().zip(0..) {
            first_use.entry(left).or_insert(rank);
            first_use.entry(right).or_insert(rank);
        }
        let bytes = byte_chars().map(|char| self.symbols[char as usize]);
        Chars::new(bytes, ids.keys().copied(), parts.iter().copied(), |symbols| {
            let (len, ranks) = self.merge(symbols);
            let comes_first = first_use.get(&symbols[0]).is_none_or(|&rank| ranks <= rank);
            (len == 1 && comes_first).then_some(symbols[0])
        })
    }

    fn neighbour_chars(&mut self, left: &str, right: &str) -> Option<(u32, u32)> {
        let (left, right) = (left.chars().next_back()?, right.chars().next()?);
        let marked = self.alphabet == Alphabet::Marked;
        for left in first_bytes(left, marked) {
            first_bytes(right, marked).for_each(|right| self.neighbour_bytes[left][right] = true);
        }
        Some((left as u32, right as u32))
    }

    fn join_unknown_bytes(&mut self) {
        let known = |byte: usize| {
            let marked = byte == 0x20 && self.alphabet == Alphabet::Marked;
            let char = if marked { MARK } else { char::from(byte as u8) };
            byte < 0x80 && self.symbols[char as usize] != 0
        };
        let known: Vec<bool> = (0..256).map(known).collect();
        for (left, row) in self.neighbour_bytes.iter_mut().enumerate() {
            row.iter_mut()
                .zip(&known)
                .for_each(|(joined, right)| *joined |= !known[left] || !right);
        }
    }

    /// Returns whether a merge may join two characters of a text. Where it may not, both sides have the ids that they have by
    /// themselves. Blanks are as they are in the text.
    #[inline]
    pub(super) fn join(&self, left: char, right: char) -> bool {
        if left.is_ascii() && right.is_ascii() {
            return self.neighbour_bytes[left as usize][right as usize];
        }
        self.join_others(left, right)
    }

    fn join_others(&self, left: char, right: char) -> bool {
        let of_piece =
            |char| if char == ' ' && self.alphabet == Alphabet::Marked { MARK } else { char };
        let (left, right) = (of_piece(left) as u32, of_piece(right) as u32);
        let unknown = |char: u32| self.symbols[char as usize] == 0;
        self.neighbours.get(left, right) != NONE
            || !self.parts_unknown && (unknown(left) || unknown(right))
    }

    /// Returns the same by first bytes: whether any two characters that begin with these may be joined.
    pub(super) fn join_bytes(&self, left: u8, right: u8) -> bool {
        self.neighbour_bytes[usize::from(left)][usize::from(right)]
    }

    /// Appends the ids of a word of an alphabet of bytes to `out`; returns false when it has a byte that the model is to be asked
    /// about, or too many symbols.
    pub(super) fn encode_bytes(&self, word: &str, out: &mut Vec<u32>) -> bool {
        let start = out.len();
        let is_known = self.chars.as_ref().is_some_and(|chars| chars.begin(word, out));
        self.end(start, is_known, out)
    }

    /// Appends the ids of a word to `out`; returns false when it has a character that the model is to be asked about, or too
    /// many.
    pub(super) fn encode(&self, word: impl Iterator<Item = char>, out: &mut Vec<u32>) -> bool {
        let start = out.len();
        for char in word {
            match (self.symbols[char as usize], &self.bytes) {
                (0, Some(bytes)) => {
                    let mut utf8 = [0; 4];
                    let utf8 = char.encode_utf8(&mut utf8).bytes();
                    out.extend(utf8.map(|byte| bytes[usize::from(byte)]));
                }
                (0, None) => {
                    out.truncate(start);
                    return false;
                }
                (id, _) => out.push(id - 1),
            }
        }
        self.end(start, true, out)
    }

    /// Merges what `out` has from `start` on, or removes it.
    fn end(&self, start: usize, is_known: bool, out: &mut Vec<u32>) -> bool {
        let can = is_known && out.len() - start <= LONGEST;
        let len = if can { self.merge(&mut out[start..]).0 } else { 0 };
        out.truncate(start + len);
        can
    }

    /// Merges symbols in place, the pair of the smallest rank first, the leftmost of these. Returns how many are left, and one
    /// more than the largest rank.
    fn merge(&self, symbols: &mut [u32]) -> (usize, u32) {
        match symbols.len() {
            ..=SHORT => self.merge_ranked(symbols, &mut [NONE; SHORT]),
            len => self.merge_ranked(symbols, &mut vec![NONE; len]),
        }
    }

    fn merge_ranked(&self, symbols: &mut [u32], ranked: &mut [u32]) -> (usize, u32) {
        let (mut len, mut ranks) = (symbols.len(), 0);
        for at in 1..len {
            ranked[at - 1] = self.pairs.get(symbols[at - 1], symbols[at]);
        }
        while len > 1 {
            let best = ranked[..len - 1].iter().fold(NONE, |best, &rank| best.min(rank));
            let at = ranked[..len - 1].iter().position(|&rank| rank == best);
            let Some(at) = at.filter(|_| best != NONE) else { break };
            ranks = ranks.max(best + 1);
            symbols[at] = self.merged[best as usize];
            symbols.copy_within(at + 2..len, at + 1);
            ranked.copy_within(at + 1..len - 1, at);
            len -= 1;
            if at > 0 {
                ranked[at - 1] = self.pairs.get(symbols[at - 1], symbols[at]);
            }
            if at + 1 < len {
                ranked[at] = self.pairs.get(symbols[at], symbols[at + 1]);
            }
        }
        (len, ranks)
    }
}

/// Returns, by character, the id of the piece that is this character plus one, or 0.
fn symbols(model: &Value) -> Option<Vec<u32>> {
    let mut symbols = vec![0; char::MAX as usize + 1];
    for (piece, id) in model["vocab"].as_object()? {
        let mut chars = piece.chars();
        if let (Some(only), None) = (chars.next(), chars.next()) {
            symbols[only as usize] = u32::try_from(id.as_u64()? + 1).ok()?;
        }
    }
    Some(symbols)
}

/// Returns the bytes that a character of a piece may begin with in a text.
fn first_bytes(char: char, marked: bool) -> impl Iterator<Item = usize> {
    let first = usize::from(char.encode_utf8(&mut [0; 4]).as_bytes()[0]);
    [first].into_iter().chain((marked && char == MARK).then_some(0x20))
}
