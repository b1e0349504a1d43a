//! Local files a recipe names: found, and digested.

use std::path::{Path, PathBuf};

use glob::MatchOptions;

use crate::base::{Digest, Span, text};
use crate::diag::Diagnostic;
use crate::store::Store;

/// Returns the files and folders that a path or glob names, by name.
///
/// # Errors
/// A diagnostic, when the pattern is wrong or names nothing.
pub(super) fn find(pattern: &str, base: &Path, span: Span) -> Result<Vec<PathBuf>, Diagnostic> {
    let whole = base.join(pattern);
    // Only the pattern has wildcards, not the folder that it is relative to.
    let text = match Path::new(pattern).is_absolute() {
        true => pattern.to_owned(),
        false => format!("{}/{pattern}", glob::Pattern::escape(&base.to_string_lossy())),
    };
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    let found: Result<Vec<_>, _> = glob::glob_with(&text, options)
        .map_err(|error| {
            Diagnostic::error("tlm::graph::bad_pattern", format!("`{pattern}` is no file pattern"))
                .label(span, error.msg)
                .help("`*` stands for a part of a name, `**` for any folders: `data/**/*.txt`")
        })?
        .collect();
    let mut found = found.map_err(|error| unreadable(error.path(), span, error.error()))?;
    found.sort();
    match found.is_empty() {
        true => Err(missing(pattern, &whole, span)),
        false => Ok(found),
    }
}

/// Returns the digest of each path.
///
/// # Errors
/// A diagnostic, when one can't be read.
pub(super) fn digests(
    paths: &[PathBuf],
    span: Span,
    store: &Store,
) -> Result<Vec<Digest>, Diagnostic> {
    let one = |path: &PathBuf| match store.source_digest(path) {
        Ok(digest) => Ok(digest),
        Err(error) => Err(unreadable(path, span, &error)),
    };
    paths.iter().map(one).collect()
}

fn unreadable(path: &Path, span: Span, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("tlm::graph::unreadable", format!("can't read `{}`", path.display()))
        .label(span, error.to_string())
        .help("make the file readable, or name another")
}

fn missing(pattern: &str, whole: &Path, span: Span) -> Diagnostic {
    let folder = whole.parent().unwrap_or(whole);
    let help = match text::near_file(whole) {
        Some(near) => format!("there is `{near}` in `{}`", folder.display()),
        None => "paths are relative to the recipe's folder".to_owned(),
    };
    Diagnostic::error("tlm::graph::missing_file", format!("no file `{pattern}`"))
        .label(span, format!("nothing at `{}`", whole.display()))
        .help(help)
}
