//! Which of a table's objects are there, remembered, so that a plan need not look at each of them.
//!
//! Making or removing an object changes the times of its folder, one of 256. So what was seen counts while the folder's
//! stamp is the same; only the rest is looked at. The memo is [`sealed`], and of one table: it holds the table's digest,
//! how long before the memo was written the folders were looked at (i64 LE, ns), their stamps, and a byte for each object
//! of the table.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::base::Digest;
use crate::store::record::DIGEST;
use crate::store::stamp::{self, Stamp};
use crate::store::table::Table;
use crate::store::{atomic, object_path, sealed};

const NAME: [u8; 8] = *b"tlm seen";

/// Objects lie in as many folders, by the first byte of their digests.
const FOLDERS: usize = 256;

const UNSEEN: u8 = 0;
const THERE: u8 = 1;
const GONE: u8 = 2;

/// The folders of a store's objects, as they were at a time.
#[derive(Debug)]
pub(super) struct Folders {
    stamps: Vec<Stamp>,
    looked: Instant,
}

impl Folders {
    /// The bytes of how long ago they were looked at, and their stamps.
    pub(super) const LEN: usize = 8 + FOLDERS * Stamp::LEN;

    pub(super) fn look(root: &Path) -> Self {
        let looked = Instant::now();
        let stamps = (0..FOLDERS).map(|folder| folder_stamp(root, folder)).collect();
        Self { stamps, looked }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.looked.elapsed().as_nanos() as i64).to_le_bytes().to_vec();
        bytes.extend(self.stamps.iter().flat_map(Stamp::encode));
        bytes
    }

    /// Returns for each folder whether it is surely as it was when it was looked at for a memo. `file` is that memo.
    pub(super) fn are_as_in(&self, file: &fs::Metadata, memo: &[u8; Self::LEN]) -> Vec<bool> {
        let (age_ns, stamps) = memo.split_first_chunk().expect("it is longer");
        let looked_ns = stamp::modified_ns(file) - i128::from(i64::from_le_bytes(*age_ns));
        let is_as =
            |(now, then): (&Stamp, &[u8])| now.encode() == *then && now.was_settled(looked_ns);
        self.stamps.iter().zip(stamps.chunks(Stamp::LEN)).map(is_as).collect()
    }
}

/// What is known of a table's objects.
#[derive(Debug)]
pub(super) struct Presence {
    root: PathBuf,
    table: Digest,
    /// The folders when this was opened.
    folders: Folders,
    seen: Vec<u8>,
    /// Whether there is more to remember than what was read.
    is_new: bool,
}

impl Presence {
    /// Looks at the folders of a store's objects, and reads what is known of a table's objects.
    pub(super) fn open(root: &Path, table: &Table) -> Self {
        let folders = Folders::look(root);
        let count = table.object_count() as usize;
        let seen = read(root, table, &folders);
        let is_new = seen.is_none();
        let seen = seen.unwrap_or_else(|| vec![UNSEEN; count]);
        Self { root: root.to_owned(), table: table.digest(), folders, seen, is_new }
    }

    /// Returns the folders when this was opened.
    pub(super) fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Goes on with a table that has the same objects and more.
    pub(super) fn extend(&mut self, table: &Table) {
        self.table = table.digest();
        self.seen.resize(table.object_count() as usize, UNSEEN);
        self.is_new = true;
    }

    /// Returns whether an object of the table is there, or was when this was opened.
    pub(super) fn is_there(&mut self, number: u32, table: &Table) -> bool {
        let seen = &mut self.seen[number as usize];
        if *seen == UNSEEN {
            let is_there = object_path(&self.root, table.object(number)).exists();
            *seen = if is_there { THERE } else { GONE };
            self.is_new = true;
        }
        *seen == THERE
    }

    #[cfg(test)]
    pub(super) fn plant_gone(&mut self, number: u32) {
        self.seen[number as usize] = GONE;
    }

    /// Writes the memo if something new is in it.
    pub(super) fn keep(&mut self) -> io::Result<()> {
        if !self.is_new {
            return Ok(());
        }
        self.is_new = false;
        let mut content = self.table.as_bytes().to_vec();
        content.extend(self.folders.encode());
        content.extend(&self.seen);
        atomic::write_derived(&path(&self.root), &sealed::seal(NAME, &content))
    }
}

/// Reads what the memo says of the folders that are as they were.
fn read(root: &Path, table: &Table, folders: &Folders) -> Option<Vec<u8>> {
    let path = path(root);
    let file = fs::read(&path).ok()?;
    let (of, rest) = sealed::open(NAME, &file)?.split_first_chunk::<DIGEST>()?;
    if Digest::from(*of) != table.digest() {
        return None;
    }
    let (then, seen) = rest.split_first_chunk()?;
    let counts = folders.are_as_in(&fs::metadata(&path).ok()?, then);
    let mut seen = seen.to_vec();
    if !counts.iter().all(|counts| *counts) {
        for (number, seen) in seen.iter_mut().enumerate() {
            if !counts[usize::from(table.object(number as u32).as_bytes()[0])] {
                *seen = UNSEEN;
            }
        }
    }
    (seen.len() == table.object_count() as usize).then_some(seen)
}

fn folder_stamp(root: &Path, folder: usize) -> Stamp {
    let folder = root.join("objects").join(format!("{folder:02x}"));
    fs::metadata(folder).map_or_else(|_| Stamp::default(), |found| Stamp::of(&found))
}

/// Returns where the memo of a store lies.
pub(super) fn path(root: &Path) -> PathBuf {
    root.join("index.seen")
}
