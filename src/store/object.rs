//! What outputs are named by: the digest of a file's bytes, or of a folder's sorted entries.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use crate::base::{Digest, Value};

/// Returns the digest and size in bytes of a file or folder.
///
/// A file's digest is that of its bytes (what `b3sum` prints); a folder's covers name, kind and digest of each entry.
///
/// # Errors
/// When something can't be read, or is neither file nor folder: links would make an object depend on its surroundings.
pub fn digest(path: &Path) -> io::Result<(Digest, u64)> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_file() {
        return Ok((Digest::of_file(path)?, kind.len()));
    }
    if !kind.is_dir() {
        let message = format!("`{}` is neither file nor folder", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    let parts: Vec<(Value, u64)> =
        entries.into_par_iter().map(|entry| entry_value(&entry)).collect::<io::Result<_>>()?;
    let bytes = parts.iter().map(|(_, bytes)| bytes).sum();
    Ok((Value::List(parts.into_iter().map(|(value, _)| value).collect()).digest("tlm tree"), bytes))
}

fn entry_value(path: &Path) -> io::Result<(Value, u64)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` is not UTF-8", path.display()))
    })?;
    let (digest, bytes) = digest(path)?;
    let kind = if path.is_dir() { "folder" } else { "file" };
    let value = [Value::Str(name.to_owned()), Value::Str(kind.to_owned()), Value::Digest(digest)];
    Ok((Value::List(value.into()), bytes))
}
