//! What tensor stages need of a tokenizer's folder: its size, its special ids, its id map.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use tlm::data::Gguf;
use tlm::data::tokenizer::tokenizer_from_gguf;
use tlm::stage::StageError;

/// Files that a checkpoint takes over from its tokenizer.
const FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// A tokenizer's folder, as far as a model's shape depends on it.
pub(crate) struct TokenizerInfo {
    /// One more than the largest id.
    pub(crate) size: i64,
    pub(crate) bos: Option<i64>,
    pub(crate) eos: Option<i64>,
    /// The old id of each new one, for a pruned tokenizer.
    pub(crate) id_map: Option<Vec<i64>>,
}

impl TokenizerInfo {
    /// Reads a tokenizer's folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, StageError> {
        let json = read_json(&folder.join("tokenizer.json"))?;
        let ids = ids_by_text(&json);
        let config = folder.join("tokenizer_config.json");
        let config = if config.exists() { read_json(&config)? } else { Value::Null };
        let special = |name: &str| {
            let text = config[name].as_str().or_else(|| config[name]["content"].as_str())?;
            ids.get(text).and_then(Value::as_i64)
        };
        let size = ids.values().filter_map(Value::as_i64).max().map_or(0, |last| last + 1);
        let (bos, eos) = (special("bos_token"), special("eos_token"));
        Ok(Self { size, bos, eos, id_map: read_id_map(folder, size)? })
    }
}

/// Copies a tokenizer's files into a checkpoint.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), StageError> {
    for name in FILES {
        let (source, target) = (from.join(name), to.join(name));
        if source.exists() {
            // Objects of the store are read-only; a copy of the bytes is not.
            let bytes = fs::read(&source).map_err(|e| StageError::io("read", &source, &e))?;
            fs::write(&target, bytes).map_err(|e| StageError::io("write", &target, &e))?;
        }
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Value, StageError> {
    let text = fs::read_to_string(path).map_err(|e| StageError::io("read", path, &e))?;
    serde_json::from_str(&text)
        .map_err(|error| StageError::input(format!("`{}` is not JSON: {error}", path.display())))
}

fn ids_by_text(json: &Value) -> Map<String, Value> {
    let mut ids = json["model"]["vocab"].as_object().cloned().unwrap_or_default();
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        if let Some(text) = added["content"].as_str() {
            ids.insert(text.to_owned(), added["id"].clone());
        }
    }
    ids
}

fn read_id_map(folder: &Path, size: i64) -> Result<Option<Vec<i64>>, StageError> {
    let path = folder.join("id_map.u32");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(|e| StageError::io("read", &path, &e))?;
    let ids: Vec<i64> = bytes
        .chunks_exact(4)
        .map(|four| i64::from(u32::from_le_bytes(four.try_into().expect("four bytes"))))
        .collect();
    if ids.len() as i64 != size || bytes.len() % 4 != 0 {
        return Err(StageError::input(format!(
            "`{}` has {} ids, but the tokenizer has {size} tokens",
            path.display(),
            ids.len()
        )));
    }
    Ok(Some(ids))
}

/// Writes the tokenizer that a GGUF file carries.
pub(crate) fn from_gguf(file: &Path, folder: &Path) -> Result<(), StageError> {
    Ok(tokenizer_from_gguf(&Gguf::open(file)?, folder)?)
}
