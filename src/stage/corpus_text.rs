//! `corpus.text`: text files, plain or compressed, as one corpus.

use std::path::Path;

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::data::CorpusWriter;
use crate::stage::reading::{Content, Policy, Rejects, expand, finish, newlines};
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    delimiter: Option<String>,
}

/// Runs the stage.
///
/// # Errors
/// When a file can't be read, decompressed, or is not UTF-8.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    if params.delimiter.as_deref() == Some("") {
        return Err(StageError::input("`delimiter` is empty")
            .help("leave it out: then a file is a document"));
    }
    let files = expand(context.inputs("files"))?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let mut done = 0;
    let total = files.iter().map(|file| file.size).sum();
    for file in &files {
        let content = Content::open(&file.path)?;
        file.checked(read_file(content, params.delimiter.as_deref(), &mut writer, |read| {
            context.progress(done + read, Some(total), "bytes");
            !context.interrupted()
        }))?;
        done += file.size;
    }
    finish(context, writer, Rejects::new(Policy::Fail))
}

/// Streams a file; memory does not depend on how long its documents are. `go_on` hears how many bytes of the file are read
/// and may stop it with false.
fn read_file(
    mut content: Content,
    delimiter: Option<&str>,
    writer: &mut CorpusWriter,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<(), StageError> {
    let finder = delimiter.map(Finder::new);
    // So many bytes may be the start of a delimiter that goes on in the next chunk.
    let open = delimiter.map_or(0, |delimiter| delimiter.len() - 1);
    let path = content.path().to_owned();
    let mut text = Text { path: &path, byte: 0, line: 1, writer };
    let mut pending = Vec::new();
    loop {
        if !go_on(content.position()) {
            return Err(StageError::Interrupted);
        }
        let ended = content.read(&mut pending)? == 0;
        let mut start = 0;
        for at in finder.iter().flat_map(|finder| finder.find_iter(&pending)) {
            text.take(&pending[start..at], true)?;
            text.writer.end()?;
            let len = delimiter.map_or(0, str::len);
            text.pass(&pending[at..at + len]);
            start = at + len;
        }
        let end = if ended { pending.len() } else { pending.len().saturating_sub(open) };
        if start < end {
            start += text.take(&pending[start..end], ended)?;
        }
        pending.drain(..start);
        if ended {
            return Ok(text.writer.end()?);
        }
    }
}

/// The text of a file on its way into the corpus, and how far it is.
struct Text<'a> {
    path: &'a Path,
    byte: u64,
    line: u64,
    writer: &'a mut CorpusWriter,
}

impl Text<'_> {
    /// Writes a part of a document and returns its length. The last character may go on in the next part, unless `whole`; then
    /// it is left.
    fn take(&mut self, bytes: &[u8], whole: bool) -> Result<usize, StageError> {
        let valid = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) if whole || error.error_len().is_some() => {
                let valid = &bytes[..error.valid_up_to()];
                return Err(StageError::input(format!(
                    "`{}`: not UTF-8 at byte {}, line {}",
                    self.path.display(),
                    self.byte + valid.len() as u64,
                    self.line + newlines(valid)
                ))
                .help("convert it first, for example with `iconv -f latin1 -t utf-8`"));
            }
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        self.writer.append(valid)?;
        self.pass(valid.as_bytes());
        Ok(valid.len())
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.byte += bytes.len() as u64;
        self.line += newlines(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Read};

    use super::*;
    use crate::data::Corpus;

    /// Gives a few bytes at a time.
    struct Pieces {
        bytes: Vec<u8>,
        piece: usize,
        /// Whether the next read gives nothing, so that what came before is looked at by itself.
        pause: bool,
    }

    impl Read for Pieces {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.pause = !self.pause;
            let len = self.piece.min(out.len()).min(self.bytes.len());
            if self.pause || len == 0 {
                return Ok(0);
            }
            out[..len].copy_from_slice(&self.bytes[..len]);
            self.bytes.drain(..len);
            Ok(len)
        }
    }

    proptest::proptest! {
        #[test]
        fn documents_are_those_of_a_plain_split(
            text in "[abü\n]{0,60}",
            delimiter in "[abü\n]{1,4}",
            piece in 1..9usize,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = CorpusWriter::create(folder.path()).unwrap();
            let pieces = Pieces { bytes: text.clone().into_bytes(), piece, pause: true };
            let file = File::open("/dev/null").unwrap();
            let content = Content::new(Path::new("a.txt"), Box::new(pieces), file);
            read_file(content, Some(&delimiter), &mut writer, |_| true).unwrap();
            writer.finish().unwrap();
            let corpus = Corpus::open(folder.path()).unwrap();
            let read: Vec<_> = (0..corpus.documents()).map(|at| corpus.document(at).unwrap()).collect();
            let plain: Vec<_> = text.split(&delimiter).filter(|part| !part.is_empty()).collect();
            assert_eq!(read, plain);
        }
    }
}
