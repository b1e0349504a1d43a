//! The only place that creates, renames and locks files in the store.

#[cfg(test)]
mod journal;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use tempfile::NamedTempFile;

#[cfg(test)]
use crate::store::atomic::journal::Op;

/// Writes a small file under its name at once: a temporary file beside it, fsync, rename, fsync of the folder.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = write_beside(path, bytes)?;
    sync(file.as_file(), file.path())?;
    persist(file, path)?;
    sync_folder(folder_of(path))
}

/// Writes a file under its name at once, and makes its folder if it is missing. It need not outlive a power cut: its reader
/// tells what is left of it, and makes it again.
pub(super) fn write_derived(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_passing_folder(folder_of(path))?;
    persist(write_beside(path, bytes)?, path)
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    // Others may read a store, so it gets the permissions of any new file, not a temporary's.
    let open = fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(open).tempfile_in(folder_of(path))?;
    #[cfg(test)]
    journal::note(Op::File(file.path().to_owned()));
    write_at(file.as_file(), file.path(), 0, bytes)?;
    Ok(file)
}

fn write_at(file: &File, _path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    journal::note(Op::Write { path: _path.to_owned(), at, bytes: bytes.to_vec() });
    file.write_all_at(bytes, at)
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    #[cfg(test)]
    journal::note(Op::Rename(file.path().to_owned(), path.to_owned()));
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    #[cfg(test)]
    journal::note(Op::Rename(from.to_owned(), to.to_owned()));
    Ok(())
}

fn sync(file: &File, _path: &Path) -> io::Result<()> {
    file.sync_all()?;
    #[cfg(test)]
    journal::note(Op::Sync(_path.to_owned()));
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().expect("store paths have a parent")
}

/// Makes a folder and those above it, unless they are there, and brings their names to disk.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    create_folder(folder_of(path))?;
    create_passing_folder(path)?;
    sync_folder(folder_of(path))
}

/// The same for a folder that need not outlive a power cut.
pub(super) fn create_passing_folder(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    journal::note_missing(path);
    fs::create_dir_all(path)
}

/// Makes a new folder in a folder, named by a prefix and something random.
pub(super) fn create_own_folder(folder: &Path, prefix: &str) -> io::Result<PathBuf> {
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(folder)?.keep();
    #[cfg(test)]
    journal::note(Op::Folder(made.clone()));
    Ok(made)
}

/// Makes a new file in a folder, named by a prefix and something random, and the folder if it is missing. Neither need outlive a
/// power cut.
pub(super) fn create_own_file(folder: &Path, prefix: &str) -> io::Result<(PathBuf, File)> {
    create_passing_folder(folder)?;
    let open = fs::Permissions::from_mode(0o666);
    let made = tempfile::Builder::new().prefix(prefix).permissions(open).tempfile_in(folder)?;
    let (file, path) = made.keep().map_err(|error| error.error)?;
    #[cfg(test)]
    journal::note(Op::File(path.clone()));
    Ok((path, file))
}

/// Opens a file that is read and appended to under a lock, creating it and its folder if missing.
pub(super) fn open_shared(path: &Path) -> io::Result<File> {
    create_passing_folder(folder_of(path))?;
    #[cfg(test)]
    if !path.exists() {
        journal::note(Op::File(path.to_owned()));
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// The same, and locks it. It may have been replaced while this waited.
pub(super) fn open_locked(path: &Path) -> io::Result<File> {
    loop {
        let file = open_shared(path)?;
        patiently(|| file.lock())?;
        let (own, there) = (file.metadata()?, fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
            return Ok(file);
        }
    }
}

/// Returns whether a process holds the lock of a file.
pub(super) fn is_locked(path: &Path) -> bool {
    File::open(path).and_then(|file| got(|| file.try_lock())).is_ok_and(|got| !got)
}

/// Waits for a lock, however often a signal interrupts that.
pub(super) fn patiently(lock: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            locked => return locked,
        }
    }
}

/// Tries to take a lock, and returns whether it could be had.
pub(super) fn got(lock: impl Fn() -> Result<(), TryLockError>) -> io::Result<bool> {
    loop {
        match lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Writes a line for people into an open file, in place of the one before.
pub(super) fn write_note(mut file: &File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    io::Write::write_all(&mut file, format!("{text}\n").as_bytes())
}

/// Writes a line into an open file, in place of the one before. A reader of the first line finds either, or, while a longer
/// one is written, a mixture; but never nothing.
pub(super) fn write_line(file: &File, text: &str) -> io::Result<()> {
    let line = format!("{text}\n");
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
}

/// Reads a note; none if it is missing or only being written.
pub(super) fn read_note(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.strip_suffix('\n').map(str::to_owned)
}

/// Writes a frame at the end of the log, and brings it to disk; what was behind that end is cut off.
pub(super) fn append(log: &File, path: &Path, end: u64, frame: &[u8]) -> io::Result<()> {
    cut(log, path, end)?;
    if let Err(error) = write_at(log, path, end, frame).and_then(|()| sync(log, path)) {
        // A full disk must not leave half a frame behind.
        cut(log, path, end)?;
        return Err(error);
    }
    match end {
        // The file is new, so its name has to reach the disk too.
        0 => sync_folder(folder_of(path)),
        _ => Ok(()),
    }
}

fn cut(file: &File, _path: &Path, end: u64) -> io::Result<()> {
    file.set_len(end)?;
    #[cfg(test)]
    journal::note(Op::Cut { path: _path.to_owned(), end });
    Ok(())
}

/// Opens a file to append to, creating it and its folder if missing.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    create_passing_folder(folder_of(path))?;
    OpenOptions::new().create(true).append(true).open(path)
}

/// Moves a finished output to its final name: contents to disk, then one rename, then the folder to disk.
pub(super) fn move_into_place(from: &Path, to: &Path) -> io::Result<()> {
    let folder = folder_of(to);
    create_folder(folder)?;
    // Another process may have created the folder and not yet come to this.
    folder.parent().map_or(Ok(()), sync_folder)?;
    sync_tree(from)?;
    rename(from, to)?;
    sync_folder(folder)
}

/// Moves an object out of its place, to one where nothing is.
pub(super) fn set_aside(from: &Path, to: &Path) -> io::Result<()> {
    create_folder(folder_of(to))?;
    rename(from, to)?;
    sync_folder(folder_of(to))?;
    sync_folder(folder_of(from))
}

/// Removes a file or folder, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    journal::note_removal(path);
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes files read-only; folders stay writable to their owner so that they can be moved and collected.
pub(super) fn make_read_only(path: &Path) -> io::Result<()> {
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry?;
        if entry.file_type().is_file() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o444))?;
        }
    }
    Ok(())
}

fn sync_tree(path: &Path) -> io::Result<()> {
    let entries: Vec<_> = walkdir::WalkDir::new(path).into_iter().collect::<Result<_, _>>()?;
    entries.par_iter().try_for_each(|entry| sync(&File::open(entry.path())?, entry.path()))
}

/// Brings the names in a folder to disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?, path)
}
