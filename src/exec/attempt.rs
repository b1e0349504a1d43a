//! One step, from lease to record, on a thread of its own.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::base::world::remedy;
use crate::base::{Digest, Value, text};
use crate::exec::command::command;
use crate::exec::control::{Control, Reason};
use crate::exec::log::Log;
use crate::exec::machine::{Machine, Share};
use crate::exec::origin::{Origins, Usage};
use crate::exec::retry::Terms;
use crate::exec::stop::Stop;
use crate::exec::worker::{Line, Worker, describe};
use crate::graph::{Plan, Planned};
use crate::sema::steps::{OutputKind, StepId};
use crate::stage::action::PROTOCOL;
use crate::stage::{self, Action, Failure, FailureKind};
use crate::store::{Begin, Lease, Output, Record, Store, StoreError};

/// How long after a worker a signal to all processes may reach this one.
const MOMENT: Duration = Duration::from_millis(250);
/// How many files are told that a stage wrote beside its outputs.
const SURPLUS_TOLD: usize = 5;
/// The exit code of a program whose libraries the system does not find.
const UNLOADABLE: i32 = 127;

/// What a step's thread tells the scheduler.
pub(super) enum Message {
    /// Another process holds the step: which, if it is known.
    Waiting(Option<String>),
    /// A worker got the step.
    Started,
    Worker(stage::Event),
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
    pub(super) origins: &'r Origins<'r>,
    pub(super) stop: &'r Stop,
    /// Workers without work, by whether they do tensors.
    pub(super) idle: Mutex<Vec<(bool, Worker)>>,
}

/// A step that is about to run.
pub(super) struct Attempt<'r> {
    pub(super) plan: &'r Plan,
    pub(super) planned: Planned<'r>,
    pub(super) content: Digest,
    pub(super) inputs: BTreeMap<String, Vec<PathBuf>>,
    /// The outputs, of a step that chooses among those of others.
    pub(super) chosen: Option<BTreeMap<String, Output>>,
    pub(super) params: BTreeMap<String, Value>,
    pub(super) share: Share,
    pub(super) device: String,
    pub(super) terms: Terms,
    pub(super) control: &'r Control,
}

impl End {
    fn failed(failure: Failure) -> Self {
        Self::Failed { failure, log_tail: Vec::new(), log: None }
    }
}

impl Attempt<'_> {
    /// Finds or makes the step's outputs; the last message is [`Message::Ended`].
    pub(super) fn run(self, shared: &Shared<'_>, messages: &Sender<(StepId, Message)>) {
        let tell = |message| drop(messages.send((self.planned.id, message)));
        tell(Message::Ended(end(|| self.find_or_make(shared, &tell))));
    }

    fn find_or_make(&self, shared: &Shared<'_>, tell: &dyn Fn(Message)) -> Result<End, StoreError> {
        let mut polls = 0;
        let wait = |holder: Option<String>| {
            polls += 1;
            // The first may only have met a sweep.
            if polls == 2 {
                tell(Message::Waiting(holder));
            }
            !self.is_stopped(shared)
        };
        let who = shared.origins.world().process();
        let lease = match shared.store.begin(self.planned.recipe, &who, wait)? {
            Begin::Hit(record) => return Ok(End::Found(record)),
            Begin::GivenUp => return Ok(End::Interrupted),
            Begin::Miss(lease) => lease,
        };
        if let Some(record) = shared.store.lookup(self.content) {
            let record = alias(self.plan, self.planned, record);
            shared.store.record(&record)?;
            return Ok(End::Found(Box::new(record)));
        }
        if let Some(outputs) = &self.chosen {
            let record = self.record(shared, outputs.clone(), 0.0, Usage::default());
            shared.store.record(&record)?;
            return Ok(End::Made(Box::new(record)));
        }
        self.make(shared, lease, tell)
    }

    fn make(
        &self,
        shared: &Shared<'_>,
        lease: Lease,
        tell: &dyn Fn(Message),
    ) -> Result<End, StoreError> {
        self.inputs.values().flatten().try_for_each(|path| shared.store.check(path))?;
        let (now, note) = (shared.origins.world().now(), self.terms.changed.as_deref());
        let mut log = Log::open(shared.store, self.planned, now, note);
        let action = self.action(&lease);
        let failure = loop {
            let began = Instant::now();
            match self.act(shared, &action, &mut log, tell) {
                Acted::Done(scalars, usage) => {
                    let seconds = began.elapsed().as_secs_f64();
                    let record = self.record(shared, scalars, seconds, usage);
                    if let Some(failure) = self.undeclared(&record) {
                        break failure;
                    }
                    if let Some(failure) = self.changed_input(shared)? {
                        break failure;
                    }
                    self.tell_of_surplus(&lease, &mut log);
                    let made = shared.store.publish(lease, &self.artifacts(), record)?;
                    return Ok(End::Made(Box::new(made)));
                }
                Acted::Interrupted => return Ok(End::Interrupted),
                Acted::Lost => lease.clear()?,
                Acted::Failed(failure) => break failure,
            }
        };
        let (log_tail, log) = log.close(&failure.message);
        Ok(End::Failed { failure, log_tail, log })
    }

    /// Returns whether the step, or the whole run, is to stop.
    fn is_stopped(&self, shared: &Shared<'_>) -> bool {
        shared.stop.is_asked() || self.control.asked() == Some(Reason::Stop)
    }

    /// Returns what is wrong when an input is not what it was: the record would be of something else. A command of the recipe
    /// may have changed it.
    fn changed_input(&self, shared: &Shared<'_>) -> Result<Option<Failure>, StoreError> {
        let is_command = self.planned.step.stage().shell().is_some();
        for (name, path) in
            self.inputs.iter().flat_map(|(name, paths)| paths.iter().map(move |path| (name, path)))
        {
            let checked = match is_command {
                true => shared.store.check_used(path),
                false => shared.store.check(path),
            };
            match checked {
                Err(error @ StoreError::Damaged { .. }) if is_command => {
                    return Ok(Some(changed(name, &error)));
                }
                checked => checked?,
            }
            if shared.store.source_changed(path) {
                return Ok(Some(edited(path)));
            }
        }
        Ok(None)
    }

    /// Notes what the stage wrote beside its outputs.
    fn tell_of_surplus(&self, lease: &Lease, log: &mut Log) {
        let artifacts = self.artifacts();
        let entries = fs::read_dir(lease.out_dir()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let surplus: BTreeSet<_> = names.filter(|name| !artifacts.contains(name)).collect();
        if !surplus.is_empty() {
            let count = text::plural(surplus.len(), "file");
            let some: Vec<_> = surplus.into_iter().take(SURPLUS_TOLD).collect();
            log.line(&format!("tlm: {count} beside the outputs not kept: {}", some.join(", ")));
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
        let tensor = self.planned.step.stage().tensor;
        let warm = shared.warm_worker(tensor);
        let is_warm = warm.is_some();
        let mut worker = match warm.map_or_else(|| shared.new_worker(tensor), Ok) {
            Ok(worker) => worker,
            Err((program, error)) => {
                let help = remedy(&error);
                let help = help.unwrap_or("build it again, or name it with `--torch PROGRAM`");
                return Acted::Failed(Failure {
                    kind: FailureKind::Environment,
                    message: format!("can't start `{}`: {error}", program.display()),
                    help: Some(help.to_owned()),
                });
            }
        };
        self.control.begin(worker.handle(), shared.stop.clock());
        let acted = match self.is_stopped(shared) {
            true => Acted::Interrupted,
            false => {
                tell(Message::Started);
                match worker.send(action) {
                    Ok(()) => self.listen(shared, &mut worker, is_warm, log, tell),
                    Err(error) => Acted::Failed(unreached(&error)),
                }
            }
        };
        self.control.end();
        match acted {
            Acted::Done(..) => {
                shared.idle.lock().expect("no holder panics").push((tensor, worker));
            }
            // A worker that failed is not trusted with another step.
            Acted::Failed(_) => worker.last_words().iter().for_each(|text| log.line(text)),
            Acted::Interrupted | Acted::Lost => {}
        }
        acted
    }

    /// Hears a worker until it is done with the step.
    fn listen(
        &self,
        shared: &Shared<'_>,
        worker: &mut Worker,
        is_warm: bool,
        log: &mut Log,
        tell: &dyn Fn(Message),
    ) -> Acted {
        let (mut scalars, mut usage) = (BTreeMap::new(), Usage::default());
        let mut heard = false;
        loop {
            let line = worker.next();
            self.control.heard(shared.stop.clock());
            let event = match line {
                Some(Line::Event(event)) => event,
                Some(Line::Text(text)) => {
                    log.line(&text);
                    continue;
                }
                None => {
                    let how = worker.wait();
                    return self.unless_asked(shared, || match is_warm && !heard {
                        true => Acted::Lost,
                        false => Acted::Failed(self.died(how)),
                    });
                }
            };
            heard = true;
            match event {
                stage::Event::Done => return Acted::Done(scalars, usage),
                stage::Event::Interrupted => {
                    // A signal to all processes may reach the worker first.
                    shared.stop.wait(MOMENT);
                    return self.unless_asked(shared, || Acted::Failed(told_to_stop()));
                }
                stage::Event::Failed(failure) => return Acted::Failed(failure),
                stage::Event::Output { name, value } => {
                    scalars.insert(name, Output::Scalar(value));
                }
                event => {
                    match &event {
                        stage::Event::Log { line } => log.line(line),
                        stage::Event::Used { cpu_seconds, peak_bytes } => {
                            let cpu_seconds = Some(*cpu_seconds);
                            usage = Usage { cpu_seconds, peak_bytes: *peak_bytes };
                        }
                        _ => {}
                    }
                    tell(Message::Worker(event));
                }
            }
        }
    }

    /// Returns how an action ended whose worker stopped: on our request, or else `otherwise`.
    fn unless_asked(&self, shared: &Shared<'_>, otherwise: impl FnOnce() -> Acted) -> Acted {
        match self.control.asked() {
            _ if self.is_stopped(shared) => Acted::Interrupted,
            Some(Reason::Late) => Acted::Failed(timed_out()),
            Some(Reason::Stalled) => Acted::Failed(stalled(self.terms.limits.stall)),
            Some(Reason::Stop) | None => otherwise(),
        }
    }

    fn died(&self, how: io::Result<ExitStatus>) -> Failure {
        let (kind, how) = match how {
            Ok(status) if status.code() == Some(UNLOADABLE) && self.planned.step.stage().tensor => {
                return unloadable();
            }
            Ok(status) => describe(status),
            Err(error) => (FailureKind::Crashed, format!("it can't be waited for: {error}")),
        };
        Failure { kind, message: format!("the worker died: {how}"), help: None }
    }

    fn action(&self, lease: &Lease) -> Action {
        Action {
            protocol: PROTOCOL,
            key: self.planned.recipe,
            stage: self.planned.step.stage().name.clone(),
            params: self.params.clone(),
            inputs: self.inputs.clone(),
            out: lease.out_dir().to_owned(),
            state: lease.state_dir(),
            seed: self.content.seed(),
            threads: self.share.cpus,
            device: self.device.clone(),
            micro_batch: self.planned.step.run().micro_batch,
            recompute: self.planned.step.run().recompute,
            shell: command(self.planned.step.stage(), &self.inputs, &self.params, lease.out_dir()),
        }
    }

    fn record(
        &self,
        shared: &Shared<'_>,
        outputs: BTreeMap<String, Output>,
        seconds: f64,
        usage: Usage,
    ) -> Record {
        let now = shared.origins.world().now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            recipe: self.planned.recipe,
            content: self.content,
            stage: self.planned.step.stage().name.clone(),
            label: self.planned.step.label().to_owned(),
            point: point(self.planned),
            outputs,
            manifest: self.plan.manifest(self.planned.id),
            seconds,
            finished_unix: now.as_secs() as i64,
            origin: shared.origins.of(self.planned, self.terms.tries, usage),
        }
    }

    /// Returns the names of the outputs that are files or folders.
    fn artifacts(&self) -> Vec<String> {
        let outputs = &self.planned.step.stage().outputs;
        let artifacts = outputs.iter().filter(|(_, kind)| **kind == OutputKind::Artifact);
        artifacts.map(|(name, _)| name.clone()).collect()
    }

    /// Returns what is wrong when a declared number was not told.
    fn undeclared(&self, record: &Record) -> Option<Failure> {
        let outputs = &self.planned.step.stage().outputs;
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
    /// Returns a worker that waits for work, if one of them still lives.
    fn warm_worker(&self, tensor: bool) -> Option<Worker> {
        let mut idle = self.idle.lock().expect("no holder panics");
        while let Some(at) = idle.iter().position(|(kind, _)| *kind == tensor) {
            let (_, worker) = idle.swap_remove(at);
            if worker.is_ready() {
                return Some(worker);
            }
        }
        None
    }

    fn new_worker(&self, tensor: bool) -> Result<Worker, (PathBuf, io::Error)> {
        let (program, worker) = match tensor {
            true => (&self.machine.torch, Worker::start(&self.machine.torch, &[])),
            false => (&self.machine.tlm, Worker::start_guarded(&self.machine.tlm)),
        };
        worker.map_err(|error| (program.clone(), error))
    }
}

/// How an action ended.
enum Acted {
    Done(BTreeMap<String, Output>, Usage),
    Interrupted,
    /// The worker had waited for work, and died before it said anything of this.
    Lost,
    Failed(Failure),
}

/// Returns how a step ended; what panics is a bug that must not hang the run.
fn end(find_or_make: impl FnOnce() -> Result<End, StoreError>) -> End {
    match catch_unwind(AssertUnwindSafe(find_or_make)) {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => End::failed(store_failure(&error)),
        Err(panic) => End::failed(bug(&*panic)),
    }
}

fn bug(panic: &(dyn Any + Send)) -> Failure {
    let message = stage::worker::panic_message(panic);
    Failure { kind: FailureKind::Internal, message, help: None }
}

/// Returns what another step's record says under this step's key.
pub(super) fn alias(plan: &Plan, planned: Planned<'_>, record: Record) -> Record {
    Record {
        recipe: planned.recipe,
        label: planned.step.label().to_owned(),
        point: point(planned),
        manifest: plan.manifest(planned.id),
        ..record
    }
}

/// Returns a step's axis values as its record has them.
fn point(planned: Planned<'_>) -> Vec<(String, String)> {
    let values = planned.step.point().iter();
    values.map(|(axis, value)| (axis.to_string(), value.to_string())).collect()
}

fn store_failure(error: &StoreError) -> Failure {
    let kind = match error {
        StoreError::MissingOutput { .. } => FailureKind::Internal,
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
            FailureKind::Internal
        }
        StoreError::Io { .. }
        | StoreError::OtherFormat { .. }
        | StoreError::NotAStore { .. }
        | StoreError::NoStore { .. }
        | StoreError::NotUtf8 { .. }
        | StoreError::DamagedRoot { .. }
        | StoreError::NoPinName { .. }
        | StoreError::Damaged { .. } => FailureKind::Environment,
    };
    Failure { kind, message: error.to_string(), help: Some(error.help()) }
}

fn timed_out() -> Failure {
    let message = "it took longer than its `limit`".to_owned();
    Failure { kind: FailureKind::TimedOut, message, help: None }
}

fn stalled(stall: Option<Duration>) -> Failure {
    let stall = text::duration(stall.unwrap_or_default().as_secs_f64());
    let message = format!("it said nothing and used no processor time for {stall} (`stall`)");
    Failure { kind: FailureKind::Stalled, message, help: None }
}

fn changed(input: &str, error: &StoreError) -> Failure {
    Failure {
        kind: FailureKind::Input,
        message: format!("its input `{input}` was changed while it ran: {error}"),
        help: Some(
            "other steps read it too: let the command work on a copy; the input is made again by the next run"
                .to_owned(),
        ),
    }
}

fn edited(path: &Path) -> Failure {
    Failure {
        kind: FailureKind::Input,
        message: format!("`{}` changed while the step ran", path.display()),
        help: Some("run the same command again; what was made of it is not kept".to_owned()),
    }
}

fn unreached(error: &io::Error) -> Failure {
    let message = format!("can't write to the worker: {error}");
    let help = Some("run the same command again".to_owned());
    Failure { kind: FailureKind::Environment, message, help }
}

fn told_to_stop() -> Failure {
    Failure {
        kind: FailureKind::Crashed,
        message: "the worker was told to stop by another program".to_owned(),
        help: Some("run the same command again; what the step saved is kept".to_owned()),
    }
}

fn unloadable() -> Failure {
    Failure {
        kind: FailureKind::Environment,
        message: "the tensor worker can't start: the system does not find its libraries".to_owned(),
        help: Some(
            "get libtorch back with `make libtorch`, or set `LIBTORCH` to where it is and build again"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_its_step_as_a_bug() {
        let End::Failed { failure, .. } = end(|| panic!("out of {}", "bounds")) else {
            panic!("it did not fail");
        };
        assert_eq!(
            (failure.kind, &*failure.message),
            (FailureKind::Internal, "internal error: out of bounds")
        );
    }
}
