//! Digests of the user's own files, remembered by size and [`Stamp`], so that a plan reads only what changed.
//!
//! The memo is [`sealed`]. For each file it holds the length of its path (u32 LE), the path, and an entry: size (u64 LE),
//! stamp, digest, and how long before the memo was written the file was hashed (i64 LE, ns).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::base::{Digest, Pieces};
use crate::store::record::DIGEST;
use crate::store::stamp::{self, Stamp};
use crate::store::{atomic, object, sealed};

const NAME: [u8; 8] = *b"tlmfiles";

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
    /// The digests of the files and folders that were asked for.
    told: BTreeMap<PathBuf, Digest>,
}

#[derive(Clone, Debug)]
struct Entry {
    size: u64,
    stamp: Stamp,
    digest: Digest,
    /// How long before the memo was written the file was hashed; less than that for those that counted before.
    age_ns: i64,
}

impl Sources {
    /// Reads the memo; one that is missing or damaged is empty.
    pub(super) fn open(path: PathBuf) -> Self {
        let settled = read(&path).unwrap_or_default();
        let known = Mutex::new(Known { settled, ..Known::default() });
        Self { path, known }
    }

    /// Returns whether the memo at a path is whole, and right about all files that look as they did.
    pub(super) fn are_right(path: &Path) -> bool {
        let is_right = |(path, entry): (&PathBuf, &Entry)| {
            let is_same = fs::metadata(path).is_ok_and(|metadata| entry.is_of(&metadata));
            let digest = || File::open(path).and_then(Digest::of_reader);
            !is_same || digest().is_ok_and(|digest| digest == entry.digest)
        };
        read(path).is_some_and(|entries| entries.iter().all(is_right))
    }

    /// Returns the digest of a file or folder; links in it are followed.
    ///
    /// # Errors
    /// When something can't be read.
    pub(super) fn digest(&self, path: &Path) -> io::Result<Digest> {
        let digest = self.look(path)?;
        self.known().told.insert(path.to_owned(), digest);
        Ok(digest)
    }

    /// Returns whether a file or folder has another digest than was told.
    pub(super) fn has_changed(&self, path: &Path) -> bool {
        let told = self.known().told.get(path).copied();
        told.is_some_and(|told| self.look(path).ok() != Some(told))
    }

    fn look(&self, path: &Path) -> io::Result<Digest> {
        let hash = |path: &Path, metadata: &Metadata| {
            Ok(Pieces { whole: self.file(path, metadata)?, parts: Vec::new() })
        };
        object::walk(path, &|path| fs::metadata(path), &hash).map(|tree| tree.digest())
    }

    /// Writes the memo if something new is in it.
    pub(super) fn keep(&self) -> io::Result<()> {
        let known = self.known();
        if known.hashed.is_empty() {
            return Ok(());
        }
        let hashed = known.hashed.iter().map(|(path, (entry, at))| {
            (path, Entry { age_ns: at.elapsed().as_nanos() as i64, ..entry.clone() })
        });
        let mut content = Vec::new();
        let settled = known.settled.iter().filter(|(path, _)| !known.hashed.contains_key(*path));
        for (path, entry) in settled.map(|(path, entry)| (path, entry.clone())).chain(hashed) {
            let name = path.as_os_str().as_bytes();
            content.extend((name.len() as u32).to_le_bytes());
            content.extend(name);
            content.extend(entry.encode());
        }
        atomic::write(&self.path, &sealed::seal(NAME, &content))
    }

    fn file(&self, path: &Path, metadata: &Metadata) -> io::Result<Digest> {
        if let Some(entry) = self.known().entry(path)
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

impl Known {
    fn entry(&self, path: &Path) -> Option<&Entry> {
        self.hashed.get(path).map(|(entry, _)| entry).or_else(|| self.settled.get(path))
    }
}

/// Reads the entries that count: kept in the memo, the others would count once it is written again.
fn read(path: &Path) -> Option<BTreeMap<PathBuf, Entry>> {
    let file = fs::read(path).ok()?;
    let written_ns = stamp::modified_ns(&fs::metadata(path).ok()?);
    let mut rest = sealed::open(NAME, &file)?;
    let mut settled = BTreeMap::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let (name, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let (entry, after) = after.split_first_chunk()?;
        let entry = Entry::decode(entry);
        if entry.stamp.was_settled(written_ns - i128::from(entry.age_ns)) {
            settled.insert(PathBuf::from(OsStr::from_bytes(name)), entry);
        }
        rest = after;
    }
    Some(settled)
}

impl Entry {
    /// The bytes of an entry.
    const LEN: usize = 8 + Stamp::LEN + DIGEST + 8;

    fn new(metadata: &Metadata, digest: Digest) -> Self {
        Self { size: metadata.len(), stamp: Stamp::of(metadata), digest, age_ns: 0 }
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        self.size == metadata.len() && self.stamp == Stamp::of(metadata)
    }

    fn encode(&self) -> Vec<u8> {
        let (size, age) = (self.size.to_le_bytes(), self.age_ns.to_le_bytes());
        [&size[..], &self.stamp.encode(), self.digest.as_bytes(), &age].concat()
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (size, bytes) = bytes.split_first_chunk().expect("an entry is as long");
        let (stamp, bytes) = bytes.split_first_chunk().expect("an entry is as long");
        let (digest, age) = bytes.split_first_chunk::<DIGEST>().expect("an entry is as long");
        Self {
            size: u64::from_le_bytes(*size),
            stamp: Stamp::decode(stamp),
            digest: (*digest).into(),
            age_ns: i64::from_le_bytes(age.try_into().expect("an entry is as long")),
        }
    }
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
        fs::write(folder.path().join("sources"), b"tlmfiles half").unwrap();
        fs::write(folder.path().join("a.txt"), "one").unwrap();
        let link = folder.path().join("link.txt");
        std::os::unix::fs::symlink("a.txt", &link).unwrap();
        assert_eq!(memo(folder.path(), 0).digest(&link).unwrap(), Digest::of(b"one"));
    }
}
