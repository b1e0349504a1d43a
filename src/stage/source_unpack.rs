//! `source.unpack`: the files of an archive as a folder. What could leave the folder, or is far larger than it looks, is refused.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use glob::Pattern;
use serde::Deserialize;
use tar::EntryType;
use zip::ZipArchive;

use crate::base::text;
use crate::stage::reading::decompress;
use crate::stage::{Context, StageError};

/// How much larger than the archive its files may be together: nothing but a bomb is.
const RATIO: u64 = 1000;
/// Archives of files that are smaller together are no danger.
const HARMLESS: u64 = 256 << 20;
/// The most files.
const FILES: usize = 1_000_000;
const FEWER: &str = "choose fewer files with `only:`, or unpack it yourself";

#[derive(Deserialize)]
struct Params {
    only: Option<String>,
    limit: u64,
}

/// Runs the stage.
///
/// # Errors
/// When it is no archive, a member is no plain file with a name inside it, or there is too much in it.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let [path] = context.inputs("archive") else {
        let count = context.inputs("archive").len();
        return Err(StageError::input(format!("`archive` names {count} files"))
            .help("unpack them one by one"));
    };
    let path = path.clone();
    let only = params.only.as_deref().map(Pattern::new).transpose().map_err(|error| {
        StageError::input(format!("`only` is no pattern: {}", error.msg))
            .help("`*` stands for a part of a path: `data/*.jsonl`")
    })?;
    let failed = |error: io::Error| StageError::io("read", &path, &error);
    let mut file = File::open(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut magic = [0; 4];
    let is_zip = file.read(&mut magic).map_err(failed)? == 4 && magic.starts_with(b"PK");
    let harmless = size.saturating_mul(RATIO).max(HARMLESS);
    let mut unpack = Unpack {
        out: context.out_dir("out")?,
        context,
        path: &path,
        only,
        names: BTreeSet::new(),
        done: 0,
        limit: params.limit,
        harmless,
    };
    match is_zip {
        true => unpack.zip(file)?,
        false => unpack.tar()?,
    }
    if unpack.names.is_empty() {
        return Err(StageError::input(format!("`{}` has no such files", path.display()))
            .help("check `only`, and that it is the right archive"));
    }
    Ok(())
}

struct Unpack<'a> {
    context: &'a mut Context,
    path: &'a Path,
    out: PathBuf,
    only: Option<Pattern>,
    names: BTreeSet<PathBuf>,
    /// Bytes written.
    done: u64,
    /// Bytes that the user lets it write, and that no bomb needs.
    limit: u64,
    harmless: u64,
}

impl Unpack<'_> {
    fn zip(&mut self, file: File) -> Result<(), StageError> {
        let path = self.path;
        let damaged = |error: zip::result::ZipError| damaged(path, &error);
        let mut archive = ZipArchive::new(file).map_err(damaged)?;
        for index in 0..archive.len() {
            let mut member = archive.by_index(index).map_err(damaged)?;
            let name = member.name().map_err(damaged)?.into_owned();
            let is_link = member.is_symlink();
            if member.is_dir() {
                continue;
            }
            self.member(&name, !is_link, &mut member)?;
        }
        Ok(())
    }

    fn tar(&mut self) -> Result<(), StageError> {
        let path = self.path;
        let damaged = |error: io::Error| damaged(path, &error);
        let text = decompress(path).map_err(|error| StageError::io("open", path, &error))?;
        let mut archive = tar::Archive::new(text);
        for member in archive.entries().map_err(damaged)? {
            let mut member = member.map_err(damaged)?;
            let name = String::from_utf8(member.path_bytes().into_owned());
            let name = name.map_err(|error| {
                let name = error.into_bytes();
                self.refuse(&String::from_utf8_lossy(&name), "its name is not UTF-8")
            })?;
            let kind = member.header().entry_type();
            match kind {
                EntryType::Directory | EntryType::XGlobalHeader => {}
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                    self.member(&name, true, &mut member)?;
                }
                _ => self.member(&name, false, &mut member)?,
            }
        }
        Ok(())
    }

    /// Writes a member, if it is asked for.
    fn member(
        &mut self,
        name: &str,
        is_file: bool,
        content: &mut impl Read,
    ) -> Result<(), StageError> {
        let name = name.strip_prefix("./").unwrap_or(name);
        if self.only.as_ref().is_some_and(|only| !only.matches(name)) {
            return Ok(());
        }
        let is_plain =
            |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
        if !name.split('/').all(is_plain) {
            return Err(self.refuse(name, "its name leads out of the folder, or is no name"));
        }
        if !is_file {
            return Err(self.refuse(name, "it is a link or a device, not a file"));
        }
        let to = self.out.join(name);
        if !self.names.insert(to.clone()) || to.exists() {
            return Err(self.refuse(name, "it is there twice"));
        }
        if self.names.len() > FILES {
            return Err(
                self.too_much(&format!("more than {} files", text::thousands(FILES as u64)), FEWER)
            );
        }
        let folder = to.parent().unwrap_or(&self.out);
        fs::create_dir_all(folder).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                self.refuse(name, "a folder on its path is a file")
            }
            _ => StageError::io("create", folder, &error),
        })?;
        self.write(&to, content)
    }

    fn write(&mut self, to: &Path, content: &mut impl Read) -> Result<(), StageError> {
        let failed = |error: io::Error| StageError::io("write", to, &error);
        let mut file = BufWriter::new(File::create_new(to).map_err(failed)?);
        let mut buffer = vec![0; 1 << 18];
        loop {
            let len = content.read(&mut buffer).map_err(|error| damaged(self.path, &error))?;
            if len == 0 {
                return file.flush().map_err(failed);
            }
            self.done += len as u64;
            if self.done > self.limit {
                let what = format!("more than {}, the `limit`", text::bytes(self.limit));
                return Err(
                    self.too_much(&what, "choose fewer files with `only:`, or raise `limit:`")
                );
            }
            if self.done > self.harmless {
                let harmless = text::bytes(self.harmless);
                let what =
                    format!("more than {harmless}, as only an archive made to fill a disk does");
                return Err(self.too_much(&what, FEWER));
            }
            file.write_all(&buffer[..len]).map_err(failed)?;
            self.context.progress(self.done, None, "bytes");
            if self.context.interrupted() {
                return Err(StageError::Interrupted);
            }
        }
    }

    fn refuse(&self, name: &str, why: &str) -> StageError {
        StageError::input(format!("`{}`: `{name}` is refused: {why}", self.path.display()))
            .help("choose the files you want with `only:`, or unpack it yourself")
    }

    fn too_much(&self, what: &str, help: &str) -> StageError {
        StageError::input(format!("`{}` holds {what}", self.path.display())).help(help)
    }
}

fn damaged(path: &Path, error: &impl std::fmt::Display) -> StageError {
    StageError::input(format!(
        "`{}` is no whole zip or tar archive, plain or compressed by gzip or Zstandard: {error}",
        path.display()
    ))
    .help("get the file again")
}
