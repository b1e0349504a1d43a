//! The only place that creates, renames and locks files in the store.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use tempfile::NamedTempFile;

/// Writes a small file under its name at once: a temporary file beside it, fsync, rename, fsync of the folder.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = write_beside(path, bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder_of(path))
}

/// Writes a file under its name at once. It need not outlive a power cut: its reader tells what is left of it, and makes
/// it again.
pub(super) fn write_derived(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder_of(path))?;
    write_beside(path, bytes)?.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    // Others may read a store, so it gets the permissions of any new file, not a temporary's.
    let open = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(open).tempfile_in(folder_of(path))?;
    io::Write::write_all(&mut file, bytes)?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().expect("store paths have a parent")
}

/// Opens a file that is read and appended to under a lock, creating it and its folder if missing.
pub(super) fn open_shared(path: &Path) -> io::Result<File> {
    fs::create_dir_all(folder_of(path))?;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// The same, and locks it. It may have been replaced while this waited.
pub(super) fn open_locked(path: &Path) -> io::Result<File> {
    loop {
        let file = open_shared(path)?;
        file.lock()?;
        let (own, there) = (file.metadata()?, fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
            return Ok(file);
        }
    }
}

/// Returns whether a process holds the lock of a file.
pub(super) fn is_locked(path: &Path) -> bool {
    let file = File::open(path);
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Makes a folder and those above it, unless it is there.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Writes a frame at the end of the log, and brings it to disk; what was behind that end is cut off.
pub(super) fn append(log: &File, path: &Path, end: u64, frame: &[u8]) -> io::Result<()> {
    log.set_len(end)?;
    if let Err(error) = log.write_all_at(frame, end).and_then(|()| log.sync_all()) {
        // A full disk must not leave half a frame behind.
        log.set_len(end)?;
        return Err(error);
    }
    match end {
        // The file is new, so its name has to reach the disk too.
        0 => sync_folder(folder_of(path)),
        _ => Ok(()),
    }
}

/// Opens a file to append to, creating it and its folder if missing.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    fs::create_dir_all(folder_of(path))?;
    OpenOptions::new().create(true).append(true).open(path)
}

/// Moves a finished output to its final name: contents to disk, then one rename, then the folder to disk.
pub(super) fn move_into_place(from: &Path, to: &Path) -> io::Result<()> {
    let folder = folder_of(to);
    fs::create_dir_all(folder)?;
    // Another process may have created the folder and not yet come to this.
    folder.parent().map_or(Ok(()), sync_folder)?;
    sync_tree(from)?;
    fs::rename(from, to)?;
    sync_folder(folder)
}

/// Moves an object out of its place, to one where nothing is.
pub(super) fn set_aside(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(folder_of(to))?;
    fs::rename(from, to)?;
    sync_folder(folder_of(to))?;
    sync_folder(folder_of(from))
}

/// Removes a file or folder, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
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
    entries.par_iter().try_for_each(|entry| File::open(entry.path())?.sync_all())
}

/// Brings the names in a folder to disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
