//! Garbage collection: removes what no pin and no recent run needs.
//!
//! Records go before objects, and objects are renamed before they are taken apart: killed anywhere, a collector leaves
//! nothing recorded that is not there, and nothing half removed under an object's name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::Digest;
use crate::store::error::failed;
use crate::store::roots::Run;
use crate::store::{Record, Store, StoreError, atomic, index};

/// A file that is being written is not older.
const WRITING: Duration = Duration::from_hours(24);

/// What to keep beside pinned steps and runs that go on.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The steps of runs that began so long ago or later.
    pub keep: Duration,
    /// What fits into so many bytes of objects, the latest used first; nothing when none.
    pub max_bytes: Option<u64>,
    /// When it is.
    pub now: SystemTime,
}

/// What nobody needs.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Records whose objects go, the longest unused first.
    pub records: Vec<Arc<Record>>,
    /// The objects that go, with their sizes.
    pub objects: BTreeMap<Digest, u64>,
    /// States, logs, quarantined objects, notes of old runs and remains of killed processes, with their sizes.
    pub others: Vec<(PathBuf, u64)>,
    /// The size of the objects that stay.
    pub kept_bytes: u64,
}

impl Garbage {
    /// Returns the bytes that are freed.
    pub fn bytes(&self) -> u64 {
        self.objects.values().sum::<u64>() + self.others.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Returns how many seconds it took to make what goes; what several records share counts once.
    pub fn seconds(&self) -> f64 {
        let made: BTreeMap<_, _> =
            self.records.iter().map(|record| (record.content, record.seconds)).collect();
        made.values().sum()
    }

    /// Returns whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.objects.is_empty() && self.others.is_empty()
    }
}

/// What is known while garbage is looked for.
struct Survey {
    records: Vec<Arc<Record>>,
    /// When each key was last needed by a run, in seconds since 1970.
    used: BTreeMap<Digest, i64>,
    /// The keys that stay whatever the quota.
    roots: BTreeSet<Digest>,
    /// The notes of old runs.
    old: Vec<PathBuf>,
}

impl Store {
    /// Returns what nobody needs, and changes nothing.
    ///
    /// # Errors
    /// When a pin or the note of a run is damaged.
    pub fn garbage(&self, policy: &Policy) -> Result<Garbage, StoreError> {
        let survey = self.survey(policy)?;
        let mut garbage = Garbage { records: survey.unused(policy), ..Garbage::default() };
        let gone: BTreeSet<_> = garbage.records.iter().map(|record| keys(record)).collect();
        let stay: Vec<_> =
            survey.records.iter().filter(|record| !gone.contains(&keys(record))).collect();
        let live: BTreeMap<_, _> = stay.iter().flat_map(|record| record.objects()).collect();
        for (digest, path) in self.objects() {
            match live.get(&digest) {
                Some(bytes) => garbage.kept_bytes += bytes,
                None => drop(garbage.objects.insert(digest, size(&path))),
            }
        }
        let needed = stay.iter().map(|record| record.recipe).chain(survey.roots).collect();
        let others = self.others(policy, &needed).into_iter().chain(survey.old);
        let sized = |path: PathBuf| {
            let bytes = size(&path);
            (path, bytes)
        };
        garbage.others = others.map(sized).collect();
        Ok(garbage)
    }

    /// Removes what nobody needs, and returns what that was. Waits for whoever publishes or begins a run; they wait for
    /// this.
    ///
    /// # Errors
    /// When something can't be read or removed; then the same call goes on.
    pub fn collect(&self, policy: &Policy) -> Result<Garbage, StoreError> {
        let path = self.gate_path();
        let gate = atomic::open_shared(&path).map_err(failed("open", &path))?;
        atomic::patiently(|| gate.lock()).map_err(failed("lock", &path))?;
        let index = index::path(&self.root);
        self.index().refresh().map_err(failed("read", &index))?;
        let garbage = self.garbage(policy)?;
        if !garbage.records.is_empty() || self.damaged() > 0 {
            let gone: BTreeSet<_> = garbage.records.iter().map(|record| keys(record)).collect();
            let stays = |record: &Record| !gone.contains(&keys(record));
            self.index().rewrite(stays).map_err(failed("write", &index))?;
        }
        for digest in garbage.objects.keys() {
            self.discard(*digest)?;
        }
        for (path, _) in &garbage.others {
            atomic::remove(path).map_err(failed("remove", path))?;
        }
        Ok(garbage)
    }

    fn survey(&self, policy: &Policy) -> Result<Survey, StoreError> {
        let mut roots: BTreeSet<_> = self.pins()?.into_values().chain(self.leased()).collect();
        let mut used = BTreeMap::new();
        let mut old = Vec::new();
        for run in self.runs()? {
            let began = unix(run.began);
            for key in &run.keys {
                let latest = used.entry(*key).or_insert(began);
                *latest = began.max(*latest);
            }
            match run.is_needed(policy) {
                true => roots.extend(run.keys),
                false => old.push(run.path),
            }
        }
        Ok(Survey { records: self.records(), used, roots, old })
    }

    /// Returns the keys of the steps that somebody makes now.
    fn leased(&self) -> impl Iterator<Item = Digest> {
        let locked = self.entries("locks").filter(|entry| atomic::is_locked(&entry.path()));
        locked.filter_map(|entry| key_of(&entry))
    }

    /// Returns all objects, recorded or not, and where they lie.
    fn objects(&self) -> impl Iterator<Item = (Digest, PathBuf)> {
        let folders = self.entries("objects");
        let entries = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten());
        entries.flatten().filter_map(|entry| Some((key_of(&entry)?, entry.path())))
    }

    fn entries(&self, folder: &str) -> impl Iterator<Item = fs::DirEntry> {
        fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten()
    }

    /// Returns what else nobody needs: `needed` are the keys of steps that stay.
    fn others(&self, policy: &Policy, needed: &BTreeSet<Digest>) -> Vec<PathBuf> {
        let is_unneeded =
            |entry: &fs::DirEntry| key_of(entry).is_some_and(|key| !needed.contains(&key));
        let is_old = |entry: &fs::DirEntry, keep| {
            // Moving a file changes the time of its inode.
            let changed = entry.metadata().map_or(0, |found| found.ctime());
            !is_within(UNIX_EPOCH + Duration::from_secs(changed as u64), keep, policy.now)
        };
        type IsGarbage<'a> = &'a dyn Fn(&fs::DirEntry) -> bool;
        let kinds: [(&str, IsGarbage<'_>); 7] = [
            ("state", &is_unneeded),
            ("staging", &is_unneeded),
            ("logs", &|entry| is_unneeded(entry) && is_old(entry, policy.keep)),
            ("quarantine", &|entry| is_old(entry, policy.keep)),
            ("answers", &|entry| is_old(entry, policy.keep)),
            ("trash", &|_| true),
            ("", &|entry| is_temporary(entry) && is_old(entry, WRITING)),
        ];
        let of = |(folder, is_garbage): (&str, IsGarbage<'_>)| {
            self.entries(folder).filter(|entry| is_garbage(entry)).collect::<Vec<_>>()
        };
        let others = kinds.into_iter().flat_map(of).map(|entry| entry.path());
        others.collect()
    }

    /// Takes an object away from its place at once, then apart.
    fn discard(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.object_path(digest);
        let trash = self.root.join("trash").join(digest.to_string());
        let discard = || {
            atomic::remove(&self.tree_path(digest))?;
            atomic::remove(&trash)?;
            atomic::set_aside(&path, &trash)?;
            atomic::remove(&trash)
        };
        discard().map_err(failed("remove", &path))
    }
}

impl Survey {
    /// Returns the records whose objects may go and, if there is a quota, are to go.
    fn unused(&self, policy: &Policy) -> Vec<Arc<Record>> {
        let mut objects: BTreeMap<Digest, (u64, usize)> = BTreeMap::new();
        for (digest, bytes) in self.records.iter().flat_map(|record| objects_of(record)) {
            objects.entry(digest).or_insert((bytes, 0)).1 += 1;
        }
        let used = |record: &Arc<Record>| {
            let used = self.used.get(&record.recipe).copied().unwrap_or_default();
            (used.max(record.finished_unix), record.recipe)
        };
        let may_go = |record: &&Arc<Record>| {
            !self.roots.contains(&record.recipe) && record.objects().next().is_some()
        };
        let mut unused: Vec<_> = self.records.iter().filter(may_go).cloned().collect();
        unused.sort_by_key(used);
        let mut kept: u64 = objects.values().map(|(bytes, _)| bytes).sum();
        let mut goes = |record: &Arc<Record>| {
            let goes = policy.max_bytes.is_none_or(|max| kept > max);
            for digest in objects_of(record).keys().filter(|_| goes) {
                let (bytes, users) = objects.get_mut(digest).expect("all were counted");
                *users -= 1;
                kept -= if *users == 0 { *bytes } else { 0 };
            }
            goes
        };
        unused.retain(&mut goes);
        unused
    }
}

impl Run {
    fn is_needed(&self, policy: &Policy) -> bool {
        self.goes_on || is_within(self.began, policy.keep, policy.now)
    }
}

fn keys(record: &Record) -> (Digest, Digest) {
    (record.recipe, record.content)
}

/// Returns each object of a record once.
fn objects_of(record: &Record) -> BTreeMap<Digest, u64> {
    record.objects().collect()
}

/// Returns the key or digest that an entry is named by, whatever follows it.
fn key_of(entry: &fs::DirEntry) -> Option<Digest> {
    entry.file_name().to_str()?.split('.').next()?.parse().ok()
}

fn is_temporary(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(".tmp")
}

fn is_within(time: SystemTime, span: Duration, now: SystemTime) -> bool {
    // A clock that went back makes nothing old.
    now.duration_since(time).map_or(true, |age| age <= span)
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Returns the bytes of a file, or of all files in a folder.
fn size(path: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(path).into_iter().flatten();
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}
