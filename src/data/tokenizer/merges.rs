//! Byte-pair merging of one word, as the `BPE` model of `tokenizers` does it for the common options, and where text falls into words
//! that merges never cross.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Symbols of the longest word that is merged here: the time grows with the square of their number.
const LONGEST: usize = 256;
/// No merge.
const NONE: u64 = u64::MAX;

/// An open-addressing table from pairs of numbers to a number other than `NONE`.
pub(super) struct Pairs {
    entries: Vec<(u64, u64)>,
    shift: u32,
}

impl Pairs {
    fn new(pairs: &[((u32, u32), u64)]) -> Self {
        let slots = (pairs.len() * 2).next_power_of_two().max(2);
        let mut table = Self { entries: vec![(NONE, NONE); slots], shift: 64 - slots.ilog2() };
        for &((left, right), value) in pairs {
            let at = table.slot(left, right);
            table.entries[at] = (Self::key(left, right), value);
        }
        table
    }

    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << 32 | u64::from(right)
    }

    #[inline]
    fn slot(&self, left: u32, right: u32) -> usize {
        let key = Self::key(left, right);
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.entries[at].0 != key && self.entries[at].0 != NONE {
            at = (at + 1) & (self.entries.len() - 1);
        }
        at
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> u64 {
        self.entries[self.slot(left, right)].1
    }
}

/// What stands for a blank in the pieces of SentencePiece.
pub(super) const MARK: char = '\u{2581}';

/// What `merges` of a model says, and which symbols a word is made of at first.
pub(super) struct Merges {
    /// Rank and new id, in one number so that the smallest has the smallest rank.
    pairs: Pairs,
    /// By character: its id plus one, or 0.
    symbols: Vec<u32>,
    /// Ids of the bytes of a character without one; `None` where the model says something else of such.
    bytes: Option<Vec<u32>>,
    /// Characters that some merge joins, the last of its left part and the first of its right part.
    neighbours: Pairs,
    /// The same by first bytes.
    neighbour_bytes: Vec<[bool; 256]>,
    /// Whether characters without an id are parted from their neighbours: they become bytes that no merge has.
    parts_unknown: bool,
    marked: bool,
}

impl Merges {
    /// Returns the merges of a model whose text has blanks as they are or, if `marked`, as `MARK`; `None` when the model is of
    /// another type, or has options that change how words are merged.
    pub(super) fn new(model: &Value, marked: bool) -> Option<Self> {
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
        let bytes = (0..=255u8).map(|byte| ids.get(format!("<0x{byte:02X}>").as_str()).copied());
        let bytes = model["byte_fallback"].as_bool().unwrap_or(false).then(|| bytes.collect());
        let mut merges = Self {
            pairs: Pairs::new(&[]),
            symbols: symbols(model)?,
            bytes: bytes.flatten(),
            neighbours: Pairs::new(&[]),
            neighbour_bytes: vec![[false; 256]; 256],
            parts_unknown: false,
            marked,
        };
        merges.read(model["merges"].as_array()?, &ids)?;
        Some(merges)
    }

    fn read(&mut self, list: &[Value], ids: &HashMap<&str, u32>) -> Option<()> {
        let marked = self.marked;
        let (mut pairs, mut neighbours) = (Vec::new(), Vec::new());
        let is_byte: HashSet<u32> = self.bytes.iter().flatten().copied().collect();
        self.parts_unknown = self.bytes.is_some();
        for (rank, merge) in list.iter().enumerate() {
            let (left, right) = parts(merge)?;
            let (first, second) = (*ids.get(left)?, *ids.get(right)?);
            let merged = *ids.get([left, right].concat().as_str())?;
            pairs.push(((first, second), (rank as u64) << 32 | u64::from(merged)));
            neighbours.push((left.chars().next_back()?, right.chars().next()?));
            self.parts_unknown &= !is_byte.contains(&first) && !is_byte.contains(&second);
        }
        self.pairs = Pairs::new(&pairs);
        for &(left, right) in &neighbours {
            for left in first_bytes(left, marked) {
                first_bytes(right, marked)
                    .for_each(|right| self.neighbour_bytes[left][right] = true);
            }
        }
        if !self.parts_unknown {
            let known = |byte: usize| {
                let char = if byte == 0x20 && marked { MARK } else { byte as u8 as char };
                byte < 0x80 && self.symbols[char as usize] != 0
            };
            let known: Vec<bool> = (0..256).map(known).collect();
            for (left, row) in self.neighbour_bytes.iter_mut().enumerate() {
                row.iter_mut()
                    .zip(&known)
                    .for_each(|(joined, right)| *joined |= !known[left] || !right);
            }
        }
        let numbers = |(left, right): (char, char)| ((left as u32, right as u32), 0);
        self.neighbours = Pairs::new(&neighbours.into_iter().map(numbers).collect::<Vec<_>>());
        Some(())
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
        let of_piece = |char| if char == ' ' && self.marked { MARK } else { char };
        let (left, right) = (of_piece(left) as u32, of_piece(right) as u32);
        let unknown = |char: u32| self.symbols[char as usize] == 0;
        self.neighbours.get(left, right) != NONE
            || !self.parts_unknown && (unknown(left) || unknown(right))
    }

    /// Returns the same by first bytes: whether any two characters that begin with these may be joined.
    pub(super) fn join_bytes(&self, left: u8, right: u8) -> bool {
        self.neighbour_bytes[usize::from(left)][usize::from(right)]
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
            if out.len() - start > LONGEST {
                out.truncate(start);
                return false;
            }
        }
        let len = self.merge(&mut out[start..]);
        out.truncate(start + len);
        true
    }

    /// Merges symbols in place, the pair of the smallest rank first, the leftmost of these; returns how many are left.
    fn merge(&self, symbols: &mut [u32]) -> usize {
        let mut len = symbols.len();
        let mut ranked = [NONE; LONGEST];
        for at in 1..len {
            ranked[at - 1] = self.pairs.get(symbols[at - 1], symbols[at]);
        }
        while len > 1 {
            let best = ranked[..len - 1].iter().fold(NONE, |best, &rank| best.min(rank));
            let at = ranked[..len - 1].iter().position(|&rank| rank == best);
            let Some(at) = at.filter(|_| best != NONE) else { break };
            symbols[at] = best as u32;
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
        len
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

fn parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(both) => both.split_once(' '),
        Value::Array(both) => Some((both.first()?.as_str()?, both.get(1)?.as_str()?)),
        _ => None,
    }
}
