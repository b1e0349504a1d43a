//! A tokenizer in any form that is known here, turned into one: `tokenizer.json` and `tokenizer_config.json` in a folder.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::data::dataset::read_json;
use crate::data::error::DataError;
use crate::data::gguf::Gguf;
use crate::data::tokenizer::charsmap::check_normalizer;
use crate::data::tokenizer::files::{
    Vocabulary, added_token, copy_tokenizer, merge_parts, model_tokens, read_tokenizer_config,
    read_tokenizer_json, token_text, write_tokenizer,
};
use crate::data::tokenizer::gguf::tokenizer_from_gguf;
use crate::data::tokenizer::pieces::plain_config;
use crate::data::tokenizer::sentencepiece::read_sentencepiece;
use crate::data::tokenizer::spelling::{byte_chars, byte_piece};

/// Names of SentencePiece models in the folders of Hugging Face.
const SENTENCEPIECE: [&str; 4] =
    ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"];

const SAVE: &str = "open it with transformers' `AutoTokenizer.from_pretrained` and save it with `save_pretrained`, \
                    which writes `tokenizer.json`";

/// Writes the tokenizer of a source into a folder that exists, and checks it. The source is a folder, a GGUF file, a
/// SentencePiece model, or a `tokenizer.json` under any name; `config` is a file's `tokenizer_config.json`.
///
/// # Errors
/// When the source can't be read or understood, or contradicts itself.
pub fn open_tokenizer(source: &Path, config: Option<&Path>, out: &Path) -> Result<(), DataError> {
    let config = config.map_or_else(|| Ok(Map::new()), read_json)?;
    if source.is_dir() && source.join("tokenizer.json").exists() {
        check_once(&source.join("tokenizer.json"))?;
        check(&source.join("tokenizer.json"), &read_tokenizer_json(source)?)?;
        return copy_tokenizer(source, out);
    }
    if source.is_dir() {
        convert_folder(source, out)?;
    } else if Gguf::is_gguf(source) {
        tokenizer_from_gguf(&Gguf::open(source)?, out)?;
    } else if is_json(source)? {
        let json: Value = read_json(source)?;
        check_once(source)?;
        check(source, &json)?;
        return write_tokenizer(out, &json, &config);
    } else {
        from_sentencepiece(source, config, out)?;
    }
    check(&out.join("tokenizer.json"), &read_tokenizer_json(out)?)
}

fn is_json(source: &Path) -> Result<bool, DataError> {
    if source.extension().is_some_and(|extension| extension == "json") {
        return Ok(true);
    }
    let mut start = [0; 64];
    let mut file = fs::File::open(source).map_err(DataError::io("open", source))?;
    let read = file.read(&mut start).map_err(DataError::io("read", source))?;
    Ok(start[..read].trim_ascii_start().first().is_some_and(|&byte| byte == b'{'))
}

fn convert_folder(folder: &Path, out: &Path) -> Result<(), DataError> {
    let existing = |name: &&str| folder.join(name).exists();
    if let Some(name) = SENTENCEPIECE.iter().find(|name| existing(name)) {
        return from_sentencepiece(&folder.join(name), read_tokenizer_config(folder)?, out);
    }
    if existing(&"vocab.json") && existing(&"merges.txt") {
        return from_merges(folder, out);
    }
    Err(DataError::invalid(
        folder,
        "has no `tokenizer.json`, SentencePiece model, or `vocab.json` with `merges.txt`",
    )
    .help(format!(
        "name the folder with the tokenizer's files; if it is one of another kind, {SAVE}"
    )))
}

fn from_sentencepiece(
    model: &Path,
    config: Map<String, Value>,
    out: &Path,
) -> Result<(), DataError> {
    let (mut json, mut own) = read_sentencepiece(model)?.convert()?;
    own.extend(config.into_iter().filter(|(_, value)| !value.is_null()));
    if let Some(folder) = model.parent() {
        add_tokens(folder, &mut json, &own)?;
    }
    mark_texts(
        &mut json,
        &own,
        own.get("add_bos_token") == Some(&json!(true)),
        own.get("add_eos_token") == Some(&json!(true)),
    );
    write_tokenizer(out, &json, &own)
}

/// A byte-level BPE vocabulary as GPT-2's tokenizer in Python keeps it.
fn from_merges(folder: &Path, out: &Path) -> Result<(), DataError> {
    let mut config = read_tokenizer_config(folder)?;
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("GPT2Tokenizer");
    if !["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"].contains(&class) {
        let message =
            format!("has no `tokenizer.json`, and how `{class}` splits words is not known here");
        return Err(DataError::invalid(folder, message).help(SAVE));
    }
    let path = folder.join("vocab.json");
    let vocab: Map<String, Value> = read_json(&path)?;
    let mut symbols = byte_chars();
    symbols.sort_unstable();
    if let Some(symbol) = symbols.iter().find(|symbol| !vocab.contains_key(&symbol.to_string())) {
        let message =
            format!("no byte-level vocabulary: the byte that GPT-2 writes `{symbol}` is missing");
        return Err(DataError::invalid(&path, message).help(SAVE));
    }
    let prefix = config.get("add_prefix_space") == Some(&json!(true));
    let byte_level = |prefix| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level(prefix), "post_processor": null, "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges(&folder.join("merges.txt"))?,
        },
    });
    add_tokens(folder, &mut json, &config)?;
    for (key, value) in plain_config() {
        config.entry(key).or_insert(value);
    }
    write_tokenizer(out, &json, &config)
}

fn merges(path: &Path) -> Result<Vec<Value>, DataError> {
    let text = fs::read_to_string(path).map_err(DataError::io("read", path))?;
    let lines = text.lines().enumerate().filter(|(number, line)| {
        !(line.is_empty() || *number == 0 && line.starts_with("#version"))
    });
    let pair = |(number, line): (usize, &str)| {
        let pair = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) = pair.ok_or_else(|| {
            DataError::invalid(path, format!("line {} is not two tokens: `{line}`", number + 1))
                .help(SAVE)
        })?;
        Ok(json!([left, right]))
    };
    lines.map(pair).collect()
}

/// Adds the tokens of `added_tokens.json` and of the configuration, and makes those special that the configuration names.
fn add_tokens(
    folder: &Path,
    json: &mut Value,
    config: &Map<String, Value>,
) -> Result<(), DataError> {
    let mut wanted: Vec<(u64, Value)> = Vec::new();
    let path = folder.join("added_tokens.json");
    if path.exists() {
        let added: Map<String, Value> = read_json(&path)?;
        for (text, id) in &added {
            let id = id.as_u64().ok_or_else(|| {
                DataError::invalid(&path, format!("token `{text}` has id `{id}`"))
                    .help("use whole numbers from zero")
            })?;
            wanted.push((id, added_token(id, text, false)));
        }
    }
    for (id, token) in
        config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten()
    {
        if let (Ok(id), Some(text)) = (id.parse(), token_text(token)) {
            let mut own = added_token(id, text, token["special"] == true);
            for key in ["single_word", "lstrip", "rstrip", "normalized"] {
                own[key] = json!(token[key] == true);
            }
            wanted.push((id, own));
        }
    }
    let named = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    for text in named.iter().filter_map(|name| token_text(config.get(*name)?)) {
        let id = json["model"]["vocab"][text].as_u64();
        if let Some(id) = id.or_else(|| {
            wanted.iter().find(|(_, token)| token["content"] == text).map(|(id, _)| *id)
        }) {
            wanted.push((id, added_token(id, text, true)));
        }
    }
    let Some(added) = json["added_tokens"].as_array_mut() else { return Ok(()) };
    for (id, token) in wanted {
        match added.iter_mut().find(|own| own["content"] == token["content"] && own["id"] == id) {
            Some(own) if token["special"] == true => own["special"] = json!(true),
            Some(_) => {}
            None => added.push(token),
        }
    }
    added.sort_by_key(|token| token["id"].as_u64());
    Ok(())
}

/// Puts the tokens that the configuration names before and after each text that is encoded with special tokens.
pub(super) fn mark_texts(json: &mut Value, config: &Map<String, Value>, bos: bool, eos: bool) {
    let added = json["added_tokens"].as_array().cloned().unwrap_or_default();
    let token = |wanted: bool, name: &str| {
        let text = token_text(config.get(name).filter(|_| wanted)?)?.to_owned();
        let id = added.iter().find(|token| token["content"] == text)?["id"].clone();
        Some((text, id))
    };
    let (bos, eos) = (token(bos, "bos_token"), token(eos, "eos_token"));
    if bos.is_none() && eos.is_none() {
        return;
    }
    let mark = |token: &Option<(String, Value)>, of: u32| {
        token
            .iter()
            .map(|(text, _)| json!({"SpecialToken": {"id": text, "type_id": of}}))
            .collect::<Vec<_>>()
    };
    let text = |name: &str, of: u32| {
        [mark(&bos, of), vec![json!({"Sequence": {"id": name, "type_id": of}})], mark(&eos, of)]
            .concat()
    };
    let tokens: Map<String, Value> = [&bos, &eos]
        .into_iter()
        .flatten()
        .map(|(text, id)| (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = [text("A", 0), text("B", 1)].concat();
    json["post_processor"] = json!({
        "type": "TemplateProcessing", "single": text("A", 0), "pair": pair,
        "special_tokens": tokens,
    });
}

/// Tells whether each token stands once in the vocabulary. Who reads it as JSON sees only the last one of those with the same text.
fn check_once(path: &Path) -> Result<(), DataError> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        vocab: Repeated,
    }
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    match serde_json::from_slice(&bytes) {
        Ok(File { model: Model { vocab: Repeated(Some(text)) } }) => {
            Err(DataError::invalid(path, format!("token `{text}` is there twice"))
                .help("convert or save the tokenizer again"))
        }
        // Whether it has a vocabulary at all is not the question here.
        _ => Ok(()),
    }
}

/// The first key of a map that stands there twice.
struct Repeated(Option<String>);

impl<'de> Deserialize<'de> for Repeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Repeated;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Repeated, A::Error> {
                let (mut seen, mut repeated) = (HashSet::new(), None);
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    if repeated.is_none() && seen.contains(&key) {
                        repeated = Some(key);
                    } else {
                        seen.insert(key);
                    }
                }
                Ok(Repeated(repeated))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Tells whether a `tokenizer.json` that was read from `path` holds together.
///
/// # Errors
/// When it is no tokenizer, ids are given twice or would not be kept, or BPE can't merge what its vocabulary has.
pub fn check(path: &Path, json: &Value) -> Result<(), DataError> {
    Vocabulary::new(path, json, Map::new())?;
    let tokens = model_tokens(path, json)?.into_iter().map(|(text, _)| text).collect();
    check_added(path, json, &tokens)?;
    check_normalizer(path, &json["normalizer"])?;
    let model = &json["model"];
    let Some(vocab) = model["vocab"]
        .as_object()
        .filter(|_| model["type"] == "BPE" || model.get("merges").is_some())
    else {
        return Ok(());
    };
    let invalid = |message: String| {
        Err(DataError::invalid(path, message).help("convert or save the tokenizer again"))
    };
    let merges = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    for (rank, merge) in merges.iter().enumerate() {
        let known = merge_parts(merge)
            .is_some_and(|(left, right)| vocab.contains_key(left) && vocab.contains_key(right));
        if !known {
            return invalid(format!(
                "merge {rank}, `{merge}`, is not two tokens of the vocabulary"
            ));
        }
    }
    if !merges.is_empty() || model["ignore_merges"] == true {
        return Ok(());
    }
    let affix = |name: &str| model[name].as_str().unwrap_or_default();
    let (prefix, suffix) = (affix("continuing_subword_prefix"), affix("end_of_word_suffix"));
    let added = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| token["content"].as_str());
    let mut exempt: Vec<String> = added.map(str::to_owned).collect();
    exempt.extend(model["unk_token"].as_str().map(str::to_owned));
    exempt.extend((0..=255).map(byte_piece));
    exempt.sort_unstable();
    let is_long = |text: &&String| {
        let core = text.strip_prefix(prefix).unwrap_or(text);
        core.strip_suffix(suffix).unwrap_or(core).chars().count() > 1
            && exempt.binary_search(text).is_err()
    };
    match vocab.keys().find(is_long) {
        Some(text) => {
            invalid(format!("BPE without merges, so no text can become its token `{text}`"))
        }
        None => Ok(()),
    }
}

/// The tokenizers library gives added tokens that the model lacks the ids after the model's, whatever the file says.
fn check_added(path: &Path, json: &Value, model: &BTreeSet<&str>) -> Result<(), DataError> {
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let others =
        added.filter_map(|token| Some((token["content"].as_str()?, token["id"].as_u64()?)));
    let others = others.filter(|(text, _)| !model.contains(text));
    for (next, (text, id)) in (model.len() as u64..).zip(others) {
        if id != next {
            let message =
                format!("added token `{text}` has id {id}, but the next free one is {next}");
            return Err(DataError::invalid(path, message)
                .help("number added tokens on from the model's, without gaps, or put them into its `vocab` too"));
        }
    }
    Ok(())
}
