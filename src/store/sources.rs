//! Digests of the user's own files, remembered by (size, mtime, ctime, inode), so that a plan reads only what changed.
//!
//! A file that changed within two seconds before the memo was written may change again without another time stamp, so its
//! entry does not count (git's "racy" entries). All clocks are the file system's.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::store::{atomic, object};

/// How old a change must be when the memo is written, in nanoseconds.
const SETTLED_NS: i128 = 2_000_000_000;

/// The memo, one file in the store.
#[derive(Debug)]
pub(super) struct Sources {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    entries: BTreeMap<PathBuf, Entry>,
    /// When they were written.
    written_ns: i128,
    changed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    device: u64,
    inode: u64,
    digest: Digest,
}

impl Sources {
    /// Reads the memo; one that is missing or damaged is empty.
    pub(super) fn open(path: PathBuf) -> Self {
        let read = || {
            let entries = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            let written_ns = time_ns(&fs::metadata(&path).ok()?).0;
            Some(Known { entries, written_ns, changed: false })
        };
        let known = Mutex::new(read().unwrap_or_default());
        Self { path, known }
    }

    /// Returns the digest of a file or folder; links in it are followed.
    ///
    /// # Errors
    /// When something can't be read.
    pub(super) fn digest(&self, path: &Path) -> io::Result<Digest> {
        let hash = |path: &Path, metadata: &Metadata| self.file(path, metadata);
        object::tree(path, &|path| fs::metadata(path), &hash).map(|(digest, _)| digest)
    }

    /// Writes the memo if something new is in it.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut known = self.known();
        if known.changed {
            atomic::write(&self.path, &serde_json::to_vec(&known.entries)?)?;
            known.written_ns = time_ns(&fs::metadata(&self.path)?).0;
            known.changed = false;
        }
        Ok(())
    }

    fn file(&self, path: &Path, metadata: &Metadata) -> io::Result<Digest> {
        let (mtime_ns, ctime_ns) = time_ns(metadata);
        if let Some(digest) = self.known().get(path, metadata) {
            return Ok(digest);
        }
        let digest = Digest::of_file(path)?;
        let mut known = self.known();
        let (size, device, inode) = (metadata.len(), metadata.dev(), metadata.ino());
        let entry = Entry { size, mtime_ns, ctime_ns, device, inode, digest };
        known.entries.insert(path.to_owned(), entry);
        known.changed = true;
        Ok(digest)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder panics")
    }
}

impl Known {
    fn get(&self, path: &Path, metadata: &Metadata) -> Option<Digest> {
        let entry = self.entries.get(path)?;
        let same = entry.size == metadata.len()
            && (entry.mtime_ns, entry.ctime_ns) == time_ns(metadata)
            && (entry.device, entry.inode) == (metadata.dev(), metadata.ino());
        let settled = entry.mtime_ns.max(entry.ctime_ns) + SETTLED_NS <= self.written_ns;
        (same && settled).then_some(entry.digest)
    }
}

fn time_ns(metadata: &Metadata) -> (i128, i128) {
    let ns = |seconds: i64, nanoseconds: i64| {
        i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
    };
    (ns(metadata.mtime(), metadata.mtime_nsec()), ns(metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Writes a text whose time stamp lies so long ago. The change time can't be set, so tests move the memo's instead.
    fn write(path: &Path, text: &str, age_s: u64) {
        fs::write(path, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age_s);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    /// Returns the memo of a folder, written so long after the last change.
    fn memo(folder: &Path, later_s: u64) -> Sources {
        let path = folder.join("sources");
        if let Ok(file) = fs::File::options().write(true).open(&path) {
            let now = fs::metadata(&path).unwrap().modified().unwrap();
            file.set_times(FileTimes::new().set_modified(now + Duration::from_secs(later_s)))
                .unwrap();
        }
        Sources::open(path)
    }

    /// Plants a false digest, which comes back only where the memo is trusted.
    fn plant(sources: &Sources, file: &Path) -> Digest {
        let planted = Digest::of(b"planted");
        let mut known = sources.known();
        known.entries.get_mut(file).unwrap().digest = planted;
        known.changed = true;
        planted
    }

    #[test]
    fn settled_files_are_remembered_until_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        write(&file, "one", 100);
        let first = memo(folder.path(), 0);
        assert_eq!(first.digest(&file).unwrap(), Digest::of(b"one"));
        let planted = plant(&first, &file);
        first.keep().unwrap();
        assert_eq!(memo(folder.path(), 0).digest(&file).unwrap(), Digest::of(b"one"), "too young");
        assert_eq!(memo(folder.path(), 5).digest(&file).unwrap(), planted, "settled");
        write(&file, "two", 100);
        assert_eq!(
            memo(folder.path(), 5).digest(&file).unwrap(),
            Digest::of(b"two"),
            "new inode time"
        );
    }

    #[test]
    fn a_damaged_memo_is_empty_and_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sources"), "{\"half").unwrap();
        fs::write(folder.path().join("a.txt"), "one").unwrap();
        let link = folder.path().join("link.txt");
        std::os::unix::fs::symlink("a.txt", &link).unwrap();
        assert_eq!(memo(folder.path(), 0).digest(&link).unwrap(), Digest::of(b"one"));
    }
}
