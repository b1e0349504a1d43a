//! Source texts and the places in them.

use std::path::{Path, PathBuf};

/// One source text in a [`SourceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A half-open byte range in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// Returns the span of the bytes `start..end` of `file`.
    pub fn new(file: FileId, start: usize, end: usize) -> Self {
        Self { file, start: start as u32, end: end as u32 }
    }

    /// Returns the smallest span that covers both.
    pub fn to(self, other: Span) -> Span {
        Span { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A value with the place it was written at.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    /// The value.
    pub node: T,
    /// Where it stands.
    pub span: Span,
}

/// All source texts of one run. Stdlib files have paths like `std/model.tlm`.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    path: PathBuf,
    text: String,
    /// The first byte of each line but the first.
    lines: Vec<usize>,
}

impl SourceMap {
    /// Adds a text and returns its id.
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> FileId {
        let text = text.into();
        let lines = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        self.files.push(Source { path: path.into(), text, lines });
        FileId((self.files.len() - 1) as u32)
    }

    fn file(&self, file: FileId) -> &Source {
        &self.files[file.0 as usize]
    }

    /// Returns the path of a file as shown to the user.
    pub fn path(&self, file: FileId) -> &Path {
        &self.file(file).path
    }

    /// Returns the text of a file.
    pub fn text(&self, file: FileId) -> &str {
        &self.file(file).text
    }

    /// Returns the text under a span.
    pub fn snippet(&self, span: Span) -> &str {
        &self.text(span.file)[span.start as usize..span.end as usize]
    }

    /// Returns the 1-based line and column (in characters) of the start of a span.
    pub fn line_column(&self, span: Span) -> (usize, usize) {
        let Source { text, lines, .. } = self.file(span.file);
        let at = span.start as usize;
        let before = lines.partition_point(|start| *start <= at);
        let line = before.checked_sub(1).map_or(0, |last| lines[last]);
        (before + 1, text[line..at].chars().count() + 1)
    }
}
