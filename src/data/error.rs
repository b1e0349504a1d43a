//! The one error of the readers and writers of artifacts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why an artifact can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file operation failed.
    #[error("can't {operation} `{}`: {source}", path.display())]
    Io {
        /// `read`, `write`, `create`
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file's content is wrong.
    #[error("`{}`: {message}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with the place.
        message: String,
        /// What to do.
        help: Option<String>,
    },
}

impl DataError {
    /// Returns a closure that wraps a system error, for `map_err`.
    pub fn io<'a>(
        operation: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> DataError + 'a {
        move |source| DataError::Io { operation, path: path.to_owned(), source }
    }

    /// Returns the error of wrong content.
    pub fn invalid(path: &Path, message: impl fmt::Display) -> Self {
        Self::Invalid { path: path.to_owned(), message: message.to_string(), help: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        if let Self::Invalid { help, .. } = &mut self {
            *help = Some(text.into());
        }
        self
    }
}
