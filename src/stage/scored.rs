//! A dataset with the losses of its units.

use std::ops::Range;
use std::path::Path;

use crate::data::dataset::Documents;
use crate::data::losses::Unit;
use crate::data::{Dataset, Losses};
use crate::stage::{Context, StageError};

/// What is drawn from.
pub(super) struct Scored {
    pub(super) data: Dataset,
    pub(super) losses: Losses,
    units: Units,
}

enum Units {
    /// So many sequences each, but for the last.
    Sequences(usize),
    Documents(Documents),
}

impl Scored {
    /// Opens inputs `data` and `losses`.
    pub(super) fn open(context: &Context) -> Result<Self, StageError> {
        Self::of(context.input("data"), context.input("losses"))
    }

    /// Opens a dataset and the losses of its units.
    pub(super) fn of(data: &Path, losses: &Path) -> Result<Self, StageError> {
        let (data, losses) = (Dataset::open(data)?, Losses::open(losses)?);
        let meta = losses.meta();
        let (units, count) = match meta.unit {
            Unit::Sequence => (Units::Sequences(1), data.len()),
            Unit::Batch => {
                let size = meta.batch as usize;
                (Units::Sequences(size), data.len().div_ceil(size))
            }
            Unit::Document => {
                let documents = data.documents()?;
                let count = documents.len();
                (Units::Documents(documents), count)
            }
        };
        let scored = match () {
            () if count != losses.len() => {
                format!("are of {} units, but the dataset has {count}", losses.len())
            }
            () if meta.seq != data.meta().seq => {
                format!("are of sequences of {}, but the dataset's have {}", meta.seq, data.seq())
            }
            () => return Ok(Self { data, losses, units }),
        };
        Err(of_another(&scored))
    }

    /// Checks that there are not more parts than units.
    pub(super) fn check_parts(&self, parts: u64) -> Result<(), StageError> {
        let units = self.len();
        if parts <= units.max(1) as u64 {
            return Ok(());
        }
        Err(StageError::input(format!("`parts` is {parts}, but there are {units} units"))
            .help("make fewer parts"))
    }

    /// Returns the error of losses that are of another number of tokens than the dataset's sequences train.
    pub(super) fn check_tokens(&self, tokens: u64) -> Result<(), StageError> {
        let trained = self.data.meta().sequences * self.data.meta().seq;
        if tokens == trained {
            return Ok(());
        }
        Err(of_another(&format!("are of {tokens} tokens, but the dataset trains {trained}")))
    }

    /// Returns the number of units.
    pub(super) fn len(&self) -> usize {
        self.losses.len()
    }

    /// Returns the documents, if they are the units.
    pub(super) fn documents(&self) -> Option<&Documents> {
        match &self.units {
            Units::Sequences(_) => None,
            Units::Documents(documents) => Some(documents),
        }
    }

    /// Returns which of the dataset's sequences a unit is; none of a document.
    pub(super) fn sequences(&self, unit: usize) -> Range<usize> {
        match self.units {
            Units::Sequences(size) => unit * size..self.data.len().min((unit + 1) * size),
            Units::Documents(_) => 0..0,
        }
    }

    /// Returns the id of a unit: its first sequence's, or the document's number.
    pub(super) fn id(&self, unit: usize) -> u64 {
        match self.units {
            Units::Sequences(size) => self.data.sequence_id(unit * size),
            Units::Documents(_) => unit as u64,
        }
    }

    /// Returns what was drawn from this dataset, in rising order: ids of sequences, or numbers of documents.
    pub(super) fn drawn(&self, drawn: &Dataset) -> Result<Vec<u64>, StageError> {
        let mut ids: Vec<u64> = match (&self.units, drawn.drawn()?) {
            (Units::Documents(_), Some(numbers)) => numbers.iter().collect(),
            (Units::Sequences(_), _) if drawn.is_view() => {
                (0..drawn.len()).map(|index| drawn.sequence_id(index)).collect()
            }
            _ => return Err(not_drawn()),
        };
        ids.sort_unstable();
        Ok(ids)
    }

    /// Returns an error if `drawn` is not of the units that were found in it.
    pub(super) fn check_drawn(&self, drawn: &[u64], units: u64) -> Result<(), StageError> {
        let drawn = drawn.len() as u64;
        let fits = match self.units {
            Units::Documents(_) => drawn == units,
            // The last unit may be smaller.
            Units::Sequences(size) => drawn.div_ceil(size as u64) == units,
        };
        if fits { Ok(()) } else { Err(not_drawn()) }
    }

    /// Returns the error of a unit whose key is not finite.
    pub(super) fn not_finite(&self, unit: usize) -> StageError {
        if self.losses.loss(unit).is_some_and(f64::is_finite) {
            return StageError::input(format!(
                "the loss of unit {unit}, divided by the temperature, is not a finite number"
            ))
            .help("raise `temperature`; `by: top` takes the units with the largest losses");
        }
        self.losses.not_finite(unit).into()
    }
}

fn not_drawn() -> StageError {
    StageError::input("`drawn` was not drawn from `data` by units of these losses")
        .help("give what `rounds.resample` made of the same `data` and `losses`")
}

fn of_another(what: &str) -> StageError {
    StageError::input(format!("the losses {what}"))
        .help("score the same dataset that is drawn from")
}
