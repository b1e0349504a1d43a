//! `Counts`: `counts.u64` holds how often each token id occurs.

use std::path::Path;

use crate::data::array::{Array, write_array};
use crate::data::error::DataError;

/// Reads the counts, one for each id of the tokenizer that was counted with.
///
/// # Errors
/// When the file can't be read.
pub fn read_counts(folder: &Path) -> Result<Vec<u64>, DataError> {
    Ok(Array::<u64>::open(&folder.join("counts.u64"))?.iter().collect())
}

/// Returns how many tokens were counted.
///
/// # Errors
/// When the file can't be read.
pub fn sum_of_counts(folder: &Path) -> Result<u64, DataError> {
    Ok(Array::<u64>::open(&folder.join("counts.u64"))?.iter().sum())
}

/// Writes counts into a folder that exists.
///
/// # Errors
/// When the file can't be written.
pub fn write_counts(folder: &Path, counts: &[u64]) -> Result<(), DataError> {
    write_array(folder.join("counts.u64"), counts.iter().copied())
}
