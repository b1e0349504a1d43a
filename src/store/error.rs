//! Why the store could not do something, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::world::remedy;
use crate::store::FORMAT;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("can't {operation} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder was written by a newer or older tlm.
    #[error("store `{}` has format {found}, this tlm knows {FORMAT}", path.display())]
    OtherFormat {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// The folder has other files.
    #[error("`{}` is no store, and not empty", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// There is no store to read from.
    #[error("`{}` is no store", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// The folder's path can't be told to workers.
    #[error("the store's path `{}` is not UTF-8", path.display())]
    NotUtf8 {
        /// The store.
        path: PathBuf,
    },
    /// An object that was to be used is not what its name says.
    #[error("`{}` is damaged: {what}", path.display())]
    Damaged {
        /// The object, or what is damaged in it.
        path: PathBuf,
        /// What is the matter.
        what: String,
        /// Where the object was moved to, if it was there.
        kept: Option<PathBuf>,
    },
    /// A pin or the note of a run is not as it was written.
    #[error("`{}` is damaged, so what it keeps is not known", path.display())]
    DamagedRoot {
        /// The pin or note.
        path: PathBuf,
    },
    /// A pin can't have this name.
    #[error("`{name}` can't be the name of a pin")]
    NoPinName {
        /// The name.
        name: String,
    },
    /// A stage did not write what it declares.
    #[error("output `{name}` is missing")]
    MissingOutput {
        /// The output's name.
        name: String,
    },
}

impl StoreError {
    /// Returns what to do about it.
    pub fn help(&self) -> String {
        if let Self::Io { source, .. } = self
            && let Some(remedy) = remedy(source)
        {
            return remedy.to_owned();
        }
        match self {
            Self::Io { source, .. } if is_closed(source.kind()) => {
                "make the store writable, or choose another with `--store DIR`".to_owned()
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                "outputs are files and folders with names in UTF-8; please report this stage"
                    .to_owned()
            }
            Self::Io { .. } => "check the disk and run the same command again".to_owned(),
            Self::OtherFormat { path, found } => match found.parse::<u32>() {
                Ok(older) if older < FORMAT => {
                    format!("delete `{}`, or choose another with `--store DIR`", path.display())
                }
                _ => "update tlm, or choose another store with `--store DIR`".to_owned(),
            },
            Self::NotAStore { .. } => "choose an empty or new folder with `--store DIR`".to_owned(),
            Self::NoStore { .. } => {
                "name the store itself, which is `.tlm` beside a recipe if nothing else was chosen"
                    .to_owned()
            }
            Self::NotUtf8 { .. } => {
                "choose a folder with a name in UTF-8 with `--store DIR`".to_owned()
            }
            Self::Damaged { kept: None, .. } => "run the same command again to make it".to_owned(),
            Self::Damaged { kept: Some(kept), .. } => format!(
                "the object was moved to `{}`; run the same command again to make it, and `tlm verify` to check the rest",
                kept.display()
            ),
            Self::DamagedRoot { path } => format!(
                "remove `{}`, then pin what is to stay, or run its recipe again",
                path.display()
            ),
            Self::NoPinName { .. } => "choose another with `--as NAME`".to_owned(),
            Self::MissingOutput { .. } => "this is a bug in the stage; please report it".to_owned(),
        }
    }
}

/// Returns whether writing there is out of the question.
pub(super) fn is_closed(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, NotADirectory | PermissionDenied | ReadOnlyFilesystem)
}

/// Turns an I/O error into one that names operation and path.
pub(super) fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { operation, path: path.to_owned(), source }
}
