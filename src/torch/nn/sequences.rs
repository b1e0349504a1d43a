//! A dataset's sequences as tensors.

use std::path::Path;

use tch::{Device, Tensor};
use tlm::data::Dataset;
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
