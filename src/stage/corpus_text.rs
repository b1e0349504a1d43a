//! `corpus.text`: text files, plain or compressed, as one corpus.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use walkdir::WalkDir;

use crate::base::Value;
use crate::data::CorpusWriter;
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
        let content =
            open(&file.path).map_err(|error| StageError::io("open", &file.path, &error))?;
        read_file(content, &file.path, params.delimiter.as_deref(), &mut writer, |read| {
            context.progress(done + read, Some(total), "bytes");
            !context.interrupted()
        })?;
        done += file.size;
    }
    let (documents, size) = writer.finish()?;
    if documents == 0 {
        return Err(StageError::input("the files hold no text").help("check the path of `files`"));
    }
    context.output("out.documents", Value::Int(documents as i64))?;
    context.output("out.size", Value::Int(size as i64))?;
    Ok(())
}

/// A file to read, and its size as it lies on disk.
struct Input {
    path: PathBuf,
    size: u64,
}

/// Replaces folders by the files in them, by name.
fn expand(paths: &[PathBuf]) -> Result<Vec<Input>, StageError> {
    let mut files = Vec::new();
    for path in paths {
        for entry in WalkDir::new(path).follow_links(true).sort_by_file_name() {
            let unreadable =
                |error| StageError::input(format!("can't read `{}`: {error}", path.display()));
            let entry = entry.map_err(unreadable)?;
            if entry.file_type().is_file() {
                let size = entry.metadata().map_err(unreadable)?.len();
                files.push(Input { path: entry.into_path(), size });
            }
        }
    }
    Ok(files)
}

/// A file's content, decompressed if it starts like gzip or Zstandard.
struct Content {
    text: Box<dyn Read>,
    /// The same open file, to see how far it has been read.
    file: File,
}

fn open(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let seen = file.try_clone()?;
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic)?;
    let whole = BufReader::new(io::Cursor::new(magic.clone()).chain(file));
    let text: Box<dyn Read> = match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    };
    Ok(Content { text, file: seen })
}

/// Streams a file; memory is bounded by its longest document. `go_on` hears how many bytes of the file are read and may
/// stop it with false.
fn read_file(
    mut content: Content,
    path: &Path,
    delimiter: Option<&str>,
    writer: &mut CorpusWriter,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<(), StageError> {
    let mut place = Place { path, byte: 0, line: 1 };
    let mut pending = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        if !go_on(content.file.stream_position().unwrap_or_default()) {
            return Err(StageError::Interrupted);
        }
        let len = match content.text.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => {
                read.map_err(|error| unreadable(path, &error, place.byte + pending.len() as u64))?
            }
        };
        if len == 0 {
            return place.push(&pending, writer);
        }
        let searched = pending.len();
        pending.extend_from_slice(&chunk[..len]);
        if let Some(delimiter) = delimiter {
            let from = searched.saturating_sub(delimiter.len() - 1);
            let rest = split(&pending, from, delimiter.as_bytes(), &mut place, writer)?;
            pending.drain(..rest);
        }
    }
}

/// Returns why a file can't be read on after `bytes` of its text.
fn unreadable(path: &Path, error: &io::Error, bytes: u64) -> StageError {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => "is cut off",
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            "is damaged"
        }
        _ => return StageError::io("read", path, error),
    };
    StageError::input(format!("`{}` {what}: {error}, after {bytes} bytes of text", path.display()))
        .help("get or compress the file again")
}

/// Writes the documents that end in `bytes`; returns where the rest starts.
fn split(
    bytes: &[u8],
    mut from: usize,
    delimiter: &[u8],
    place: &mut Place<'_>,
    writer: &mut CorpusWriter,
) -> Result<usize, StageError> {
    let mut start = 0;
    while let Some(at) = find(&bytes[from..], delimiter) {
        place.push(&bytes[start..from + at], writer)?;
        place.pass(delimiter);
        start = from + at + delimiter.len();
        from = start;
    }
    Ok(start)
}

fn find(bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
    let first = delimiter[0];
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|&byte| byte == first) {
        if bytes[at + next..].starts_with(delimiter) {
            return Some(at + next);
        }
        at += next + 1;
    }
    None
}

struct Place<'a> {
    path: &'a Path,
    byte: u64,
    line: u64,
}

impl Place<'_> {
    fn push(&mut self, document: &[u8], writer: &mut CorpusWriter) -> Result<(), StageError> {
        let text = std::str::from_utf8(document).map_err(|error| {
            let valid = &document[..error.valid_up_to()];
            let line = self.line + newlines(valid);
            StageError::input(format!(
                "`{}`: not UTF-8 at byte {}, line {line}",
                self.path.display(),
                self.byte + valid.len() as u64
            ))
            .help("convert it first, for example with `iconv -f latin1 -t utf-8`")
        })?;
        if !text.is_empty() {
            writer.push(text)?;
        }
        self.pass(document);
        Ok(())
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.byte += bytes.len() as u64;
        self.line += newlines(bytes);
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Corpus;

    /// Gives a few bytes at a time, as decoders do.
    struct Pieces {
        bytes: io::Cursor<Vec<u8>>,
        piece: usize,
    }

    impl Read for Pieces {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = self.piece.min(out.len());
            self.bytes.read(&mut out[..len])
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
            let bytes = io::Cursor::new(text.clone().into_bytes());
            let file = File::open("/dev/null").unwrap();
            let content = Content { text: Box::new(Pieces { bytes, piece }), file };
            read_file(content, Path::new("a.txt"), Some(&delimiter), &mut writer, |_| true).unwrap();
            writer.finish().unwrap();
            let corpus = Corpus::open(folder.path()).unwrap();
            let read: Vec<_> = (0..corpus.documents()).map(|at| corpus.document(at).unwrap()).collect();
            let plain: Vec<_> = text.split(&delimiter).filter(|part| !part.is_empty()).collect();
            assert_eq!(read, plain);
        }
    }
}
