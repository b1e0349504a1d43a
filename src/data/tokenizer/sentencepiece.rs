//! SentencePiece `.model` files: a protobuf message (`sentencepiece_model.proto`), of which only what matters is read.

use std::path::Path;

use crate::data::error::DataError;
use crate::data::mapped::Mapped;
use crate::data::tokenizer::files::MAX_VOCABULARY;
use crate::data::tokenizer::pieces::{Kind, Model, Piece, Pieces};

/// Reads a `.model` file.
///
/// # Errors
/// When it is no such file, truncated, or of a model type without counterpart in `tokenizer.json`.
pub fn read_sentencepiece(path: &Path) -> Result<Pieces, DataError> {
    let map = Mapped::open(path)?;
    let mut pieces = Vec::new();
    let (mut trainer, mut normalizer) = (Trainer::default(), Normalizer::default());
    let mut fields = Fields { path, bytes: map.bytes(), start: 0, at: 0 };
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(inner)) => {
                if pieces.len() as u64 == u64::from(MAX_VOCABULARY) {
                    return Err(DataError::invalid(
                        path,
                        format!("more than {MAX_VOCABULARY} pieces"),
                    )
                    .help("use a smaller vocabulary"));
                }
                pieces.push(piece(inner, pieces.len())?);
            }
            (2, Field::Bytes(inner)) => trainer.read(inner)?,
            (3, Field::Bytes(inner)) => normalizer.read(inner)?,
            _ => {}
        }
    }
    if pieces.is_empty() {
        return Err(broken(path, "no pieces"));
    }
    let model = match trainer.model_type {
        1 => Model::Unigram,
        2 => Model::Bpe,
        other => {
            let name = ["WORD", "CHAR"].get((other as usize).wrapping_sub(3)).unwrap_or(&"unknown");
            let message = format!("its model type is {name}; only UNIGRAM and BPE are read");
            return Err(DataError::invalid(path, message).help(
                "train it anew with `--model_type=bpe` or `unigram`, or use `tokenizer.retrain`",
            ));
        }
    };
    if trainer.blank_as_suffix {
        let message = "trained with `treat_whitespace_as_suffix`, which is not supported";
        return Err(DataError::invalid(path, message)
            .help("train it anew without that option, or use `tokenizer.retrain`"));
    }
    Ok(Pieces {
        path: path.to_owned(),
        pieces,
        model,
        byte_fallback: trainer.byte_fallback,
        dummy_prefix: normalizer.dummy_prefix,
        single_blanks: normalizer.single_blanks,
        escape_blanks: normalizer.escape_blanks,
        charsmap: normalizer.charsmap,
        specials: trainer.specials(),
    })
}

/// What `TrainerSpec` says, with the defaults of its declaration.
struct Trainer {
    model_type: u64,
    blank_as_suffix: bool,
    byte_fallback: bool,
    bos: i32,
    eos: i32,
    pad: i32,
}

impl Default for Trainer {
    fn default() -> Self {
        Self {
            model_type: 1,
            blank_as_suffix: false,
            byte_fallback: false,
            bos: 1,
            eos: 2,
            pad: -1,
        }
    }
}

impl Trainer {
    fn read(&mut self, mut fields: Fields) -> Result<(), DataError> {
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (3, Field::Number(value)) => self.model_type = value,
                (24, Field::Number(value)) => self.blank_as_suffix = value != 0,
                (35, Field::Number(value)) => self.byte_fallback = value != 0,
                // An int32, negative ones sign-extended to 64 bits.
                (41, Field::Number(value)) => self.bos = value as i32,
                (42, Field::Number(value)) => self.eos = value as i32,
                (43, Field::Number(value)) => self.pad = value as i32,
                _ => {}
            }
        }
        Ok(())
    }

    fn specials(&self) -> Vec<(&'static str, u32)> {
        let named = [("bos", self.bos), ("eos", self.eos), ("pad", self.pad)];
        named.into_iter().filter_map(|(name, id)| Some((name, u32::try_from(id).ok()?))).collect()
    }
}

/// What `NormalizerSpec` says, with the defaults of its declaration.
struct Normalizer {
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    single_blanks: bool,
    escape_blanks: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { charsmap: Vec::new(), dummy_prefix: true, single_blanks: true, escape_blanks: true }
    }
}

impl Normalizer {
    fn read(&mut self, mut fields: Fields) -> Result<(), DataError> {
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (2, Field::Bytes(inner)) => self.charsmap = inner.bytes.to_vec(),
                (3, Field::Number(value)) => self.dummy_prefix = value != 0,
                (4, Field::Number(value)) => self.single_blanks = value != 0,
                (5, Field::Number(value)) => self.escape_blanks = value != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn piece(mut fields: Fields, id: usize) -> Result<Piece, DataError> {
    let path = fields.path;
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(inner)) => {
                let text = std::str::from_utf8(inner.bytes);
                let place = inner.start;
                piece.text = text
                    .map_err(|_| broken(path, format!("piece {id} at byte {place} is not UTF-8")))?
                    .to_owned();
            }
            (2, Field::Word(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => {
                piece.kind = Kind::new(kind)
                    .ok_or_else(|| broken(path, format!("piece {id} has unknown type {kind}")))?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn broken(path: &Path, what: impl std::fmt::Display) -> DataError {
    DataError::invalid(path, format!("no SentencePiece model: {what}"))
        .help("name a whole `.model` file of SentencePiece, a `tokenizer.json`, or a GGUF file")
}

/// The value of a protobuf field.
enum Field<'a> {
    /// A varint.
    Number(u64),
    /// Four bytes.
    Word(u32),
    /// A string, or a message.
    Bytes(Fields<'a>),
    /// Eight bytes; nothing here is written so.
    Long,
}

/// Walks over the fields of a message.
struct Fields<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// Where the message starts in the file.
    start: usize,
    at: usize,
}

impl<'a> Fields<'a> {
    /// Returns the next field's number and value.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, DataError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let place = self.start + self.at;
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Long)?,
            2 => {
                let len = self.varint()?;
                let start = self.start + self.at;
                Field::Bytes(Fields { path: self.path, bytes: self.take(len)?, start, at: 0 })
            }
            5 => {
                let mut word = [0; 4];
                word.copy_from_slice(self.take(4)?);
                Field::Word(u32::from_le_bytes(word))
            }
            wire => {
                return Err(broken(
                    self.path,
                    format!("a field of unknown kind {wire} at byte {place}"),
                ));
            }
        };
        Ok(Some((tag >> 3, field)))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], DataError> {
        let left = self.bytes.len() - self.at;
        if len > left as u64 {
            let place = self.start + self.at;
            let message = format!(
                "truncated at byte {place}: {len} bytes are missing their last {}",
                len - left as u64
            );
            return Err(broken(self.path, message));
        }
        let taken = &self.bytes[self.at..][..len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    /// Reads a number, seven bits a byte, the lowest first.
    fn varint(&mut self) -> Result<u64, DataError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken(self.path, format!("a number without end at byte {}", self.start + self.at)))
    }
}
