//! `Counts`: `counts.u64` holds how often each token id occurs.

use std::path::Path;

use crate::data::array::{Array, write_array};
use crate::data::error::DataError;

/// Reads the counts of a vocabulary.
///
/// # Errors
/// When the file can't be read or is of another vocabulary.
pub fn read_counts(folder: &Path, vocab: usize) -> Result<Vec<u64>, DataError> {
    let counts = Array::<u64>::open(&folder.join("counts.u64"))?;
    if counts.len() != vocab {
        return Err(DataError::invalid(
            counts.path(),
            format!("counts {} token ids, but the tokenizer has {vocab}", counts.len()),
        )
        .help("count with the same tokenizer"));
    }
    Ok(counts.iter().collect())
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
