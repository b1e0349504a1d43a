//! `Tokenizer` folders: `tokenizer.json`, `tokenizer_config.json`, and `id_map.u32` for pruned ones.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::data::array::{Array, write_array};
use crate::data::dataset::{read_json, write_json};
use crate::data::error::DataError;

/// Reads `tokenizer.json`.
///
/// # Errors
/// When it can't be read or is no JSON.
pub fn read_tokenizer_json(folder: &Path) -> Result<Value, DataError> {
    read_json(&folder.join("tokenizer.json"))
}

/// Reads `tokenizer_config.json`; empty when there is none.
///
/// # Errors
/// When it can't be read or is no JSON object.
pub fn read_tokenizer_config(folder: &Path) -> Result<Map<String, Value>, DataError> {
    let path = folder.join("tokenizer_config.json");
    if path.exists() { read_json(&path) } else { Ok(Map::new()) }
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into a folder that exists.
///
/// # Errors
/// When a file can't be written.
pub fn write_tokenizer(
    folder: &Path,
    tokenizer: &Value,
    config: &Map<String, Value>,
) -> Result<(), DataError> {
    write_json(&folder.join("tokenizer.json"), tokenizer)?;
    write_json(&folder.join("tokenizer_config.json"), config)
}

/// Copies `tokenizer.json` and `tokenizer_config.json`, as a checkpoint carries them.
///
/// # Errors
/// When a file can't be copied.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), DataError> {
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let (source, target) = (from.join(name), to.join(name));
        if name == "tokenizer_config.json" && !source.exists() {
            continue;
        }
        let bytes = fs::read(&source).map_err(DataError::io("read", &source))?;
        fs::write(&target, bytes).map_err(DataError::io("write", &target))?;
    }
    Ok(())
}

/// Reads `id_map.u32`: the old id of each new id; none when the tokenizer was not pruned.
///
/// # Errors
/// When it can't be read, or old ids don't rise.
pub fn read_id_map(folder: &Path) -> Result<Option<Vec<u32>>, DataError> {
    let path = folder.join("id_map.u32");
    if !path.exists() {
        return Ok(None);
    }
    let map: Vec<u32> = Array::<u32>::open(&path)?.iter().collect();
    match map.windows(2).position(|pair| pair[0] >= pair[1]) {
        None => Ok(Some(map)),
        Some(at) => Err(DataError::invalid(&path, format!("entry {} does not rise", at + 1))),
    }
}

/// Writes `id_map.u32`.
///
/// # Errors
/// When it can't be written.
pub fn write_id_map(folder: &Path, old_ids: &[u32]) -> Result<(), DataError> {
    write_array(folder.join("id_map.u32"), old_ids.iter().copied())
}

/// Returns the vocabulary's size: one more than the largest id of model and added tokens.
pub fn vocab_size(tokenizer: &Value) -> u64 {
    let vocab = tokenizer["model"]["vocab"].as_object();
    let model = vocab.into_iter().flat_map(Map::values).filter_map(Value::as_u64);
    let added = tokenizer["added_tokens"].as_array();
    let added = added.into_iter().flatten().filter_map(|token| token["id"].as_u64());
    model.chain(added).max().map_or(0, |id| id + 1)
}
