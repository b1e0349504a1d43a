//! Level 9: the command line. One file a command once there is more to one than a few lines.

use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};

use crate::base::{SourceMap, World, text};
use crate::diag;
use crate::stage::{self, worker};
use crate::store::{Output, Store, StoreError};

/// Everything went well.
pub const DONE: u8 = 0;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The recipe has errors.
pub const PROGRAM: u8 = 3;
/// The store or the machine failed.
pub const ENVIRONMENT: u8 = 4;

#[derive(Parser)]
#[command(name = "tlm", version, about = "A build tool for language-model experiments")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks the syntax of a recipe
    Check {
        /// The recipe
        file: PathBuf,
        /// Prints the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Lists what the store holds
    Ls {
        /// The store; by default `$TLM_STORE` or `.tlm`
        #[arg(long)]
        store: Option<PathBuf>,
    },
    /// Hashes everything in the store again
    Verify {
        /// The store; by default `$TLM_STORE` or `.tlm`
        #[arg(long)]
        store: Option<PathBuf>,
    },
    /// Runs stages for a scheduler: actions on standard input, events on standard output
    #[command(hide = true)]
    Worker,
}

/// Runs a command line, its program's name first, and returns the exit code.
///
/// # Errors
/// When standard output or standard error is closed.
pub fn run(
    args: impl IntoIterator<Item = std::ffi::OsString>,
    world: &World,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            write!(err, "{error}")?;
            return Ok(USAGE);
        }
        Err(help) => {
            write!(out, "{help}")?;
            return Ok(DONE);
        }
    };
    match args.command {
        Command::Check { file, json } => check(&world.cwd().join(file), json, out, err),
        Command::Ls { store } => with_store(store, world, err, |store| ls(store, out)),
        Command::Verify { store } => with_store(store, world, err, |store| verify(store, out)),
        Command::Worker => serve(),
    }
}

fn check(
    path: &std::path::Path,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let text = match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => {
            let at = error.utf8_error().valid_up_to();
            writeln!(
                err,
                "error: `{}` is not UTF-8 at byte {at}\nhelp: save it as UTF-8",
                path.display()
            )?;
            return Ok(PROGRAM);
        }
        Err(error) => {
            writeln!(err, "error: can't read `{}`: {error}\nhelp: name a recipe", path.display())?;
            return Ok(ENVIRONMENT);
        }
    };
    let mut sources = SourceMap::default();
    let file = sources.add(path, text);
    let folder = path.parent().unwrap_or(std::path::Path::new("/"));
    let found = match crate::sema::load(&mut sources, file, folder, &[]).finish() {
        Ok((program, mut found)) => {
            found.extend(crate::sema::check(&program));
            found
        }
        Err(found) => found,
    };
    if json {
        writeln!(out, "{}", diag::to_json(&sources, &found))?;
    } else if !found.is_empty() {
        let drawn = diag::render(&sources, &found, 100, false);
        writeln!(err, "{drawn}{}", text::plural(found.len(), "error"))?;
    }
    Ok(if found.is_empty() { DONE } else { PROGRAM })
}

fn with_store(
    path: Option<PathBuf>,
    world: &World,
    err: &mut dyn Write,
    command: impl FnOnce(&Store) -> Result<io::Result<u8>, StoreError>,
) -> io::Result<u8> {
    let path = path.or_else(|| world.var("TLM_STORE").map(PathBuf::from));
    let path = world.cwd().join(path.unwrap_or_else(|| PathBuf::from(".tlm")));
    if !path.is_dir() {
        writeln!(
            err,
            "error: no store at `{}`\nhelp: name one with `--store DIR`",
            path.display()
        )?;
        return Ok(ENVIRONMENT);
    }
    match Store::open(&path).and_then(|store| command(&store)) {
        Ok(code) => code,
        Err(error) => {
            writeln!(err, "error: {error}\nhelp: {}", error.help())?;
            Ok(ENVIRONMENT)
        }
    }
}

fn ls(store: &Store, out: &mut dyn Write) -> Result<io::Result<u8>, StoreError> {
    let line = |record: &crate::store::Record| {
        let size = |output: &Output| match output {
            Output::Object { bytes, .. } => *bytes,
            Output::Scalar(_) => 0,
        };
        let bytes = text::bytes(record.outputs.values().map(size).sum());
        let (key, seconds) = (record.recipe.short(), text::duration(record.seconds));
        format!("{key}  {:20}  {:20}  {bytes:>10}  {seconds:>7}", record.label, record.stage)
    };
    let mut lines = store.records().iter().map(line).collect::<Vec<_>>();
    lines.push(text::plural(lines.len(), "record"));
    Ok(writeln!(out, "{}", lines.join("\n")).map(|()| DONE))
}

fn verify(store: &Store, out: &mut dyn Write) -> Result<io::Result<u8>, StoreError> {
    let bad = store.verify()?;
    let mut lines: Vec<_> =
        bad.iter().map(|digest| format!("damaged or missing: {digest}")).collect();
    if store.damaged() > 0 {
        lines.push(format!(
            "{} damaged and left out",
            text::plural(store.damaged(), "index record")
        ));
    }
    let code = if lines.is_empty() { DONE } else { ENVIRONMENT };
    if lines.is_empty() {
        lines.push(format!("{} verified", text::plural(store.records().len(), "record")));
    }
    Ok(writeln!(out, "{}", lines.join("\n")).map(|()| code))
}

fn serve() -> io::Result<u8> {
    let stop = Arc::new(AtomicBool::new(false));
    worker::stop_on_signals(&stop)?;
    worker::serve(stage::REGISTRY, BufReader::new(io::stdin()), &worker::Stdout, &stop);
    Ok(DONE)
}
