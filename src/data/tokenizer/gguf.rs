//! A Hugging Face tokenizer out of GGUF metadata.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::data::error::DataError;
use crate::data::gguf::{Gguf, GgufValue};
use crate::data::tokenizer::files::write_tokenizer;

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
