//! A file mapped into memory: the one place with unsafe code.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

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

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
