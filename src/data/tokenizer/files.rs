//! `Tokenizer` folders: `tokenizer.json`, `tokenizer_config.json`, and `id_map.u32` for pruned ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::data::array::write_array;
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

/// Ids are below this, ten times the largest vocabularies there are; a larger one is damage, and would cost its memory.
pub(super) const MAX_VOCABULARY: u32 = 1 << 24;

/// Files that belong to a tokenizer and that a checkpoint carries.
const FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Copies a tokenizer's files, as a checkpoint carries them.
///
/// # Errors
/// When a file can't be copied, or there is no `tokenizer.json`.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), DataError> {
    if !from.join(FILES[0]).exists() {
        return Err(DataError::invalid(from, "has no `tokenizer.json`")
            .help("save the model's fast tokenizer there"));
    }
    for name in FILES {
        let (source, target) = (from.join(name), to.join(name));
        if source.exists() {
            // Objects of the store are read-only; a copy of the bytes is not.
            let bytes = fs::read(&source).map_err(DataError::io("read", &source))?;
            fs::write(&target, bytes).map_err(DataError::io("write", &target))?;
        }
    }
    Ok(())
}

/// Writes `id_map.u32`: the old id of each new id. It is there for users; nothing reads it back.
///
/// # Errors
/// When it can't be written.
pub fn write_id_map(folder: &Path, old_ids: &[u32]) -> Result<(), DataError> {
    write_array(folder.join("id_map.u32"), old_ids.iter().copied())
}

/// All tokens of a tokenizer by their text, those of its model and the added ones, and which of them are special.
#[derive(Debug)]
pub struct Vocabulary {
    path: PathBuf,
    ids: BTreeMap<String, u32>,
    config: Map<String, Value>,
}

impl Vocabulary {
    /// Reads the vocabulary of a tokenizer's or checkpoint's folder.
    ///
    /// # Errors
    /// When a file can't be read, or the vocabulary is no map from texts to ids.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let json = read_tokenizer_json(folder)?;
        Self::new(&folder.join("tokenizer.json"), &json, read_tokenizer_config(folder)?)
    }

    /// Returns the vocabulary of a `tokenizer.json` that was read from `path`.
    ///
    /// # Errors
    /// When it is no map from texts to ids.
    pub fn new(path: &Path, json: &Value, config: Map<String, Value>) -> Result<Self, DataError> {
        let model = json["model"]["vocab"].as_object().ok_or_else(|| {
            let kind = json["model"]["type"].as_str().unwrap_or("unknown");
            DataError::invalid(
                path,
                format!("its model, of type `{kind}`, has no map from tokens to ids"),
            )
            .help("use a tokenizer of type BPE, WordPiece or WordLevel")
        })?;
        let added = json["added_tokens"].as_array().into_iter().flatten();
        let added = added.filter_map(|token| Some((token["content"].as_str()?, &token["id"])));
        let mut ids = BTreeMap::new();
        for (text, id) in model.iter().map(|(text, id)| (text.as_str(), id)).chain(added) {
            let known = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = known.filter(|&id| id < MAX_VOCABULARY).ok_or_else(|| {
                DataError::invalid(path, format!("token `{text}` has id `{id}`"))
                    .help(format!("use whole numbers from zero, below {MAX_VOCABULARY}"))
            })?;
            ids.insert(text.to_owned(), id);
        }
        Ok(Self { path: path.to_owned(), ids, config })
    }

    /// Returns the size: one more than the largest id.
    pub fn size(&self) -> u64 {
        self.ids.values().max().map_or(0, |&last| u64::from(last) + 1)
    }

    /// Returns the id of the token that `tokenizer_config.json` names so: `bos_token`, `eos_token`.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.ids.get(token_text(self.config.get(name)?)?).copied()
    }

    /// Returns, for each id of this vocabulary, the id of the token with the same text in another one.
    ///
    /// # Errors
    /// When a token is not in the other vocabulary, or an id has no token.
    pub fn ids_in(&self, other: &Self) -> Result<Vec<u32>, DataError> {
        let mut found = vec![None; self.size() as usize];
        for (text, &id) in &self.ids {
            found[id as usize] = Some(*other.ids.get(text).ok_or_else(|| {
                let message = format!("token `{text}` is not in `{}`", other.path.display());
                DataError::invalid(&self.path, message)
                    .help("prune the donor's own tokenizer (`donor.tokenizer`)")
            })?);
        }
        let whole = |(id, old): (usize, Option<u32>)| {
            old.ok_or_else(|| {
                DataError::invalid(&self.path, format!("id {id} has no token"))
                    .help("use a tokenizer whose ids have no gaps")
            })
        };
        found.into_iter().enumerate().map(whole).collect()
    }

    /// Returns whether another vocabulary gives the same ids to the same tokens.
    pub fn same_as(&self, other: &Self) -> bool {
        self.ids == other.ids
    }
}

/// Returns the text of a token in `tokenizer_config.json`: a string, or an object with `content`.
pub fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vocabulary(json: &Value) -> Result<Vocabulary, DataError> {
        Vocabulary::new(Path::new("tokenizer.json"), json, Map::new())
    }

    #[test]
    fn tokens_are_matched_by_text_added_ones_included() {
        let large = json!({
            "model": {"vocab": {"a": 0, "b": 1, "c": 2}},
            "added_tokens": [{"content": "<s>", "id": 7}],
        });
        let small = json!({
            "model": {"vocab": {"c": 0, "a": 1}}, "added_tokens": [{"content": "<s>", "id": 2}],
        });
        let (large, small) = (vocabulary(&large).unwrap(), vocabulary(&small).unwrap());
        assert_eq!((large.size(), small.size()), (8, 3));
        assert_eq!(small.ids_in(&large).unwrap(), [2, 0, 7]);
        let error = large.ids_in(&small).unwrap_err().to_string();
        assert!(error.contains("token `b` is not in"), "{error}");
        let error = large.ids_in(&large).unwrap_err().to_string();
        assert!(error.contains("id 3 has no token"), "{error}");
    }

    #[test]
    fn vocabularies_without_ids_are_refused() {
        let list = json!({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}});
        let error = vocabulary(&list).unwrap_err().to_string();
        assert!(error.contains("`Unigram`, has no map"), "{error}");
        let wild = json!({"model": {"vocab": {"a": -1}}});
        assert!(vocabulary(&wild).unwrap_err().to_string().contains("token `a` has id `-1`"));
    }
}
