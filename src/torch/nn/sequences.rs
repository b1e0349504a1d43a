//! A dataset's sequences as tensors, and the shuffled order in which training takes them.

use std::path::Path;

use tch::{Device, Tensor};
use tlm::data::Dataset;
use tlm::data::mix::splitmix;
use tlm::stage::StageError;

use crate::nn::runtime::fault;

/// A packed dataset, or a view of one.
pub(crate) struct Sequences {
    data: Dataset,
    /// Sequences.
    pub(crate) count: u64,
    /// Tokens a sequence trains.
    pub(crate) length: u64,
    /// Size of the vocabulary the ids are from.
    pub(crate) vocab: i64,
}

impl Sequences {
    /// Opens a dataset's folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, StageError> {
        let data = Dataset::open(folder)?;
        let meta = data.meta();
        let (count, length, vocab) = (meta.sequences, meta.seq, meta.vocab as i64);
        Ok(Self { data, count, length, vocab })
    }

    /// Returns sequences as inputs and targets, `[sequences, length]` each.
    pub(crate) fn batch(
        &self,
        indices: &[u64],
        device: Device,
    ) -> Result<(Tensor, Tensor), StageError> {
        let mut ids = Vec::with_capacity(indices.len() * (self.length as usize + 1));
        for &index in indices {
            self.data.sequence(index as usize, &mut ids)?;
        }
        let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
        let length = self.length as i64;
        let rows = Tensor::f_from_slice(&ids)
            .and_then(|ids| ids.f_view([indices.len() as i64, length + 1])?.f_to_device(device))
            .map_err(fault)?;
        let part = |start| rows.f_narrow(1, start, length)?.f_contiguous();
        Ok((part(0).map_err(fault)?, part(1).map_err(fault)?))
    }
}

/// Returns which sequence comes at a position of endless shuffled passes over `count` sequences.
pub(crate) fn shuffled(position: u64, count: u64, seed: u64) -> u64 {
    let key = splitmix(seed ^ splitmix(position / count));
    let half = (64 - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half) - 1;
    let mut value = position % count;
    // A Feistel network permutes the power of four above `count`; walking on until inside permutes `count`.
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..6 {
            let next = left ^ (splitmix(key ^ (round << 56) ^ right) & mask);
            (left, right) = (right, next);
        }
        value = left << half | right;
        if value < count {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shuffled;

    #[test]
    fn each_pass_has_every_sequence_once_in_its_own_order() {
        for count in [1, 2, 3, 7, 64, 1000] {
            let pass = |epoch: u64| -> Vec<u64> {
                (0..count).map(|i| shuffled(epoch * count + i, count, 7)).collect()
            };
            let mut first = pass(0);
            assert!(count < 7 || first != pass(1), "{count}");
            first.sort_unstable();
            assert_eq!(first, (0..count).collect::<Vec<_>>());
        }
    }
}
