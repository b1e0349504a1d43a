//! What was done to the files below a folder, in order, for tests that ask what a crash would leave of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Something done to a file or folder.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Folder(PathBuf),
    File(PathBuf),
    Write { path: PathBuf, at: u64, bytes: Vec<u8> },
    Cut { path: PathBuf, end: u64 },
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// The journals that are kept, by folder.
static JOURNALS: Mutex<BTreeMap<PathBuf, Vec<Op>>> = Mutex::new(BTreeMap::new());

/// Begins to keep a journal of a folder.
pub(super) fn keep(folder: &Path) {
    JOURNALS.lock().unwrap().insert(folder.to_owned(), Vec::new());
}

/// Returns what was noted so far.
pub(super) fn of(folder: &Path) -> Vec<Op> {
    JOURNALS.lock().unwrap()[folder].clone()
}

/// Notes something in the journal of its folder, if one is kept.
pub(super) fn note(op: Op) {
    let path = match &op {
        Op::Folder(path) | Op::File(path) | Op::Sync(path) | Op::Remove(path) => path,
        Op::Write { path, .. } | Op::Cut { path, .. } | Op::Rename(_, path) => path,
    };
    let mut journals = JOURNALS.lock().unwrap();
    let journal = journals.iter_mut().find(|(folder, _)| path.starts_with(folder));
    if let Some((_, ops)) = journal {
        ops.push(op);
    }
}

/// Notes that a folder and those above it are made, as far as they are missing.
pub(super) fn note_missing(path: &Path) {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
    missing.iter().rev().for_each(|path| note(Op::Folder(path.to_path_buf())));
}

/// Notes that a file or folder is taken apart.
pub(super) fn note_removal(path: &Path) {
    let entries = walkdir::WalkDir::new(path).contents_first(true).into_iter().flatten();
    entries.for_each(|entry| note(Op::Remove(entry.into_path())));
}
