//! `tlm fmt`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::base::{FileId, SourceMap};
use crate::cli::recipe::{bad, read_text, tell};
use crate::cli::{Console, ENVIRONMENT, Exit, FAILED, PROGRAM};
use crate::syntax::{self, Unread};

/// `tlm fmt`: goes through all files and ends with the worst code.
pub(super) fn fmt(files: &[PathBuf], check: bool, console: &mut Console<'_>) -> Result<(), Exit> {
    let mut worst = None;
    for file in files {
        let done = match file.as_os_str() == "-" {
            true => standard_input(check, console),
            false => one(file, check, console),
        };
        match done {
            Ok(()) => {}
            Err(Exit::Code(code)) => worst = worst.max(Some(code)),
            Err(closed @ Exit::Closed(_)) => return Err(closed),
        }
    }
    worst.map_or(Ok(()), |code| Err(Exit::Code(code)))
}

fn one(file: &Path, check: bool, console: &mut Console<'_>) -> Result<(), Exit> {
    let path = console.world.cwd().join(file);
    let mut sources = SourceMap::default();
    let id = read_text(&mut sources, &path, file, false, console)?;
    let formatted = formatted(&sources, id, console)?;
    if formatted == sources.text(id) {
        return Ok(());
    }
    if check {
        return would_change(file, console);
    }
    replace(&path, &formatted).map_err(|error| {
        let message = format!("can't write `{}`: {error}", file.display());
        console.fail(ENVIRONMENT, message, "make the file and its folder writable")
    })
}

fn standard_input(check: bool, console: &mut Console<'_>) -> Result<(), Exit> {
    let (name, mut sources) = (Path::new("-"), SourceMap::default());
    let read = syntax::read_from(&mut sources, io::stdin(), name);
    let id = read.map_err(|unread| match unread {
        Unread::Bad(finding) => bad(&sources, *finding, console),
        Unread::Io(error) => {
            let message = format!("can't read standard input: {error}");
            console.fail(ENVIRONMENT, message, "name a recipe")
        }
    })?;
    let formatted = formatted(&sources, id, console)?;
    match check {
        true if formatted == sources.text(id) => Ok(()),
        true => would_change(name, console),
        false => Ok(console.out.write_all(formatted.as_bytes())?),
    }
}

/// Returns a text in the one style, or tells what is wrong in it.
fn formatted(sources: &SourceMap, file: FileId, console: &mut Console<'_>) -> Result<String, Exit> {
    syntax::format(file, sources.text(file)).map_err(|found| {
        tell(sources, &found, console);
        Exit::Code(PROGRAM)
    })
}

fn would_change(file: &Path, console: &mut Console<'_>) -> Result<(), Exit> {
    writeln!(console.out, "{}", file.display())?;
    Err(Exit::Code(FAILED))
}

/// Replaces a file at once, or leaves it as it is. A link stays a link, permissions stay.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let permissions = path.metadata()?.permissions();
    if permissions.readonly() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".fmt").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
