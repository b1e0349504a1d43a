//! `Corpus`: `text.bin` holds the documents end to end, `offsets.u64` where each starts and the last ends.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::data::array::{Array, ArrayWriter};
use crate::data::error::DataError;
use crate::data::mapped::Mapped;

/// Offsets that are checked at once.
const OFFSETS: usize = 1 << 20;

/// A mapped corpus.
#[derive(Debug)]
pub struct Corpus {
    text: Mapped,
    offsets: Array<u64>,
}

impl Corpus {
    /// Maps a corpus folder.
    ///
    /// # Errors
    /// When a file can't be mapped, or the offsets don't fit the text.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let text = Mapped::open(&folder.join("text.bin"))?;
        let offsets = Array::<u64>::open(&folder.join("offsets.u64"))?;
        let invalid = |message: String| Err(DataError::invalid(offsets.path(), message));
        if offsets.is_empty() || offsets.get(0) != 0 {
            return invalid("the first offset must be 0".to_owned());
        }
        for start in (1..offsets.len()).step_by(OFFSETS) {
            let range = start..offsets.len().min(start + OFFSETS);
            if let Some(at) = range.clone().find(|&i| offsets.get(i) < offsets.get(i - 1)) {
                return invalid(format!("entry {at} is smaller than the one before"));
            }
            offsets.release(range);
        }
        let (end, size) = (offsets.get(offsets.len() - 1), text.bytes().len());
        if end != size as u64 {
            return invalid(format!("the last offset is {end}, but `text.bin` has {size} bytes"));
        }
        Ok(Self { text, offsets })
    }

    /// Returns the number of documents.
    pub fn documents(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Returns the size of the text in bytes.
    pub fn size(&self) -> u64 {
        self.text.bytes().len() as u64
    }

    /// Returns the size of a document in bytes.
    pub fn document_size(&self, index: usize) -> u64 {
        self.offsets.get(index + 1) - self.offsets.get(index)
    }

    /// Lets go of the memory that documents take, so that what a stage has in use does not grow with what it has read.
    pub fn release(&self, documents: Range<usize>) {
        let start = self.offsets.get(documents.start) as usize;
        let end = self.offsets.get(documents.end) as usize;
        self.text.release(start..end);
        self.offsets.release(documents);
    }

    /// Returns a document.
    ///
    /// # Errors
    /// When it is not UTF-8.
    ///
    /// # Panics
    /// When there is none at `index`.
    pub fn document(&self, index: usize) -> Result<&str, DataError> {
        self.text(index, self.range(index))
    }

    /// Returns where in `bytes` a document is.
    ///
    /// # Panics
    /// When there is none at `index`.
    pub fn range(&self, index: usize) -> Range<usize> {
        self.offsets.get(index) as usize..self.offsets.get(index + 1) as usize
    }

    /// Returns the text of all documents, which is not checked to be UTF-8.
    pub fn bytes(&self) -> &[u8] {
        self.text.bytes()
    }

    /// Returns a part of a document, given where in `bytes` it is.
    ///
    /// # Errors
    /// When it is not UTF-8.
    ///
    /// # Panics
    /// When the range is outside of the text.
    pub fn text(&self, index: usize, range: Range<usize>) -> Result<&str, DataError> {
        let start = range.start;
        std::str::from_utf8(&self.bytes()[range]).map_err(|error| {
            DataError::invalid(
                self.text.path(),
                format!("document {index} is not UTF-8 at byte {}", start + error.valid_up_to()),
            )
        })
    }

    /// Lets go of the memory that a range of `bytes` takes.
    pub fn release_text(&self, range: Range<usize>) {
        self.text.release(range);
    }
}

/// Writes a corpus, document by document.
#[derive(Debug)]
pub struct CorpusWriter {
    path: PathBuf,
    text: BufWriter<File>,
    offsets: ArrayWriter<u64>,
    documents: u64,
    /// Where the document starts that is not ended yet.
    start: u64,
    size: u64,
    /// Documents that were left out as they have no text.
    empty: u64,
}

impl CorpusWriter {
    /// Creates the files in a folder that exists.
    ///
    /// # Errors
    /// When a file can't be created.
    pub fn create(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("text.bin");
        let file = File::create(&path).map_err(DataError::io("create", &path))?;
        let mut offsets = ArrayWriter::create(folder.join("offsets.u64"))?;
        offsets.push(0)?;
        let text = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { path, text, offsets, documents: 0, start: 0, size: 0, empty: 0 })
    }

    /// Appends a document; one without text is left out.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn push(&mut self, document: &str) -> Result<(), DataError> {
        self.append(document)?;
        self.end()
    }

    /// Returns the number of documents so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Returns the number of documents that were left out so far, as they have no text.
    pub fn empty(&self) -> u64 {
        self.empty
    }

    /// Appends a part of a document.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn append(&mut self, part: &str) -> Result<(), DataError> {
        self.text.write_all(part.as_bytes()).map_err(DataError::io("write", &self.path))?;
        self.size += part.len() as u64;
        Ok(())
    }

    /// Ends the document whose parts were appended; one without text is left out.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn end(&mut self) -> Result<(), DataError> {
        if self.size == self.start {
            self.empty += 1;
            return Ok(());
        }
        self.start = self.size;
        self.documents += 1;
        self.offsets.push(self.size)
    }

    /// Writes out what is buffered; returns the numbers of documents and bytes.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> Result<(u64, u64), DataError> {
        self.text.flush().map_err(DataError::io("write", &self.path))?;
        self.offsets.finish()?;
        Ok((self.documents, self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CorpusWriter::create(folder.path()).unwrap();
        writer.push("ab").unwrap();
        writer.push("").unwrap();
        ["语", "", "言"].iter().for_each(|part| writer.append(part).unwrap());
        writer.end().unwrap();
        assert_eq!(writer.finish().unwrap(), (2, 8));
        let corpus = Corpus::open(folder.path()).unwrap();
        assert_eq!(corpus.documents(), 2);
        assert_eq!(corpus.document(1).unwrap(), "语言");
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CorpusWriter::create(folder.path()).unwrap();
        writer.push("abc").unwrap();
        writer.finish().unwrap();
        let offsets = folder.path().join("offsets.u64");
        let whole = std::fs::read(&offsets).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&offsets, &whole[..len]).unwrap();
            let error = Corpus::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("offsets.u64"), "{error}");
        }
        std::fs::write(&offsets, &whole).unwrap();
        std::fs::write(folder.path().join("text.bin"), b"a\xff!").unwrap();
        let error = Corpus::open(folder.path()).unwrap().document(0).unwrap_err().to_string();
        assert!(error.contains("document 0 is not UTF-8 at byte 1"), "{error}");
    }
}
