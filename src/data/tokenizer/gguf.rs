//! A Hugging Face tokenizer out of GGUF metadata: byte-level BPE, SentencePiece's models, WordPiece.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::data::error::DataError;
use crate::data::gguf::{Gguf, GgufValue};
use crate::data::tokenizer::files::{MAX_VOCABULARY, added_token, write_tokenizer};
use crate::data::tokenizer::gguf_pre::splitting;
use crate::data::tokenizer::open::mark_texts;
use crate::data::tokenizer::pieces::{Kind, Model, Piece, Pieces, plain_config};
use crate::data::tokenizer::spelling::MARK;

const USE_FOLDER: &str = "use the model's Hugging Face folder, which has a `tokenizer.json`";

/// Writes the tokenizer in a GGUF file's metadata as a Hugging Face one into a folder that exists.
///
/// # Errors
/// When the metadata lack something or name a kind of tokenizer unknown here.
pub fn tokenizer_from_gguf(gguf: &Gguf, folder: &Path) -> Result<(), DataError> {
    let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
    let invalid = |message: String| DataError::invalid(gguf.path(), message).help(USE_FOLDER);
    if tokens.len() > MAX_VOCABULARY as usize {
        return Err(invalid(format!("{} tokens, more than {MAX_VOCABULARY}", tokens.len())));
    }
    let kinds = kinds(gguf, tokens.len())?;
    let config = config(gguf, &tokens)?;
    let model = gguf.require("tokenizer.ggml.model", GgufValue::as_str)?;
    let mut json = match model {
        "gpt2" => byte_level(gguf, &tokens, &kinds)?,
        "llama" => pieces(gguf, &tokens, kinds, Model::Bpe)?,
        "t5" => pieces(gguf, &tokens, kinds, Model::Unigram)?,
        "bert" => word_piece(gguf, &tokens, &kinds, &config)?,
        _ => {
            let message = format!(
                "its tokenizer is of kind `{model}`, only `gpt2`, `llama`, `t5` and `bert` are known"
            );
            return Err(invalid(message));
        }
    };
    if model != "bert" {
        let (bos, eos) = (
            flag(gguf, "add_bos_token", model == "llama"),
            flag(gguf, "add_eos_token", model == "t5"),
        );
        mark_texts(&mut json, &config, bos, eos);
    }
    write_tokenizer(folder, &json, &config)
}

/// Returns what a file says of the tokenizer, or what llama.cpp assumes where it doesn't.
fn flag(gguf: &Gguf, key: &str, default: bool) -> bool {
    match gguf.get(&format!("tokenizer.ggml.{key}")) {
        Some(GgufValue::Bool(value)) => *value,
        _ => default,
    }
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>, DataError> {
    gguf.require(key, |value| value.as_array()?.iter().map(GgufValue::as_str).collect())
}

fn kinds(gguf: &Gguf, tokens: usize) -> Result<Vec<Kind>, DataError> {
    let types = gguf.require("tokenizer.ggml.token_type", GgufValue::as_array)?;
    if types.len() != tokens {
        let message = format!("{tokens} tokens, but {} token types", types.len());
        return Err(DataError::invalid(gguf.path(), message).help(USE_FOLDER));
    }
    let kind = |(id, kind): (usize, &GgufValue)| {
        kind.as_u64().and_then(Kind::new).ok_or_else(|| {
            DataError::invalid(gguf.path(), format!("token {id} has unknown type {kind:?}"))
                .help(USE_FOLDER)
        })
    };
    types.iter().enumerate().map(kind).collect()
}

fn vocabulary(gguf: &Gguf, tokens: &[impl AsRef<str>]) -> Result<Map<String, Value>, DataError> {
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = vocab.insert(token.as_ref().to_owned(), json!(id)) {
            let message = format!("tokens {first} and {id} are both `{}`", token.as_ref());
            return Err(DataError::invalid(gguf.path(), message).help(USE_FOLDER));
        }
    }
    Ok(vocab)
}

fn byte_level(gguf: &Gguf, tokens: &[&str], kinds: &[Kind]) -> Result<Value, DataError> {
    let pre = gguf.get("tokenizer.ggml.pre").and_then(GgufValue::as_str).unwrap_or("default");
    let splitting = splitting(pre).ok_or_else(|| {
        let message =
            format!("its tokenizer splits words the `{pre}` way, which is not known here");
        DataError::invalid(gguf.path(), message).help(USE_FOLDER)
    })?;
    let vocab = vocabulary(gguf, tokens)?;
    let merges = merges(gguf, &vocab)?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(tokens, kinds),
        "normalizer": splitting.nfc.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": splitting.pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": splitting.ignore_merges, "vocab": vocab, "merges": merges,
        },
    }))
}

fn merges(gguf: &Gguf, vocab: &Map<String, Value>) -> Result<Vec<Value>, DataError> {
    let pairs = strings(gguf, "tokenizer.ggml.merges")?;
    let parse = |(rank, text): (usize, &&str)| match text.split_once(' ') {
        Some((a, b)) if vocab.contains_key(a) && vocab.contains_key(b) => Ok(json!([a, b])),
        _ => Err(DataError::invalid(
            gguf.path(),
            format!("merge {rank}, `{text}`, is not two tokens of the vocabulary"),
        )
        .help(USE_FOLDER)),
    };
    pairs.iter().enumerate().map(parse).collect()
}

fn added_tokens(tokens: &[&str], kinds: &[Kind]) -> Vec<Value> {
    let added = tokens.iter().zip(kinds).enumerate().filter_map(|(id, (token, kind))| {
        let special = match kind {
            Kind::Control => true,
            Kind::UserDefined => false,
            Kind::Normal | Kind::Unknown | Kind::Unused | Kind::Byte => return None,
        };
        Some(added_token(id as u64, token, special))
    });
    added.collect()
}

/// A SentencePiece model as llama.cpp keeps it.
fn pieces(
    gguf: &Gguf,
    tokens: &[&str],
    kinds: Vec<Kind>,
    model: Model,
) -> Result<Value, DataError> {
    let scores = gguf.require("tokenizer.ggml.scores", |value| {
        value.as_array()?.iter().map(GgufValue::as_f64).collect::<Option<Vec<_>>>()
    })?;
    if scores.len() != tokens.len() {
        let message = format!("{} tokens, but {} scores", tokens.len(), scores.len());
        return Err(DataError::invalid(gguf.path(), message).help(USE_FOLDER));
    }
    let charsmap = gguf.get("tokenizer.ggml.precompiled_charsmap").and_then(GgufValue::as_array);
    let charsmap: Option<Vec<u8>> = charsmap
        .into_iter()
        .flatten()
        .map(|byte| match byte {
            GgufValue::Int(byte) => Some(*byte as u8),
            other => u8::try_from(other.as_u64()?).ok(),
        })
        .collect();
    let charsmap = charsmap.ok_or_else(|| {
        DataError::invalid(gguf.path(), "`tokenizer.ggml.precompiled_charsmap` is not of bytes")
            .help(USE_FOLDER)
    })?;
    let piece = |((text, kind), score): ((&&str, Kind), &f64)| Piece {
        // Gemma's runs of blanks are written as such.
        text: if kind == Kind::UserDefined {
            text.replace(' ', MARK.encode_utf8(&mut [0; 4]))
        } else {
            (*text).to_owned()
        },
        score: *score as f32,
        kind,
    };
    let byte_fallback = kinds.contains(&Kind::Byte);
    let pieces = Pieces {
        path: gguf.path().to_owned(),
        pieces: tokens.iter().zip(kinds).zip(&scores).map(piece).collect(),
        model,
        byte_fallback,
        dummy_prefix: flag(gguf, "add_space_prefix", true),
        single_blanks: flag(gguf, "remove_extra_whitespaces", false),
        escape_blanks: true,
        charsmap,
        specials: Vec::new(),
    };
    Ok(pieces.convert()?.0)
}

/// WordPiece as llama.cpp writes it: what starts a word begins with `▁`, what continues one has no `##`.
fn word_piece(
    gguf: &Gguf,
    tokens: &[&str],
    kinds: &[Kind],
    config: &Map<String, Value>,
) -> Result<Value, DataError> {
    let spelled = |(token, kind): (&&str, &Kind)| match token.strip_prefix(MARK) {
        Some(start) => start.to_owned(),
        None if *kind != Kind::Normal || token.starts_with('[') && token.ends_with(']') => {
            (*token).to_owned()
        }
        None => format!("##{token}"),
    };
    let texts: Vec<String> = tokens.iter().zip(kinds).map(spelled).collect();
    let vocab = vocabulary(gguf, &texts)?;
    let special = |key: &str, or: &str| {
        let text = config.get(key).and_then(Value::as_str).unwrap_or(or).to_owned();
        let id = vocab.get(&text).cloned().ok_or_else(|| {
            DataError::invalid(gguf.path(), format!("its vocabulary has no `{text}`"))
                .help(USE_FOLDER)
        })?;
        Ok::<_, DataError>((text, id))
    };
    let ((cls, cls_id), (sep, sep_id), (unk, _)) = (
        special("cls_token", "[CLS]")?,
        special("sep_token", "[SEP]")?,
        special("unk_token", "[UNK]")?,
    );
    // Nothing says whether case counts; a vocabulary that it counts for has capitals.
    let normal = texts.iter().zip(kinds).filter(|(_, kind)| **kind == Kind::Normal);
    let lowercase = !normal
        .clone()
        .any(|(text, _)| !text.starts_with('[') && text.contains(char::is_uppercase));
    let text = |name: &str, of: u32| json!({"Sequence": {"id": name, "type_id": of}});
    let mark = |token: &str, of: u32| json!({"SpecialToken": {"id": token, "type_id": of}});
    let references: Vec<&str> = texts.iter().map(String::as_str).collect();
    let special_kinds: Vec<Kind> = texts
        .iter()
        .zip(kinds)
        .map(|(text, kind)| if [&cls, &sep, &unk].contains(&text) { Kind::Control } else { *kind })
        .collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(&references, &special_kinds),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": [mark(&cls, 0), text("A", 0), mark(&sep, 0)],
            "pair": [mark(&cls, 0), text("A", 0), mark(&sep, 0), text("B", 1), mark(&sep, 1)],
            "special_tokens": {
                &cls: {"id": cls, "ids": [cls_id], "tokens": [cls]}, &sep: {"id": sep, "ids": [sep_id], "tokens": [sep]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    }))
}

fn config(gguf: &Gguf, tokens: &[&str]) -> Result<Map<String, Value>, DataError> {
    let mut config = plain_config();
    for (key, name) in [
        ("bos", "bos"),
        ("eos", "eos"),
        ("unknown", "unk"),
        ("padding", "pad"),
        ("seperator", "sep"),
        ("cls", "cls"),
        ("mask", "mask"),
    ] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = gguf.get(&key).and_then(GgufValue::as_u64) else { continue };
        let token = tokens.get(id as usize).ok_or_else(|| {
            let message = format!("`{key}` is {id}, but there are {} tokens", tokens.len());
            DataError::invalid(gguf.path(), message).help(USE_FOLDER)
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
