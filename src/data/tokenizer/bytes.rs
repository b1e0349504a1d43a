//! How much text each token stands for.

use std::path::Path;

use serde_json::Value;

use crate::data::error::DataError;
use crate::data::tokenizer::files::{Files, model_tokens};
use crate::data::tokenizer::spelling::{MARK, is_byte_piece};

/// How a tokenizer's model spells the text of a token.
enum Spelling {
    /// A character a byte, as `ByteLevel` has them.
    Bytes,
    /// Characters, a mark for a blank; perhaps pieces for bytes.
    Pieces,
    /// Characters; a prefix on what goes on within a word, a blank before all else.
    Words(String),
}

impl Spelling {
    fn of(json: &Value) -> Self {
        let parts = ["decoder", "pre_tokenizer"].map(|name| &json[name]);
        if let Some(decoder) = find(parts[0], "WordPiece") {
            return Self::Words(decoder["prefix"].as_str().unwrap_or_default().to_owned());
        }
        if parts.into_iter().any(|part| find(part, "ByteLevel").is_some()) {
            return Self::Bytes;
        }
        Self::Pieces
    }

    fn len(&self, token: &str) -> usize {
        match self {
            Self::Bytes => token.chars().count(),
            Self::Pieces if is_byte_piece(token) => 1,
            Self::Pieces => token.chars().map(|c| if c == MARK { 1 } else { c.len_utf8() }).sum(),
            Self::Words(prefix) => token.strip_prefix(&**prefix).map_or(token.len() + 1, str::len),
        }
    }
}

/// Returns the part of a tokenizer's step that has a type, looking into sequences of them.
fn find<'a>(value: &'a Value, kind: &str) -> Option<&'a Value> {
    if value["type"] == kind {
        return Some(value);
    }
    let parts = ["decoders", "pretokenizers"].into_iter().filter_map(|name| value[name].as_array());
    parts.flatten().find_map(|part| find(part, kind))
}

/// Returns how many bytes of UTF-8 each id of a tokenizer's folder stands for; special tokens stand for none. Added up, these are
/// the bytes of a text whose tokens are known, as far as the tokenizer keeps the text as it is.
///
/// # Errors
/// When the tokenizer can't be read.
pub fn bytes_of_tokens(folder: &Path) -> Result<Vec<u32>, DataError> {
    let Files { path, json, .. } = Files::read(folder)?;
    let mut bytes = Vec::new();
    let mut set = |id: u32, len: usize| {
        let id = id as usize;
        if bytes.len() <= id {
            bytes.resize(id + 1, 0);
        }
        bytes[id] = len as u32;
    };
    let spelling = Spelling::of(&json);
    for (token, id) in model_tokens(&path, &json)? {
        set(id, spelling.len(token));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        if let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) {
            set(id as u32, if token["special"] == true { 0 } else { text.len() });
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::Tokenizer;

    /// What an encoder of Hugging Face's makes of a text has as many bytes as the text, and those that some put before it.
    #[test]
    fn tokens_of_a_text_have_its_bytes() {
        let text = "It's 12,345 o'clock: naïve façades,\n\n  中文字符 and tabs\tend.";
        for (name, before) in [
            ("gpt2", 0),
            ("gpt2_prefixed", 1),
            ("qwen2", 0),
            ("deepseek", 0),
            ("llama2", 1),
            ("smollm", 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = format!("tests/reference/tokenizers/{name}.json");
            fs::copy(file, folder.path().join("tokenizer.json")).unwrap();
            let bytes = bytes_of_tokens(folder.path()).unwrap();
            let ids = Tokenizer::open(folder.path()).unwrap().encode(text).unwrap();
            let sum: u32 = ids.iter().map(|&id| bytes[id as usize]).sum();
            assert_eq!(sum as usize, text.len() + before, "{name}");
        }
    }

    #[test]
    fn words_of_wordpiece_have_a_blank_before_them() {
        let words = Spelling::Words("##".into());
        assert_eq!(["the", "##se"].map(|token| words.len(token)), [4, 2]);
    }
}
