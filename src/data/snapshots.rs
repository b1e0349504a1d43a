//! `Snapshots`: the model after equal parts of a training run, each a Hugging Face folder `1`, `2`, ... of its own, and
//! `snapshots.json`, which says how many there are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::dataset::{read_json, write_json};
use crate::data::error::DataError;

const FILE: &str = "snapshots.json";

/// `snapshots.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    /// Tokens trained until each, in order; the last is the end.
    pub tokens: Vec<u64>,
    /// Parameters of the model.
    pub params: i64,
}

impl Snapshots {
    /// Reads what a folder has.
    ///
    /// # Errors
    /// When the file can't be read or names no snapshot.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(FILE);
        let snapshots: Self = read_json(&path)?;
        match snapshots.tokens.is_empty() {
            true => Err(DataError::invalid(&path, "names no snapshot".to_owned())),
            false => Ok(snapshots),
        }
    }

    /// Writes the file into a folder.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        write_json(&folder.join(FILE), self)
    }

    /// Returns the folder of a snapshot, counted from 1.
    pub fn folder(of: &Path, number: u64) -> PathBuf {
        of.join(number.to_string())
    }
}
