//! Other stores, which are only read: what they have is taken over instead of being made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use walkdir::WalkDir;

use crate::base::{Digest, Value};
use crate::store::error::failed;
use crate::store::index::{self, Index};
use crate::store::{Begin, FORMAT, Record, Store, StoreError, format_of, object, object_path};

/// A store of others. Nothing is written there, not even a lock.
#[derive(Debug)]
pub struct Elsewhere {
    root: PathBuf,
    index: Mutex<Index>,
}

/// What became of a record that was to be taken over.
#[derive(Debug)]
pub enum Taken {
    /// The own store has it now, with so many bytes.
    Whole(u64),
    /// It can't be used: why.
    Not(String),
}

impl Elsewhere {
    /// Opens a store to read from.
    ///
    /// # Errors
    /// When there is none, or it can't be read, or is of another format.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        match format_of(root) {
            Ok(found) if found == FORMAT.to_string() => {}
            Ok(found) => return Err(StoreError::OtherFormat { path: root.to_owned(), found }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoStore { path: root.to_owned() });
            }
            Err(error) => return Err(failed("read", &root.join("format"))(error)),
        }
        let index = Index::open_only(root).map_err(failed("read", &index::path(root)))?;
        Ok(Self { root: root.to_owned(), index: Mutex::new(index) })
    }

    /// Returns the store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns for each recipe key whether there is a record with all its objects.
    pub fn find_all(&self, keys: &[Digest]) -> Vec<bool> {
        self.index().find_all(keys)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("no holder of the index panics")
    }
}

impl Store {
    /// Copies what another store has under a recipe key, for `who`; files share their blocks where the file system can do
    /// that. Every byte is compared with its digest on the way.
    ///
    /// # Errors
    /// When the own store can't be written.
    pub fn take(&self, other: &Elsewhere, recipe: Digest, who: &str) -> Result<Taken, StoreError> {
        let lease = match self.begin(recipe, who, |_| true)? {
            Begin::Hit(record) => return Ok(Taken::Whole(size(&record))),
            Begin::Miss(lease) => lease,
            Begin::GivenUp => unreachable!("it waits"),
        };
        let Some(mut record) = other.index().get(recipe) else {
            return Ok(Taken::Not("its record is damaged".to_owned()));
        };
        let mut artifacts = Vec::new();
        for (name, digest) in record.artifacts() {
            let from = object_path(&other.root, digest);
            if let Err(why) = copy(&from, &lease.out_dir().join(name), digest) {
                return match is_own(&why) {
                    true => Err(failed("write", lease.out_dir())(why)),
                    false => Ok(Taken::Not(format!("`{}`: {why}", from.display()))),
                };
            }
            artifacts.push(name.to_owned());
        }
        let from = Value::Str(other.root.display().to_string());
        record.origin.insert("taken_from".to_owned(), from);
        self.publish(lease, &artifacts, record).map(|record| Taken::Whole(size(&record)))
    }
}

fn size(record: &Record) -> u64 {
    record.objects().map(|(_, bytes)| bytes).sum()
}

/// Copies a file or folder, and checks that the copy has a digest.
fn copy(from: &Path, to: &Path, digest: Digest) -> io::Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let to = match entry.depth() {
            0 => to.to_owned(),
            _ => to.join(entry.path().strip_prefix(from).expect("it is below")),
        };
        match entry.file_type().is_dir() {
            true => fs::create_dir(&to)?,
            false => drop(reflink_copy::reflink_or_copy(entry.path(), &to)?),
        }
    }
    match object::digest(to)?.0 == digest {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "damaged")),
    }
}

/// Returns whether an error says that there is no room for a copy, not that the original can't be read.
fn is_own(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}
