//! A dataset's sequences as tensors.

use std::path::Path;

use tch::{Device, Tensor};
use tlm::data::Dataset;
use tlm::data::dataset::Documents;
use tlm::stage::StageError;

use crate::nn::runtime::fault;

/// Sequences of equal length, `[sequences, length]` each.
pub(crate) struct Rows {
    pub(crate) ids: Tensor,
    /// The token that comes after each.
    pub(crate) targets: Tensor,
    /// For each token the place in its sequence of the first one that it sees, if that isn't the first of all.
    pub(crate) starts: Option<Vec<u32>>,
}

/// A packed dataset, or a view of one.
pub(crate) struct Sequences {
    data: Dataset,
    /// Where documents start, if tokens see only their own.
    documents: Option<Documents>,
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
        Ok(Self { data, documents: None, count, length, vocab })
    }

    /// The same with each token seeing its own document only.
    pub(crate) fn by_document(mut self) -> Result<Self, StageError> {
        self.documents = Some(self.data.documents()?);
        Ok(self)
    }

    /// Returns what they are of.
    pub(crate) fn dataset(&self) -> &Dataset {
        &self.data
    }

    /// Returns sequences.
    pub(crate) fn batch(&self, indices: &[u64], device: Device) -> Result<Rows, StageError> {
        let length = self.length as usize;
        let mut ids = Vec::with_capacity(indices.len() * (length + 1));
        let mut starts = Vec::new();
        for &index in indices {
            self.data.sequence(index as usize, &mut ids)?;
            if let Some(documents) = &self.documents {
                let first = self.data.sequence_id(index as usize) as usize * length;
                documents.starts(first..first + length, &mut starts);
            }
        }
        let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
        let size = [indices.len() as i64, length as i64 + 1];
        let rows = Tensor::f_from_slice(&ids)
            .and_then(|ids| ids.f_view(size)?.f_to_device(device))
            .map_err(fault)?;
        let part = |start| rows.f_narrow(1, start, length as i64)?.f_contiguous();
        Ok(Rows {
            ids: part(0).map_err(fault)?,
            targets: part(1).map_err(fault)?,
            starts: self.documents.as_ref().map(|_| starts),
        })
    }
}
