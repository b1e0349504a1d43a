//! What runs tell while they go on: a file in `going` each, named by the note of the run, which its process holds locked. One
//! that nobody holds is what a killed run left.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::base::Digest;
use crate::store::{RunMark, Store, atomic, roots};

/// The longest line that is read.
const LONGEST: u64 = 4 << 20;

/// Tells what a run does now, until it is dropped.
#[derive(Debug)]
pub struct Telling {
    path: PathBuf,
    file: File,
}

/// What a run told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The recipe keys of its steps.
    pub keys: Vec<Digest>,
    /// What it told.
    pub text: String,
    /// When.
    pub at: SystemTime,
    /// When it began, or one of the same steps after it.
    pub began: SystemTime,
}

impl Store {
    /// Begins to tell what a run does; none where no note of it is kept.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn tell(&self, run: &RunMark) -> io::Result<Option<Telling>> {
        let Some(name) = &run.name else { return Ok(None) };
        let folder = self.root.join("going");
        loop {
            let (path, file) = atomic::create_own_file(&folder, &format!("{name}."))?;
            atomic::patiently(|| file.lock())?;
            // Before it was locked, another run may have taken it for one that a killed run left.
            if path.exists() {
                return Ok(Some(Telling { path, file }));
            }
        }
    }

    /// Returns what the runs that go on told last.
    pub fn going(&self) -> Vec<Told> {
        self.told().filter_map(|path| self.told_in(&path)).collect()
    }

    fn told_in(&self, path: &Path) -> Option<Told> {
        let file = File::open(path).ok()?;
        if !is_held(&file) {
            return None;
        }
        let note = path.file_name()?.to_str()?.split('.').next()?;
        let note = self.root.join("runs").join(note);
        let keys = roots::run_keys(&note)?;
        let at = file.metadata().ok()?.modified().ok()?;
        let began = fs::metadata(note).ok()?.modified().ok()?;
        let mut text = String::new();
        BufReader::new(file.take(LONGEST)).read_line(&mut text).ok()?;
        Some(Told { keys, text: text.strip_suffix('\n')?.to_owned(), at, began })
    }

    fn told(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.root.join("going")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    }

    /// Removes what killed runs told.
    pub(super) fn sweep_told(&self) {
        for path in self.told() {
            if File::open(&path).is_ok_and(|file| !is_held(&file)) {
                let _ = atomic::remove(&path);
            }
        }
    }
}

/// Returns whether a run holds its file. Nobody else waits for that lock, so looking hinders nobody.
fn is_held(file: &File) -> bool {
    atomic::got(|| file.try_lock_shared()).is_ok_and(|got| !got)
}

impl Telling {
    /// Tells this line, in place of the one before.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn tell(&self, line: &str) -> io::Result<()> {
        atomic::write_line(&self.file, line)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = atomic::remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_tells_counts_while_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let key = Digest::of(b"key");
        let mark = store.begin_run([key].into_iter(), SystemTime::UNIX_EPOCH).unwrap();
        let telling = store.tell(&mark).unwrap().unwrap();
        assert_eq!(store.going(), []);
        for line in ["a long line", "short", "a longer line again"] {
            telling.tell(line).unwrap();
            let told = store.going().pop().unwrap();
            assert_eq!((told.keys, &*told.text), (vec![key], line));
            assert_eq!(told.began, SystemTime::UNIX_EPOCH);
        }
        let left = telling.path.clone();
        let kept = fs::read(&left).unwrap();
        store.sweep_told();
        assert_eq!(store.going().len(), 1);
        drop(telling);
        assert!(store.going().is_empty() && !left.exists());
        // As a killed run leaves it.
        fs::write(&left, kept).unwrap();
        assert!(store.going().is_empty());
        store.sweep_told();
        assert!(!left.exists());
    }
}
