//! The only place that creates, renames and locks files in the store.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
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

/// Writes a line for people into an open file, in place of the one before.
pub(super) fn write_note(mut file: &File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    io::Write::write_all(&mut file, format!("{text}\n").as_bytes())
}

/// Reads such a line; none if it is missing or only being written.
pub(super) fn read_note(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.strip_suffix('\n').map(str::to_owned)
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
