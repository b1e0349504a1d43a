//! A file in the state folder that only grows: a run's log, losses so far. A saved state holds a mark of it, and what
//! was written after the mark is cut off on resume.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tlm::base::Digest;
use tlm::stage::StageError;

/// A growing file.
pub(crate) struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    /// When what is buffered was last written out, for those who look at it.
    written: Instant,
}

/// How long lines wait in the buffer at most, while more come.
const WAIT: Duration = Duration::from_secs(1);

/// How far a journal went when a state was saved, and what it held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    bytes: u64,
    digest: Digest,
}

impl Journal {
    /// Starts an empty file.
    pub(crate) fn create(path: PathBuf) -> Result<Self, StageError> {
        let file = File::create(&path).map_err(|e| StageError::io("create", &path, &e))?;
        Ok(Self { path, file: BufWriter::new(file), bytes: 0, written: Instant::now() })
    }

    /// Goes on at a mark; returns none where the file does not hold what was marked.
    pub(crate) fn reopen(path: PathBuf, mark: &Mark) -> Option<Self> {
        let file = OpenOptions::new().read(true).append(true).open(&path).ok()?;
        let digest = Digest::of_reader((&file).take(mark.bytes)).ok()?;
        if digest != mark.digest || file.metadata().ok()?.len() < mark.bytes {
            return None;
        }
        file.set_len(mark.bytes).ok()?;
        Some(Self { path, file: BufWriter::new(file), bytes: mark.bytes, written: Instant::now() })
    }

    /// Appends bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let mut written = self.file.write_all(bytes);
        if self.written.elapsed() >= WAIT {
            written = written.and_then(|()| self.file.flush());
            self.written = Instant::now();
        }
        written.map_err(|e| StageError::io("write", &self.path, &e))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Brings all to the disk and marks the place.
    pub(crate) fn mark(&mut self) -> Result<Mark, StageError> {
        let io = |e| StageError::io("write", &self.path, &e);
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(io)?;
        let digest = Digest::of_file(&self.path).map_err(io)?;
        Ok(Mark { bytes: self.bytes, digest })
    }

    /// Writes out what is buffered and returns the path.
    pub(crate) fn finish(mut self) -> Result<PathBuf, StageError> {
        self.file.flush().map_err(|e| StageError::io("write", &self.path, &e))?;
        Ok(self.path)
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
