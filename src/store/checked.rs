//! Which objects were hashed and found whole, remembered by size and [`Stamp`] of each of their files, so that an input is not
//! hashed again each time it is used.
//!
//! The memo is [`sealed`]. For each object it holds its digest, that of its files' names, sizes and stamps, the latest change
//! among these, and how long before the memo was written the object was looked at (both i64 LE, ns).

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::base::{Digest, Pieces};
use crate::store::record::DIGEST;
use crate::store::stamp::{self, SETTLED_NS, Stamp};
use crate::store::{atomic, object, sealed};

const NAME: [u8; 8] = *b"tlmwhole";

/// The bytes of an entry.
const ENTRY: usize = 2 * DIGEST + 2 * 8;

/// The memo, one file in the store.
#[derive(Debug)]
pub(super) struct Checked {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<Digest, (Look, Option<Instant>)>,
    /// Whether there is more to remember than what was read.
    is_new: bool,
}

/// What an object looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Stands for names, sizes and stamps.
    stamps: Digest,
    changed_ns: i64,
}

impl Look {
    /// Looks at an object.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let latest = AtomicI64::new(i64::MIN);
        let stamp = |_: &Path, metadata: &Metadata| {
            let stamp = Stamp::of(metadata);
            latest.fetch_max(stamp.changed_ns() as i64, Ordering::Relaxed);
            let whole = Digest::of(&[&metadata.len().to_le_bytes()[..], &stamp.encode()].concat());
            Ok(Pieces { whole, parts: Vec::new() })
        };
        let stamps = object::walk(path, &|path| fs::symlink_metadata(path), &stamp)?.digest();
        Ok(Self { stamps, changed_ns: latest.into_inner() })
    }
}

impl Checked {
    /// Reads the memo; one that is missing or damaged is empty.
    pub(super) fn open(path: PathBuf) -> Self {
        let objects = read(&path).unwrap_or_default();
        Self { path, known: Mutex::new(Known { objects, is_new: false }) }
    }

    /// Returns whether an object was whole when it looked like this.
    pub(super) fn has(&self, object: Digest, look: &Look) -> bool {
        self.known().objects.get(&object).is_some_and(|(known, _)| known == look)
    }

    /// Notes that an object that looks like this is whole.
    pub(super) fn note(&self, object: Digest, look: Look) {
        let mut known = self.known();
        known.objects.insert(object, (look, Some(Instant::now())));
        known.is_new = true;
    }

    /// Notes that an object is not whole, whatever it looks like.
    pub(super) fn forget(&self, object: Digest) {
        let mut known = self.known();
        known.is_new |= known.objects.remove(&object).is_some();
    }

    /// Writes the memo if something new is in it.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut known = self.known();
        if !known.is_new {
            return Ok(());
        }
        known.is_new = false;
        let mut content = Vec::new();
        for (object, (look, at)) in &known.objects {
            let age_ns = at.map_or(0, |at| at.elapsed().as_nanos() as i64);
            content.extend(object.as_bytes());
            content.extend(look.stamps.as_bytes());
            content.extend(look.changed_ns.to_le_bytes());
            content.extend(age_ns.to_le_bytes());
        }
        atomic::write_derived(&self.path, &sealed::seal(NAME, &content))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder panics")
    }
}

/// Reads the entries of objects that had settled when they were looked at.
fn read(path: &Path) -> Option<BTreeMap<Digest, (Look, Option<Instant>)>> {
    let file = fs::read(path).ok()?;
    let written_ns = stamp::modified_ns(&fs::metadata(path).ok()?);
    let (entries, rest) = sealed::open(NAME, &file)?.as_chunks::<ENTRY>();
    let entry = |entry: &[u8; ENTRY]| {
        let (digests, numbers) = entry.split_at(2 * DIGEST);
        let (digests, numbers) = (digests.as_chunks::<DIGEST>().0, numbers.as_chunks().0);
        let [object, stamps] = [digests[0], digests[1]].map(Digest::from);
        let [changed_ns, age_ns] = [numbers[0], numbers[1]].map(i64::from_le_bytes);
        let had_settled = i128::from(changed_ns) + SETTLED_NS <= written_ns - i128::from(age_ns);
        had_settled.then_some((object, (Look { stamps, changed_ns }, None)))
    };
    rest.is_empty().then(|| entries.iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    fn memo(folder: &Path, later_s: u64) -> Checked {
        let path = folder.join("verified");
        if let Ok(file) = File::options().write(true).open(&path) {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            file.set_modified(written + Duration::from_secs(later_s)).unwrap();
        }
        Checked::open(path)
    }

    #[test]
    fn an_object_counts_as_checked_while_it_looks_the_same_and_had_settled() {
        let folder = tempfile::tempdir().unwrap();
        let object = folder.path().join("object");
        fs::create_dir(&object).unwrap();
        fs::write(object.join("a"), "one").unwrap();
        let (name, before) = (Digest::of(b"name"), Look::of(&object).unwrap());
        let first = memo(folder.path(), 0);
        assert!(!first.has(name, &before));
        first.note(name, before);
        assert!(first.has(name, &before), "in the process that checked it");
        assert!(!first.has(Digest::of(b"other"), &before));
        first.keep().unwrap();
        assert!(!memo(folder.path(), 0).has(name, &before), "too young");
        let later = memo(folder.path(), 5);
        assert!(later.has(name, &Look::of(&object).unwrap()), "settled");
        later.note(Digest::of(b"other"), before);
        later.keep().unwrap();
        assert!(memo(folder.path(), 5).has(name, &before), "written again");
        later.forget(name);
        later.keep().unwrap();
        assert!(!memo(folder.path(), 5).has(name, &before), "forgotten");
    }

    #[test]
    fn every_change_of_an_object_is_seen() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("content, with the time stamp set back", |object| {
                let modified = fs::metadata(object.join("a")).unwrap().modified().unwrap();
                std::thread::sleep(Duration::from_millis(20));
                fs::write(object.join("a"), "two").unwrap();
                let file = File::options().write(true).open(object.join("a")).unwrap();
                file.set_modified(modified).unwrap();
            }),
            ("name", |object| fs::rename(object.join("a"), object.join("b")).unwrap()),
            ("another file", |object| fs::write(object.join("b"), "").unwrap()),
            ("a file less", |object| fs::remove_file(object.join("a")).unwrap()),
        ];
        for (what, change) in changes {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a"), "one").unwrap();
            let before = Look::of(folder.path()).unwrap();
            change(folder.path());
            assert_ne!(Look::of(folder.path()).unwrap(), before, "{what}");
        }
    }

    #[test]
    fn a_memo_that_is_damaged_anywhere_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("object"), "one").unwrap();
        let look = Look::of(&folder.path().join("object")).unwrap();
        let path = folder.path().join("verified");
        let first = Checked::open(path.clone());
        first.note(Digest::of(b"name"), look);
        first.keep().unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(!memo(folder.path(), 5).has(Digest::of(b"name"), &look), "byte {at}");
        }
    }
}
