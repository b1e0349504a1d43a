//! What garbage collection keeps: pinned steps, and all steps of recent runs.
//!
//! A pin is a file in `pins`, named by the user, with a recipe key. A run is a [`sealed`] file in `runs` with the recipe keys
//! that its plan reaches, named by their digest; its time stamp is when such a run began last, and while one goes on, its
//! process holds a lock on it. `locks/gc` is held by a collector alone, or by all that publish or begin a run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::base::Digest;
use crate::store::error::{failed, is_closed};
use crate::store::record::DIGEST;
use crate::store::{Store, StoreError, atomic, sealed};

const NAME: [u8; 8] = *b"tlm run ";

/// A run that goes on: its steps are kept until this is dropped.
#[derive(Debug)]
pub struct RunMark {
    _lock: Option<File>,
    /// The note's name, if there is one.
    pub(super) name: Option<String>,
    /// Whether garbage was being collected after the run was planned, so that the plan may be out of date.
    pub is_late: bool,
}

/// The recipe keys of a run's steps.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) path: PathBuf,
    pub(super) keys: Vec<Digest>,
    pub(super) began: SystemTime,
    pub(super) goes_on: bool,
}

impl Store {
    /// Notes that a run of steps with these keys begins. A store that can only be read keeps no note.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn begin_run(
        &self,
        keys: impl Iterator<Item = Digest>,
        now: SystemTime,
    ) -> Result<RunMark, StoreError> {
        let mut content = Vec::new();
        keys.for_each(|key| content.extend_from_slice(key.as_bytes()));
        let name = Digest::of(&content).to_string();
        let path = self.root.join("runs").join(&name);
        match self.mark_run(name, &path, &content, now) {
            Err(error) if is_closed(error.kind()) => {
                Ok(RunMark { _lock: None, name: None, is_late: false })
            }
            marked => marked.map_err(failed("write", &path)),
        }
    }

    /// Notes that a run whose note has this name begins again; none when there is no such note, or the collector is at work.
    pub(super) fn begin_run_again(root: &Path, name: &str, now: SystemTime) -> Option<RunMark> {
        let gate = atomic::open_shared(&gate_path(root)).ok()?;
        atomic::got(|| gate.try_lock_shared()).ok()?.then_some(())?;
        let run = hold(&root.join("runs").join(name), now).ok()?;
        Some(RunMark { _lock: Some(run), name: Some(name.to_owned()), is_late: false })
    }

    fn mark_run(
        &self,
        name: String,
        path: &Path,
        content: &[u8],
        now: SystemTime,
    ) -> io::Result<RunMark> {
        let (_shared, is_late) = self.share_with_collector()?;
        let is_noted = fs::read(path).is_ok_and(|file| sealed::open(NAME, &file) == Some(content));
        if !is_noted {
            atomic::create_folder(&self.root.join("runs"))?;
            atomic::write(path, &sealed::seal(NAME, content))?;
        }
        let run = hold(path, now)?;
        Ok(RunMark { _lock: Some(run), name: Some(name), is_late })
    }

    /// Keeps a collector out until what is returned is dropped.
    pub(super) fn without_collector(&self) -> Result<File, StoreError> {
        let shared = self.share_with_collector();
        shared.map(|(gate, _)| gate).map_err(failed("lock", &self.gate_path()))
    }

    /// Keeps a collector out, after waiting for one that is at work; returns whether there was one.
    fn share_with_collector(&self) -> io::Result<(File, bool)> {
        let gate = atomic::open_shared(&self.gate_path())?;
        let is_late = !atomic::got(|| gate.try_lock_shared())?;
        if is_late {
            atomic::patiently(|| gate.lock_shared())?;
        }
        Ok((gate, is_late))
    }

    pub(super) fn gate_path(&self) -> PathBuf {
        gate_path(&self.root)
    }

    /// Returns all runs.
    ///
    /// # Errors
    /// When a note is damaged: without it, something would be collected that is to stay.
    pub(super) fn runs(&self) -> Result<Vec<Run>, StoreError> {
        let paths = self.roots("runs").map(|(_, path)| path);
        paths.map(|path| run(&path).ok_or(StoreError::DamagedRoot { path })).collect()
    }

    /// Returns the names and paths of what lies in a folder, but for files that are being written.
    fn roots(&self, folder: &str) -> impl Iterator<Item = (String, PathBuf)> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten();
        let named =
            entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        named.filter(|(name, _)| !name.starts_with('.'))
    }

    /// Keeps what a step made under a name until that is unpinned.
    ///
    /// # Errors
    /// When the name can't be one of a file, or the pin can't be written.
    pub fn pin(&self, name: &str, recipe: Digest) -> Result<(), StoreError> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0', '\n']) {
            return Err(StoreError::NoPinName { name: name.to_owned() });
        }
        let _shared = self.without_collector()?;
        let path = self.root.join("pins").join(name);
        let write = || {
            atomic::create_folder(&self.root.join("pins"))?;
            atomic::write(&path, format!("{recipe}\n").as_bytes())
        };
        write().map_err(failed("write", &path))
    }

    /// Takes a pin away; returns whether there was one.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.root.join("pins").join(name);
        if !self.pins().is_ok_and(|pins| pins.contains_key(name)) {
            return Ok(false);
        }
        let removed =
            atomic::remove(&path).and_then(|()| atomic::sync_folder(&self.root.join("pins")));
        removed.map(|()| true).map_err(failed("remove", &path))
    }

    /// Returns the recipe keys of pinned steps by the pins' names.
    ///
    /// # Errors
    /// When a pin is damaged: without it, something would be collected that is to stay.
    pub fn pins(&self) -> Result<BTreeMap<String, Digest>, StoreError> {
        let pin = |(name, path): (String, PathBuf)| {
            let key = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            Ok((name, key.ok_or(StoreError::DamagedRoot { path })?))
        };
        self.roots("pins").map(pin).collect()
    }
}

/// Takes the lock that a run has on its note while it goes on, and notes when it began.
fn hold(path: &Path, now: SystemTime) -> io::Result<File> {
    let run = File::options().write(true).open(path)?;
    atomic::patiently(|| run.lock_shared())?;
    run.set_modified(now)?;
    Ok(run)
}

fn gate_path(root: &Path) -> PathBuf {
    root.join("locks").join("gc")
}

/// Reads the note of a run.
fn run(path: &Path) -> Option<Run> {
    let keys = run_keys(path)?;
    let began = fs::metadata(path).ok()?.modified().ok()?;
    let goes_on = atomic::is_locked(path);
    Some(Run { path: path.to_owned(), keys, began, goes_on })
}

/// Reads the recipe keys in the note of a run.
pub(super) fn run_keys(path: &Path) -> Option<Vec<Digest>> {
    let file = fs::read(path).ok()?;
    let (keys, rest) = sealed::open(NAME, &file)?.as_chunks::<DIGEST>();
    rest.is_empty().then(|| keys.iter().map(|key| Digest::from(*key)).collect())
}
