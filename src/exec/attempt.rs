//! One step, from lease to record, on a thread of its own.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Instant, UNIX_EPOCH};

use crate::base::{Digest, Value, World};
use crate::exec::machine::{Machine, Share};
use crate::exec::stop::Stop;
use crate::exec::worker::{Handle, Line, Worker};
use crate::graph::{Planned, key};
use crate::sema::steps::{OutputKind, StepId};
use crate::stage::action::PROTOCOL;
use crate::stage::{self, Action, Failure, FailureKind};
use crate::store::{Begin, Lease, Output, Record, Store, StoreError};

/// How many lines of a failed step's log are shown.
const TAIL: usize = 10;

/// What a step's thread tells the scheduler.
pub(super) enum Message {
    /// Another process holds the step.
    Waiting,
    /// A worker got the step.
    Started,
    Worker(stage::Event),
    Retrying(Failure),
    /// The last message.
    Ended(End),
}

/// How a step ended.
pub(super) enum End {
    Made(Box<Record>),
    Found(Box<Record>),
    Interrupted,
    Failed { failure: Failure, log_tail: Vec<String>, log: Option<PathBuf> },
}

/// What all steps of a run share.
pub(super) struct Shared<'r> {
    pub(super) store: &'r Store,
    pub(super) machine: &'r Machine,
    pub(super) world: &'r World,
    pub(super) stop: &'r Stop,
    /// Workers without work, by whether they do tensors.
    pub(super) idle: Mutex<Vec<(bool, Worker)>>,
}

/// A step that is about to run.
pub(super) struct Attempt<'r> {
    pub(super) planned: &'r Planned,
    pub(super) content_manifest: Value,
    pub(super) inputs: BTreeMap<String, Vec<PathBuf>>,
    pub(super) params: BTreeMap<String, Value>,
    pub(super) share: Share,
    pub(super) device: String,
    pub(super) control: &'r Control,
}

/// The scheduler's hold on a running step.
#[derive(Debug, Default)]
pub(super) struct Control {
    worker: Mutex<Option<Handle>>,
    timed_out: AtomicBool,
}

impl Control {
    /// Asks the step to save its state and end.
    pub(super) fn stop(&self) {
        self.with_worker(Handle::stop);
    }

    /// Asks the step to end as its time is over.
    pub(super) fn time_out(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Ends the step now.
    pub(super) fn kill(&self) {
        self.with_worker(Handle::kill);
    }

    fn with_worker(&self, act: fn(&Handle)) {
        if let Some(worker) = self.worker.lock().expect("no holder panics").as_ref() {
            act(worker);
        }
    }

    fn set(&self, worker: Option<Handle>) {
        *self.worker.lock().expect("no holder panics") = worker;
    }
}

impl Attempt<'_> {
    /// Finds or makes the step's outputs; the last message is [`Message::Ended`].
    pub(super) fn run(self, shared: &Shared<'_>, messages: &Sender<(StepId, Message)>) {
        let tell = |message| drop(messages.send((self.planned.id, message)));
        let end = match self.find_or_make(shared, &tell) {
            Ok(end) => end,
            Err(error) => {
                End::Failed { failure: store_failure(&error), log_tail: vec![], log: None }
            }
        };
        tell(Message::Ended(end));
    }

    fn find_or_make(&self, shared: &Shared<'_>, tell: &dyn Fn(Message)) -> Result<End, StoreError> {
        let mut told = false;
        let wait = || {
            if !told {
                tell(Message::Waiting);
                told = true;
            }
            !shared.stop.is_asked()
        };
        let lease = match shared.store.begin(self.planned.recipe, wait)? {
            Begin::Hit(record) => return Ok(End::Found(record)),
            Begin::GivenUp => return Ok(End::Interrupted),
            Begin::Miss(lease) => lease,
        };
        let content = key::content(&self.content_manifest);
        if let Some(record) = shared.store.lookup(content) {
            let record = alias(self.planned, record);
            shared.store.record(record.clone())?;
            return Ok(End::Found(Box::new(record)));
        }
        self.make(shared, lease, content, tell)
    }

    fn make(
        &self,
        shared: &Shared<'_>,
        lease: Lease,
        content: Digest,
        tell: &dyn Fn(Message),
    ) -> Result<End, StoreError> {
        let mut log = Log::open(shared.store.log_path(self.planned.recipe));
        let action = self.action(&lease, content);
        let mut retries = self.planned.step.run.retries;
        loop {
            let began = Instant::now();
            let failure = match self.act(shared, &action, &mut log, tell) {
                Acted::Done(scalars) => {
                    let seconds = began.elapsed().as_secs_f64();
                    let record = self.record(shared, content, scalars, seconds);
                    let artifacts = self.artifacts();
                    let made = match self.undeclared(&record) {
                        None => shared.store.publish(lease, &artifacts, record)?,
                        Some(failure) => return Ok(log.failed(failure)),
                    };
                    return Ok(End::Made(Box::new(made)));
                }
                Acted::Interrupted => return Ok(End::Interrupted),
                Acted::Failed(failure) => failure,
            };
            let may_pass = matches!(failure.kind, FailureKind::Crashed | FailureKind::Environment);
            if retries == 0 || !may_pass || shared.stop.is_asked() {
                return Ok(log.failed(failure));
            }
            retries -= 1;
            lease.clear()?;
            tell(Message::Retrying(failure));
        }
    }

    /// Runs the action on a worker.
    fn act(
        &self,
        shared: &Shared<'_>,
        action: &Action,
        log: &mut Log,
        tell: &dyn Fn(Message),
    ) -> Acted {
        let tensor = self.planned.step.stage.tensor;
        let mut worker = match shared.worker(tensor) {
            Ok(worker) => worker,
            Err((program, error)) => {
                return Acted::Failed(Failure {
                    kind: FailureKind::Environment,
                    message: format!("can't start `{}`: {error}", program.display()),
                    help: Some("build it again, or name it with `--torch PROGRAM`".to_owned()),
                });
            }
        };
        self.control.set(Some(worker.handle()));
        if shared.stop.is_asked() {
            return Acted::Interrupted;
        }
        tell(Message::Started);
        worker.send(action);
        let mut scalars = BTreeMap::new();
        let acted = loop {
            match worker.next() {
                Some(Line::Text(text)) => log.line(&text),
                Some(Line::Event(event)) => match event {
                    stage::Event::Done => break Acted::Done(scalars),
                    stage::Event::Interrupted => break self.interrupted(shared),
                    stage::Event::Failed(failure) => break Acted::Failed(failure),
                    stage::Event::Output { name, value } => {
                        scalars.insert(name, Output::Scalar(value));
                    }
                    event => {
                        if let stage::Event::Log { line } = &event {
                            log.line(line);
                        }
                        tell(Message::Worker(event));
                    }
                },
                None => break self.died(shared, &mut worker),
            }
        };
        self.control.set(None);
        // A worker that failed is not trusted with another step.
        if matches!(acted, Acted::Done(_)) {
            shared.idle.lock().expect("no holder panics").push((tensor, worker));
        }
        acted
    }

    fn interrupted(&self, shared: &Shared<'_>) -> Acted {
        if self.control.timed_out.load(Ordering::Relaxed) && !shared.stop.is_asked() {
            return Acted::Failed(timed_out());
        }
        Acted::Interrupted
    }

    fn died(&self, shared: &Shared<'_>, worker: &mut Worker) -> Acted {
        let how = worker.epitaph();
        if shared.stop.is_asked() {
            return Acted::Interrupted;
        }
        if self.control.timed_out.load(Ordering::Relaxed) {
            return Acted::Failed(timed_out());
        }
        let message = format!("the worker died: {how}");
        Acted::Failed(Failure { kind: FailureKind::Crashed, message, help: None })
    }

    fn action(&self, lease: &Lease, content: Digest) -> Action {
        Action {
            protocol: PROTOCOL,
            key: self.planned.recipe,
            stage: self.planned.step.stage.name.clone(),
            params: self.params.clone(),
            inputs: self.inputs.clone(),
            out: lease.out_dir().to_owned(),
            state: lease.state_dir(),
            seed: content.seed(),
            threads: self.share.cpus,
            device: self.device.clone(),
            micro_batch: self.planned.step.run.micro_batch,
        }
    }

    fn record(
        &self,
        shared: &Shared<'_>,
        content: Digest,
        outputs: BTreeMap<String, Output>,
        seconds: f64,
    ) -> Record {
        let now = shared.world.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            recipe: self.planned.recipe,
            content,
            stage: self.planned.step.stage.name.clone(),
            label: self.planned.step.label.clone(),
            point: self.planned.step.point.clone(),
            outputs,
            manifest: self.planned.manifest.clone(),
            seconds,
            finished_unix: now.as_secs() as i64,
        }
    }

    /// Returns the names of the outputs that are files or folders.
    fn artifacts(&self) -> Vec<String> {
        let outputs = &self.planned.step.stage.outputs;
        let artifacts = outputs.iter().filter(|(_, kind)| **kind == OutputKind::Artifact);
        artifacts.map(|(name, _)| name.clone()).collect()
    }

    /// Returns what is wrong when a declared number was not told.
    fn undeclared(&self, record: &Record) -> Option<Failure> {
        let outputs = &self.planned.step.stage.outputs;
        let mut scalars = outputs.iter().filter(|(_, kind)| **kind == OutputKind::Scalar);
        let (name, _) = scalars.find(|(name, _)| !record.outputs.contains_key(*name))?;
        Some(Failure {
            kind: FailureKind::Internal,
            message: format!("the stage did not tell its output `{name}`"),
            help: None,
        })
    }
}

impl Shared<'_> {
    /// Returns an idle worker, or starts one.
    fn worker(&self, tensor: bool) -> Result<Worker, (PathBuf, io::Error)> {
        let mut idle = self.idle.lock().expect("no holder panics");
        if let Some(at) = idle.iter().position(|(kind, _)| *kind == tensor) {
            return Ok(idle.swap_remove(at).1);
        }
        drop(idle);
        let (program, args) = match tensor {
            true => (&self.machine.torch, &[][..]),
            false => (&self.machine.tlm, &["worker"][..]),
        };
        Worker::start(program, args).map_err(|error| (program.clone(), error))
    }
}

/// How an action ended.
enum Acted {
    Done(BTreeMap<String, Output>),
    Interrupted,
    Failed(Failure),
}

/// Returns what another step's record says under this step's key.
pub(super) fn alias(planned: &Planned, record: Record) -> Record {
    Record {
        recipe: planned.recipe,
        label: planned.step.label.clone(),
        point: planned.step.point.clone(),
        manifest: planned.manifest.clone(),
        ..record
    }
}

pub(super) fn store_failure(error: &StoreError) -> Failure {
    let kind = match error {
        StoreError::MissingOutput { .. } => FailureKind::Internal,
        StoreError::Io { .. } | StoreError::Newer { .. } => FailureKind::Environment,
    };
    Failure { kind, message: error.to_string(), help: Some(error.help()) }
}

fn timed_out() -> Failure {
    let message = "it took longer than its `limit`".to_owned();
    Failure { kind: FailureKind::TimedOut, message, help: None }
}

/// A step's log. A log that can't be written must not fail the step, so errors are dropped.
struct Log {
    path: PathBuf,
    file: Option<File>,
    tail: VecDeque<String>,
}

impl Log {
    /// Opens the log for appending: what earlier attempts wrote stays.
    fn open(path: PathBuf) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(&path).ok();
        Self { path, file, tail: VecDeque::new() }
    }

    fn line(&mut self, text: &str) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{text}");
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text.to_owned());
    }

    fn failed(mut self, failure: Failure) -> End {
        let log_tail = self.tail.iter().cloned().collect();
        self.line(&format!("failed: {}", failure.message));
        End::Failed { failure, log_tail, log: self.file.is_some().then_some(self.path) }
    }
}
