//! What pruning has to know of a tokenizer: its tokens, which of them are special, and how its model comes to each.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value};

use crate::data::error::DataError;
use crate::data::tokenizer::files::{Files, MAX_VOCABULARY, token_text};
use crate::data::tokenizer::prune::bpe::Bpe;
use crate::data::tokenizer::prune::unigram::Unigram;
use crate::data::tokenizer::prune::wordpiece::WordPiece;
use crate::data::tokenizer::spelling::byte_piece;

/// How a model makes a token when it is given the token's own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It makes something else of it.
    Never,
    /// At once.
    Whole,
    /// By merging two others.
    Merged(u32, u32),
}

/// A tokenizer by its ids.
pub(super) struct Model<'j> {
    kind: Kind<'j>,
    /// All tokens, the added ones too.
    known: Vec<bool>,
    added: BTreeSet<u32>,
    special: BTreeSet<u32>,
    /// Those that the decoder turns into something else, such as `▁` into a blank; spelt by bytes they would stay as they are.
    decoded: BTreeSet<u32>,
}

enum Kind<'j> {
    Bpe(Bpe<'j>),
    Unigram(Unigram<'j>),
    WordPiece(WordPiece<'j>),
}

impl<'j> Model<'j> {
    pub(super) fn read(files: &'j Files) -> Result<Self, DataError> {
        let Files { path, json, config } = files;
        let model = &json["model"];
        let pieces = Pieces::read(path, model)?;
        let (special, added) = (special(json, config, &pieces), added(json));
        let mut decoded = BTreeSet::new();
        decoded_ids(&json["decoder"], &pieces, &mut decoded);
        let ids = pieces.ids.values().chain(&special).copied();
        let mut known = Vec::new();
        for id in ids {
            if id >= MAX_VOCABULARY {
                return Err(DataError::invalid(path, format!("a token has id {id}"))
                    .help(format!("use ids below {MAX_VOCABULARY}")));
            }
            if known.len() <= id as usize {
                known.resize(id as usize + 1, false);
            }
            known[id as usize] = true;
        }
        let kind = match model["type"].as_str() {
            Some("Unigram") => Kind::Unigram(Unigram::new(model, pieces)),
            Some("WordPiece") => Kind::WordPiece(WordPiece::new(model, pieces)),
            Some("BPE") => Kind::Bpe(Bpe::read(path, model, pieces)?),
            Some("WordLevel") => {
                return Err(DataError::invalid(
                    path,
                    "of type `WordLevel`, without pieces of words to spell a removed word with",
                )
                .help("prune a tokenizer of type BPE, Unigram or WordPiece"));
            }
            kind => {
                let kind = kind.unwrap_or("unknown");
                return Err(DataError::invalid(path, format!("of type `{kind}`"))
                    .help("prune a tokenizer of type BPE, Unigram or WordPiece"));
            }
        };
        Ok(Self { kind, known, added, special, decoded })
    }

    /// Returns one more than the largest id.
    pub(super) fn size(&self) -> usize {
        self.known.len()
    }

    /// Returns the ids of all tokens, rising.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        super::ids(&self.known)
    }

    /// Returns whether a token is cut out of the text before the model sees it.
    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added.contains(&id)
    }

    /// Returns what stays however rare it is: special tokens, and those without which some text could not be written.
    pub(super) fn forced(&self) -> BTreeSet<u32> {
        let spelling = match &self.kind {
            Kind::Bpe(bpe) => bpe.spelling(),
            Kind::Unigram(unigram) => unigram.spelling(),
            Kind::WordPiece(pieces) => pieces.spelling(),
        };
        self.special.iter().chain(&self.decoded).copied().chain(spelling).collect()
    }

    pub(super) fn origin(&mut self, id: u32) -> Origin {
        match &mut self.kind {
            Kind::Bpe(bpe) => bpe.origin(id),
            Kind::Unigram(unigram) => unigram.origin(id),
            Kind::WordPiece(pieces) => pieces.origin(id),
        }
    }

    /// Returns whether no text leads to a token. Special tokens are put in by other means; tokens for bytes stand for what is
    /// no text.
    pub(super) fn is_orphan(&mut self, id: u32) -> bool {
        let is_byte = match &self.kind {
            Kind::Bpe(Bpe { pieces, .. })
            | Kind::Unigram(Unigram { pieces, .. })
            | Kind::WordPiece(WordPiece { pieces, .. }) => pieces.bytes.contains(&id),
        };
        !is_byte && !self.special.contains(&id) && self.origin(id) == Origin::Never
    }

    /// Returns which merges of the file stay; none for a model without merges.
    pub(super) fn kept_merges(&self, kept: &[bool]) -> Vec<bool> {
        match &self.kind {
            Kind::Bpe(bpe) => bpe.kept_merges(kept),
            Kind::Unigram(_) | Kind::WordPiece(_) => Vec::new(),
        }
    }
}

/// The tokens of a model by their text.
pub(super) struct Pieces<'j> {
    pub(super) ids: HashMap<&'j str, u32>,
    /// By id; empty where there is none.
    pub(super) texts: Vec<&'j str>,
    /// Those that stand for a byte each, where the model falls back to bytes: not always all 256, as Gemma 2 has `\t` for one.
    pub(super) bytes: Vec<u32>,
    has_byte: [bool; 256],
}

impl<'j> Pieces<'j> {
    fn read(path: &Path, model: &'j Value) -> Result<Self, DataError> {
        let pairs: Vec<(&str, Option<u64>)> = match &model["vocab"] {
            Value::Object(vocab) => {
                vocab.iter().map(|(text, id)| (text.as_str(), id.as_u64())).collect()
            }
            Value::Array(vocab) => {
                let text = |piece: &'j Value| piece[0].as_str().unwrap_or_default();
                (0..).zip(vocab).map(|(id, piece)| (text(piece), Some(id))).collect()
            }
            _ => return Err(DataError::invalid(path, "its model has no vocabulary")),
        };
        let mut ids = HashMap::with_capacity(pairs.len());
        let mut texts = vec![""; pairs.len()];
        for (text, id) in pairs {
            let id = id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id < MAX_VOCABULARY);
            let id = id.ok_or_else(|| {
                DataError::invalid(path, format!("token `{text}` has no id below {MAX_VOCABULARY}"))
            })?;
            let at = id as usize;
            texts.resize(texts.len().max(at + 1), "");
            if !texts[at].is_empty() {
                let message = format!("tokens `{}` and `{text}` have the same id {id}", texts[at]);
                return Err(DataError::invalid(path, message));
            }
            texts[at] = text;
            ids.insert(text, id);
        }
        let byte = |byte: u8| ids.get(byte_piece(byte).as_str()).copied();
        let falls_back = model["byte_fallback"].as_bool() == Some(true);
        let bytes: Vec<_> = (0..=255).map(|b| byte(b).filter(|_| falls_back)).collect();
        let has_byte = std::array::from_fn(|byte| bytes[byte].is_some());
        Ok(Self { bytes: bytes.into_iter().flatten().collect(), has_byte, ids, texts })
    }

    /// Returns whether the bytes have tokens that a character without its own falls back to.
    pub(super) fn has_bytes_of(&self, text: &str) -> bool {
        text.bytes().all(|byte| self.has_byte[usize::from(byte)])
    }

    /// Returns all ids with a text, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'j str)> + '_ {
        let all = (0..).zip(self.texts.iter().copied());
        all.filter(|(_, text)| !text.is_empty())
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }
}

/// Returns the parts of a text, one for each character.
pub(super) fn characters(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()])
}

/// Returns the ids of added tokens.
fn added(json: &Value) -> BTreeSet<u32> {
    let tokens = json["added_tokens"].as_array().into_iter().flatten();
    tokens.filter_map(|token| id(&token["id"])).collect()
}

/// Returns the tokens that are special by what the files say, not by how they are spelt: added ones, the unknown one, and
/// all that are named for a purpose.
fn special(json: &Value, config: &Map<String, Value>, pieces: &Pieces<'_>) -> BTreeSet<u32> {
    let mut found = added(json);
    let model = &json["model"];
    found.extend(id(&model["unk_id"]));
    found.extend(id(&json["padding"]["pad_id"]));
    found.extend(model["unk_token"].as_str().and_then(|text| pieces.id(text)));
    post_processor_ids(&json["post_processor"], &mut found);
    for (name, value) in config {
        if name.ends_with("_token") {
            found.extend(token_text(value).and_then(|text| pieces.id(text)));
        }
        if name.ends_with("_token_id") {
            found.extend(id(value));
        }
    }
    let named = |key: &str| config.get(key).and_then(Value::as_array).into_iter().flatten();
    let named = named("additional_special_tokens").filter_map(token_text);
    found.extend(named.filter_map(|text| pieces.id(text)));
    let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
    found.extend(decoder.into_iter().flat_map(Map::keys).filter_map(|id| id.parse::<u32>().ok()));
    found
}

fn decoded_ids(decoder: &Value, pieces: &Pieces<'_>, found: &mut BTreeSet<u32>) {
    for part in decoder["decoders"].as_array().into_iter().flatten() {
        decoded_ids(part, pieces, found);
    }
    let texts = [&decoder["pattern"]["String"], &decoder["replacement"]];
    found.extend(texts.into_iter().filter_map(|text| pieces.id(text.as_str()?)));
}

fn post_processor_ids(value: &Value, found: &mut BTreeSet<u32>) {
    for part in value["processors"].as_array().into_iter().flatten() {
        post_processor_ids(part, found);
    }
    let tokens = value["special_tokens"].as_object().into_iter().flat_map(Map::values);
    found.extend(tokens.flat_map(|token| token["ids"].as_array()).flatten().filter_map(id));
    found.extend([&value["sep"][1], &value["cls"][1]].into_iter().filter_map(id));
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
