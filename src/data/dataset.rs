//! `Dataset`: token ids end to end in `tokens.u16` or `tokens.u32`, document starts in `documents.u64`, `meta.json`.
//!
//! Sequence `i` is the tokens `i * seq ..= (i + 1) * seq`. A view has the base's tokens as a link, and
//! `sequences.u64` with the base's ids of its sequences. A dataset of drawn documents has `drawn.u64` with the numbers that
//! they had.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::array::{Array, ArrayWriter, write_array};
use crate::data::error::DataError;

/// The file with the numbers that drawn documents had.
pub const DRAWN: &str = "drawn.u64";

/// Width of a stored token id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// Vocabularies up to 65,536.
    U16,
    /// Larger ones.
    U32,
}

impl Dtype {
    fn of(vocab: u64) -> Self {
        if vocab <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    fn file(self) -> &'static str {
        match self {
            Self::U16 => "tokens.u16",
            Self::U32 => "tokens.u32",
        }
    }
}

/// `meta.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetMeta {
    /// Tokens a sequence trains.
    pub seq: u64,
    /// Size of the vocabulary.
    pub vocab: u64,
    /// Width of an id.
    pub dtype: Dtype,
    /// Tokens stored.
    pub tokens: u64,
    /// Sequences.
    pub sequences: u64,
}

#[derive(Debug)]
enum Tokens {
    U16(Array<u16>),
    U32(Array<u32>),
}

/// A mapped dataset or view.
#[derive(Debug)]
pub struct Dataset {
    folder: PathBuf,
    meta: DatasetMeta,
    tokens: Tokens,
    view: Option<Array<u64>>,
}

impl Dataset {
    /// Maps a dataset folder.
    ///
    /// # Errors
    /// When a file can't be mapped or sizes don't fit. Token ids are checked as they are read.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let meta: DatasetMeta = read_json(&folder.join("meta.json"))?;
        let path = folder.join(meta.dtype.file());
        let tokens = match meta.dtype {
            Dtype::U16 => Tokens::U16(Array::open(&path)?),
            Dtype::U32 => Tokens::U32(Array::open(&path)?),
        };
        let view_path = folder.join("sequences.u64");
        let view = if view_path.exists() { Some(Array::open(&view_path)?) } else { None };
        let dataset = Self { folder: folder.to_owned(), meta, tokens, view };
        dataset.check()?;
        Ok(dataset)
    }

    fn check(&self) -> Result<(), DataError> {
        let meta_path = self.folder.join("meta.json");
        let stored = match &self.tokens {
            Tokens::U16(ids) => ids.len(),
            Tokens::U32(ids) => ids.len(),
        } as u64;
        if self.meta.seq == 0 {
            return Err(DataError::invalid(&meta_path, "`seq` must not be 0"));
        }
        if stored != self.meta.tokens {
            let message = format!("has {stored} tokens, but `meta.json` says {}", self.meta.tokens);
            return Err(DataError::invalid(&self.folder.join(self.meta.dtype.file()), message));
        }
        let base = self.base_sequences();
        let sequences = self.view.as_ref().map_or(base, |view| view.len() as u64);
        if sequences != self.meta.sequences {
            let message =
                format!("says {} sequences, but there are {sequences}", self.meta.sequences);
            return Err(DataError::invalid(&meta_path, message));
        }
        if let Some(view) = &self.view
            && let Some((at, id)) = view.iter().enumerate().find(|&(_, id)| id >= base)
        {
            let message = format!("entry {at} is sequence {id}, but there are only {base}");
            return Err(DataError::invalid(view.path(), message));
        }
        Ok(())
    }

    fn base_sequences(&self) -> u64 {
        self.meta.tokens.saturating_sub(1) / self.meta.seq
    }

    /// Returns the description.
    pub fn meta(&self) -> &DatasetMeta {
        &self.meta
    }

    /// Returns the number of sequences.
    pub fn len(&self) -> usize {
        self.meta.sequences as usize
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tokens a sequence trains.
    pub fn seq(&self) -> usize {
        self.meta.seq as usize
    }

    /// Returns the size of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.meta.vocab as usize
    }

    /// Returns the id of a sequence in the base dataset.
    ///
    /// # Panics
    /// When there is no such sequence.
    #[inline]
    pub fn sequence_id(&self, index: usize) -> u64 {
        self.view.as_ref().map_or(index as u64, |view| view.get(index))
    }

    /// Appends the `seq + 1` tokens of a sequence to `out`.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn sequence(&self, index: usize, out: &mut Vec<u32>) -> Result<(), DataError> {
        let start = self.sequence_id(index) as usize * self.seq();
        self.tokens(start..start + self.seq() + 1, out)
    }

    /// Appends some of the base dataset's tokens to `out`.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn tokens(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<(), DataError> {
        let (from, len) = (out.len(), range.len());
        match &self.tokens {
            Tokens::U16(ids) => out.extend(ids.range(range.start, len).map(u32::from)),
            Tokens::U32(ids) => out.extend(ids.range(range.start, len)),
        }
        match out[from..].iter().position(|&id| u64::from(id) >= self.meta.vocab) {
            None => Ok(()),
            Some(at) => Err(self.outside(range.start + at, out[from + at])),
        }
    }

    /// Returns the error of a token that is outside the vocabulary.
    pub fn outside(&self, at: usize, id: u32) -> DataError {
        let vocab = self.meta.vocab;
        let message = format!("token {at} is id {id}, but the vocabulary has {vocab}");
        DataError::invalid(&self.tokens_path(), message)
            .help("the file is damaged, or of another vocabulary; write it again")
    }

    /// Returns whether this holds chosen sequences of a base dataset.
    pub fn is_view(&self) -> bool {
        self.view.is_some()
    }

    /// Returns the file with the ids.
    pub fn tokens_path(&self) -> PathBuf {
        self.folder.join(self.meta.dtype.file())
    }

    /// Returns the base dataset's ids as they lie in the file: little endian, of the width that the description says.
    pub fn bytes(&self) -> &[u8] {
        match &self.tokens {
            Tokens::U16(ids) => ids.bytes(),
            Tokens::U32(ids) => ids.bytes(),
        }
    }

    /// Lets go of the memory that some of the base dataset's tokens take.
    pub fn release(&self, range: Range<usize>) {
        match &self.tokens {
            Tokens::U16(ids) => ids.release(range),
            Tokens::U32(ids) => ids.release(range),
        }
    }

    /// Maps the places at which the base dataset's documents start; the last one ends with the tokens.
    ///
    /// # Errors
    /// When the file can't be mapped, or the places don't rise from 0 to the number of tokens.
    pub fn documents(&self) -> Result<Documents, DataError> {
        let starts = Array::<u64>::open(&self.folder.join("documents.u64"))?;
        let documents = Documents { starts, tokens: self.meta.tokens };
        documents.check()?;
        Ok(documents)
    }

    /// Returns what the sequence at `index` trains, cut by documents: numbers of documents with how many tokens of each, in order.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn documents_of(
        &self,
        index: usize,
        documents: &Documents,
    ) -> impl Iterator<Item = (usize, usize)> {
        let mut at = self.sequence_id(index) as usize * self.seq() + 1;
        let end = at + self.seq();
        std::iter::from_fn(move || {
            let document = (at < end).then(|| documents.at(at))?;
            let start = std::mem::replace(&mut at, end.min(documents.range(document).end));
            Some((document, at - start))
        })
    }

    /// Maps the numbers of the documents that this dataset was drawn from others by, if it was.
    ///
    /// # Errors
    /// When the file can't be mapped.
    pub fn drawn(&self) -> Result<Option<Array<u64>>, DataError> {
        let path = self.folder.join(DRAWN);
        if self.is_view() || !path.exists() { Ok(None) } else { Array::open(&path).map(Some) }
    }

    /// Writes a view of these sequences, given by base ids, into a folder that exists; returns how many there are. Tokens are
    /// linked, not copied.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write_view(
        &self,
        folder: &Path,
        ids: impl IntoIterator<Item = u64>,
    ) -> Result<u64, DataError> {
        for name in [self.meta.dtype.file(), "documents.u64"] {
            let (from, to) = (self.folder.join(name), folder.join(name));
            if fs::hard_link(&from, &to).is_err() {
                reflink_copy::reflink_or_copy(&from, &to).map_err(DataError::io("write", &to))?;
            }
        }
        let mut sequences = 0;
        write_array(folder.join("sequences.u64"), ids.into_iter().inspect(|_| sequences += 1))?;
        let meta = DatasetMeta { sequences, ..self.meta.clone() };
        write_json(&folder.join("meta.json"), &meta)?;
        Ok(sequences)
    }
}

/// Where the documents of a dataset lie among its tokens.
#[derive(Debug)]
pub struct Documents {
    starts: Array<u64>,
    tokens: u64,
}

impl Documents {
    fn check(&self) -> Result<(), DataError> {
        let invalid = |message: String| Err(DataError::invalid(self.starts.path(), message));
        if self.starts.iter().next().unwrap_or(self.tokens) != 0 {
            return invalid("the first document must start at token 0".to_owned());
        }
        let mut before = 0;
        for (at, start) in self.starts.iter().enumerate() {
            if start < before || start > self.tokens {
                return invalid(format!(
                    "document {at} starts at token {start}, which is not from {before} to {}",
                    self.tokens
                ));
            }
            before = start;
        }
        self.starts.release(0..self.len());
        Ok(())
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Returns the places of a document's tokens.
    ///
    /// # Panics
    /// When there is none at `index`.
    pub fn range(&self, index: usize) -> Range<usize> {
        let end = if index + 1 < self.len() { self.starts.get(index + 1) } else { self.tokens };
        self.starts.get(index) as usize..end as usize
    }

    /// Appends for each of some tokens where its document starts, as a place among them: zero if that is before them.
    pub fn starts(&self, tokens: Range<usize>, out: &mut Vec<u32>) {
        let (mut next, mut start) = (self.at(tokens.start) + 1, tokens.start);
        for token in tokens.clone() {
            while next < self.len() && self.starts.get(next) as usize <= token {
                start = token;
                next += 1;
            }
            out.push((start - tokens.start) as u32);
        }
    }

    /// Returns the document that a token is of.
    ///
    /// # Panics
    /// When there is none.
    pub fn at(&self, token: usize) -> usize {
        // The last one that starts there or before, so that none without tokens is meant.
        let (mut low, mut high) = (0, self.len());
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.starts.get(middle) as usize <= token { low = middle } else { high = middle }
        }
        low
    }
}

#[derive(Debug)]
enum TokensWriter {
    U16(ArrayWriter<u16>),
    U32(ArrayWriter<u32>),
}

/// Writes a dataset, document by document.
#[derive(Debug)]
pub struct DatasetWriter {
    folder: PathBuf,
    meta: DatasetMeta,
    tokens: TokensWriter,
    documents: ArrayWriter<u64>,
    /// Where the document starts that is not ended yet.
    start: u64,
}

impl DatasetWriter {
    /// Creates the files in a folder that exists.
    ///
    /// # Errors
    /// When a file can't be created.
    pub fn create(folder: &Path, seq: u64, vocab: u64) -> Result<Self, DataError> {
        let dtype = Dtype::of(vocab);
        let path = folder.join(dtype.file());
        let tokens = match dtype {
            Dtype::U16 => TokensWriter::U16(ArrayWriter::create(path)?),
            Dtype::U32 => TokensWriter::U32(ArrayWriter::create(path)?),
        };
        Ok(Self {
            folder: folder.to_owned(),
            meta: DatasetMeta { seq, vocab, dtype, tokens: 0, sequences: 0 },
            tokens,
            documents: ArrayWriter::create(folder.join("documents.u64"))?,
            start: 0,
        })
    }

    /// Appends a document.
    ///
    /// # Errors
    /// When it can't be written.
    ///
    /// # Panics
    /// When an id is outside the vocabulary.
    pub fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        self.append(ids)?;
        self.end()
    }

    /// Appends a part of a document.
    ///
    /// # Errors
    /// When it can't be written.
    ///
    /// # Panics
    /// When an id is outside the vocabulary.
    pub fn append(&mut self, ids: &[u32]) -> Result<(), DataError> {
        assert!(ids.iter().all(|&id| u64::from(id) < self.meta.vocab), "ids are of the vocabulary");
        self.meta.tokens += ids.len() as u64;
        match &mut self.tokens {
            TokensWriter::U16(out) => out.extend(ids.iter().map(|&id| id as u16)),
            TokensWriter::U32(out) => out.extend(ids.iter().copied()),
        }
    }

    /// Ends the document whose parts were appended.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn end(&mut self) -> Result<(), DataError> {
        let start = std::mem::replace(&mut self.start, self.meta.tokens);
        self.documents.push(start)
    }

    /// Writes out what is buffered; returns the description.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> Result<DatasetMeta, DataError> {
        match self.tokens {
            TokensWriter::U16(out) => out.finish()?,
            TokensWriter::U32(out) => out.finish()?,
        }
        self.documents.finish()?;
        self.meta.sequences = self.meta.tokens.saturating_sub(1) / self.meta.seq;
        write_json(&self.folder.join("meta.json"), &self.meta)?;
        Ok(self.meta)
    }
}

/// Reads a JSON file.
///
/// # Errors
/// When it can't be read or has another form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        DataError::invalid(path, format!("not the JSON expected: {error}"))
            .help("fetch or write the file again")
    })
}

/// Writes a JSON file.
///
/// # Errors
/// When it can't be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DataError> {
    let mut text = serde_json::to_vec(value).expect("plain data turns into JSON");
    text.push(b'\n');
    fs::write(path, text).map_err(DataError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_overlap_by_one_and_views_follow() {
        for vocab in [100, 70_000] {
            let folder = tempfile::tempdir().unwrap();
            let (base, view) = (folder.path().join("base"), folder.path().join("view"));
            fs::create_dir_all(&base).unwrap();
            fs::create_dir_all(&view).unwrap();
            let mut writer = DatasetWriter::create(&base, 3, vocab).unwrap();
            writer.push(&[1, 2, 3, 4]).unwrap();
            writer.append(&[5, 6]).unwrap();
            writer.append(&[7, 8]).unwrap();
            writer.end().unwrap();
            assert_eq!(writer.finish().unwrap().sequences, 2);
            let dataset = Dataset::open(&base).unwrap();
            dataset.write_view(&view, [1]).unwrap();
            let view = Dataset::open(&view).unwrap();
            let mut ids = Vec::new();
            view.sequence(0, &mut ids).unwrap();
            assert_eq!(ids, [4, 5, 6, 7]);
            assert_eq!(view.sequence_id(0), 1);
        }
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = DatasetWriter::create(folder.path(), 1, 10).unwrap();
        writer.push(&[1, 2, 3]).unwrap();
        writer.finish().unwrap();
        let path = folder.path().join("tokens.u16");
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(Dataset::open(folder.path()).unwrap_err().to_string().contains("tokens.u16"));
        }
        fs::write(&path, [1, 0, 99, 0, 3, 0]).unwrap();
        let error = Dataset::open(folder.path()).unwrap().sequence(0, &mut Vec::new());
        assert!(error.unwrap_err().to_string().contains("token 1 is id 99"));
    }
}
