//! A file mapped into memory: the one place with unsafe code.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};

use crate::data::error::DataError;

/// A read-only file mapped into memory.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    /// Maps a file.
    ///
    /// # Errors
    /// When it can't be opened or mapped.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        #[expect(
            unsafe_code,
            reason = "objects of the store are read-only and never truncated; sources are read once, and a user who \
                      truncates one while it is read gets a crashed worker, not a wrong result"
        )]
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Returns the content.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets go of the memory that a range of bytes takes; they are read anew when they are asked for again.
    pub fn release(&self, range: Range<usize>) {
        #[expect(
            unsafe_code,
            reason = "the map is shared and read-only, so its pages come back from the file"
        )]
        // A system that can't only keeps more in memory.
        let _ = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
