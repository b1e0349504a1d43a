//! A SentencePiece vocabulary as a Hugging Face tokenizer, be it out of a `.model` or a GGUF file.
//!
//! Ids are those of SentencePiece, as far as `tokenizer.json` can say what it does; `docs/tokenizers.md` tells what it can't.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::data::error::DataError;
use crate::data::tokenizer::charsmap::{check_charsmap, replacing};
use crate::data::tokenizer::files::{AS_IT_IS, added_token};
use crate::data::tokenizer::spelling::{MARK, byte_piece};

/// What a piece is for, with the numbers of SentencePiece and of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of text.
    Normal = 1,
    /// What stands for text without pieces.
    Unknown = 2,
    /// A mark that no text leads to.
    Control = 3,
    /// Text that is always one piece.
    UserDefined = 4,
    /// A piece that is not used.
    Unused = 5,
    /// A byte: `<0x0A>`.
    Byte = 6,
}

impl Kind {
    /// Returns the kind with a number.
    pub fn new(number: u64) -> Option<Self> {
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte]
            .into_iter()
            .find(|&kind| kind as u64 == number)
    }
}

/// A piece of the vocabulary; its place is its id.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The text, with `▁` for blanks.
    pub text: String,
    /// BPE merges the highest first; Unigram's are log probabilities.
    pub score: f32,
    /// What it is for.
    pub kind: Kind,
}

/// How text becomes pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// By merging two pieces into the one with the highest score.
    Bpe,
    /// By the most probable sequence.
    Unigram,
}

/// A SentencePiece vocabulary, with what happens to a text before.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// Where it was read.
    pub path: PathBuf,
    /// The pieces by id.
    pub pieces: Vec<Piece>,
    /// How text becomes pieces.
    pub model: Model,
    /// Whether characters without a piece become bytes.
    pub byte_fallback: bool,
    /// Whether a blank is put before a text.
    pub dummy_prefix: bool,
    /// Whether blanks at the ends go and several become one.
    pub single_blanks: bool,
    /// Whether blanks become `▁`.
    pub escape_blanks: bool,
    /// Replacements of characters, compiled by SentencePiece; empty for none.
    pub charsmap: Vec<u8>,
    /// Ids of `bos`, `eos` and `pad`.
    pub specials: Vec<(&'static str, u32)>,
}

impl Pieces {
    /// Returns `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// When the pieces contradict each other.
    pub fn convert(&self) -> Result<(Value, Map<String, Value>), DataError> {
        let unknown = self.check()?;
        if !self.charsmap.is_empty() {
            check_charsmap(&self.path, &self.charsmap)?;
        }
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": self.normalizer(),
            "pre_tokenizer": self.pre_tokenizer(),
            "post_processor": null,
            "decoder": self.decoder(),
            "model": match self.model {
                Model::Bpe => self.bpe(unknown),
                Model::Unigram => self.unigram(unknown),
            },
        });
        Ok((json, self.config(unknown)))
    }

    /// Returns the id of the unknown piece.
    fn check(&self) -> Result<usize, DataError> {
        let invalid = |message: String| {
            Err(DataError::invalid(&self.path, message)
                .help("convert or train the vocabulary again"))
        };
        let mut ids = HashMap::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if let Some(first) = ids.insert(piece.text.as_str(), id) {
                return invalid(format!("pieces {first} and {id} are both `{}`", piece.text));
            }
            if piece.text.is_empty() {
                return invalid(format!("piece {id} is empty"));
            }
            if !piece.score.is_finite() {
                return invalid(format!("piece {id}, `{}`, has score {}", piece.text, piece.score));
            }
        }
        if self.byte_fallback
            && let Some(byte) =
                (0..=255u8).map(byte_piece).find(|text| !ids.contains_key(text.as_str()))
        {
            return invalid(format!("characters become bytes, but `{byte}` is missing"));
        }
        match self.of(Kind::Unknown).collect::<Vec<_>>()[..] {
            [(id, _)] => Ok(id),
            [] => invalid("no piece is of type UNKNOWN".to_owned()),
            [(one, _), (two, _), ..] => {
                invalid(format!("pieces {one} and {two} are both of type UNKNOWN"))
            }
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (usize, &Piece)> {
        self.pieces.iter().enumerate().filter(move |(_, piece)| piece.kind == kind)
    }

    fn added_tokens(&self) -> Vec<Value> {
        let added = self.pieces.iter().enumerate().filter_map(|(id, piece)| {
            let special = match piece.kind {
                Kind::Unknown | Kind::Control => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            // One with blanks is found in the text whose blanks are replaced already.
            let normalized = !special && self.escape_blanks && piece.text.contains(MARK);
            let mut token = added_token(id as u64, &piece.text, special);
            token["normalized"] = json!(normalized);
            Some(token)
        });
        added.collect()
    }

    /// Whether the blank before a text is put by the pre-tokenizer, which knows where the text starts. There are user-defined
    /// pieces then, after which no blank may be put. Else one is put after special tokens too, as Hugging Face's tokenizers do.
    fn prefix_at_start_only(&self) -> bool {
        self.dummy_prefix && self.of(Kind::UserDefined).next().is_some()
    }

    fn normalizer(&self) -> Value {
        let mut steps = Vec::new();
        if !self.charsmap.is_empty() {
            steps.push(replacing(&self.charsmap));
        }
        if self.single_blanks {
            for (pattern, content) in [(r"\A +| +\z", ""), (" {2,}", " ")] {
                steps.push(
                    json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content}),
                );
            }
        }
        if self.dummy_prefix && !self.prefix_at_start_only() {
            let prefix = if self.escape_blanks { MARK } else { ' ' };
            steps.push(json!({"type": "Prepend", "prepend": prefix}));
        }
        if self.escape_blanks {
            steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": MARK}));
        }
        match steps.len() {
            0 => Value::Null,
            1 => steps.remove(0),
            _ => json!({"type": "Sequence", "normalizers": steps}),
        }
    }

    fn pre_tokenizer(&self) -> Value {
        // Words one by one are the same where no piece goes beyond one.
        let split = self.escape_blanks
            && self.pieces.iter().any(|piece| piece.text.chars().eq([MARK]))
            && self.pieces.iter().all(|piece| !piece.text.chars().skip(1).any(|c| c == MARK));
        let split = split && self.model == Model::Unigram;
        let metaspace = |replacement: char, scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": split});
        let escape = metaspace(if self.escape_blanks { MARK } else { ' ' }, "never", split);
        match (self.prefix_at_start_only(), split) {
            (false, false) => Value::Null,
            (false, true) => escape,
            // With `▁` itself the first would put none before a text that begins with a blank.
            (true, _) => {
                let parts = [metaspace(' ', "first", false), escape];
                json!({"type": "Sequence", "pretokenizers": parts})
            }
        }
    }

    fn decoder(&self) -> Value {
        let mut steps =
            vec![json!({"type": "Replace", "pattern": {"String": MARK}, "content": " "})];
        if self.byte_fallback {
            steps.push(json!({"type": "ByteFallback"}));
        }
        steps.push(json!({"type": "Fuse"}));
        if self.dummy_prefix {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    }

    fn unigram(&self, unknown: usize) -> Value {
        let vocab: Vec<Value> =
            self.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
        json!({
            "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": self.byte_fallback,
        })
    }

    fn bpe(&self, unknown: usize) -> Value {
        let vocab: Map<String, Value> = self
            .pieces
            .iter()
            .enumerate()
            .map(|(id, piece)| (piece.text.clone(), json!(id)))
            .collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": self.pieces[unknown].text,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": self.byte_fallback, "ignore_merges": false,
            "vocab": vocab, "merges": self.merges(),
        })
    }

    /// Returns all pairs of normal pieces that make a normal piece: those of the highest score first, then of the smallest id,
    /// then with the shortest left part, as `SpmConverter.build_tokenizer_from_spm_proto` of transformers does.
    fn merges(&self) -> Vec<(&str, &str)> {
        let normal: HashMap<&str, usize> =
            self.of(Kind::Normal).map(|(id, piece)| (piece.text.as_str(), id)).collect();
        let mut order: Vec<(usize, &Piece)> = self.of(Kind::Normal).collect();
        order.sort_by(|(_, a), (_, b)| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal));
        let mut merges = Vec::new();
        for (_, piece) in order {
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if normal.contains_key(left) && normal.contains_key(right) {
                    merges.push((left, right));
                }
            }
        }
        merges
    }

    fn config(&self, unknown: usize) -> Map<String, Value> {
        let mut config = plain_config();
        config.insert("unk_token".to_owned(), json!(self.pieces[unknown].text));
        for &(name, id) in &self.specials {
            let piece = self.pieces.get(id as usize);
            if let Some(piece) = piece.filter(|piece| piece.kind == Kind::Control) {
                config.insert(format!("{name}_token"), json!(piece.text));
            }
        }
        config
    }
}

/// Returns what stands in every `tokenizer_config.json` that is written here.
pub(super) fn plain_config() -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!(AS_IT_IS));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config
}
