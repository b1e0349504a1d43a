//! `Losses`: per unit of a dataset, the sum of negative log-likelihoods (`nll.f64`) and the tokens (`tokens.u32`).

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::array::{Array, ArrayWriter};
use crate::data::dataset::{read_json, write_json};
use crate::data::error::DataError;
use crate::data::order::scaled;

/// Units that are read before the memory they take is let go of.
const BLOCK: usize = 1 << 18;

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A sequence.
    Sequence,
    /// `batch` sequences that follow one another; the last unit may have fewer.
    Batch,
    /// A document: of the tokens that the scored sequences train, those that are its own. It may have none.
    Document,
}

/// `meta.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossesMeta {
    /// What a unit is.
    pub unit: Unit,
    /// Sequences in a unit of kind [`Unit::Batch`]; 1 for others.
    pub batch: u64,
    /// Units.
    pub units: u64,
    /// The dataset's sequence length.
    pub seq: u64,
}

/// Mapped losses. Unit `i` is the `i`-th of the dataset that was scored.
#[derive(Debug)]
pub struct Losses {
    meta: LossesMeta,
    nll: Array<f64>,
    tokens: Array<u32>,
}

impl Losses {
    /// Maps a losses folder.
    ///
    /// # Errors
    /// When a file can't be mapped or sizes don't fit.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let meta: LossesMeta = read_json(&folder.join("meta.json"))?;
        let nll = Array::<f64>::open(&folder.join("nll.f64"))?;
        let tokens = Array::<u32>::open(&folder.join("tokens.u32"))?;
        for (path, len) in [(nll.path(), nll.len()), (tokens.path(), tokens.len())] {
            if len as u64 != meta.units {
                let message =
                    format!("has {len} entries, but `meta.json` says {} units", meta.units);
                return Err(DataError::invalid(path, message));
            }
        }
        if meta.batch == 0 {
            return Err(DataError::invalid(&folder.join("meta.json"), "`batch` must not be 0"));
        }
        Ok(Self { meta, nll, tokens })
    }

    /// Returns sum and number of the losses of some units' tokens.
    ///
    /// # Errors
    /// When a loss is no finite number.
    ///
    /// # Panics
    /// When there are not so many units.
    pub fn sum(&self, units: Range<usize>) -> Result<(f64, u64), DataError> {
        let (mut sum, mut tokens) = (0.0, 0);
        for start in units.clone().step_by(BLOCK) {
            let block = start..units.end.min(start + BLOCK);
            for unit in block.clone() {
                if self.loss(unit).is_some_and(|loss| !loss.is_finite()) {
                    return Err(self.not_finite(unit));
                }
                sum += self.nll.get(unit);
                tokens += u64::from(self.tokens.get(unit));
            }
            self.release(block);
        }
        Ok((sum, tokens))
    }

    /// Returns the mean in nats per token, zero when there is none.
    ///
    /// # Errors
    /// When a loss is no finite number.
    pub fn mean(&self) -> Result<f64, DataError> {
        let (sum, tokens) = self.sum(0..self.len())?;
        Ok(if tokens == 0 { 0.0 } else { sum / tokens as f64 })
    }

    /// Returns the description.
    pub fn meta(&self) -> &LossesMeta {
        &self.meta
    }

    /// Returns the number of units.
    pub fn len(&self) -> usize {
        self.nll.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the units of one of `parts` equal stretches, counted from zero.
    pub fn part(&self, part: u64, parts: u64) -> Range<usize> {
        let cut = |part| scaled(self.meta.units, part, parts) as usize;
        cut(part)..cut(part + 1)
    }

    /// Returns the tokens of a unit.
    ///
    /// # Panics
    /// When there is no such unit.
    #[inline]
    pub fn tokens(&self, unit: usize) -> u32 {
        self.tokens.get(unit)
    }

    /// Returns the summed losses of a unit's tokens, in nats.
    ///
    /// # Panics
    /// When there is no such unit.
    pub fn nll(&self, unit: usize) -> f64 {
        self.nll.get(unit)
    }

    /// Returns the loss of a unit in nats per token, which may not be finite; none of a unit without tokens.
    ///
    /// # Panics
    /// When there is no such unit.
    #[inline]
    pub fn loss(&self, unit: usize) -> Option<f64> {
        let tokens = self.tokens.get(unit);
        (tokens > 0).then(|| self.nll.get(unit) / f64::from(tokens))
    }

    /// Returns the error of a unit whose loss is not finite.
    pub fn not_finite(&self, unit: usize) -> DataError {
        let loss = self.loss(unit).unwrap_or_default();
        let message = format!("the loss of unit {unit} is not a finite number ({loss})");
        DataError::invalid(self.nll.path(), message).help(
            "the model that scored it has diverged; train it with a lower `lr` or a smaller `clip`",
        )
    }

    /// Lets go of the memory that some units take.
    pub fn release(&self, units: Range<usize>) {
        self.nll.release(units.clone());
        self.tokens.release(units);
    }
}

/// Writes losses, unit by unit.
#[derive(Debug)]
pub struct LossesWriter {
    folder: PathBuf,
    meta: LossesMeta,
    nll: ArrayWriter<f64>,
    tokens: ArrayWriter<u32>,
    sum: (f64, u64),
}

impl LossesWriter {
    /// Creates the files in a folder that exists.
    ///
    /// # Errors
    /// When a file can't be created.
    pub fn create(folder: &Path, unit: Unit, batch: u64, seq: u64) -> Result<Self, DataError> {
        Ok(Self {
            folder: folder.to_owned(),
            meta: LossesMeta { unit, batch, units: 0, seq },
            nll: ArrayWriter::create(folder.join("nll.f64"))?,
            tokens: ArrayWriter::create(folder.join("tokens.u32"))?,
            sum: (0.0, 0),
        })
    }

    /// Appends a unit.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn push(&mut self, nll: f64, tokens: u32) -> Result<(), DataError> {
        self.meta.units += 1;
        self.sum = (self.sum.0 + nll, self.sum.1 + u64::from(tokens));
        self.nll.push(nll)?;
        self.tokens.push(tokens)
    }

    /// Writes out what is buffered; returns the mean in nats per token, zero when there is none.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(self) -> Result<f64, DataError> {
        self.nll.finish()?;
        self.tokens.finish()?;
        write_json(&self.folder.join("meta.json"), &self.meta)?;
        Ok(if self.sum.1 == 0 { 0.0 } else { self.sum.0 / self.sum.1 as f64 })
    }
}
