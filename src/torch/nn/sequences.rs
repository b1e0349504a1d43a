//! A dataset's sequences as tensors, and the shuffled order in which training takes them.

use std::fs;
use std::path::Path;

use memmap2::Mmap;
use serde::Deserialize;
use tch::{Device, TchError, Tensor};
use tlm::stage::StageError;

use crate::nn::weights::map_file;

/// A packed dataset, or a view of one.
pub(crate) struct Sequences {
    tokens: Mmap,
    /// Which sequences of the base the view has.
    chosen: Option<Mmap>,
    wide: bool,
    /// Sequences.
    pub(crate) count: u64,
    /// Tokens a sequence trains.
    pub(crate) length: u64,
    /// Size of the vocabulary the ids are from.
    pub(crate) vocab: i64,
}

#[derive(Deserialize)]
struct Meta {
    seq: u64,
    vocab: i64,
    dtype: String,
    sequences: u64,
}

impl Sequences {
    /// Opens a dataset's folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, StageError> {
        let path = folder.join("meta.json");
        let text = fs::read_to_string(&path).map_err(|e| StageError::io("read", &path, &e))?;
        let meta: Meta = serde_json::from_str(&text).map_err(|error| {
            StageError::input(format!("`{}` does not describe a dataset: {error}", path.display()))
        })?;
        let wide = meta.dtype != "u16";
        let tokens = map_file(&folder.join(if wide { "tokens.u32" } else { "tokens.u16" }))?;
        let view = folder.join("sequences.u64");
        let chosen =
            if view.exists() && meta.sequences > 0 { Some(map_file(&view)?) } else { None };
        let all = Self {
            tokens,
            chosen,
            wide,
            count: meta.sequences,
            length: meta.seq,
            vocab: meta.vocab,
        };
        if all.fits() {
            return Ok(all);
        }
        Err(StageError::input(format!("dataset `{}` is not whole", folder.display())))
    }

    /// Returns whether every sequence lies inside the tokens.
    fn fits(&self) -> bool {
        let stored = (self.tokens.len() / if self.wide { 4 } else { 2 }) as u64;
        let chosen = self.chosen.as_ref().map(|ids| (ids.len() / 8) as u64);
        chosen.is_none_or(|ids| ids >= self.count)
            && (0..self.count)
                .map(|index| self.base(index))
                .max()
                .is_none_or(|last| (last + 1).saturating_mul(self.length) < stored)
    }

    fn base(&self, index: u64) -> u64 {
        match &self.chosen {
            None => index,
            Some(ids) => {
                let at = index as usize * 8;
                u64::from_le_bytes(ids[at..at + 8].try_into().expect("eight bytes"))
            }
        }
    }

    /// Returns sequences as inputs and targets, `[sequences, length]` each.
    pub(crate) fn batch(
        &self,
        indices: &[u64],
        device: Device,
    ) -> Result<(Tensor, Tensor), TchError> {
        let mut ids: Vec<i64> = Vec::with_capacity(indices.len() * (self.length as usize + 1));
        for &index in indices {
            let start = self.base(index) * self.length;
            ids.extend((start..=start + self.length).map(|at| self.token(at as usize)));
        }
        let length = self.length as i64;
        let ids = Tensor::f_from_slice(&ids)?
            .f_view([indices.len() as i64, length + 1])?
            .f_to_device(device)?;
        Ok((
            ids.f_narrow(1, 0, length)?.f_contiguous()?,
            ids.f_narrow(1, 1, length)?.f_contiguous()?,
        ))
    }

    fn token(&self, at: usize) -> i64 {
        if self.wide {
            let four = &self.tokens[at * 4..at * 4 + 4];
            i64::from(u32::from_le_bytes(four.try_into().expect("four bytes")))
        } else {
            let two = &self.tokens[at * 2..at * 2 + 2];
            i64::from(u16::from_le_bytes(two.try_into().expect("two bytes")))
        }
    }
}

/// Returns which sequence comes at a position of endless shuffled passes over `count` sequences.
pub(crate) fn shuffled(position: u64, count: u64, seed: u64) -> u64 {
    let key = mix(seed ^ mix(position / count));
    let half = (64 - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half) - 1;
    let mut value = position % count;
    // A Feistel network permutes the power of four above `count`; walking on until inside permutes `count`.
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..6 {
            let next = left ^ (mix(key ^ (round << 56) ^ right) & mask);
            (left, right) = (right, next);
        }
        value = left << half | right;
        if value < count {
            return value;
        }
    }
}

/// Returns a well-mixed function of a number (splitmix64's finaliser).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
