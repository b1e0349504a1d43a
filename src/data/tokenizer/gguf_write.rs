//! A Hugging Face tokenizer as GGUF metadata: byte-level BPE, as llama.cpp's `gpt2` kind.

use std::path::Path;

use serde_json::Value;

use crate::data::error::DataError;
use crate::data::gguf_write::Meta;
use crate::data::tokenizer::files::{merge_parts, read_tokenizer_json};

/// Token types of GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Returns the metadata of a folder's tokenizer for a model with `vocab` embeddings.
///
/// # Errors
/// When it is of a kind that llama.cpp would read otherwise.
pub fn gguf_tokenizer(folder: &Path, vocab: usize) -> Result<Vec<(String, Meta)>, DataError> {
    let path = folder.join("tokenizer.json");
    let json = read_tokenizer_json(folder)?;
    let wrong = |what: &str| {
        DataError::invalid(&path, what)
            .help("only byte-level BPE tokenizers, as of GPT-2 and SmolLM2, can be written")
    };
    let model = &json["model"];
    if model["type"] != "BPE" || !json["normalizer"].is_null() {
        return Err(wrong("is no plain byte-level BPE tokenizer"));
    }
    let pre = splitting(&json["pre_tokenizer"])
        .ok_or_else(|| wrong("splits words in a way that GGUF has no name for here"))?;
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; vocab];
    let mut place = |id: &Value, text: &str, kind: i32| {
        let id = id.as_u64().map(|id| id as usize);
        let slot = id.and_then(|id| tokens.get_mut(id));
        let slot = slot.ok_or_else(|| wrong("has an id that the model has no embedding for"))?;
        *slot = Some((text.to_owned(), kind));
        Ok(())
    };
    for (text, id) in model["vocab"].as_object().into_iter().flatten() {
        place(id, text, NORMAL)?;
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        place(&token["id"], token["content"].as_str().unwrap_or_default(), kind)?;
    }
    let filled = tokens.into_iter().enumerate();
    let filled = filled.map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)));
    let (texts, kinds) = filled.unzip();
    let merge = |merge| merge_parts(merge).map(|(left, right)| format!("{left} {right}"));
    let merges: Option<Vec<String>> =
        model["merges"].as_array().into_iter().flatten().map(merge).collect();
    let merges = merges.ok_or_else(|| wrong("has a merge that is not two tokens"))?;
    let named = |name: &str, value: Meta| (format!("tokenizer.ggml.{name}"), value);
    Ok(vec![
        named("model", Meta::Str("gpt2".to_owned())),
        named("pre", Meta::Str(pre.to_owned())),
        named("tokens", Meta::Strs(texts)),
        named("token_type", Meta::I32s(kinds)),
        named("merges", Meta::Strs(merges)),
    ])
}

/// Returns llama.cpp's name for a way to split words.
fn splitting(json: &Value) -> Option<&'static str> {
    let is_byte_level = |json: &Value| {
        json["type"] == "ByteLevel"
            && json["add_prefix_space"] == false
            && json["use_regex"] != false
    };
    if is_byte_level(json) {
        return Some("gpt-2");
    }
    let parts = json["pretokenizers"].as_array()?;
    let is_smollm = parts.len() == 2
        && parts[0]["type"] == "Digits"
        && parts[0]["individual_digits"] == true
        && is_byte_level(&parts[1]);
    is_smollm.then_some("smollm")
}
