//! What all stages share that read the user's files into a corpus: the files of folders, compression, lines, and what to
//! do with records that are no documents.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use walkdir::WalkDir;

use crate::base::{Value, text};
use crate::data::statistics::Place;
use crate::data::{Corpus, CorpusWriter, Statistics};
use crate::stage::{Context, StageError};

/// The longest line; a longer one is no record. Memory is a small multiple of the longest line.
pub(super) const LINE_MAX: usize = 256 << 20;
/// Bytes of text that are read at once.
pub(super) const CHUNK: usize = 4 << 20;
/// How many records that are skipped are told in the log.
const TOLD: u64 = 10;
/// Characters that are told of what is wrong with a record.
const WHY_MAX: usize = 300;

/// What to do with a record that is no document.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Policy {
    Fail,
    Skip,
}

/// Where a record lies.
pub(super) struct Record<'a> {
    pub(super) input: &'a Input,
    /// Its line or row, from 1.
    pub(super) number: u64,
    pub(super) is_row: bool,
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.is_row { ", row " } else { ":" };
        write!(f, "{}{between}{}", self.input.path.display(), self.number)
    }
}

/// Records that are no documents.
pub(super) struct Rejects {
    policy: Policy,
    pub(super) count: u64,
    first: Vec<Place>,
}

impl Rejects {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, count: 0, first: Vec::new() }
    }

    /// Fails, or counts and logs a record; `why` says what is wrong.
    pub(super) fn reject(
        &mut self,
        context: &mut Context,
        record: &Record<'_>,
        why: &str,
    ) -> Result<(), StageError> {
        let why: String = why.chars().take(WHY_MAX).collect();
        if self.policy == Policy::Fail {
            return Err(StageError::input(format!("`{record}`: {why}"))
                .help("mend the file, or leave such records out with `malformed: skip`"));
        }
        self.count += 1;
        if self.count <= TOLD {
            let last = if self.count == TOLD { "; further ones are only counted" } else { "" };
            context.log(format!("skipped `{record}`: {why}{last}"));
            let file = record.input.number;
            self.first.push(Place { file, record: record.number, why });
        }
        Ok(())
    }
}

/// Ends a corpus that was read, and tells its fields.
pub(super) fn finish(
    context: &mut Context,
    writer: CorpusWriter,
    rejects: Rejects,
) -> Result<(), StageError> {
    let (rejected, empty) = (rejects.count, writer.empty());
    if empty > 0 {
        // Not in the statistics: a corpus without them is the same one, and what is made of it stays.
        context.log(format!("left out {} without text", text::plural(empty as usize, "document")));
    }
    let counts = [("malformed", rejected)];
    let statistics = Statistics { first: rejects.first, ..Statistics::of(counts) };
    if tell(context, "out", writer, rejected, statistics)? > 0 {
        return Ok(());
    }
    let help = match rejected {
        0 => "check the path of `files`".to_owned(),
        n => format!("{} left out; the log says why", text::plural(n as usize, "record")),
    };
    Err(StageError::input("the files hold no text").help(help))
}

/// Ends a corpus, tells its fields and writes its statistics; returns the number of documents.
pub(super) fn tell(
    context: &mut Context,
    name: &str,
    writer: CorpusWriter,
    rejected: u64,
    mut statistics: Statistics,
) -> Result<u64, StageError> {
    let (documents, size) = writer.finish()?;
    for (field, value) in [("documents", documents), ("size", size), ("rejected", rejected)] {
        context.output(&format!("{name}.{field}"), Value::Int(value as i64))?;
    }
    statistics.counts.extend([("documents".to_owned(), documents), ("bytes".to_owned(), size)]);
    statistics.write(&context.out(name))?;
    Ok(documents)
}

/// Opens the corpus that a stage makes another one of.
///
/// # Errors
/// When it can't be read, or has no documents.
pub(super) fn corpus(context: &Context) -> Result<Corpus, StageError> {
    let corpus = Corpus::open(context.input("corpus"))?;
    match corpus.documents() {
        0 => Err(StageError::input("`corpus` has no documents")
            .help("look at the step or command that made it")),
        _ => Ok(corpus),
    }
}

/// A file to read.
pub(super) struct Input {
    pub(super) path: PathBuf,
    /// Its size as it lies on disk.
    pub(super) size: u64,
    /// Which of the files it is, from 1.
    number: u64,
    seen: Stamp,
}

/// What tells that a file was written to, or another one put in its place: times of change, device and inode.
type Stamp = [i64; 6];

fn stamp(metadata: &Metadata) -> Stamp {
    let [device, inode] = [metadata.dev(), metadata.ino()].map(u64::cast_signed);
    let modified = [metadata.mtime(), metadata.mtime_nsec()];
    [modified[0], modified[1], metadata.ctime(), metadata.ctime_nsec(), device, inode]
}

impl Input {
    /// Returns how reading the file ended. If it is not the one that was found any more, this is told instead: what was read is a
    /// mixture of two, and so may be what is wrong with it.
    ///
    /// # Errors
    /// When it was written to, replaced or removed, or reading failed.
    pub(super) fn checked(&self, read: Result<(), StageError>) -> Result<(), StageError> {
        match read {
            Err(StageError::Interrupted) => read,
            _ => self.unchanged().and(read),
        }
    }

    fn unchanged(&self) -> Result<(), StageError> {
        let path = self.path.display();
        let what = match fs::metadata(&self.path) {
            Ok(now) if now.len() == self.size && stamp(&now) == self.seen => return Ok(()),
            Ok(now) if now.len() == self.size => "it was written to or replaced".to_owned(),
            Ok(now) => {
                format!("it had {} and has {}", text::bytes(self.size), text::bytes(now.len()))
            }
            Err(error) => error.to_string(),
        };
        Err(StageError::input(format!("`{path}` changed while it was read: {what}"))
            .help("run the same command again when nothing writes to it"))
    }
}

/// Returns the files of an input, folders replaced by the files in them, by name.
pub(super) fn expand(paths: &[PathBuf]) -> Result<Vec<Input>, StageError> {
    let mut files = Vec::new();
    for path in paths {
        for entry in WalkDir::new(path).follow_links(true).sort_by_file_name() {
            let unreadable =
                |error| StageError::input(format!("can't read `{}`: {error}", path.display()));
            let entry = entry.map_err(unreadable)?;
            if entry.file_type().is_file() {
                let metadata = entry.metadata().map_err(unreadable)?;
                let (size, seen, number) =
                    (metadata.len(), stamp(&metadata), files.len() as u64 + 1);
                files.push(Input { path: entry.into_path(), size, number, seen });
            }
        }
    }
    Ok(files)
}

/// A file's content, decompressed if it starts like gzip or Zstandard.
pub(super) struct Content {
    path: PathBuf,
    text: Box<dyn Read>,
    /// The same open file, to see how far it has been read.
    file: File,
    /// Bytes of text that were read.
    read: u64,
}

impl Content {
    pub(super) fn open(path: &Path) -> Result<Self, StageError> {
        let open = || {
            let file = File::open(path)?;
            Ok(Self::new(path, decompressed(file.try_clone()?)?, file))
        };
        open().map_err(|error| StageError::io("open", path, &error))
    }

    pub(super) fn new(path: &Path, text: Box<dyn Read>, file: File) -> Self {
        Self { path: path.to_owned(), text, file, read: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many bytes of the file itself were read.
    pub(super) fn position(&mut self) -> u64 {
        self.file.stream_position().unwrap_or_default()
    }

    /// Appends the next bytes of the text; returns how many, none at its end.
    pub(super) fn read(&mut self, out: &mut Vec<u8>) -> Result<usize, StageError> {
        let before = out.len();
        let read = (&mut self.text).take(CHUNK as u64).read_to_end(out);
        self.read += (out.len() - before) as u64;
        read.map_err(|error| unreadable(&self.path, &error, self.read))
    }
}

/// Opens a file for reading, decompressed if it starts like gzip or Zstandard.
pub(super) fn decompress(path: &Path) -> io::Result<Box<dyn Read>> {
    decompressed(File::open(path)?)
}

fn decompressed(mut file: File) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic)?;
    let whole = BufReader::new(io::Cursor::new(magic.clone()).chain(file));
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
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

/// Blocks of whole lines of a text. Lines that may not be read whole, at least a chunk's length, are passed.
pub(super) struct Lines {
    content: Content,
    /// What was read of lines that have not ended yet.
    rest: Vec<u8>,
    /// The line that `rest` begins with, from 1, and where that starts.
    line: u64,
    offset: u64,
    longest: usize,
}

/// Some lines.
pub(super) enum Block {
    /// Whole lines; the first has this number, and starts at this byte of the text.
    Lines { bytes: Vec<u8>, first: u64, offset: u64 },
    /// A line that is longer than lines may be.
    TooLong { line: u64 },
}

impl Lines {
    pub(super) fn new(content: Content, longest: usize) -> Self {
        Self { content, rest: Vec::new(), line: 1, offset: 0, longest }
    }

    pub(super) fn content(&mut self) -> &mut Content {
        &mut self.content
    }

    /// Returns the next lines: what ends within a few chunks, or one long line.
    pub(super) fn next(&mut self) -> Result<Option<Block>, StageError> {
        loop {
            let searched = self.rest.len();
            let ended = self.content.read(&mut self.rest)? == 0;
            if self.rest.len() > self.longest {
                let line = memchr::memchr(b'\n', &self.rest[searched..]).map(|at| searched + at);
                if line.unwrap_or(self.rest.len()) > self.longest {
                    return self.pass_line().map(Some);
                }
            }
            let end = match memchr::memrchr(b'\n', &self.rest[searched..]) {
                Some(at) => searched + at + 1,
                None if ended && self.rest.is_empty() => return Ok(None),
                None if ended => self.rest.len(),
                None => continue,
            };
            let rest = self.rest.split_off(end);
            let bytes = std::mem::replace(&mut self.rest, rest);
            let (first, offset) = (self.line, self.offset);
            self.line += newlines(&bytes);
            self.offset += bytes.len() as u64;
            return Ok(Some(Block::Lines { bytes, first, offset }));
        }
    }

    /// Passes the line that is begun, and keeps nothing of it.
    fn pass_line(&mut self) -> Result<Block, StageError> {
        let line = self.line;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.rest) {
                self.rest = self.rest.split_off(at + 1);
                self.offset += at as u64 + 1;
                self.line += 1;
                return Ok(Block::TooLong { line });
            }
            self.offset += self.rest.len() as u64;
            self.rest = Vec::new();
            if self.content.read(&mut self.rest)? == 0 {
                return Ok(Block::TooLong { line });
            }
        }
    }
}

/// Returns what is wrong with a line that is too long.
pub(super) fn too_long() -> String {
    format!("longer than a line may be, {} bytes", text::thousands(LINE_MAX as u64))
}

pub(super) fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str, longest: usize) -> Vec<String> {
        let file = File::open("/dev/null").unwrap();
        let text = Box::new(io::Cursor::new(text.to_owned().into_bytes()));
        let mut lines = Lines::new(Content::new(Path::new("a"), text, file), longest);
        let mut shown = Vec::new();
        while let Some(block) = lines.next().unwrap() {
            shown.push(match block {
                Block::Lines { bytes, first, offset } => {
                    format!("{first} at {offset}: {} bytes", bytes.len())
                }
                Block::TooLong { line } => format!("{line} too long"),
            });
        }
        shown
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let append = |path: &Path| {
            use std::io::Write;
            File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
        };
        let replace = |path: &Path| {
            fs::write(path.with_extension("new"), "text").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        };
        type Change<'a> = &'a dyn Fn(&Path);
        let ways: [(Change, &str); 5] = [
            (&append, "it had 4 B and has 8 B"),
            (
                &|path| File::options().write(true).open(path).unwrap().set_len(1).unwrap(),
                "has 1 B",
            ),
            (&replace, "it was written to or replaced"),
            (&|path| fs::write(path, "TEXT").unwrap(), "it was written to or replaced"),
            (&|path| fs::remove_file(path).unwrap(), "No such file"),
        ];
        for (change, told) in ways {
            fs::write(&path, "text").unwrap();
            let files = expand(std::slice::from_ref(&path)).unwrap();
            files[0].unchanged().unwrap();
            // Clocks of file systems stand still for some milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change(&path);
            let Err(StageError::Failed(failure)) = files[0].unchanged() else { panic!("{told}") };
            assert!(failure.message.contains(told), "{}", failure.message);
        }
    }

    #[test]
    fn blocks_are_of_whole_lines() {
        let long = "x".repeat(2 * CHUNK + 1);
        assert_eq!(blocks("", 10), [""; 0]);
        assert_eq!(blocks("a\nb", 10), ["1 at 0: 2 bytes", "2 at 2: 1 bytes"]);
        let text = format!("a\n{long}\nb\n");
        let rest = format!("2 at 2: {} bytes", long.len() + 3);
        assert_eq!(blocks(&text, 3 * CHUNK), ["1 at 0: 2 bytes", &rest]);
        let last = format!("3 at {}: 2 bytes", long.len() + 3);
        // To the byte, wherever chunks end.
        assert_eq!(blocks(&text, long.len()), ["1 at 0: 2 bytes", &rest]);
        for longest in [long.len() - 1, CHUNK] {
            assert_eq!(blocks(&text, longest), ["1 at 0: 2 bytes", "2 too long", &last]);
            let without_end = &text[..text.len() - 3];
            assert_eq!(blocks(without_end, longest), ["1 at 0: 2 bytes", "2 too long"]);
        }
    }
}
