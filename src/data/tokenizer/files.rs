//! `Tokenizer` folders: `tokenizer.json`, `tokenizer_config.json`, and `id_map.u32` for pruned ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::data::array::write_array;
use crate::data::dataset::{read_json, write_json};
use crate::data::error::DataError;

/// What the files of a tokenizer say.
#[derive(Clone, Debug)]
pub struct Files {
    /// Where `tokenizer.json` was read.
    pub path: PathBuf,
    /// `tokenizer.json`.
    pub json: Value,
    /// `tokenizer_config.json`, as [`read_tokenizer_config`] has it.
    pub config: Map<String, Value>,
}

impl Files {
    /// Reads the files of a folder.
    ///
    /// # Errors
    /// When one can't be read or is no JSON.
    pub fn read(folder: &Path) -> Result<Self, DataError> {
        let (json, config) = (read_tokenizer_json(folder)?, read_tokenizer_config(folder)?);
        Ok(Self { path: folder.join("tokenizer.json"), json, config })
    }

    /// Returns the tokenizer that the tokenizers library makes of them.
    ///
    /// # Errors
    /// When it makes none of them.
    pub(super) fn load(&self) -> Result<tokenizers::Tokenizer, DataError> {
        tokenizers::Tokenizer::deserialize(&self.json)
            .map_err(|error| DataError::invalid(&self.path, format!("not a tokenizer: {error}")))
    }
}

/// Reads `tokenizer.json`.
///
/// # Errors
/// When it can't be read or is no JSON.
pub fn read_tokenizer_json(folder: &Path) -> Result<Value, DataError> {
    read_json(&folder.join("tokenizer.json"))
}

/// Reads `tokenizer_config.json`, and what stands in files of their own: special tokens in `special_tokens_map.json`, the chat
/// template in `chat_template.jinja` or `chat_template.json`. What the configuration says itself counts more. Empty when there
/// is none of them.
///
/// # Errors
/// When one can't be read or is no JSON object.
pub fn read_tokenizer_config(folder: &Path) -> Result<Map<String, Value>, DataError> {
    let object = |name: &str| -> Result<Map<String, Value>, DataError> {
        let path = folder.join(name);
        if path.exists() { read_json(&path) } else { Ok(Map::new()) }
    };
    let mut config = object("tokenizer_config.json")?;
    let mut fill = |name: String, value: Value| {
        let slot = config.entry(name).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    };
    for (name, token) in object("special_tokens_map.json")? {
        fill(name, token);
    }
    let template = folder.join("chat_template.jinja");
    if template.exists() {
        let text = fs::read_to_string(&template).map_err(DataError::io("read", &template))?;
        fill("chat_template".to_owned(), Value::String(text));
    }
    if let Some(text) = object("chat_template.json")?.remove("chat_template") {
        fill("chat_template".to_owned(), text);
    }
    Ok(config)
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

/// The class of transformers that reads `tokenizer.json` as it is.
pub(super) const AS_IT_IS: &str = "PreTrainedTokenizerFast";

/// Makes transformers read `tokenizer.json` as it is. Classes for one model build a tokenizer of their own from its vocabulary and
/// merges, with the pre-tokenizer that the model once had, and code of a repository does not come along.
pub(super) fn read_as_it_is(config: &mut Map<String, Value>) {
    config.remove("auto_map");
    if let Some(class) = config.get_mut("tokenizer_class") {
        *class = json!(AS_IT_IS);
    }
}

/// Ids are below this, ten times the largest vocabularies there are; a larger one is damage, and would cost its memory.
pub const MAX_VOCABULARY: u32 = 1 << 24;

/// Files that belong to a tokenizer and that a checkpoint carries.
const FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

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
        let files = Files::read(folder)?;
        Self::new(&files.path, &files.json, files.config)
    }

    /// Returns the vocabulary of a `tokenizer.json` that was read from `path`, its model of any type.
    ///
    /// # Errors
    /// When it is no tokenizer, or gives an id to two tokens, or two to one.
    pub fn new(path: &Path, json: &Value, config: Map<String, Value>) -> Result<Self, DataError> {
        let invalid = |message: String| {
            DataError::invalid(path, message).help("convert or save the tokenizer again")
        };
        let mut ids = BTreeMap::new();
        for (text, id) in model_tokens(path, json)? {
            if let Some(first) = ids.insert(text.to_owned(), id) {
                return Err(invalid(format!("token `{text}` has two ids, {first} and {id}")));
            }
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let Some(text) = token["content"].as_str() else { continue };
            let id = checked_id(path, text, &token["id"])?;
            if let Some(first) = ids.insert(text.to_owned(), id).filter(|&first| first != id) {
                return Err(invalid(format!("token `{text}` has two ids, {first} and {id}")));
            }
        }
        let vocabulary = Self { path: path.to_owned(), ids, config };
        let texts = vocabulary.by_id();
        let twice = texts.windows(2).find(|pair| pair[0].0 == pair[1].0);
        if let Some(&[(id, one), (_, two)]) = twice {
            return Err(invalid(format!("tokens `{one}` and `{two}` both have id {id}")));
        }
        Ok(vocabulary)
    }

    /// Returns the tokens by id; the largest id may be far beyond their number.
    fn by_id(&self) -> Vec<(u32, &str)> {
        let mut texts: Vec<_> = self.ids.iter().map(|(text, &id)| (id, text.as_str())).collect();
        texts.sort_unstable();
        texts
    }

    /// Tells whether each id below the largest has a token.
    ///
    /// # Errors
    /// When one has none.
    fn check_whole(&self) -> Result<(), DataError> {
        let texts = self.by_id();
        match (0..).zip(texts).find(|&(id, (own, _))| id != own) {
            Some((id, _)) => Err(self.without_token(id)),
            None => Ok(()),
        }
    }

    fn without_token(&self, id: u32) -> DataError {
        DataError::invalid(&self.path, format!("id {id} has no token"))
            .help("use a tokenizer whose ids have no gaps")
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
        self.check_whole()?;
        let mut found = Vec::with_capacity(self.ids.len());
        for (_, text) in self.by_id() {
            found.push(*other.ids.get(text).ok_or_else(|| {
                let message = format!("token `{text}` is not in `{}`", other.path.display());
                DataError::invalid(&self.path, message)
                    .help("prune the donor's own tokenizer (`donor.tokenizer`)")
            })?);
        }
        Ok(found)
    }

    /// Returns whether another vocabulary gives the same ids to the same tokens.
    pub fn same_as(&self, other: &Self) -> bool {
        self.ids == other.ids
    }
}

/// Returns the tokens of a `tokenizer.json`'s model: a map from texts to ids, or Unigram's list of texts and scores.
pub(super) fn model_tokens<'a>(
    path: &Path,
    json: &'a Value,
) -> Result<Vec<(&'a str, u32)>, DataError> {
    let vocab = &json["model"]["vocab"];
    match (vocab.as_object(), vocab.as_array()) {
        (Some(map), _) => {
            map.iter().map(|(text, id)| Ok((text.as_str(), checked_id(path, text, id)?))).collect()
        }
        (_, Some(list)) => list
            .iter()
            .enumerate()
            .map(|(id, piece)| match piece[0].as_str() {
                Some(text) => Ok((text, checked_id(path, text, &Value::from(id))?)),
                None => Err(DataError::invalid(path, format!("piece {id} has no text"))
                    .help("convert or save the tokenizer again")),
            })
            .collect(),
        _ => Err(DataError::invalid(path, "is no tokenizer: it has no `model` with a `vocab`")
            .help(
                "name the file that Hugging Face calls `tokenizer.json`; `config.json` and \
             `tokenizer_config.json` only belong to it",
            )),
    }
}

fn checked_id(path: &Path, text: &str, id: &Value) -> Result<u32, DataError> {
    let known = id.as_u64().and_then(|id| u32::try_from(id).ok());
    known.filter(|&id| id < MAX_VOCABULARY).ok_or_else(|| {
        DataError::invalid(path, format!("token `{text}` has id `{id}`"))
            .help(format!("use whole numbers from zero, below {MAX_VOCABULARY}"))
    })
}

/// Returns the two tokens of a merge, written as a pair or with a blank between them.
pub(super) fn merge_parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        _ => Some((merge.get(0)?.as_str()?, merge.get(1)?.as_str()?)),
    }
}

/// Returns an entry of `added_tokens` that is found in the text as it is, wherever it stands.
pub(super) fn added_token(id: u64, text: &str, special: bool) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

/// Returns the text of a token in `tokenizer_config.json`: a string, or an object with `content`.
pub fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

#[cfg(test)]
mod tests {
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
        assert!(error.contains("id 3 has no token"), "{error}");
        let other = vocabulary(&json!({"model": {"vocab": {"c": 0}}})).unwrap();
        let error = small.ids_in(&other).unwrap_err().to_string();
        assert!(error.contains("token `a` is not in"), "{error}");
    }

    #[test]
    fn ids_that_are_none_are_refused() {
        for (json, part) in [
            (json!({"model": {"vocab": {"a": -1}}}), "token `a` has id `-1`"),
            (json!({"model": {"vocab": {"a": 4294967296_u64}}}), "token `a` has id `4294967296`"),
            (json!({"model": {"vocab": {"a": 1, "b": 1}}}), "tokens `a` and `b` both have id 1"),
            (
                json!({"model": {"vocab": [["a", 0.0], ["a", 0.0]]}}),
                "token `a` has two ids, 0 and 1",
            ),
            (json!({"model": {"vocab": [["a", 0.0], [1]]}}), "piece 1 has no text"),
            (
                json!({"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "a", "id": 5}]}),
                "two ids, 0 and 5",
            ),
            (json!({"architectures": ["LlamaForCausalLM"]}), "is no tokenizer"),
            (json!([]), "is no tokenizer"),
        ] {
            let error = vocabulary(&json).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json") && error.contains(part), "{error}");
        }
        let far = json!({"model": {"vocab": {"a": 0, "b": 16777215}}});
        let error = vocabulary(&far).unwrap().check_whole().unwrap_err().to_string();
        assert!(error.contains("id 1 has no token"), "{error}");
        let list = json!({"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]]}});
        assert_eq!(vocabulary(&list).unwrap().ids.into_values().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn files_of_their_own_fill_what_the_configuration_leaves_open() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("tokenizer_config.json", r#"{"eos_token": "</s>", "bos_token": null}"#);
        write("special_tokens_map.json", r#"{"eos_token": "x", "bos_token": {"content": "<s>"}}"#);
        write("chat_template.jinja", "{{ messages }}");
        write("tokenizer.json", r#"{"model": {"vocab": {"<s>": 0, "</s>": 1, "x": 2}}}"#);
        let found = Vocabulary::open(folder.path()).unwrap();
        assert_eq!((found.special("bos_token"), found.special("eos_token")), (Some(0), Some(1)));
        let copy = tempfile::tempdir().unwrap();
        copy_tokenizer(folder.path(), copy.path()).unwrap();
        assert_eq!(read_tokenizer_config(copy.path()).unwrap(), found.config);
        assert_eq!(found.config["chat_template"], "{{ messages }}");
    }
}
