//! Tokenizers: their files, encoding and decoding, pruning, and what other formats say of them.

pub mod counts;
pub mod files;
pub mod gguf;
pub mod gguf_write;
pub mod prune;
pub mod remap;

use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::data::tokenizer::files::Vocabulary;

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
