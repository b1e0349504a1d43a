//! What outputs and sources are named by: the digest of a file's bytes, or of a folder's sorted entries.

use std::fs::{self, Metadata};
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
    tree(path, &|path| fs::symlink_metadata(path), &|path, _| Digest::of_file(path))
}

/// Returns the same for a tree whose entries `look` describes and whose files `hash` digests.
pub(super) fn tree<L, H>(path: &Path, look: &L, hash: &H) -> io::Result<(Digest, u64)>
where
    L: Fn(&Path) -> io::Result<Metadata> + Sync,
    H: Fn(&Path, &Metadata) -> io::Result<Digest> + Sync,
{
    let kind = look(path)?;
    if kind.is_file() {
        return Ok((hash(path, &kind)?, kind.len()));
    }
    if !kind.is_dir() {
        let message = format!("`{}` is neither file nor folder", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    let entry = |path: PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            let message = format!("`{}` is not UTF-8", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let (digest, bytes) = tree(&path, look, hash)?;
        let kind = if look(&path)?.is_dir() { "folder" } else { "file" };
        let value =
            [Value::Str(name.to_owned()), Value::Str(kind.to_owned()), Value::Digest(digest)];
        Ok((Value::List(value.into()), bytes))
    };
    let parts: Vec<(Value, u64)> = entries.into_par_iter().map(entry).collect::<io::Result<_>>()?;
    let bytes = parts.iter().map(|(_, bytes)| bytes).sum();
    Ok((Value::List(parts.into_iter().map(|(value, _)| value).collect()).digest("tlm tree"), bytes))
}
