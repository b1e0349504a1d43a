//! Recipe files: what is no text is told like any other mistake.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::base::{FileId, SourceMap, Span, text};
use crate::diag::Diagnostic;

/// The longest recipe in bytes. People write recipes of kilobytes, and scripts some of megabytes; the tree of one takes thirty
/// times as much memory. Whoever names a longer file has mistaken data for a recipe.
const BYTES_MAX: u64 = 16 << 20;

/// Why there is no text.
#[derive(Debug)]
pub enum Unread {
    /// The file can't be read.
    Io(io::Error),
    /// The file is no recipe.
    Bad(Box<Diagnostic>),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Adds the text of a file to the sources, under the name by which the user knows it.
///
/// # Errors
/// When it can't be read, or is no plain file, too long, or no UTF-8.
pub fn read(sources: &mut SourceMap, path: &Path, shown: &Path) -> Result<FileId, Unread> {
    // Asked before it is opened: opening a pipe waits for who writes into it.
    let about = path.metadata()?;
    if !about.is_file() {
        let kind = if about.is_dir() { "a folder" } else { "no plain file" };
        let finding =
            Diagnostic::error("tlm::parse::not_a_file", format!("`{}` is {kind}", shown.display()));
        return Err(bad(finding.help("name a file with a recipe in it")));
    }
    if about.len() > BYTES_MAX {
        return Err(too_long(shown));
    }
    read_from(sources, File::open(path)?, shown)
}

/// Adds a text to the sources, as [`read`] does.
///
/// # Errors
/// As those of [`read`].
pub fn read_from(sources: &mut SourceMap, from: impl Read, shown: &Path) -> Result<FileId, Unread> {
    let mut bytes = Vec::new();
    from.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(too_long(shown));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(sources.add(shown, text)),
        Err(error) => Err(not_utf8(sources, &error.into_bytes(), shown)),
    }
}

fn bad(finding: Diagnostic) -> Unread {
    Unread::Bad(Box::new(finding))
}

fn too_long(shown: &Path) -> Unread {
    let message = format!("`{}` is longer than {}", shown.display(), text::bytes(BYTES_MAX));
    bad(Diagnostic::error("tlm::parse::too_long", message)
        .help("name a recipe; data belongs into files that a recipe names"))
}

fn not_utf8(sources: &mut SourceMap, bytes: &[u8], shown: &Path) -> Unread {
    let shown_text = String::from_utf8_lossy(bytes);
    let at = bytes.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
    let file = sources.add(shown, shown_text);
    // What is no text is shown as one character there.
    let place = Span::new(file, at, at + char::REPLACEMENT_CHARACTER.len_utf8());
    let message = format!("`{}` is not UTF-8 at byte {at}", shown.display());
    bad(Diagnostic::error("tlm::parse::not_utf8", message)
        .label(place, format!("the byte 0x{:02x}", bytes[at]))
        .help("save it as UTF-8: `iconv -f latin1 -t utf-8`"))
}
