//! Characters of a byte-level vocabulary that are one symbol before merging begins.
//!
//! Merges make most characters of several bytes from these bytes. A character may begin as one symbol where nothing else can
//! happen to its bytes first: no merge joins some of them only with a neighbour, and all merges that make it come before those
//! that it is part of.

use std::collections::HashMap;

use crate::base::FastMap;
use crate::data::tokenizer::spelling::char_bytes;
use crate::data::tokenizer::split::char_len;

/// Characters that are looked up; all others stay bytes.
const KNOWN: usize = 0x1_0000;
const OTHER: Char = Char { id: 0, start: u32::MAX, end: u32::MAX };

/// A character.
#[derive(Clone, Copy)]
struct Char {
    /// The id of its symbol plus one; 0 when it stays bytes.
    id: u32,
    /// The torn merges that may be at its start and at its end: a bit for some of them.
    start: u32,
    end: u32,
}

/// The symbols that words of bytes begin as.
pub(super) struct Chars {
    /// By byte: the id of its symbol plus one; 0 when it has none.
    bytes: [u32; 256],
    chars: Vec<Char>,
}

impl Chars {
    /// Returns the symbols of a vocabulary, of which some pieces are characters. `one` returns the id of what the symbols of a
    /// character's bytes become, if merges make one of them before they join it with another.
    pub(super) fn new<'m>(
        bytes: [u32; 256],
        pieces: impl Iterator<Item = &'m str>,
        merges: impl Iterator<Item = (&'m str, &'m str)>,
        one: impl Fn(&mut [u32]) -> Option<u32>,
    ) -> Self {
        let of_char = char_bytes();
        let torn = Torn::new(&of_char, merges);
        let mut chars = vec![OTHER; KNOWN];
        for piece in pieces.filter(|piece| piece.chars().nth(4).is_none()) {
            let utf8 = piece.chars().map(|char| of_char.get(&char).copied());
            let Some(utf8) = utf8.collect::<Option<Vec<u8>>>() else { continue };
            let Some(known) = only_char(&utf8).and_then(|char| chars.get_mut(char as usize)) else {
                continue;
            };
            let symbols = utf8.iter().map(|&byte| bytes[usize::from(byte)].checked_sub(1));
            let id = symbols.collect::<Option<Vec<_>>>().and_then(|mut symbols| one(&mut symbols));
            let (start, end) = torn.around(&utf8);
            *known = Char { id: id.map_or(0, |id| id + 1), start, end };
        }
        Self { bytes, chars }
    }

    /// Appends the symbols that a word begins as to `out`; returns false when one of its bytes has none.
    pub(super) fn begin(&self, word: &str, out: &mut Vec<u32>) -> bool {
        let mut is_known = true;
        let mut push_bytes = |char: char, out: &mut Vec<u32>| {
            for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                let id = self.bytes[usize::from(byte)];
                is_known &= id != 0;
                out.push(id.wrapping_sub(1));
            }
        };
        let (mut left, mut left_char, mut is_one) = (Char { end: 0, ..OTHER }, '\0', false);
        for char in word.chars() {
            let right = self.chars.get(char as usize).copied().unwrap_or(OTHER);
            let is_torn = left.end & right.start != 0;
            if is_torn && is_one {
                out.pop();
                push_bytes(left_char, out);
            }
            is_one = !is_torn && right.id != 0;
            match is_one {
                true => out.push(right.id - 1),
                false => push_bytes(char, out),
            }
            (left, left_char) = (right, char);
        }
        is_known
    }
}

/// Merges that join two characters and have only some bytes of one of them: a bit for some, by the bytes that they have.
struct Torn {
    ends: HashMap<u32, u32>,
    starts: HashMap<u32, u32>,
}

impl Torn {
    fn new<'m>(
        of_char: &FastMap<char, u8>,
        merges: impl Iterator<Item = (&'m str, &'m str)>,
    ) -> Self {
        let byte = |char: char| of_char.get(&char).copied();
        let (mut ends, mut starts) = (HashMap::new(), HashMap::new());
        for (left, right) in merges {
            let mut first: Vec<u8> = right.chars().take(4).map_while(byte).collect();
            let mut last: Vec<u8> = left.chars().rev().take(4).map_while(byte).collect();
            if first.first().is_none_or(|&byte| is_inside(byte)) {
                continue;
            }
            first.truncate(char_len(first[0]));
            let start = last.iter().position(|&byte| !is_inside(byte));
            last.truncate(start.map_or(last.len(), |at| at + 1));
            last.reverse();
            if !is_whole(&last) || !is_whole(&first) {
                let bit = 1 << (code(&first).wrapping_mul(0x9e37_79b9) >> 27);
                *ends.entry(code(&last)).or_default() |= bit;
                *starts.entry(code(&first)).or_default() |= bit;
            }
        }
        Self { ends, starts }
    }

    /// Returns the merges that may be at the start of a character and at its end.
    fn around(&self, char: &[u8]) -> (u32, u32) {
        let bits =
            |of: &HashMap<u32, u32>, bytes: &[u8]| of.get(&code(bytes)).copied().unwrap_or(0);
        (1..=char.len()).fold((0, 0), |(start, end), len| {
            let last = &char[char.len() - len..];
            (start | bits(&self.starts, &char[..len]), end | bits(&self.ends, last))
        })
    }
}

fn only_char(utf8: &[u8]) -> Option<char> {
    let mut chars = str::from_utf8(utf8).ok()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Returns whether a byte is one of a character but not its first.
fn is_inside(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

fn is_whole(char: &[u8]) -> bool {
    char.first().is_some_and(|&first| !is_inside(first) && char_len(first) == char.len())
}

/// Returns up to four bytes as a number. Only the character 0 has a byte 0.
fn code(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |code, &byte| code << 8 | u32::from(byte))
}
