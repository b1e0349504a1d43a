//! Whether the store holds what it says: objects before they are used, everything on request. What is damaged is moved to
//! `quarantine`, never deleted; the steps that made it run again when they are needed.
//!
//! Beside each folder and each file of more than a piece, `trees` holds what is in it by digests, so that damage is told by
//! file and byte range. A tree needs no checksum: it merges to the object's name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};

use crate::base::Digest;
use crate::store::checked::Look;
use crate::store::error::failed;
use crate::store::log::{self, Point};
use crate::store::object::{Difference, Tree};
use crate::store::past::Past;
use crate::store::presence::Presence;
use crate::store::sources::Sources;
use crate::store::table::{Table, Tail};
use crate::store::{Store, StoreError, atomic, index, object, place_in, presence};

/// An object that is not what its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its name.
    pub digest: Digest,
    /// Where it differs; never empty.
    pub differences: Vec<Difference>,
}

/// What a store holds that it should not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The objects that are damaged, in the order of their names.
    pub damaged: Vec<Damage>,
    /// The bytes of the index that are no record; steps recorded there run again.
    pub gaps: Vec<Range<u64>>,
    /// The bytes behind the last record of the index, which a killed run left; the next writer cuts them off.
    pub torn: Option<Range<u64>>,
    /// The files that are made of others, and differ from what they would be made now.
    pub derived: Vec<PathBuf>,
}

impl Findings {
    /// Returns whether all is as it should be.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.gaps.is_empty() && self.derived.is_empty()
    }
}

impl Store {
    /// Checks an object that is about to be used: hashes it, unless it was whole when it looked as it does now. What is not
    /// among the objects is not looked at.
    ///
    /// # Errors
    /// When it can't be read, or is damaged; then it has been moved to `quarantine`.
    pub fn check(&self, path: &Path) -> Result<(), StoreError> {
        let checked = self.check_used(path);
        if matches!(checked, Err(StoreError::Damaged { .. })) {
            self.has_damage.store(true, Ordering::Relaxed);
        }
        checked
    }

    /// Checks an object in the same way after it was used by what may have damaged it, so that making it again and using it in
    /// the same way would not help.
    ///
    /// # Errors
    /// As those of [`Store::check`].
    pub fn check_used(&self, path: &Path) -> Result<(), StoreError> {
        self.object_at(path).map_or(Ok(()), |digest| self.weed_out(digest))
    }

    /// Checks an object, and moves it to `quarantine` if it is damaged.
    pub(super) fn weed_out(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.object_path(digest);
        let look = Look::of(&path);
        if look.as_ref().is_ok_and(|look| self.checked().has(digest, look)) {
            return Ok(());
        }
        let damage = match look.and_then(|look| Ok((look, object::read(&path, &|_| {})?))) {
            Ok((look, tree)) if tree.digest() == digest => {
                self.checked().note(digest, look);
                return Ok(());
            }
            Err(error) if !is_damage(&error) => return Err(failed("read", &path)(error)),
            _ => self.damage(digest),
        };
        self.checked().forget(digest);
        let kept = self.set_aside(digest)?;
        let Difference { path, what } = damage.differences.into_iter().next().expect("has one");
        Err(StoreError::Damaged { path, what, kept })
    }

    /// Returns whether [`Store::check`] found damage since the store was opened. It is gone now, so a new plan has the steps
    /// that make it again.
    pub fn has_damage(&self) -> bool {
        self.has_damage.load(Ordering::Relaxed)
    }

    /// Remembers which objects were checked, for the next time.
    pub fn keep_checked(&self) {
        if let Some(checked) = self.checked.get() {
            // Forgetting them costs time, nothing else.
            let _ = checked.keep();
        }
    }

    /// Returns the digest of the object that lies at a path, if that is where one would.
    fn object_at(&self, path: &Path) -> Option<Digest> {
        let digest = path.file_name()?.to_str()?.parse().ok()?;
        (self.object_path(digest) == path).then_some(digest)
    }

    /// Says where an object differs from what it should be.
    fn damage(&self, digest: Digest) -> Damage {
        let path = self.object_path(digest);
        let tree = fs::read(self.tree_path(digest)).ok();
        let tree = tree.and_then(|bytes| Tree::decode(&bytes, digest));
        let mut differences = tree.map_or_else(Vec::new, |tree| tree.differences(&path));
        if differences.is_empty() {
            let what = match object::digest(&path) {
                Ok(_) => "another content".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "missing".to_owned(),
                Err(error) => format!("unreadable, {error}"),
            };
            differences.push(Difference { path, what });
        }
        Damage { digest, differences }
    }

    /// Moves an object to `quarantine` and returns where it lies now, if it was there.
    fn set_aside(&self, digest: Digest) -> Result<Option<PathBuf>, StoreError> {
        let folder = self.root.join("quarantine");
        let name = |number: u32| folder.join(format!("{digest}.{number}"));
        let free = (0..).map(name).find(|path| fs::symlink_metadata(path).is_err());
        let target = free.expect("the numbers do not end");
        let path = self.object_path(digest);
        match atomic::set_aside(&path, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            moved => moved.map(|()| Some(target)).map_err(failed("move", &path)),
        }
    }

    pub(super) fn tree_path(&self, digest: Digest) -> PathBuf {
        place_in(&self.root.join("trees"), digest)
    }

    /// Writes the tree of an object, unless the object's name says as much.
    pub(super) fn keep_tree(&self, tree: &Tree) {
        if tree.has_parts() {
            // Without it, damage is told less precisely.
            let _ = atomic::write_derived(&self.tree_path(tree.digest()), &tree.encode());
        }
    }

    /// Returns the names and sizes of all recorded objects.
    pub fn recorded_objects(&self) -> BTreeMap<Digest, u64> {
        self.records().iter().flat_map(|record| record.objects()).collect()
    }

    /// Hashes objects again, and looks through the index and what is made of it. Meanwhile, `tell` hears how many bytes more
    /// were read, on any thread.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn verify(
        &self,
        objects: &BTreeMap<Digest, u64>,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<Findings, StoreError> {
        let mut findings = self.verify_index().map_err(failed("read", &index::path(&self.root)))?;
        let names: Vec<_> = objects.keys().copied().collect();
        let damage = |digest: &Digest| self.rehash(*digest, tell);
        let found: Vec<_> = names.par_iter().filter_map(damage).collect();
        for damage in found {
            match damage {
                Wrong::Object(damage) => findings.damaged.push(damage),
                Wrong::Tree(path) => findings.derived.push(path),
            }
        }
        let sources = self.root.join("sources");
        if sources.exists() && !Sources::are_right(&sources) {
            findings.derived.push(sources);
        }
        Ok(findings)
    }

    fn rehash(&self, digest: Digest, tell: &(dyn Fn(u64) + Sync)) -> Option<Wrong> {
        let path = self.object_path(digest);
        let found = Look::of(&path).and_then(|look| Ok((look, object::read(&path, tell)?)));
        let Some((look, tree)) = found.ok().filter(|(_, tree)| tree.digest() == digest) else {
            self.checked().forget(digest);
            return Some(Wrong::Object(self.damage(digest)));
        };
        self.checked().note(digest, look);
        let tree_path = self.tree_path(digest);
        match fs::read(&tree_path) {
            Ok(bytes) => (bytes != tree.encode()).then_some(Wrong::Tree(tree_path)),
            Err(_) => {
                self.keep_tree(&tree);
                None
            }
        }
    }

    /// Looks through the index, and compares table and memos with what would be made of it now.
    fn verify_index(&self) -> io::Result<Findings> {
        let mut findings = Findings::default();
        let table_path = index::table_path(&self.root);
        let bytes = fs::read(&table_path).ok();
        let table = bytes.clone().and_then(Table::of).unwrap_or_else(Table::empty);
        let end = table.point().end;
        let (mut covered, mut behind) = (Tail::default(), Tail::default());
        match File::open(index::path(&self.root)) {
            Ok(log) => {
                let (point, gaps) = log::scan(&log, Point::default(), |at, bytes| {
                    if at < end { &mut covered } else { &mut behind }.push(at, bytes)
                })?;
                let log_end = log.metadata()?.len();
                findings.torn = (point.end < log_end).then_some(point.end..log_end);
                findings.gaps = gaps;
                let past_path = index::past_path(&self.root);
                if past_path.exists() && !Past::is_right(&past_path, &log)? {
                    findings.derived.push(past_path);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let gaps = findings.gaps.iter().filter(|gap| gap.start < end).count();
        let made = Table::empty().extended(&covered, table.point(), gaps);
        if bytes.is_some_and(|bytes| bytes != made.bytes()) {
            findings.derived.push(table_path);
        } else if !self.presence_is_right(&table) {
            findings.derived.push(presence::path(&self.root));
        }
        Ok(findings)
    }

    fn presence_is_right(&self, table: &Table) -> bool {
        let mut presence = Presence::open(&self.root, table);
        let is_right = |number| {
            let is_there = self.object_path(table.object(number)).exists();
            presence.is_there(number, table) == is_there
        };
        (0..table.object_count()).all(is_right)
    }

    /// Moves what is damaged to `quarantine`, and removes derived files that are wrong; they are made again. Returns where
    /// the objects lie now.
    ///
    /// # Errors
    /// When something can't be moved or removed.
    pub fn repair(&self, findings: &Findings) -> Result<Vec<PathBuf>, StoreError> {
        for path in &findings.derived {
            atomic::remove(path).map_err(failed("remove", path))?;
        }
        let aside = findings.damaged.iter().map(|damage| self.set_aside(damage.digest));
        aside.filter_map(Result::transpose).collect()
    }
}

/// What turned out wrong about an object.
enum Wrong {
    Object(Damage),
    Tree(PathBuf),
}

/// Returns whether an error says that an object is not as it was, rather than that it can't be read now.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    let is_media = error.raw_os_error() == Some(libc::EIO);
    is_media
        || matches!(
            error.kind(),
            InvalidInput | IsADirectory | NotADirectory | NotFound | UnexpectedEof
        )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::Value;
    use crate::store::{Output, Record};

    /// Says of an object that it is gone, as a memo does that was written by mistake.
    #[test]
    fn a_memo_of_objects_that_is_wrong_is_told_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let digest = Digest::of(b"x");
        let record = Record {
            recipe: Digest::of(b"recipe"),
            content: Digest::of(b"content"),
            stage: "s".to_owned(),
            label: "l".to_owned(),
            point: Vec::new(),
            outputs: BTreeMap::from([("out".to_owned(), Output::Object { digest, bytes: 1 })]),
            manifest: Value::Null,
            seconds: 0.5,
            finished_unix: 0,
            origin: BTreeMap::new(),
        };
        store.record(&record).unwrap();
        fs::create_dir_all(store.object_path(digest).parent().unwrap()).unwrap();
        fs::write(store.object_path(digest), "x").unwrap();
        let mut tail = Tail::default();
        let log = File::open(index::path(folder.path())).unwrap();
        let scanned = log::scan(&log, Point::default(), |at, bytes| tail.push(at, bytes));
        let table = Table::empty().extended(&tail, scanned.unwrap().0, 0);
        fs::write(index::table_path(folder.path()), table.bytes()).unwrap();
        let verify = || store.verify(&store.recorded_objects(), &|_| {}).unwrap();
        assert!(verify().is_clean());

        let mut presence = Presence::open(folder.path(), &table);
        presence.plant_gone(0);
        presence.keep().unwrap();
        let memo = presence::path(folder.path());
        let written = fs::metadata(&memo).unwrap().modified().unwrap();
        let file = File::options().write(true).open(&memo).unwrap();
        file.set_modified(written + Duration::from_secs(5)).unwrap();
        assert_eq!(verify().derived[..], [&*memo]);
        store.repair(&verify()).unwrap();
        assert!(!memo.exists() && verify().is_clean());
    }
}
