//! The index: an append-only file of checksummed records.
//!
//! A frame is [`MARK`], the payload's length (u32 LE), the first 8 bytes of its BLAKE3, and the payload, a [`Record`] as
//! JSON. What a crash left at the end is cut off by the next writer; after damage elsewhere, reading goes on at the next
//! mark with a whole frame behind it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::Digest;
use crate::store::{Record, atomic};

/// Starts a frame; JSON has no such byte.
const MARK: [u8; 4] = *b"\x89tlm";

const HEADER: usize = 16;

/// All records, by both keys; the last one under a key counts.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// How far the file has been read.
    end: u64,
    records: Vec<Arc<Record>>,
    by_key: BTreeMap<Digest, usize>,
    /// Frames whose checksum was wrong.
    pub(super) damaged: usize,
}

impl Index {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let mut index =
            Self { path, end: 0, records: Vec::new(), by_key: BTreeMap::new(), damaged: 0 };
        index.refresh()?;
        Ok(index)
    }

    pub(super) fn get(&self, key: Digest) -> Option<&Record> {
        self.by_key.get(&key).map(|at| &*self.records[*at])
    }

    pub(super) fn records(&self) -> &[Arc<Record>] {
        &self.records
    }

    /// Reads what other processes appended.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        match File::open(&self.path) {
            Ok(mut file) => self.read_from(&mut file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Appends a record durably.
    pub(super) fn append(&mut self, record: Record) -> io::Result<()> {
        let payload = serde_json::to_vec(&record)?;
        let mut frame = MARK.to_vec();
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(checksum(&payload));
        frame.extend(payload);
        let mut file = atomic::open_shared(&self.path)?;
        file.lock()?;
        self.read_from(&mut file)?;
        file.set_len(self.end)?;
        file.seek(SeekFrom::Start(self.end))?;
        if let Err(error) = file.write_all(&frame).and_then(|()| file.sync_all()) {
            // A full disk must not leave half a frame behind.
            file.set_len(self.end)?;
            return Err(error);
        }
        if self.end == 0 {
            // The file is new, so its name has to reach the disk too.
            self.path.parent().map_or(Ok(()), atomic::sync_folder)?;
        }
        self.end += frame.len() as u64;
        self.insert(record);
        Ok(())
    }

    fn read_from(&mut self, file: &mut File) -> io::Result<()> {
        file.seek(SeekFrom::Start(self.end))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut at = 0;
        while let Some(start) = next_frame(&bytes, at) {
            let payload = frame(&bytes[start..]).expect("a whole frame starts here");
            // A whole frame of another form was written by another tlm; both are told as damage.
            self.damaged += usize::from(start > at);
            match serde_json::from_slice(payload) {
                Ok(record) => self.insert(record),
                Err(_) => self.damaged += 1,
            }
            at = start + HEADER + payload.len();
        }
        self.end += at as u64;
        Ok(())
    }

    fn insert(&mut self, record: Record) {
        let at = self.records.len();
        self.by_key.insert(record.recipe, at);
        self.by_key.insert(record.content, at);
        self.records.push(Arc::new(record));
    }
}

/// Returns where the next whole frame starts.
fn next_frame(bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len()).find(|at| bytes[*at] == MARK[0] && frame(&bytes[*at..]).is_some())
}

/// Returns the payload of the frame that starts here, if it is whole.
fn frame(bytes: &[u8]) -> Option<&[u8]> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let len = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
    let payload = rest.get(..len)?;
    (header[..4] == MARK && header[8..] == checksum(payload)).then_some(payload)
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    Digest::of(payload).seed().to_le_bytes()
}

/// Returns where the index of a store lies.
pub(super) fn path(root: &Path) -> PathBuf {
    root.join("index")
}
