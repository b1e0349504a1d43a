//! Files that are one array of little-endian numbers.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::data::mapped::Mapped;

/// A number with a fixed little-endian form.
pub trait Word: Copy {
    /// Bytes.
    const SIZE: usize;
    /// Decodes `SIZE` bytes.
    fn decode(bytes: &[u8]) -> Self;
    /// Encodes the number.
    fn encode(self, out: &mut impl Write) -> std::io::Result<()>;
}

macro_rules! word {
    ($($t:ty),*) => {$(
        impl Word for $t {
            const SIZE: usize = size_of::<$t>();
            fn decode(bytes: &[u8]) -> Self {
                let mut word = [0; size_of::<$t>()];
                word.copy_from_slice(bytes);
                <$t>::from_le_bytes(word)
            }
            fn encode(self, out: &mut impl Write) -> std::io::Result<()> {
                out.write_all(&self.to_le_bytes())
            }
        }
    )*};
}
word!(u16, u32, u64, f64);

/// A mapped array.
#[derive(Debug)]
pub struct Array<T> {
    map: Mapped,
    of: PhantomData<T>,
}

impl<T: Word> Array<T> {
    /// Maps a file.
    ///
    /// # Errors
    /// When it can't be mapped, or its size is no multiple of a number's.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let map = Mapped::open(path)?;
        let size = map.bytes().len();
        if !size.is_multiple_of(T::SIZE) {
            return Err(DataError::invalid(
                path,
                format!("{size} bytes are no whole number of {}-byte entries", T::SIZE),
            )
            .help("the file is truncated; run `tlm verify`"));
        }
        Ok(Self { map, of: PhantomData })
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.map.bytes().len() / T::SIZE
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an entry.
    ///
    /// # Panics
    /// When there is none at `index`.
    pub fn get(&self, index: usize) -> T {
        T::decode(&self.map.bytes()[index * T::SIZE..][..T::SIZE])
    }

    /// Returns the entries of a range.
    ///
    /// # Panics
    /// When the range is outside.
    pub fn range(&self, start: usize, len: usize) -> impl ExactSizeIterator<Item = T> + '_ {
        self.map.bytes()[start * T::SIZE..][..len * T::SIZE].chunks_exact(T::SIZE).map(T::decode)
    }

    /// Returns all entries.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + '_ {
        self.range(0, self.len())
    }

    /// Returns the entries as they lie in the file.
    pub fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// Lets go of the memory that a range of entries takes.
    pub fn release(&self, range: Range<usize>) {
        self.map.release(range.start * T::SIZE..range.end * T::SIZE);
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        self.map.path()
    }
}

/// Writes an array, entry by entry.
#[derive(Debug)]
pub struct ArrayWriter<T> {
    path: PathBuf,
    file: BufWriter<File>,
    /// Kept for its memory.
    block: Vec<u8>,
    of: PhantomData<T>,
}

impl<T: Word> ArrayWriter<T> {
    /// Creates the file.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn create(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(DataError::io("create", &path))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { path, file, block: Vec::new(), of: PhantomData })
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn push(&mut self, entry: T) -> Result<(), DataError> {
        entry.encode(&mut self.file).map_err(DataError::io("write", &self.path))
    }

    /// Appends many entries.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn extend(&mut self, mut entries: impl Iterator<Item = T>) -> Result<(), DataError> {
        self.block.clear();
        let encoded = entries.try_for_each(|entry| entry.encode(&mut self.block));
        let written = encoded.and_then(|()| self.file.write_all(&self.block));
        written.map_err(DataError::io("write", &self.path))
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> Result<(), DataError> {
        self.file.flush().map_err(DataError::io("write", &self.path))
    }
}

/// Writes a whole array.
///
/// # Errors
/// When it can't be written.
pub fn write_array<T: Word>(
    path: PathBuf,
    entries: impl IntoIterator<Item = T>,
) -> Result<(), DataError> {
    let mut writer = ArrayWriter::create(path)?;
    entries.into_iter().try_for_each(|entry| writer.push(entry))?;
    writer.finish()
}
