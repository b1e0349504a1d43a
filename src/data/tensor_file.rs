//! A file of named tensors that others wrote: safetensors, or what `torch.save` makes of a state dict.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::data::error::DataError;
use crate::data::mapped::Mapped;
use crate::data::{safetensors, torch_file};

/// How a tensor's numbers are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Eight bytes each.
    F64,
    /// Four bytes each.
    F32,
    /// Two bytes each, IEEE's half precision.
    F16,
    /// Two bytes each, the upper half of an F32.
    Bf16,
    /// Something that no weights are stored as, by the format's own name.
    Other(String),
}

impl Numbers {
    /// Returns the bytes of one number; none for what is not known.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(_) => None,
        }
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// How its numbers are stored.
    pub numbers: Numbers,
    /// Its sizes, the one that varies slowest first.
    pub shape: Vec<u64>,
    /// Where its numbers, or those it is a view of, lie in the file.
    pub(crate) place: Range<usize>,
    /// Where they lie apart: the first one, and the distance of neighbours in each dimension, in numbers.
    pub(crate) view: Option<(usize, Vec<usize>)>,
}

/// A mapped file of tensors.
#[derive(Debug)]
pub struct TensorFile {
    map: Mapped,
    tensors: BTreeMap<String, StoredTensor>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Maps a safetensors file.
    ///
    /// # Errors
    /// When its header is larger than 100 MB, damaged, or means other bytes than there are.
    pub fn open_safetensors(path: &Path) -> Result<Self, DataError> {
        let map = Mapped::open(path)?;
        let (tensors, metadata) = safetensors::parse(&map)?;
        Ok(Self { map, tensors, metadata })
    }

    /// Maps a file of `torch.save` with a state dict in it.
    ///
    /// # Errors
    /// When it is of another kind or of PyTorch before 1.6, truncated or damaged, or holds anything but tensors.
    pub fn open_torch(path: &Path) -> Result<Self, DataError> {
        let map = Mapped::open(path)?;
        let tensors = torch_file::parse(&map)?;
        Ok(Self { map, tensors, metadata: BTreeMap::new() })
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// Returns the tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// Returns what a safetensors file says besides its tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns the bytes of one of its tensors, row after row.
    pub fn bytes(&self, tensor: &StoredTensor) -> Cow<'_, [u8]> {
        let stored = &self.map.bytes()[tensor.place.clone()];
        match (&tensor.view, tensor.numbers.size()) {
            (Some((first, strides)), Some(size)) => {
                Cow::Owned(gathered(stored, size, &tensor.shape, *first, strides))
            }
            _ => Cow::Borrowed(stored),
        }
    }
}

/// Returns the numbers of a view, each of `size` bytes, in order.
fn gathered(stored: &[u8], size: usize, shape: &[u64], first: usize, strides: &[usize]) -> Vec<u8> {
    let count = shape.iter().product::<u64>() as usize;
    let mut out = Vec::with_capacity(count * size);
    let (mut index, mut at) = (vec![0; shape.len()], first);
    for _ in 0..count {
        out.extend(&stored[at * size..][..size]);
        // Counts up like an odometer, the last dimension first.
        for ((place, &extent), &stride) in index.iter_mut().zip(shape).zip(strides).rev() {
            *place += 1;
            at += stride;
            if *place < extent {
                break;
            }
            at -= stride * extent as usize;
            *place = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests;
