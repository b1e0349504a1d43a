//! Stages that a recipe declares: a command, run by `sh -c` in the recipe's folder.
//!
//! What the command prints goes to the step's log. A stop is SIGTERM for all of its processes, and SIGKILL for those that are
//! still there after ten seconds. None of them outlives the step.

use std::fs;
use std::io::{self, PipeReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::base::{Value, text};
use crate::stage::action::{Shell, ShellOutput};
use crate::stage::{Context, FailureKind, StageError, children, inspect, printed};

/// How long a command that was asked to stop may take.
const GRACE: Duration = Duration::from_secs(10);
/// How long what it printed may take to arrive when all of its processes have ended.
const REST: Duration = Duration::from_secs(1);
/// How often it is looked whether the command is to stop.
const POLL: Duration = Duration::from_millis(20);
/// Lines on their way to the scheduler; when it does not keep up, the command has to wait.
const LINES: usize = 256;
/// The exit code of a command that failed in a way that may pass: `EX_TEMPFAIL` of `sysexits.h`.
const AGAIN: i32 = 75;
/// Variables that libraries take their number of threads from.
const THREADS: [&str; 4] =
    ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"];

/// What comes from a running command.
enum Heard {
    Line(String),
    /// Nothing more will be printed.
    Silence,
    Ended(io::Result<ExitStatus>),
}

/// Runs the action's command, then reads the numbers it wrote and looks at the artifacts it made.
///
/// # Errors
/// When the command fails, or leaves out an output or makes one that is not what the stage declares.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Some(shell) = context.action().shell.clone() else { return Ok(()) };
    let (child, printed) = start(&shell, context)
        .map_err(|error| StageError::io("run the command in", &shell.folder, &error))?;
    let status = listen(&hear(child, printed), context)?;
    if !status.success() {
        let (kind, how) = describe(status);
        let failed = StageError::of(kind, format!("the command ended with {how}"));
        return Err(match kind {
            FailureKind::Killed => failed,
            _ => failed.help("the last lines of the log are what it printed"),
        });
    }
    for (name, output) in &shell.outputs {
        match output {
            ShellOutput::Scalar => scalar(name, context)?,
            ShellOutput::Artifact(kind) => artifact(name, kind, context)?,
            ShellOutput::TokenizerOf(model) => {
                inspect::tokenizer_of(&context.out(model), name, context)?;
            }
        }
    }
    Ok(())
}

fn start(shell: &Shell, context: &Context) -> io::Result<(Child, PipeReader)> {
    children::adopt()?;
    let (printed, output) = io::pipe()?;
    let action = context.action();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &shell.command]).current_dir(&shell.folder).stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    command.env("TLM_STATE", &action.state).env("TLM_SEED", action.seed.to_string());
    command.envs(THREADS.map(|name| (name, action.threads.to_string())));
    if let Some(gpu) = action.device.strip_prefix("cuda:") {
        command.env("CUDA_VISIBLE_DEVICES", gpu);
    }
    Ok((command.spawn()?, printed))
}

/// Reads what a command prints, and waits for its end, on threads of their own.
fn hear(mut child: Child, printed: PipeReader) -> Receiver<Heard> {
    let (sender, heard): (SyncSender<Heard>, _) = sync_channel(LINES);
    let lines = sender.clone();
    thread::spawn(move || {
        printed::forward(printed, &mut |line| lines.send(Heard::Line(line)).is_ok());
        let _ = lines.send(Heard::Silence);
    });
    thread::spawn(move || sender.send(Heard::Ended(child.wait())));
    heard
}

/// A command on its way to its end.
#[derive(Default)]
struct Course {
    /// When it was asked to stop.
    asked: Option<Instant>,
    ended: Option<io::Result<ExitStatus>>,
    /// When its last process had ended.
    alone: Option<Instant>,
    is_silent: bool,
}

/// Passes on what the command prints until it has ended and nothing of it is left; asks it to stop when the step is to.
fn listen(heard: &Receiver<Heard>, context: &mut Context) -> Result<ExitStatus, StageError> {
    let mut course = Course::default();
    while !course.is_over() {
        match heard.recv_timeout(POLL) {
            Ok(Heard::Line(line)) => context.log(line),
            Ok(Heard::Silence) => course.is_silent = true,
            Ok(Heard::Ended(status)) => course.end(status, context),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        course.heed_stop(context.interrupted());
    }
    match (course.asked, course.ended) {
        (None, Some(status)) => {
            status.map_err(|error| StageError::environment(format!("can't wait: {error}")))
        }
        _ => Err(StageError::Interrupted),
    }
}

impl Course {
    /// Notes that the command has ended. What it left running is ended, unless it was asked to stop: then that may be what
    /// saves its state.
    fn end(&mut self, status: io::Result<ExitStatus>, context: &mut Context) {
        self.ended = Some(status);
        if self.asked.is_none() && children::are_left() {
            let count = children::signal(Signal::KILL);
            context.log(format!(
                "tlm: the command left {} running; ended",
                text::plural(count, "program")
            ));
            while children::are_left() {
                children::signal(Signal::KILL);
            }
        }
        self.look_for_rest();
    }

    fn heed_stop(&mut self, is_wanted: bool) {
        match self.asked {
            None if is_wanted => {
                self.asked = Some(Instant::now());
                children::signal(Signal::TERM);
            }
            Some(at) if at.elapsed() > GRACE => drop(children::signal(Signal::KILL)),
            _ => {}
        }
        self.look_for_rest();
    }

    fn look_for_rest(&mut self) {
        if self.ended.is_some() && self.alone.is_none() && !children::are_left() {
            self.alone = Some(Instant::now());
        }
    }

    /// Returns whether nothing is left. Somebody else may have got hold of what it printed to.
    fn is_over(&self) -> bool {
        self.alone.is_some_and(|at| self.is_silent || at.elapsed() > REST)
    }
}

/// Returns what kind of failure a command's end is, and in words for people. A shell whose program was ended by a signal ends
/// with 128 and its number.
fn describe(status: ExitStatus) -> (FailureKind, String) {
    let code = status.code();
    let signal =
        status.signal().or(code.filter(|code| (129..160).contains(code)).map(|code| code - 128));
    match (signal, code) {
        (Some(9), _) => {
            (FailureKind::Killed, "signal 9, perhaps because memory ran out".to_owned())
        }
        (Some(signal), _) => (FailureKind::Crashed, format!("signal {signal}")),
        (None, Some(AGAIN)) => {
            (FailureKind::Environment, format!("exit code {AGAIN}, to be tried again"))
        }
        (None, Some(code)) => (FailureKind::Input, format!("exit code {code}")),
        (None, None) => (FailureKind::Crashed, status.to_string()),
    }
}

/// Reads a number, text or truth value that the command wrote as JSON.
fn scalar(name: &str, context: &mut Context) -> Result<(), StageError> {
    let path = context.out(name);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => left_out(name),
        _ => StageError::io("read", &path, &error),
    })?;
    let wrong = || {
        StageError::input(format!("the command wrote `{}` for `{name}`", text.trim()))
            .help("write one number, text in quotes, `true` or `false`, as JSON")
    };
    let value: Value = serde_json::from_str(&text).map_err(|_| wrong())?;
    match value {
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Str(_) => {}
        Value::Null | Value::List(_) | Value::Map(_) | Value::Digest(_) => return Err(wrong()),
    }
    context.output(name, value)?;
    fs::remove_file(&path).map_err(|error| StageError::io("remove", &path, &error))
}

/// Checks an artifact, and tells the fields of its type.
fn artifact(name: &str, kind: &str, context: &mut Context) -> Result<(), StageError> {
    let path = context.out(name);
    if !path.exists() {
        return Err(left_out(name));
    }
    inspect::tell(name, kind, &path, context)
}

fn left_out(name: &str) -> StageError {
    StageError::input(format!("the command did not write its output `{name}`"))
        .help(format!("`{{{name}}}` in the command is the path to write it to"))
}
