//! Stages that a recipe declares: a command, run by `sh -c` in the recipe's folder.
//!
//! What the command prints goes to the step's log. A stop is SIGTERM for all of its processes, and SIGKILL when they are still
//! there after ten seconds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpgrp, kill_process_group};

use crate::base::Value;
use crate::stage::action::{Shell, ShellOutput};
use crate::stage::{Context, StageError, inspect};

/// How long a command that was asked to stop may take.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Runs the action's command, then reads the numbers it wrote and looks at the artifacts it made.
///
/// # Errors
/// When the command fails, or leaves out an output or makes one that is not what the stage declares.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Some(shell) = context.action().shell.clone() else { return Ok(()) };
    let child = start(&shell, context)?;
    let status = wait(child, context)?;
    if !status.success() {
        return Err(StageError::input(format!("the command ended with {status}"))
            .help("the lines above are what it printed"));
    }
    for (name, output) in &shell.outputs {
        match output {
            ShellOutput::Scalar => scalar(name, context)?,
            ShellOutput::Artifact(kind) => artifact(name, kind, &shell.outputs, context)?,
        }
    }
    Ok(())
}

fn start(shell: &Shell, context: &Context) -> Result<Child, StageError> {
    let failed = |error| StageError::io("run the command in", &shell.folder, &error);
    // Standard output is the worker's, for events.
    let output = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let action = context.action();
    let mut command = Command::new("sh");
    command.args(["-c", &shell.command]).current_dir(&shell.folder).stdin(Stdio::null());
    command.stdout(output().map_err(failed)?).stderr(output().map_err(failed)?);
    command.env("TLM_STATE", &action.state).env("TLM_SEED", action.seed.to_string());
    command.env("OMP_NUM_THREADS", action.threads.to_string());
    if let Some(gpu) = action.device.strip_prefix("cuda:") {
        command.env("CUDA_VISIBLE_DEVICES", gpu);
    }
    command.spawn().map_err(failed)
}

fn wait(mut child: Child, context: &mut Context) -> Result<ExitStatus, StageError> {
    let mut asked: Option<Instant> = None;
    loop {
        let ended = child.try_wait();
        let ended =
            ended.map_err(|error| StageError::environment(format!("can't wait: {error}")))?;
        match (ended, asked) {
            (Some(_), Some(_)) => return Err(StageError::Interrupted),
            (Some(status), None) => return Ok(status),
            (None, None) if context.interrupted() => {
                asked = Some(Instant::now());
                // The worker is in the group too, and takes the signal for what it knows already.
                let _ = kill_process_group(getpgrp(), Signal::TERM);
            }
            (None, Some(at)) if at.elapsed() > GRACE => {
                let _ = kill_process_group(getpgrp(), Signal::KILL);
            }
            (None, _) => thread::sleep(POLL),
        }
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
