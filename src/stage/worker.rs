//! A worker's main loop: actions in, events out.
//!
//! Standard output belongs to the protocol; whatever else wants to print goes to standard error, which the scheduler
//! writes to the step's log. The loop ends when standard input does, and after a failure: what a failed stage left
//! behind in memory must not reach the next one.

use std::any::Any;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::base::processes;
use crate::stage::action::{Action, Event, Failure, FailureKind, PROTOCOL};
use crate::stage::context::{Context, StageError};
use crate::stage::{Body, Registry, shell};

/// How often a worker that waits for another one looks again.
const POLL: Duration = Duration::from_millis(50);

/// Runs actions from `input` until it ends or an action fails; events go to `output`.
///
/// The end of `input` also asks a running stage to stop: the scheduler is gone. So does setting `stop`.
pub fn serve<W>(
    registry: Registry,
    input: impl BufRead + Send + 'static,
    output: &W,
    stop: &Arc<AtomicBool>,
) where
    W: Write + Send + Clone + 'static,
{
    for line in lines(input, stop) {
        let (event, go_on) = match read(registry, &line) {
            Ok((action, body)) => run(action, body, output.clone(), stop),
            Err(failure) => (Event::Failed(failure), false),
        };
        if send(&mut output.clone(), &event).is_err() || !go_on {
            return;
        }
    }
}

/// Asks for a stop at SIGINT and SIGTERM.
///
/// # Errors
/// When the handlers can't be installed.
pub fn stop_on_signals(stop: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(stop))?;
    }
    Ok(())
}

/// Standard output, locked a line at a time, as the events' way out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Reads lines on a thread of their own, so that the end of the input is seen while a stage runs.
fn lines(input: impl BufRead + Send + 'static, stop: &Arc<AtomicBool>) -> Receiver<String> {
    let (sender, receiver) = channel();
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        for line in input.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    receiver
}

fn read(registry: Registry, line: &str) -> Result<(Action, Body), Failure> {
    let action: Action = serde_json::from_str(line)
        .map_err(|error| internal(format!("can't read the action: {error}")))?;
    if action.protocol != PROTOCOL {
        return Err(Failure {
            help: Some("build tlm and tlm-torch from the same sources".to_owned()),
            ..internal(format!(
                "the worker speaks protocol {PROTOCOL}, the action {}",
                action.protocol
            ))
        });
    }
    if action.shell.is_some() {
        return Ok((action, shell::run));
    }
    match registry.iter().find(|(name, _)| *name == action.stage) {
        Some((_, body)) => Ok((action, *body)),
        None => Err(internal(format!("this worker has no stage `{}`", action.stage))),
    }
}

/// Runs one action and returns its last event, and whether the worker may take another.
fn run<W: Write + Send + 'static>(
    action: Action,
    body: Body,
    output: W,
    stop: &Arc<AtomicBool>,
) -> (Event, bool) {
    // That of a command is another process's memory.
    let sees_peak = action.shell.is_none() && processes::forget_peak();
    let mut context = Context::new(action, Arc::clone(stop), Box::new(output));
    let used = || processes::cpu_seconds(process::id());
    let before = used();
    let alone = AssertUnwindSafe(|| {
        let _held = Held::wait(&mut context)?;
        body(&mut context)
    });
    let ended = catch_unwind(alone);
    if let (Some(before), Some(after)) = (before, used()) {
        let peak_bytes = processes::peak_bytes().filter(|_| sees_peak);
        context.emit(&Event::Used { cpu_seconds: after - before, peak_bytes });
    }
    if let Some(error) = context.broken() {
        // Without them its outputs may not be known.
        let message = format!("can't write events: {error}");
        return (
            Event::Failed(Failure { kind: FailureKind::Environment, message, help: None }),
            false,
        );
    }
    match ended {
        Ok(Ok(())) => (Event::Done, true),
        Ok(Err(StageError::Interrupted)) => (Event::Interrupted, false),
        Ok(Err(StageError::Failed(failure))) => (Event::Failed(failure), false),
        Err(panic) => (Event::Failed(internal(panic_message(&*panic))), false),
    }
}

/// The right to use a state folder: a kernel lock on the file `lock` in it. The scheduler's own lock is not enough, as
/// the worker of one that was killed goes on for a while, and the next one's worker gets the same folder.
struct Held {
    path: PathBuf,
    _file: File,
}

impl Held {
    /// Waits until no other worker holds the folder.
    fn wait(context: &mut Context) -> Result<Self, StageError> {
        let path = context.state_dir().join("lock");
        let mut told = false;
        loop {
            let file = File::create(&path).map_err(|e| StageError::io("create", &path, &e))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, _file: file }),
                // The one before removed the file as it ended.
                Ok(()) => continue,
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {
                    continue;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(StageError::io("lock", &path, &error));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if context.interrupted() {
                return Err(StageError::Interrupted);
            }
            if !told {
                context.log(
                    "the worker of an earlier run still works on this step; waiting for its end",
                );
                told = true;
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A folder that holds nothing else is no state.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    file.metadata().is_ok_and(|own| fs::metadata(path).is_ok_and(|there| id(own) == id(there)))
}

/// Returns what to tell of a panic that was caught.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("internal error: {}", text.unwrap_or("a panic without a message"))
}

fn internal(message: String) -> Failure {
    let help = Some("please report this with the step's log".to_owned());
    Failure { kind: FailureKind::Internal, message, help }
}

fn send(output: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_string(event).expect("events are plain data");
    line.push('\n');
    output.write_all(line.as_bytes())?;
    output.flush()
}
