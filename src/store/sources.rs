//! Digests of the user's own files, remembered by (size, mtime, ctime, inode), so that a plan reads only what changed.
//!
//! What does not count is said in [`stamp`](crate::store::stamp).

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::store::{atomic, object};

/// How old a change must be when the file is hashed, in nanoseconds.
const SETTLED_NS: i128 = 2_000_000_000;

/// The memo, one file in the store.
#[derive(Debug)]
pub(super) struct Sources {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Those that count.
    settled: BTreeMap<PathBuf, Entry>,
    /// Those hashed since the memo was written, and when.
    hashed: BTreeMap<PathBuf, (Entry, Instant)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    device: u64,
    inode: u64,
    digest: Digest,
    /// How long before the memo was written the file was hashed; less than that for those that counted before.
    age_ns: i128,
}

impl Sources {
    /// Reads the memo; one that is missing or damaged is empty.
    pub(super) fn open(path: PathBuf) -> Self {
        let read = || {
            let mut settled: BTreeMap<_, Entry> =
                serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            let written_ns = time_ns(&fs::metadata(&path).ok()?).0;
            // Kept in the memo, the others would count once it is written again.
            settled.retain(|_, entry| entry.was_settled(written_ns));
            Some(Known { settled, ..Known::default() })
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
        let known = self.known();
        if known.hashed.is_empty() {
            return Ok(());
        }
        let aged = |(path, (entry, at)): (&PathBuf, &(Entry, Instant))| {
            let age_ns = at.elapsed().as_nanos() as i128;
            (path.clone(), Entry { age_ns, ..entry.clone() })
        };
        let mut entries = known.settled.clone();
        entries.extend(known.hashed.iter().map(aged));
        atomic::write(&self.path, &serde_json::to_vec(&entries)?)
    }

    fn file(&self, path: &Path, metadata: &Metadata) -> io::Result<Digest> {
        if let Some(entry) = self.known().settled.get(path)
            && entry.is_of(metadata)
        {
            return Ok(entry.digest);
        }
        let at = Instant::now();
        let digest = Digest::of_reader(File::open(path)?)?;
        self.known().hashed.insert(path.to_owned(), (Entry::new(metadata, digest), at));
        Ok(digest)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder panics")
    }
}

impl Entry {
    fn new(metadata: &Metadata, digest: Digest) -> Self {
        let (mtime_ns, ctime_ns) = time_ns(metadata);
        let (size, device, inode) = (metadata.len(), metadata.dev(), metadata.ino());
        Self { size, mtime_ns, ctime_ns, device, inode, digest, age_ns: 0 }
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        let other = Self::new(metadata, self.digest);
        *self == Self { age_ns: self.age_ns, ..other }
    }

    /// Returns whether the file had lain unchanged for long enough when it was hashed.
    fn was_settled(&self, written_ns: i128) -> bool {
        self.mtime_ns.max(self.ctime_ns) + SETTLED_NS <= written_ns - self.age_ns
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
        sources.known().hashed.get_mut(file).unwrap().0.digest = planted;
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
    fn what_was_too_young_stays_so_when_the_memo_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a.txt", "b.txt"].map(|name| folder.path().join(name));
        [&a, &b].iter().for_each(|file| write(file, "one", 100));
        let first = memo(folder.path(), 0);
        first.digest(&a).unwrap();
        plant(&first, &a);
        first.keep().unwrap();
        let second = memo(folder.path(), 0);
        second.digest(&b).unwrap();
        second.keep().unwrap();
        assert_eq!(memo(folder.path(), 5).digest(&a).unwrap(), Digest::of(b"one"));
    }

    #[test]
    fn a_memo_written_long_after_hashing_counts_from_the_hashing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        write(&file, "one", 100);
        let first = memo(folder.path(), 0);
        first.digest(&file).unwrap();
        plant(&first, &file);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        first.known().hashed.get_mut(&file).unwrap().1 = long_ago;
        first.keep().unwrap();
        assert_eq!(memo(folder.path(), 5).digest(&file).unwrap(), Digest::of(b"one"));
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
