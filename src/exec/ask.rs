//! One action for one worker, outside of a run and its store: what `tlm sample` asks.

use std::io;
use std::path::{Path, PathBuf};

use crate::exec::worker::{Line, Worker, describe};
use crate::stage::{Action, Event, Failure, FailureKind};

/// Gives an action to a worker program of its own, and passes on what it logs as it comes. The action's folders are made for it
/// and removed. If this process ends, so does the worker, whose input closes.
///
/// # Errors
/// When the program can't be started, the action fails, or the worker dies.
pub fn ask(program: &Path, mut action: Action, told: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure {
        kind: FailureKind::Environment,
        message: format!("can't ask `{}`: {error}", program.display()),
        help: Some("build it with `make libtorch && cargo build --release`, or name it with `--torch PROGRAM`".to_owned()),
    }
    };
    let folder = tempfile::tempdir().map_err(failed)?;
    let make = |name: &str| -> io::Result<PathBuf> {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).map(|()| path)
    };
    action.out = make("out").map_err(failed)?;
    action.state = make("state").map_err(failed)?;
    let mut worker = Worker::start(program, &[]).map_err(failed)?;
    worker.send(&action).map_err(failed)?;
    let mut last = String::new();
    while let Some(line) = worker.next() {
        match line {
            Line::Event(Event::Log { line }) => told(&line),
            Line::Event(Event::Done | Event::Interrupted) => return Ok(()),
            Line::Event(Event::Failed(failure)) => return Err(failure),
            Line::Event(_) => {}
            Line::Text(text) => last = text,
        }
    }
    let (kind, how) =
        worker.wait().map_or_else(|error| (FailureKind::Crashed, error.to_string()), describe);
    let said = if last.is_empty() { None } else { Some(format!("its last line was: {last}")) };
    Err(Failure { kind, message: format!("the worker died: {how}"), help: said })
}
