//! Local files a recipe names: found, and digested.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use glob::{Pattern, PatternError};
use walkdir::{DirEntry, WalkDir};

use crate::base::{Digest, FileId, Span, text};
use crate::diag::Diagnostic;
use crate::store::Store;

/// A component of a file pattern.
enum Part {
    /// A name without wildcards.
    Name(String),
    /// A name with `*`, `?` or `[...]`.
    Wild(Pattern),
    /// `**`: this folder and all below it.
    Folders,
}

/// Where a search failed, why, and what to do.
struct Unreadable {
    path: PathBuf,
    why: String,
    help: &'static str,
}

impl Unreadable {
    fn io(path: &Path, error: &io::Error) -> Self {
        let help = "make the file readable, or name another";
        Self { path: path.to_owned(), why: error.to_string(), help }
    }

    fn walk(folder: &Path, error: &walkdir::Error) -> Self {
        let path = error.path().unwrap_or(folder).to_owned();
        let help = "remove the link, or name the files you want";
        match (error.io_error(), error.loop_ancestor()) {
            (None, Some(ancestor)) => {
                let why = format!("this link leads back to `{}`", ancestor.display());
                Self { path, why, help }
            }
            (Some(error), _) => Self::io(&path, error),
            (None, None) => Self { path, why: error.to_string(), help },
        }
    }

    fn diagnostic(&self, span: Span) -> Diagnostic {
        Diagnostic::error("tlm::graph::unreadable", "can't read what is named here")
            .label(span, format!("`{}`: {}", self.path.display(), self.why))
            .help(self.help)
    }
}

/// Returns the files and folders that a path or glob names, by name.
///
/// # Errors
/// A diagnostic, when the pattern is wrong or names nothing, or a link in a folder leads back to it.
pub(super) fn find(pattern: &str, base: &Path, span: Span) -> Result<Vec<PathBuf>, Diagnostic> {
    let whole = base.join(pattern);
    let parts = parts(pattern).map_err(|error| {
        Diagnostic::error("tlm::graph::bad_pattern", format!("`{pattern}` is no file pattern"))
            .label(span, error.msg)
            .help("`*` stands for a part of a name, `**` for any folders: `data/**/*.txt`")
    })?;
    // Only the pattern has wildcards, not the folder that it is relative to.
    let start = if Path::new(pattern).is_absolute() { Path::new("/") } else { base };
    let mut found = Vec::new();
    expand(start, &parts, &mut found)
        .and_then(|()| found.iter().try_for_each(|path| refuse(path)))
        .map_err(|unreadable| unreadable.diagnostic(span))?;
    if pattern.ends_with('/') {
        found.retain(|path| path.is_dir());
    }
    found.sort();
    found.dedup();
    match found.is_empty() {
        true => Err(missing(pattern, &whole, span)),
        false => Ok(found),
    }
}

/// Returns whether a path or glob still names these files and folders, and no others.
pub fn finds(pattern: &str, base: &Path, paths: &[PathBuf]) -> bool {
    let nowhere = Span::new(FileId(0), 0, 0);
    find(pattern, base, nowhere).is_ok_and(|found| found == paths)
}

fn parts(pattern: &str) -> Result<Vec<Part>, PatternError> {
    let part = |text: &str| match text {
        "**" => Ok(Part::Folders),
        _ if text.contains(['*', '?', '[']) => Pattern::new(text).map(Part::Wild),
        _ => Ok(Part::Name(text.to_owned())),
    };
    pattern.split('/').filter(|text| !text.is_empty()).map(part).collect()
}

fn expand(folder: &Path, parts: &[Part], found: &mut Vec<PathBuf>) -> Result<(), Unreadable> {
    let Some((first, rest)) = parts.split_first() else {
        found.push(folder.to_owned());
        return Ok(());
    };
    match first {
        Part::Name(name) => {
            let path = folder.join(name);
            // A link that leads nowhere is there too; its digest tells what is wrong with it.
            if path.symlink_metadata().is_ok() {
                expand(&path, rest, found)?;
            }
        }
        Part::Wild(pattern) => {
            for path in matching(folder, pattern)? {
                expand(&path, rest, found)?;
            }
        }
        Part::Folders if rest.is_empty() => found.extend(folders(folder)?.into_iter().skip(1)),
        Part::Folders => {
            for path in folders(folder)? {
                expand(&path, rest, found)?;
            }
        }
    }
    Ok(())
}

/// Returns the entries of a folder whose names match; nothing has entries but a folder.
fn matching(folder: &Path, pattern: &Pattern) -> Result<Vec<PathBuf>, Unreadable> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |error| Unreadable::io(folder, &error);
    let dotted = pattern.as_str().starts_with('.');
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if (dotted || !name.starts_with('.')) && pattern.matches(&name) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// Returns a folder and those below it, links followed, without the hidden ones.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let hidden = |entry: &DirEntry| {
        entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
    };
    let mut paths = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(|e| !hidden(e)) {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => paths.push(entry.into_path()),
            Ok(_) => {}
            Err(error) if leads_nowhere(&error) => {}
            Err(error) => return Err(Unreadable::walk(folder, &error)),
        }
    }
    Ok(paths)
}

/// Refuses names that no worker can be told, and folders without end.
fn refuse(path: &Path) -> Result<(), Unreadable> {
    if path.to_str().is_none() {
        return Err(Unreadable {
            path: path.to_owned(),
            why: "its name is not UTF-8".to_owned(),
            help: "rename it, or name the files you want",
        });
    }
    let loops = |error: &walkdir::Error| error.loop_ancestor().is_some();
    let entries = WalkDir::new(path).follow_links(true).into_iter();
    match entries.filter_map(Result::err).find(loops) {
        Some(error) => Err(Unreadable::walk(path, &error)),
        None => Ok(()),
    }
}

fn leads_nowhere(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
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
        Err(error) => Err(Unreadable::io(path, &error).diagnostic(span)),
    };
    paths.iter().map(one).collect()
}

fn missing(pattern: &str, whole: &Path, span: Span) -> Diagnostic {
    let help = match text::near_file(whole) {
        Some(near) => format!("there is `{near}` beside it"),
        None => "paths are relative to the recipe's folder".to_owned(),
    };
    Diagnostic::error("tlm::graph::missing_file", format!("no file `{pattern}`"))
        .label(span, format!("nothing at `{}`", whole.display()))
        .help(help)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::base::FileId;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.txt", "b.md", ".c.txt", "x/d.txt", "x/y/e.txt", ".z/f.txt", "x/g[1].txt"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        folder
    }

    fn found(pattern: &str, base: &Path) -> Result<Vec<String>, Diagnostic> {
        let paths = find(pattern, base, Span::new(FileId(0), 0, 0))?;
        let name = |path: PathBuf| path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
        Ok(paths.into_iter().map(name).collect())
    }

    #[test]
    fn patterns() {
        let folder = tree();
        for (pattern, expected) in [
            ("a.txt", &["a.txt"][..]),
            ("./x/../a.txt", &["x/../a.txt"]),
            ("*.txt", &["a.txt"]),
            (".*.txt", &[".c.txt"]),
            ("[ab].*", &["a.txt", "b.md"]),
            ("?/d*", &["x/d.txt"]),
            ("**/*.txt", &["a.txt", "x/d.txt", "x/g[1].txt", "x/y/e.txt"]),
            ("**/**/y/*", &["x/y/e.txt"]),
            ("**/.z/*", &[".z/f.txt"]),
            ("x/**", &["x/y"]),
            ("*/", &["x"]),
            ("x/g[[]1].txt", &["x/g[1].txt"]),
            ("a.txt/*", &[]),
            ("b.md/", &[]),
        ] {
            assert_eq!(found(pattern, folder.path()).unwrap_or_default(), expected, "{pattern}");
        }
        let absolute = format!("{}/*.md", folder.path().display());
        assert_eq!(found(&absolute, folder.path()).unwrap(), ["b.md"]);
        for wrong in ["a**", "x/[a", "***"] {
            let error = found(wrong, folder.path()).unwrap_err();
            assert_eq!(error.code, "tlm::graph::bad_pattern", "{wrong}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_hinder_only_what_matches_them() {
        let folder = tree();
        fs::write(folder.path().join(OsStr::from_bytes(b"odd\xff.dat")), "x").unwrap();
        assert_eq!(found("*.txt", folder.path()).unwrap(), ["a.txt"]);
        assert_eq!(found("**/e.txt", folder.path()).unwrap(), ["x/y/e.txt"]);
        let error = found("*.dat", folder.path()).unwrap_err();
        assert_eq!(error.code, "tlm::graph::unreadable");
    }

    #[test]
    fn links_are_followed_but_not_in_circles() {
        let folder = tree();
        symlink("../.z", folder.path().join("x/link")).unwrap();
        symlink("nowhere", folder.path().join("x/dangling")).unwrap();
        let all = found("**/?.txt", folder.path()).unwrap();
        assert_eq!(all, ["a.txt", "x/d.txt", "x/link/f.txt", "x/y/e.txt"]);
        // Two links double the paths at each level.
        symlink(".", folder.path().join("x/again")).unwrap();
        symlink("..", folder.path().join("x/y/up")).unwrap();
        for pattern in ["x", "**/e.txt"] {
            let error = found(pattern, folder.path()).unwrap_err();
            assert_eq!(error.code, "tlm::graph::unreadable", "{pattern}");
        }
    }
}
