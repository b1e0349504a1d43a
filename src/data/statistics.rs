//! `statistics.json`: what became of the records that a stage went through. A folder of an older version has none.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::dataset::{read_json, write_json};
use crate::data::error::DataError;

/// The file's name.
const FILE: &str = "statistics.json";

/// How many of what, and where the first that were left out lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Numbers by name: `documents`, `bytes`, and why how many were left out.
    pub counts: BTreeMap<String, u64>,
    /// The first records that were left out as malformed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<Place>,
}

/// A record that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which of the files, in their order, from 1. Names are in the log: results don't depend on them.
    pub file: u64,
    /// Its line or row, from 1.
    pub record: u64,
    /// What is wrong with it.
    pub why: String,
}

impl Statistics {
    /// Returns statistics with these numbers.
    pub fn of<const N: usize>(counts: [(&str, u64); N]) -> Self {
        let counts = counts.map(|(name, count)| (name.to_owned(), count));
        Self { counts: counts.into(), first: Vec::new() }
    }

    /// Writes them into a folder that exists.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        write_json(&folder.join(FILE), self)
    }

    /// Reads those of a folder, if it has any.
    ///
    /// # Errors
    /// When the file can't be read or has another form.
    pub fn read(folder: &Path) -> Result<Option<Self>, DataError> {
        let path = folder.join(FILE);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }
}
