//! What threads that encode remember, and what is done with ids.

use std::sync::{Mutex, PoisonError};

use crate::data::tokenizer::words::{Key, Slot, Words};

/// What a thread that encodes remembers.
pub(super) struct State {
    pub(super) words: Words,
    /// How often each id came, where ids are only counted.
    counts: Vec<u64>,
    /// Kept for its memory.
    pub(super) ids: Vec<u32>,
    /// The characters that `ByteLevel` has for bytes.
    pub(super) chars: [char; 256],
}

impl State {
    fn new(counted: usize) -> Self {
        Self { words: Words::new(), counts: vec![0; counted], ids: Vec::new(), chars: byte_chars() }
    }

    /// Hands the ids of a new word to a sink, and keeps them if the word is likely to come again.
    pub(super) fn keep(&mut self, key: Key, word: &[u8], ids: &[u32], sink: &mut impl Sink) {
        if !Words::keeps(word) {
            return sink.ids(self, ids);
        }
        if self.words.is_full() {
            self.words.clear(&mut self.counts);
        }
        let slot = self.words.add(key, word, ids);
        sink.word(self, slot);
    }
}

/// Returns the characters that `ByteLevel` has for bytes: printable ones of Latin-1 as they are, the others from U+0100.
fn byte_chars() -> [char; 256] {
    let mut others = '\u{100}'..;
    let mut chars = ['\0'; 256];
    for byte in 0..=255u8 {
        let is_kept = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
        let other = if is_kept { None } else { others.next() };
        chars[usize::from(byte)] = other.unwrap_or(char::from(byte));
    }
    chars
}

/// States that threads take and bring back.
pub(super) struct States {
    states: Mutex<Vec<State>>,
    counted: usize,
}

impl States {
    /// Returns states that count ids below `counted`.
    pub(super) fn new(counted: usize) -> Self {
        Self { states: Mutex::default(), counted }
    }

    /// Calls a function with a state that no other thread has meanwhile.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let taken = self.states.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut state = taken.unwrap_or_else(|| State::new(self.counted));
        let result = work(&mut state);
        self.states.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        result
    }

    /// Returns how often each id came.
    pub(super) fn into_counts(self) -> Vec<u64> {
        let mut sum = vec![0; self.counted];
        for mut state in self.states.into_inner().unwrap_or_else(PoisonError::into_inner) {
            state.words.clear(&mut state.counts);
            sum.iter_mut().zip(&state.counts).for_each(|(sum, count)| *sum += count);
        }
        sum
    }
}

/// What is done with ids: a vector gets them appended.
pub(super) trait Sink {
    fn word(&mut self, state: &mut State, slot: Slot);
    fn ids(&mut self, state: &mut State, ids: &[u32]);
}

impl Sink for Vec<u32> {
    #[inline]
    fn word(&mut self, state: &mut State, slot: Slot) {
        state.words.append(slot, self);
    }

    fn ids(&mut self, _: &mut State, ids: &[u32]) {
        self.extend_from_slice(ids);
    }
}

/// They are only counted.
pub(super) struct Count;

impl Sink for Count {
    #[inline]
    fn word(&mut self, state: &mut State, slot: Slot) {
        state.words.count(slot);
    }

    fn ids(&mut self, state: &mut State, ids: &[u32]) {
        ids.iter().for_each(|&id| state.counts[id as usize] += 1);
    }
}
