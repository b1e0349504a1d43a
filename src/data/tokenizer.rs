//! Encoding and decoding: the only file that names the `tokenizers` crate. And `tokenizer.json` out of GGUF metadata.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::data::error::DataError;
use crate::data::gguf::{Gguf, GgufValue};
use crate::data::tokenizer_files::{Vocabulary, write_tokenizer};

/// A loaded tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    size: u64,
    start_of_text: Option<u32>,
    end_of_text: Option<u32>,
}

impl Tokenizer {
    /// Loads the tokenizer of a folder.
    ///
    /// # Errors
    /// When its files can't be read or understood.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("tokenizer.json");
        let vocabulary = Vocabulary::open(folder)?;
        let mut inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| DataError::invalid(&path, format!("not a tokenizer: {error}")))?;
        // Training text is neither cut nor padded, whatever the file says.
        inner.with_truncation(None).map_err(|error| DataError::invalid(&path, error))?;
        inner.with_padding(None);
        let end_of_text =
            inner.token_to_id("<|endoftext|>").or_else(|| vocabulary.special("eos_token"));
        let start_of_text =
            vocabulary.special("bos_token").or_else(|| vocabulary.special("eos_token"));
        Ok(Self { inner, path, size: vocabulary.size(), start_of_text, end_of_text })
    }

    /// Returns the vocabulary's size: one more than the largest id.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the token that stands before a text that has nothing before it: the beginning-of-sequence token, or else the
    /// end-of-sequence token.
    pub fn start_of_text(&self) -> Option<u32> {
        self.start_of_text
    }

    /// Returns the token that parts documents: `<|endoftext|>`, or else the end-of-sequence token.
    ///
    /// # Errors
    /// When there is neither.
    pub fn end_of_text(&self) -> Result<u32, DataError> {
        self.end_of_text.ok_or_else(|| {
            DataError::invalid(
                &self.path,
                "has no `<|endoftext|>` and its configuration no `eos_token`",
            )
            .help("set `eos_token` in `tokenizer_config.json`, and open the folder with both files")
        })
    }

    /// Returns the ids of a text, without special tokens around it.
    ///
    /// # Errors
    /// When the tokenizer can't encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.ids(text, false)
    }

    /// Returns the ids of a text with the special tokens that the tokenizer puts around it, such as one at its start; none
    /// where the text itself begins with that one.
    ///
    /// # Errors
    /// When the tokenizer can't encode it.
    pub fn encode_marked(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let start = self.start_of_text.and_then(|id| self.inner.id_to_token(id));
        self.ids(text, !start.is_some_and(|start| text.starts_with(&start)))
    }

    fn ids(&self, text: &str, is_marked: bool) -> Result<Vec<u32>, DataError> {
        let encoding = self.inner.encode_fast(text, is_marked);
        let encoding = encoding
            .map_err(|error| DataError::invalid(&self.path, format!("can't encode: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the text of ids, special tokens included.
    ///
    /// # Errors
    /// When the tokenizer can't decode them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.inner
            .decode(ids, false)
            .map_err(|error| DataError::invalid(&self.path, format!("can't decode: {error}")))
    }
}

/// Writes the tokenizer in a GGUF file's metadata as a Hugging Face one into a folder that exists.
///
/// # Errors
/// When the metadata lack something or name a kind of tokenizer unknown here.
pub fn tokenizer_from_gguf(gguf: &Gguf, folder: &Path) -> Result<(), DataError> {
    let model = gguf.require("tokenizer.ggml.model", GgufValue::as_str)?;
    if model != "gpt2" {
        let message =
            format!("its tokenizer is of kind `{model}`, only `gpt2` (byte-level BPE) is known");
        return Err(DataError::invalid(gguf.path(), message)
            .help("use the model's Hugging Face folder, which has a `tokenizer.json`"));
    }
    let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
    let types = gguf.require("tokenizer.ggml.token_type", GgufValue::as_array)?;
    if types.len() != tokens.len() {
        let message = format!("{} tokens, but {} token types", tokens.len(), types.len());
        return Err(DataError::invalid(gguf.path(), message));
    }
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    if vocab.len() != tokens.len() {
        return Err(DataError::invalid(gguf.path(), "`tokenizer.ggml.tokens` names a token twice"));
    }
    let merges = merges(gguf, &vocab)?;
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(&tokens, types),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer(gguf)?,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    write_tokenizer(folder, &json, &config(gguf, &tokens)?)
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>, DataError> {
    gguf.require(key, |value| value.as_array()?.iter().map(GgufValue::as_str).collect())
}

fn merges(gguf: &Gguf, vocab: &Map<String, Value>) -> Result<Vec<Value>, DataError> {
    let pairs = strings(gguf, "tokenizer.ggml.merges")?;
    let parse = |(rank, text): (usize, &&str)| match text.split_once(' ') {
        Some((a, b)) if vocab.contains_key(a) && vocab.contains_key(b) => Ok(json!([a, b])),
        _ => Err(DataError::invalid(
            gguf.path(),
            format!("merge {rank}, `{text}`, is not two tokens of the vocabulary"),
        )),
    };
    pairs.iter().enumerate().map(parse).collect()
}

/// Token types of GGUF: 3 control (special), 4 user defined (not special).
fn added_tokens(tokens: &[&str], types: &[GgufValue]) -> Vec<Value> {
    let added = tokens.iter().zip(types).enumerate().filter_map(|(id, (token, kind))| {
        let special = match kind.as_u64()? {
            3 => true,
            4 => false,
            _ => return None,
        };
        Some(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special,
        }))
    });
    added.collect()
}

fn pre_tokenizer(gguf: &Gguf) -> Result<Value, DataError> {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let digits = json!({"type": "Digits", "individual_digits": true});
    match gguf.get("tokenizer.ggml.pre").and_then(GgufValue::as_str) {
        Some("smollm") => Ok(json!({"type": "Sequence", "pretokenizers": [digits, byte_level]})),
        None | Some("gpt-2" | "default") => Ok(byte_level),
        Some(other) => Err(DataError::invalid(
            gguf.path(),
            format!(
                "its tokenizer splits words the `{other}` way, only `smollm` and `gpt-2` are known"
            ),
        )
        .help("use the model's Hugging Face folder, which has a `tokenizer.json`")),
    }
}

fn config(gguf: &Gguf, tokens: &[&str]) -> Result<Map<String, Value>, DataError> {
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    for (key, name) in [("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = gguf.get(&key).and_then(GgufValue::as_u64) else { continue };
        let token = tokens.get(id as usize).ok_or_else(|| {
            let message = format!("`{key}` is {id}, but there are {} tokens", tokens.len());
            DataError::invalid(gguf.path(), message)
        })?;
        config.insert(format!("{name}_token"), json!(token));
    }
    if let Some(template) = gguf.get("tokenizer.chat_template").and_then(GgufValue::as_str) {
        config.insert("chat_template".to_owned(), json!(template));
    }
    if let Some(length) = gguf.get("llama.context_length").and_then(GgufValue::as_u64) {
        config.insert("model_max_length".to_owned(), json!(length));
    }
    Ok(config)
}
