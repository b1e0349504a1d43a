//! What outputs and sources are named by: the digest of a file's bytes, or of a folder's sorted entries.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use crate::base::{Digest, Pieces, Value};

/// What is in a file or folder, by digests: enough to tell where another one differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A file.
    File {
        /// Its size.
        bytes: u64,
        /// Its digests.
        pieces: Pieces,
    },
    /// A folder's entries by name.
    Folder(BTreeMap<String, Tree>),
}

/// A place where something differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The file or folder.
    pub path: PathBuf,
    /// What is the matter: `missing`, `another content in bytes 0..17`.
    pub what: String,
}

/// Returns the digest and size in bytes of a file or folder.
///
/// A file's digest is that of its bytes (what `b3sum` prints); a folder's covers name, kind and digest of each entry.
///
/// # Errors
/// When something can't be read, or is neither file nor folder: links would make an object depend on its surroundings.
pub fn digest(path: &Path) -> io::Result<(Digest, u64)> {
    let tree = read(path, &|_| {})?;
    Ok((tree.digest(), tree.bytes()))
}

/// Reads a file or folder. Meanwhile, `tell` hears how many bytes more were read, on any thread.
///
/// # Errors
/// As [`digest`].
pub(super) fn read(path: &Path, tell: &(dyn Fn(u64) + Sync)) -> io::Result<Tree> {
    let hash = |path: &Path, metadata: &Metadata| {
        Pieces::of_file(&File::open(path)?, metadata.len(), tell)
    };
    walk(path, &|path| fs::symlink_metadata(path), &hash)
}

/// Reads a tree whose entries `look` describes and whose files `hash` digests.
pub(super) fn walk<L, H>(path: &Path, look: &L, hash: &H) -> io::Result<Tree>
where
    L: Fn(&Path) -> io::Result<Metadata> + Sync,
    H: Fn(&Path, &Metadata) -> io::Result<Pieces> + Sync,
{
    let kind = look(path)?;
    if kind.is_file() {
        return Ok(Tree::File { bytes: kind.len(), pieces: hash(path, &kind)? });
    }
    if !kind.is_dir() {
        let message = format!("`{}` is neither file nor folder", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let names: Vec<String> =
        fs::read_dir(path)?.map(|entry| name(&entry?.path())).collect::<io::Result<_>>()?;
    let entry = |name: String| {
        let tree = walk(&path.join(&name), look, hash)?;
        Ok((name, tree))
    };
    Ok(Tree::Folder(names.into_par_iter().map(entry).collect::<io::Result<_>>()?))
}

fn name(path: &Path) -> io::Result<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or_else(|| {
        let message = format!("`{}` is not UTF-8", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

impl Tree {
    /// Returns the digest that names it.
    pub fn digest(&self) -> Digest {
        let entry = |(name, tree): (&String, &Self)| {
            let parts = [Value::Str(name.clone()), Value::Str(tree.kind().to_owned())];
            Value::List([&parts[..], &[Value::Digest(tree.digest())]].concat())
        };
        match self {
            Self::File { pieces, .. } => pieces.whole,
            Self::Folder(entries) => {
                Value::List(entries.iter().map(entry).collect()).digest("tlm tree")
            }
        }
    }

    /// Returns the size of its files.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File { bytes, .. } => *bytes,
            Self::Folder(entries) => entries.values().map(Self::bytes).sum(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Folder(_) => "folder",
        }
    }

    /// Returns whether its digest alone does not tell where damage is.
    pub(super) fn has_parts(&self) -> bool {
        match self {
            Self::File { pieces, .. } => !pieces.parts.is_empty(),
            Self::Folder(_) => true,
        }
    }

    /// Returns the bytes that stand for it: in the form of canonical values, a file as a list of size, digest and the digests
    /// of its pieces, a folder as a map.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.value().encode()
    }

    fn value(&self) -> Value {
        match self {
            Self::File { bytes, pieces } => {
                let front = [Value::Int(*bytes as i64), Value::Digest(pieces.whole)];
                let parts = pieces.parts.iter().map(|part| Value::Digest(*part));
                Value::List(front.into_iter().chain(parts).collect())
            }
            Self::Folder(entries) => {
                Value::map(entries.iter().map(|(name, tree)| (name, tree.value())))
            }
        }
    }

    /// Takes the bytes of the tree with a digest; none if that is not what they are.
    pub(super) fn decode(bytes: &[u8], digest: Digest) -> Option<Self> {
        Self::of(Value::decode(bytes)?).filter(|tree| tree.digest() == digest)
    }

    fn of(value: Value) -> Option<Self> {
        let digest = |value: Value| match value {
            Value::Digest(digest) => Some(digest),
            _ => None,
        };
        match value {
            Value::Map(entries) => {
                let entry = |(name, value)| Some((name, Self::of(value)?));
                entries.into_iter().map(entry).collect::<Option<_>>().map(Self::Folder)
            }
            Value::List(values) => {
                let mut values = values.into_iter();
                let Value::Int(bytes) = values.next()? else { return None };
                let (bytes, whole) = (bytes as u64, digest(values.next()?)?);
                let pieces = Pieces { whole, parts: values.map(digest).collect::<Option<_>>()? };
                pieces.is_of(bytes).then_some(Self::File { bytes, pieces })
            }
            _ => None,
        }
    }

    /// Returns where a file or folder differs.
    pub(super) fn differences(&self, path: &Path) -> Vec<Difference> {
        let one = |what: String| vec![Difference { path: path.to_owned(), what }];
        match (self, fs::symlink_metadata(path)) {
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => one("missing".to_owned()),
            (_, Err(error)) => one(format!("unreadable, {error}")),
            (Self::Folder(entries), Ok(found)) if found.is_dir() => {
                folder_differences(entries, path)
            }
            (Self::File { bytes, pieces }, Ok(found)) if found.is_file() => {
                file_difference(*bytes, pieces, found.len(), path).map_or_else(Vec::new, one)
            }
            _ => one(format!("not a {}", self.kind())),
        }
    }
}

fn folder_differences(entries: &BTreeMap<String, Tree>, path: &Path) -> Vec<Difference> {
    let found = match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(found) => found,
        Err(error) => {
            return vec![Difference {
                path: path.to_owned(),
                what: format!("unreadable, {error}"),
            }];
        }
    };
    let own = entries.iter().flat_map(|(name, tree)| tree.differences(&path.join(name)));
    let is_own = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| entries.contains_key(name))
    };
    let extra = found.iter().filter(|entry| !is_own(entry));
    let extra = extra.map(|entry| Difference { path: entry.path(), what: "extra".to_owned() });
    let mut differences: Vec<_> = own.chain(extra).collect();
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    differences
}

fn file_difference(bytes: u64, pieces: &Pieces, found: u64, path: &Path) -> Option<String> {
    if found != bytes {
        return Some(format!("{found} bytes long instead of {bytes}"));
    }
    match File::open(path).and_then(|file| Pieces::of_file(&file, bytes, &|_| {})) {
        Err(error) => Some(format!("unreadable, {error}")),
        Ok(found) => {
            let ranges = pieces.differences(bytes, &found);
            let ranges: Vec<_> = ranges.iter().map(|range| format!("{range:?}")).collect();
            (!ranges.is_empty()).then(|| format!("another content in bytes {}", ranges.join(", ")))
        }
    }
}
