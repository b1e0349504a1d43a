//! Stages that a recipe declares: a command, run by `sh -c` in the recipe's folder, under a [`guard`](super::guard).
//!
//! What the command prints goes to the step's log. A stop is SIGTERM for all of its processes, and SIGKILL for those that are
//! still there after ten seconds. None of them outlives the step.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::base::Value;
use crate::stage::action::{Shell, ShellOutput};
use crate::stage::{Context, FailureKind, StageError, inspect, printed};

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
    Ended(io::Result<ExitStatus>),
}

/// Runs the action's command, then reads the numbers it wrote and looks at the artifacts it made.
///
/// # Errors
/// When the command fails, or leaves out an output or makes one that is not what the stage declares.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Some(shell) = context.action().shell.clone() else { return Ok(()) };
    let (guard, printed) = start(&shell, context)
        .map_err(|error| StageError::io("run the command in", &shell.folder, &error))?;
    let status = listen(guard, printed, context)?;
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
            ShellOutput::Artifact(kind) => artifact(name, kind, &shell.outputs, context)?,
        }
    }
    Ok(())
}

fn start(shell: &Shell, context: &Context) -> io::Result<(Child, PipeReader)> {
    let (printed, output) = io::pipe()?;
    let action = context.action();
    // The program that runs now, even if another has come to its place.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("tlm").args(["guard", "--", &shell.command]).current_dir(&shell.folder);
    // Whoever kills the worker's group leaves the guard, which then ends the rest.
    command.process_group(0).stdin(Stdio::piped());
    command.stdout(output.try_clone()?).stderr(output);
    command.env("TLM_STATE", &action.state).env("TLM_SEED", action.seed.to_string());
    command.envs(THREADS.map(|name| (name, action.threads.to_string())));
    if let Some(gpu) = action.device.strip_prefix("cuda:") {
        command.env("CUDA_VISIBLE_DEVICES", gpu);
    }
    Ok((command.spawn()?, printed))
}

/// Passes on what the command prints until it has ended, and asks it to stop when the step is to.
fn listen(
    mut guard: Child,
    printed: PipeReader,
    context: &mut Context,
) -> Result<ExitStatus, StageError> {
    let mut orders = guard.stdin.take();
    let heard = hear(guard, printed);
    let mut asked = false;
    loop {
        match heard.recv_timeout(POLL) {
            Ok(Heard::Line(line)) => context.log(line),
            Ok(Heard::Ended(_)) if asked => return Err(StageError::Interrupted),
            Ok(Heard::Ended(status)) => {
                return status
                    .map_err(|error| StageError::environment(format!("can't wait: {error}")));
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if context.interrupted() && !asked {
            asked = true;
            ask_to_stop(orders.as_mut());
        }
    }
}

/// Reads what the command prints, then waits for its end, on a thread of its own.
fn hear(mut guard: Child, printed: PipeReader) -> Receiver<Heard> {
    let (sender, heard): (SyncSender<Heard>, _) = sync_channel(LINES);
    thread::spawn(move || {
        printed::forward(printed, &mut |line| sender.send(Heard::Line(line)).is_ok());
        let _ = sender.send(Heard::Ended(guard.wait()));
    });
    heard
}

fn ask_to_stop(orders: Option<&mut ChildStdin>) {
    if let Some(orders) = orders {
        // An error means that it has ended.
        let _ = orders.write_all(b".");
    }
}

/// Returns what kind of failure a command's end is, and in words for people. A shell ends with 128 and the number of the
/// signal that ended its program.
fn describe(status: ExitStatus) -> (FailureKind, String) {
    match status.code() {
        Some(AGAIN) => (FailureKind::Environment, format!("exit code {AGAIN}, to be tried again")),
        Some(137) => (FailureKind::Killed, "signal 9, perhaps because memory ran out".to_owned()),
        Some(code @ 129..160) => (FailureKind::Crashed, format!("signal {}", code - 128)),
        Some(code) => (FailureKind::Input, format!("exit code {code}")),
        None => (FailureKind::Crashed, status.to_string()),
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
fn artifact(
    name: &str,
    kind: &str,
    outputs: &BTreeMap<String, ShellOutput>,
    context: &mut Context,
) -> Result<(), StageError> {
    let path = context.out(name);
    if !path.exists() {
        return Err(left_out(name));
    }
    let tokenizer = format!("{name}.tokenizer");
    inspect::tell(name, kind, &path, context)?;
    if kind == "Checkpoint" && outputs.contains_key(&format!("{tokenizer}.size")) {
        inspect::tokenizer_of(&path, &tokenizer, context)?;
    }
    Ok(())
}

fn left_out(name: &str) -> StageError {
    StageError::input(format!("the command did not write its output `{name}`"))
        .help(format!("`{{{name}}}` in the command is the path to write it to"))
}
