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
}

impl State {
    fn new(counted: usize) -> Self {
        Self { words: Words::new(), counts: vec![0; counted], ids: Vec::new() }
    }

    /// Computes the ids of a new word, hands them to a sink, and keeps them if the word is likely to come again.
    ///
    /// # Errors
    /// That of `compute`.
    pub(super) fn keep<E>(
        &mut self,
        key: Key,
        word: &[u8],
        sink: &mut impl Sink,
        compute: impl FnOnce(&mut Vec<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut ids = std::mem::take(&mut self.ids);
        ids.clear();
        compute(&mut ids)?;
        if Words::keeps(word) {
            if self.words.is_full() {
                self.words.clear(&mut self.counts);
            }
            let slot = self.words.add(key, word, &ids);
            sink.word(self, slot);
        } else {
            sink.ids(self, &ids);
        }
        self.ids = ids;
        Ok(())
    }
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
