//! Level 1: the store. Immutable objects named by their digests, and an index from keys to records.
//!
//! It knows digests, not stages. [`Store::begin`] gives either a record or a [`Lease`], and only a lease can publish:
//! outputs to disk, one rename each, then the index record. Locks are the kernel's, so a dead process holds none.

mod answer;
mod atomic;
mod checked;
mod elsewhere;
mod error;
mod gc;
mod going;
mod index;
mod log;
pub mod object;
mod past;
mod presence;
mod record;
mod roots;
mod sealed;
mod sources;
mod stamp;
mod table;
mod verify;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use crate::base::{Digest, in_chunks};
use crate::store::checked::{Checked, Look};
use crate::store::error::failed;
use crate::store::index::Index;
use crate::store::sources::Sources;

pub use crate::store::answer::Answer;
pub use crate::store::elsewhere::{Elsewhere, Taken};
pub use crate::store::error::StoreError;
pub use crate::store::gc::{Garbage, Policy};
pub use crate::store::going::{Telling, Told};
pub use crate::store::past::{Name, Names, Past, Took};
pub use crate::store::record::{Output, Record};
pub use crate::store::roots::RunMark;
pub use crate::store::verify::{Damage, Findings};

/// The version of the layout on disk.
pub const FORMAT: u32 = 2;

/// What a new store has first; one that is there stays as it is. Backup programs know the tag's signature.
const SIDE_FILES: [(&str, &str); 2] = [
    (
        "CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55\n# Made by tlm; see docs/cache.md.\n",
    ),
    (".gitignore", "*\n"),
];

/// How often a lease that another process holds is tried.
const POLL: Duration = Duration::from_millis(50);

/// A store, usually `.tlm/` beside the recipe.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    index: Mutex<Index>,
    sources: Sources,
    /// Opened when it is first needed.
    checked: OnceLock<Checked>,
    has_damage: AtomicBool,
}

/// A record that is in the store, not yet read; in the order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Found {
    /// Where it lies in the log.
    place: u64,
}

/// What [`Store::begin`] found.
#[derive(Debug)]
pub enum Begin {
    /// Somebody made it meanwhile.
    Hit(Box<Record>),
    /// It is to be made, by whoever holds the lease.
    Miss(Lease),
    /// Another process holds the lease, and the caller would not wait.
    GivenUp,
}

/// The right to make what belongs under one key; held by one process at a time.
#[derive(Debug)]
pub struct Lease {
    recipe: Digest,
    root: PathBuf,
    staging: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens a store, creating it if missing. One that exists may be read-only.
    ///
    /// # Errors
    /// When the folder can't be made or read, has other files, or is of another format.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        if root.to_str().is_none() {
            return Err(StoreError::NotUtf8 { path: root.to_owned() });
        }
        match format_of(root) {
            Ok(found) if found == FORMAT.to_string() => {}
            Ok(found) => return Err(StoreError::OtherFormat { path: root.to_owned(), found }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(root)?,
            Err(error) => return Err(failed("read", &root.join("format"))(error)),
        }
        let index = Index::open(root).map_err(failed("read", &index::path(root)))?;
        let sources = Sources::open(root.join("sources"));
        Ok(Self {
            root: root.to_owned(),
            index: Mutex::new(index),
            sources,
            checked: OnceLock::new(),
            has_damage: AtomicBool::new(false),
        })
    }

    fn create(root: &Path) -> Result<(), StoreError> {
        atomic::create_folder(root).map_err(failed("create", root))?;
        let entries = fs::read_dir(root).map_err(failed("read", root))?.flatten();
        let has_others = entries.map(|entry| entry.file_name()).any(|name| !is_side_file(&name));
        // What another tlm adds comes after its `format`.
        if has_others && !Self::is_one(root) {
            return Err(StoreError::NotAStore { path: root.to_owned() });
        }
        let missing = SIDE_FILES.into_iter().filter(|(name, _)| !root.join(name).exists());
        for (name, text) in missing.chain([("format", &*format!("{FORMAT}\n"))]) {
            let path = root.join(name);
            atomic::write(&path, text.as_bytes()).map_err(failed("write", &path))?;
        }
        Ok(())
    }

    fn checked(&self) -> &Checked {
        self.checked.get_or_init(|| Checked::open(self.root.join("verified")))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("no holder of the index panics")
    }

    /// Returns whether a record is under a recipe key or content key and all its objects are there, without reading it.
    ///
    /// What was seen once is taken for granted until the store is opened again.
    pub fn find(&self, key: Digest) -> Option<Found> {
        self.index().find(key).map(|place| Found { place })
    }

    /// Returns for each key what [`Store::find`] tells: whether it is there.
    pub fn find_all(&self, keys: &[Digest]) -> Vec<bool> {
        self.index().find_all(keys)
    }

    /// Reads a record that was found; none if it is damaged. Then it will not be found again.
    pub fn read(&self, found: Found) -> Option<Record> {
        self.index().read_at(found.place)
    }

    /// Reads many records that were found; none for those that are damaged.
    pub fn read_all(&self, found: &[Found]) -> Vec<Option<Record>> {
        let index = self.index();
        let read =
            |part: &[Found]| part.iter().map(|one| index.read(one.place)).collect::<Vec<_>>();
        in_chunks(found, read).into_iter().flatten().collect()
    }

    /// Returns the outputs that the records under these keys have; none for a key without a record that can be read.
    pub fn outputs(&self, keys: &[Digest]) -> Vec<Option<BTreeMap<String, Output>>> {
        let index = self.index();
        let outputs =
            |keys: &[Digest]| keys.iter().map(|key| index.outputs(key)).collect::<Vec<_>>();
        in_chunks(keys, outputs).into_iter().flatten().collect()
    }

    /// Returns the record under a recipe key or content key, if all its objects are there now.
    pub fn lookup(&self, key: Digest) -> Option<Record> {
        let record = self.index().get(key)?;
        record.outputs.values().all(|output| self.is_there(output)).then_some(record)
    }

    fn is_there(&self, output: &Output) -> bool {
        match output {
            Output::Object { digest, .. } => self.object_path(*digest).exists(),
            Output::Scalar(_) => true,
        }
    }

    /// Returns the digest of a file or folder of the user's; what is known of unchanged files is not read again.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn source_digest(&self, path: &Path) -> io::Result<Digest> {
        self.sources.digest(path)
    }

    /// Returns whether a file or folder of the user's is no longer what [`Store::source_digest`] told.
    pub fn source_changed(&self, path: &Path) -> bool {
        self.sources.has_changed(path)
    }

    /// Remembers the digests of the user's files, and which objects are there, for the next time.
    pub fn keep_sources(&self) {
        // Forgetting them costs time, nothing else.
        let _ = self.sources.keep();
        let _ = self.index().keep_presence();
    }

    /// Returns what the records are called and what they took; of a log that can't be read nothing.
    pub fn past(&self) -> Past {
        self.index().past().unwrap_or_default()
    }

    /// Reads all records, oldest first.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.index().read_all().0
    }

    /// Reads all records and returns how many were damaged and left out.
    pub fn damaged(&self) -> usize {
        self.index().read_all().1
    }

    /// Returns where an object lies.
    pub fn object_path(&self, digest: Digest) -> PathBuf {
        object_path(&self.root, digest)
    }

    /// Returns where the log of a step lies.
    pub fn log_path(&self, recipe: Digest) -> PathBuf {
        self.root.join("logs").join(format!("{recipe}.log"))
    }

    /// Returns the folders in which a step that is not done may have an artifact so far: its outputs, if it writes there as it
    /// goes, and its resume state.
    pub fn unfinished(&self, recipe: Digest, artifact: &str) -> Vec<PathBuf> {
        let key = recipe.to_string();
        let entries = fs::read_dir(self.root.join("staging")).into_iter().flatten().flatten();
        let own = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&key));
        let staged = own.map(|entry| entry.path().join(artifact));
        staged.chain([self.root.join("state").join(&key)]).collect()
    }

    /// Opens the log of a step to append to.
    ///
    /// # Errors
    /// When it can't be created or written.
    pub fn open_log(&self, recipe: Digest) -> io::Result<File> {
        atomic::open_log(&self.log_path(recipe))
    }

    fn lock_path(&self, recipe: Digest) -> PathBuf {
        self.root.join("locks").join(recipe.to_string())
    }

    /// Returns whether this store lies at a path.
    pub fn is_at(&self, path: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(path).ok();
        real(&self.root) == real(path)
    }

    /// Returns whether a folder is a store.
    pub fn is_one(root: &Path) -> bool {
        root.join("format").is_file()
    }

    /// Returns whether it still is where it was opened.
    pub fn is_still_there(&self) -> bool {
        Self::is_one(&self.root)
    }

    /// Returns the files and folders of which one changes when something is recorded or collected, or a run begins or ends.
    pub fn moving(&self) -> [PathBuf; 3] {
        ["format", "index", "going"].map(|name| self.root.join(name))
    }

    /// Returns the logs of all steps, the latest first.
    pub fn logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join("logs")).into_iter().flatten().flatten();
        let dated =
            |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
        let mut logs: Vec<_> = entries.filter_map(dated).collect();
        logs.sort();
        logs.into_iter().rev().map(|(_, path)| path).collect()
    }

    /// Returns where the HTML report of a recipe of this name lies by default.
    pub fn report_path(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.html"))
    }

    /// Takes the lease on a recipe key for `who`. While another holds it, asks `wait` again and again whether to go on
    /// waiting, and says who that is, if it is known.
    ///
    /// # Errors
    /// When lock or staging folder can't be made.
    pub fn begin(
        &self,
        recipe: Digest,
        who: &str,
        mut wait: impl FnMut(Option<String>) -> bool,
    ) -> Result<Begin, StoreError> {
        let path = self.lock_path(recipe);
        let lock = atomic::open_shared(&path).map_err(failed("open", &path))?;
        while !atomic::got(|| lock.try_lock()).map_err(failed("lock", &path))? {
            if !wait(atomic::read_note(&path)) {
                return Ok(Begin::GivenUp);
            }
            thread::sleep(POLL);
        }
        let index = index::path(&self.root);
        self.index().refresh().map_err(failed("read", &index))?;
        if let Some(record) = self.lookup(recipe) {
            return Ok(Begin::Hit(Box::new(record)));
        }
        // Only for whoever waits; the lock is the kernel's.
        let _ = atomic::write_note(&lock, who);
        let staging = self.stage(recipe)?;
        let state = self.root.join("state").join(recipe.to_string());
        atomic::create_passing_folder(&state).map_err(failed("create", &state))?;
        Ok(Begin::Miss(Lease { recipe, root: self.root.clone(), staging, _lock: lock }))
    }

    /// Removes what killed runs left behind: outputs staged for a key whose lock nobody holds, and resume states of steps
    /// that are done. What can't be removed yet stays for the next time.
    pub fn sweep(&self) {
        let entries = |folder| fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten();
        let key = |entry: &fs::DirEntry| {
            entry.file_name().to_string_lossy().split('.').next()?.parse::<Digest>().ok()
        };
        for entry in entries("staging") {
            let Some(key) = key(&entry) else { continue };
            // Held until the folder is gone.
            let lock = atomic::open_shared(&self.lock_path(key));
            if lock.as_ref().is_ok_and(|lock| atomic::got(|| lock.try_lock()).unwrap_or(false)) {
                let _ = atomic::remove(&entry.path());
            }
        }
        for entry in entries("state") {
            if key(&entry).is_some_and(|key| self.find(key).is_some()) {
                let _ = atomic::remove(&entry.path());
            }
        }
        self.sweep_told();
    }

    /// Returns a new folder for outputs. What earlier attempts staged is unfinished: their lock is ours now. But a worker
    /// whose scheduler was killed may still write, so no folder is used twice, and one that can't be removed yet stays.
    fn stage(&self, recipe: Digest) -> Result<PathBuf, StoreError> {
        let folder = self.root.join("staging");
        atomic::create_passing_folder(&folder).map_err(failed("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&recipe.to_string()) {
                let _ = atomic::remove(&entry.path());
            }
        }
        let made = atomic::create_own_folder(&folder, &format!("{recipe}."));
        made.map_err(failed("create", &folder))
    }

    /// Moves the lease's outputs into the store and records them.
    ///
    /// # Errors
    /// When an artifact of `artifacts` was not written, or the disk fails; then nothing is recorded.
    #[expect(clippy::needless_pass_by_value, reason = "publishing uses the lease up")]
    pub fn publish(
        &self,
        lease: Lease,
        artifacts: &[String],
        mut record: Record,
    ) -> Result<Record, StoreError> {
        // From the first object to the record.
        let _shared = self.without_collector()?;
        for name in artifacts {
            let path = lease.staging.join(name);
            if !path.exists() {
                return Err(StoreError::MissingOutput { name: name.clone() });
            }
            let (digest, bytes) = self.keep_object(&path)?;
            record.outputs.insert(name.clone(), Output::Object { digest, bytes });
        }
        self.append(&record)?;
        // The step is done all the same; the next sweep tries again.
        let _ = atomic::remove(&lease.state_dir());
        Ok(record)
    }

    /// Records outputs that exist already under another key: early cutoff.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn record(&self, record: &Record) -> Result<(), StoreError> {
        let _shared = self.without_collector()?;
        self.append(record)
    }

    fn append(&self, record: &Record) -> Result<(), StoreError> {
        let path = index::path(&self.root);
        self.index().append(record).map_err(failed("write", &path))
    }

    /// Moves an output to its place among the objects, unless the same is there already; returns its digest and size.
    fn keep_object(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let tree = object::read(path, &|_| {}).map_err(failed("read", path))?;
        let digest = tree.digest();
        let target = self.object_path(digest);
        if !target.exists() || self.weed_out(digest).is_err() {
            atomic::make_read_only(path).map_err(failed("protect", path))?;
            self.keep_tree(&tree);
            match atomic::move_into_place(path, &target) {
                // Another step made the same meanwhile.
                Err(_) if target.exists() => {}
                moved => moved.map_err(failed("publish", &target))?,
            }
            if let Ok(look) = Look::of(&target) {
                self.checked().note(digest, look);
            }
        }
        Ok((digest, tree.bytes()))
    }
}

/// Returns the version that a store says it has.
fn format_of(root: &Path) -> io::Result<String> {
    fs::read_to_string(root.join("format")).map(|found| found.trim().to_owned())
}

/// Returns whether a name is of what a store has before its `format`, or of a file that is being written.
fn is_side_file(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(".tmp") || SIDE_FILES.iter().any(|(side, _)| *side == name)
}

impl Lease {
    /// Returns the folder to write outputs into; empty at first.
    pub fn out_dir(&self) -> &Path {
        &self.staging
    }

    /// Returns the folder for resume states; outlives the lease until the step is published.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state").join(self.recipe.to_string())
    }

    /// Empties the output folder, for another attempt; the resume states stay.
    ///
    /// # Errors
    /// When the folder can't be removed or made again.
    pub fn clear(&self) -> Result<(), StoreError> {
        atomic::remove(&self.staging).map_err(failed("remove", &self.staging))?;
        atomic::create_passing_folder(&self.staging).map_err(failed("create", &self.staging))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What stays behind is cleaned by the next lease on the same key.
        let _ = atomic::remove(&self.staging);
        // Only one without a state is empty.
        let _ = fs::remove_dir(self.state_dir());
    }
}

fn object_path(root: &Path, digest: Digest) -> PathBuf {
    place_in(&root.join("objects"), digest)
}

/// Returns where in a folder what a digest names lies: in one of 256, by its first byte.
fn place_in(folder: &Path, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    folder.join(&name[..2]).join(name)
}
