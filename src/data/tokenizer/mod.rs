//! Tokenizers: their files, encoding and decoding, pruning, and what other formats say of them.

mod added;
pub mod bytes;
mod chars;
mod charsmap;
pub mod counts;
mod encode;
pub mod files;
pub mod gguf;
mod gguf_pre;
pub mod gguf_write;
mod merges;
pub mod open;
pub mod pieces;
mod plan;
pub mod prune;
pub mod remap;
pub mod retrain;
pub mod sentencepiece;
mod spelling;
mod split;
mod state;
mod words;

use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::data::tokenizer::encode::Encoder;
pub use crate::data::tokenizer::encode::Part;
use crate::data::tokenizer::files::{Files, Vocabulary};
use crate::data::tokenizer::state::{Count, States};

/// Bytes of a part of a text that is encoded at once.
const PART_BYTES: usize = 256 << 10;

/// A loaded tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    encoder: Encoder,
    states: States,
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
        Self::of(Files::read(folder)?)
    }

    /// Loads a tokenizer whose files are read.
    ///
    /// # Errors
    /// When they can't be understood.
    pub fn of(files: Files) -> Result<Self, DataError> {
        let mut inner = files.load()?;
        let Files { path, json, config } = files;
        let vocabulary = Vocabulary::new(&path, &json, config)?;
        // Training text is neither cut nor padded, whatever the file says.
        inner.with_truncation(None).map_err(|error| DataError::invalid(&path, error))?;
        inner.with_padding(None);
        let end_of_text =
            inner.token_to_id("<|endoftext|>").or_else(|| vocabulary.special("eos_token"));
        let start_of_text =
            vocabulary.special("bos_token").or_else(|| vocabulary.special("eos_token"));
        let encoder =
            Encoder::new(&inner, &json).map_err(|error| DataError::invalid(&path, error))?;
        let (size, states) = (vocabulary.size(), States::new(0));
        Ok(Self { inner, encoder, states, path, size, start_of_text, end_of_text })
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
        let (mut ids, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let end = at + self.part_end(&text.as_bytes()[at..]);
            self.append(Part { text: &text[at..end], is_first: at == 0 }, &mut ids)?;
            at = end;
        }
        Ok(ids)
    }

    /// Returns where the first part of a text, or of the rest of one, ends: at a place where cutting it changes no id, if there is
    /// one, and then after 256 KiB at most if possible. Text is cut between characters.
    pub fn part_end(&self, text: &[u8]) -> usize {
        let mut len = PART_BYTES;
        while len < text.len() {
            if let Some(end) = self.encoder.cut(&text[..len]) {
                return end;
            }
            len *= 2;
        }
        text.len()
    }

    /// Appends the ids of a text or a part of one, without special tokens around it.
    ///
    /// # Errors
    /// When the tokenizer can't encode it.
    pub fn append(&self, part: Part<'_>, ids: &mut Vec<u32>) -> Result<(), DataError> {
        let encode = self.states.with(|state| self.encoder.encode(&self.inner, part, state, ids));
        encode.map_err(|error| DataError::invalid(&self.path, format!("can't encode: {error}")))
    }

    /// Returns what counts how often each id comes.
    pub fn counter(&self) -> Counter<'_> {
        Counter { tokenizer: self, states: States::new(self.size as usize) }
    }

    /// Returns the ids of a text with the special tokens that the tokenizer puts around it, such as one at its start; none
    /// where the text itself begins with that one.
    ///
    /// # Errors
    /// When the tokenizer can't encode it.
    pub fn encode_marked(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let start = self.start_of_text.and_then(|id| self.inner.id_to_token(id));
        let is_marked = !start.is_some_and(|start| text.starts_with(&start));
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

/// Counts how often each id comes, faster than encoding: the ids of a word are looked at once, however often it came.
pub struct Counter<'t> {
    tokenizer: &'t Tokenizer,
    states: States,
}

impl Counter<'_> {
    /// Counts the ids of a text or a part of one; may be called by several threads at once.
    ///
    /// # Errors
    /// When the tokenizer can't encode it.
    pub fn add(&self, part: Part<'_>) -> Result<(), DataError> {
        let Tokenizer { inner, encoder, path, .. } = self.tokenizer;
        let encode = self.states.with(|state| encoder.encode(inner, part, state, &mut Count));
        encode.map_err(|error| DataError::invalid(path, format!("can't encode: {error}")))
    }

    /// Returns the counts, by id.
    pub fn finish(self) -> Vec<u64> {
        self.states.into_counts()
    }
}
