//! What a stage's body gets, and how it fails.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::de::DeserializeOwned;

use crate::base::Value;
use crate::base::world::remedy;
use crate::stage::action::{Action, Event, Failure, FailureKind};

/// How a stage ends early.
#[derive(Debug)]
pub enum StageError {
    /// Stopped on request, after saving its state.
    Interrupted,
    /// It failed.
    Failed(Failure),
}

impl StageError {
    /// Returns a failure by the user's input: file, place, what is wrong.
    pub fn input(message: impl fmt::Display) -> Self {
        Self::of(FailureKind::Input, message)
    }

    /// Returns a failure by the environment: disk, network, memory.
    pub fn environment(message: impl fmt::Display) -> Self {
        Self::of(FailureKind::Environment, message)
    }

    /// Returns a failed file operation.
    pub fn io(operation: &str, path: &Path, error: &io::Error) -> Self {
        let failed = Self::environment(format!("can't {operation} `{}`: {error}", path.display()));
        match remedy(error) {
            Some(remedy) => failed.help(remedy),
            None => failed,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        if let Self::Failed(failure) = &mut self {
            failure.help = Some(text.into());
        }
        self
    }

    /// Returns a failure of some kind.
    pub(super) fn of(kind: FailureKind, message: impl fmt::Display) -> Self {
        Self::Failed(Failure { kind, message: message.to_string(), help: None })
    }
}

/// A stage's surroundings for one action.
pub struct Context {
    action: Action,
    stop: Arc<AtomicBool>,
    events: Box<dyn Write + Send>,
    /// When progress went out last, and of what.
    last_progress: Option<(Instant, String)>,
    /// Why events can't be sent any more.
    broken: Option<io::Error>,
}

impl Context {
    /// Returns the context of one action; events go to `events`, and `stop` asks it to stop.
    pub fn new(action: Action, stop: Arc<AtomicBool>, events: Box<dyn Write + Send>) -> Self {
        Self { action, stop, events, last_progress: None, broken: None }
    }

    /// Returns the action.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// Returns the parameters as the stage's own struct. Enums come as their variant's name, quantities in base units.
    ///
    /// # Errors
    /// When struct and stdlib declaration disagree (a bug).
    pub fn params<P: DeserializeOwned>(&self) -> Result<P, StageError> {
        let json = serde_json::to_value(&self.action.params).and_then(serde_json::from_value);
        json.map_err(|error| {
            StageError::of(
                FailureKind::Internal,
                format!("parameters of `{}` do not fit: {error}", self.action.stage),
            )
        })
    }

    /// Returns the path of an input artifact.
    ///
    /// # Panics
    /// When the declaration has no such input (a bug).
    pub fn input(&self, name: &str) -> &Path {
        &self.inputs(name)[0]
    }

    /// Returns the path of an optional input, if it is given.
    pub fn optional(&self, name: &str) -> Option<&Path> {
        self.action.inputs.get(name)?.first().map(PathBuf::as_path)
    }

    /// Returns the paths of an input of local files, or of a list.
    ///
    /// # Panics
    /// When the declaration has no such input (a bug).
    pub fn inputs(&self, name: &str) -> &[PathBuf] {
        self.action.inputs.get(name).expect("the action has every declared input")
    }

    /// Returns the threads that the stage may use.
    ///
    /// # Errors
    /// When they can't be started.
    pub fn pool(&self) -> Result<ThreadPool, StageError> {
        let threads = self.action.threads.max(1) as usize;
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        pool.map_err(|error| StageError::environment(format!("can't start threads: {error}")))
    }

    /// Returns the path at which to write an output; nothing is there yet.
    pub fn out(&self, name: &str) -> PathBuf {
        self.action.out.join(name)
    }

    /// Creates the folder of an output and returns it.
    ///
    /// # Errors
    /// When the folder can't be created.
    pub fn out_dir(&self, name: &str) -> Result<PathBuf, StageError> {
        let path = self.out(name);
        std::fs::create_dir_all(&path).map_err(|e| StageError::io("create", &path, &e))?;
        Ok(path)
    }

    /// Returns the folder for resume states.
    pub fn state_dir(&self) -> &Path {
        &self.action.state
    }

    /// Returns the seed, derived from the content key.
    pub fn seed(&self) -> u64 {
        self.action.seed
    }

    /// Returns whether the stage should save its state and return [`StageError::Interrupted`].
    pub fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tells how far the stage is; at most ten times a second goes out.
    pub fn progress(&mut self, done: u64, total: Option<u64>, unit: &str) {
        let due = self
            .last_progress
            .as_ref()
            .is_none_or(|(at, before)| at.elapsed() > Duration::from_millis(100) || before != unit);
        if due || total == Some(done) {
            self.last_progress = Some((Instant::now(), unit.to_owned()));
            self.emit(&Event::Progress { done, total, unit: unit.to_owned() });
        }
    }

    /// Tells a live number.
    pub fn metric(&mut self, name: &str, value: f64) {
        self.emit(&Event::Metric { name: name.to_owned(), value });
    }

    /// Writes a line to the step's log.
    pub fn log(&mut self, line: impl fmt::Display) {
        self.emit(&Event::Log { line: line.to_string() });
    }

    /// Sets a scalar output.
    ///
    /// # Errors
    /// When it is no finite number: JSON has none, so it would be recorded as nothing.
    pub fn output(&mut self, name: &str, value: Value) -> Result<(), StageError> {
        if let Value::Float(number) = value
            && !number.is_finite()
        {
            let stage = &self.action.stage;
            return Err(StageError::input(format!("`{name}` of `{stage}` came out as {number}"))
                .help("check the numbers that the step is given"));
        }
        self.emit(&Event::Output { name: name.to_owned(), value });
        Ok(())
    }

    /// Tells that the state folder holds the first `done` units of work.
    pub fn checkpointed(&mut self, done: u64) {
        self.emit(&Event::Checkpointed { done });
    }

    /// Sends an event. If that fails nobody waits any more, so the stage is asked to stop.
    pub fn emit(&mut self, event: &Event) {
        let mut line = serde_json::to_string(event).expect("events are plain data");
        line.push('\n');
        let sent = self.events.write_all(line.as_bytes()).and_then(|()| self.events.flush());
        if let Err(error) = sent {
            self.stop.store(true, Ordering::Relaxed);
            self.broken.get_or_insert(error);
        }
    }

    /// Returns why not all events were sent, if so.
    pub(super) fn broken(&self) -> Option<&io::Error> {
        self.broken.as_ref()
    }

    /// Returns the parameter map, for stages that show it.
    pub fn raw_params(&self) -> &BTreeMap<String, Value> {
        &self.action.params
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::Digest;
    use crate::stage::action::PROTOCOL;

    /// Returns the context of an action without inputs that is told to nobody.
    pub(in crate::stage) fn context(stage: &str, threads: u32) -> Context {
        let action = json!({
            "protocol": PROTOCOL, "key": Digest::of(b"test"), "stage": stage, "params": {}, "inputs": {},
            "out": "", "state": "", "seed": 0, "threads": threads, "device": "cpu",
            "micro_batch": null, "recompute": false, "shell": null,
        });
        let action = serde_json::from_value(action).unwrap();
        Context::new(action, Arc::default(), Box::new(io::sink()))
    }

    #[test]
    fn an_output_that_is_no_number_is_an_error() {
        let mut context = context("eval.perplexity", 1);
        assert!(context.output("loss", Value::Float(1.0)).is_ok());
        for (number, shown) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let Err(StageError::Failed(failure)) = context.output("loss", Value::Float(number))
            else {
                panic!("{number} went out");
            };
            assert_eq!(failure.message, format!("`loss` of `eval.perplexity` came out as {shown}"));
            assert!(failure.help.is_some());
        }
    }
}
