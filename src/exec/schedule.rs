//! The scheduler: starts what can start, longest path first, until nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crate::base::{Value, World};
use crate::exec::attempt::{Attempt, Control, End, Message, Shared, alias, store_failure};
use crate::exec::machine::{Machine, Share};
use crate::exec::{Event, Outcome, Stop, estimates};
use crate::graph::{Plan, Planned, Status};
use crate::sema::steps::{Arg, Input, OutputRef, StepId};
use crate::stage::{Failure, FailureKind};
use crate::store::{Output, Record, Store};

/// How often stop requests and time limits are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a step whose time is over gets to save its state, but never longer than its limit was.
const GRACE: Duration = Duration::from_secs(60);

/// Runs the steps of a plan that are due, and tells `sink` what happens.
pub fn run(
    plan: &Plan,
    store: &Store,
    machine: &Machine,
    world: &World,
    stop: &Stop,
    sink: &mut dyn FnMut(&Event),
) -> Outcome {
    store.sweep();
    let shared = Shared { store, machine, world, stop, idle: Mutex::new(Vec::new()) };
    let controls: BTreeMap<StepId, Control> =
        plan.due().into_iter().map(|id| (id, Control::default())).collect();
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        let mut scheduler = Scheduler::new(plan, &shared, &controls, sender, sink);
        scheduler.reuse();
        scheduler.run(scope, &receiver);
        scheduler.outcome
    })
}

struct Scheduler<'r> {
    plan: &'r Plan,
    shared: &'r Shared<'r>,
    controls: &'r BTreeMap<StepId, Control>,
    sender: Sender<(StepId, Message)>,
    sink: &'r mut dyn FnMut(&Event),
    /// Seconds from the start of each step to the end of the longest path behind it.
    weights: BTreeMap<StepId, f64>,
    /// Steps to run that have not started.
    pending: BTreeSet<StepId>,
    running: BTreeMap<StepId, Running>,
    free: Share,
    gpus: BTreeSet<u32>,
    stopping: bool,
    outcome: Outcome,
}

struct Running {
    share: Share,
    gpus: Vec<u32>,
    /// When a worker got it; waiting for another process takes nothing of its limit.
    began: Option<Instant>,
    limit: Option<Duration>,
    /// When its time was over.
    asked: Option<Instant>,
}

impl<'r> Scheduler<'r> {
    fn new(
        plan: &'r Plan,
        shared: &'r Shared<'r>,
        controls: &'r BTreeMap<StepId, Control>,
        sender: Sender<(StepId, Message)>,
        sink: &'r mut dyn FnMut(&Event),
    ) -> Self {
        let machine = shared.machine;
        Self {
            plan,
            shared,
            controls,
            sender,
            sink,
            weights: weights(plan, &estimates(plan, shared.store)),
            pending: controls.keys().copied().collect(),
            running: BTreeMap::new(),
            free: Share {
                cpus: machine.cpus,
                gpus: machine.gpus,
                mem: machine.mem.unwrap_or(u64::MAX),
            },
            gpus: (0..machine.gpus).collect(),
            stopping: false,
            outcome: Outcome::default(),
        }
    }

    /// Takes over what the plan found in the store.
    fn reuse(&mut self) {
        for planned in &self.plan.steps {
            let record = match &planned.status {
                Status::Fresh(record) => (**record).clone(),
                Status::Same(record) => {
                    let record = alias(planned, (**record).clone());
                    // Without it the step is found by content again the next time.
                    if let Err(error) = self.shared.store.record(record.clone()) {
                        let failure = store_failure(&error);
                        self.fail(planned.id, failure, Vec::new(), None);
                        continue;
                    }
                    record
                }
                Status::Stale | Status::Waiting => continue,
            };
            self.outcome.records.insert(planned.id, record);
            (self.sink)(&Event::Reused(planned.id));
        }
    }

    fn run<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, 'r>,
        messages: &Receiver<(StepId, Message)>,
    ) {
        loop {
            self.heed_stop();
            while let Some((id, share)) = self.next() {
                self.start(scope, id, share);
            }
            if self.running.is_empty() && (self.pending.is_empty() || self.stopping) {
                self.outcome.interrupted |= !self.pending.is_empty();
                return;
            }
            match messages.recv_timeout(TICK) {
                Ok((id, message)) => self.hear(id, message),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.heed_limits();
        }
    }

    // ---- stopping

    fn heed_stop(&mut self) {
        if self.shared.stop.is_urgent() {
            self.running.keys().for_each(|id| self.controls[id].kill());
        }
        if self.shared.stop.is_asked() {
            self.stopping = true;
            self.running.keys().for_each(|id| self.controls[id].stop());
        }
    }

    fn heed_limits(&mut self) {
        for (id, running) in &mut self.running {
            let (Some(limit), Some(began)) = (running.limit, running.began) else { continue };
            match running.asked {
                Some(asked) if asked.elapsed() > GRACE.min(limit) => self.controls[id].kill(),
                None if began.elapsed() > limit => {
                    running.asked = Some(Instant::now());
                    self.controls[id].time_out();
                }
                _ => {}
            }
        }
    }

    // ---- starting

    /// Returns the step to start now: the one with the longest path behind it, if there is room for it. Lesser ones do not
    /// overtake it, or a large step could wait forever.
    fn next(&self) -> Option<(StepId, Share)> {
        if self.stopping {
            return None;
        }
        let ready: Vec<_> = self.pending.iter().filter(|id| self.is_ready(**id)).collect();
        let heaviest = |a: &&&StepId, b: &&&StepId| {
            self.weights[**a].total_cmp(&self.weights[**b]).then_with(|| b.cmp(a))
        };
        let id = **ready.iter().max_by(heaviest)?;
        let planned = self.plan.get(id)?;
        let share = self.shared.machine.share(planned, self.free.cpus, ready.len() - 1);
        let room = share.cpus <= self.free.cpus
            && share.gpus <= self.free.gpus
            && share.mem <= self.free.mem;
        room.then_some((id, share))
    }

    fn is_ready(&self, id: StepId) -> bool {
        self.plan.inputs(id).all(|input| self.outcome.records.contains_key(&input))
    }

    fn start<'scope>(&mut self, scope: &'scope Scope<'scope, 'r>, id: StepId, share: Share) {
        self.pending.remove(&id);
        let Some(planned) = self.plan.get(id) else { return };
        let records = &self.outcome.records;
        let manifest = self.plan.content_manifest(id, |output| find(records, output).cloned());
        let (Some(content_manifest), Some(params)) = (manifest, params(planned, records)) else {
            let message = "an input is missing in the store's record".to_owned();
            let failure = Failure { kind: FailureKind::Internal, message, help: None };
            self.fail(id, failure, Vec::new(), None);
            return;
        };
        self.free.cpus -= share.cpus;
        self.free.gpus -= share.gpus;
        self.free.mem -= share.mem;
        let gpus: Vec<u32> = self.gpus.iter().take(share.gpus as usize).copied().collect();
        self.gpus.retain(|gpu| !gpus.contains(gpu));
        let attempt = Attempt {
            planned,
            content_manifest,
            inputs: self.inputs(planned),
            params,
            share,
            device: gpus.first().map_or_else(|| "cpu".to_owned(), |gpu| format!("cuda:{gpu}")),
            control: &self.controls[&id],
        };
        let limit =
            planned.step.run.limit_s.and_then(|limit| Duration::try_from_secs_f64(limit).ok());
        self.running.insert(id, Running { share, gpus, began: None, limit, asked: None });
        let (shared, sender) = (self.shared, self.sender.clone());
        scope.spawn(move || attempt.run(shared, &sender));
    }

    fn inputs(&self, planned: &Planned) -> BTreeMap<String, Vec<PathBuf>> {
        let paths = |(name, input): &(String, Input)| {
            let paths = match input {
                Input::Files { .. } => planned.files.get(name).cloned().unwrap_or_default(),
                Input::Output(output) => match find(&self.outcome.records, output) {
                    Some(Output::Object { digest, .. }) => {
                        vec![self.shared.store.object_path(*digest)]
                    }
                    _ => Vec::new(),
                },
            };
            (name.clone(), paths)
        };
        planned.step.inputs.iter().map(paths).collect()
    }

    // ---- hearing

    fn hear(&mut self, id: StepId, message: Message) {
        match message {
            Message::Waiting => (self.sink)(&Event::Waiting(id)),
            Message::Started => {
                self.began(id, Some(Instant::now()));
                (self.sink)(&Event::Started(id));
            }
            Message::Worker(event) => (self.sink)(&Event::Worker(id, event)),
            Message::Retrying(failure) => {
                self.began(id, None);
                (self.sink)(&Event::Retrying(id, failure));
            }
            Message::Ended(end) => self.ended(id, end),
        }
    }

    fn began(&mut self, id: StepId, at: Option<Instant>) {
        if let Some(running) = self.running.get_mut(&id) {
            running.began = at;
        }
    }

    fn ended(&mut self, id: StepId, end: End) {
        if let Some(running) = self.running.remove(&id) {
            self.free.cpus += running.share.cpus;
            self.free.gpus += running.share.gpus;
            self.free.mem += running.share.mem;
            self.gpus.extend(running.gpus);
        }
        match end {
            End::Made(record) => {
                self.outcome.ran.push(id);
                (self.sink)(&Event::Finished(id, record.clone()));
                self.outcome.records.insert(id, *record);
            }
            End::Found(record) => {
                self.outcome.reused.push(id);
                self.outcome.records.insert(id, *record);
                (self.sink)(&Event::Reused(id));
            }
            End::Interrupted => {
                self.outcome.interrupted = true;
                (self.sink)(&Event::Interrupted(id));
            }
            End::Failed { failure, log_tail, log } => self.fail(id, failure, log_tail, log),
        }
    }

    fn fail(&mut self, id: StepId, failure: Failure, log_tail: Vec<String>, log: Option<PathBuf>) {
        self.pending.remove(&id);
        self.outcome.failed.insert(id, failure.clone());
        (self.sink)(&Event::Failed { step: id, failure, log_tail, log });
        let mut next = vec![id];
        while let Some(broken) = next.pop() {
            for user in self.plan.users(broken).collect::<Vec<_>>() {
                if self.pending.remove(&user) {
                    self.outcome.skipped.insert(user, id);
                    (self.sink)(&Event::Skipped { step: user, because: id });
                    next.push(user);
                }
            }
        }
    }
}

fn find<'o>(records: &'o BTreeMap<StepId, Record>, output: &OutputRef) -> Option<&'o Output> {
    records.get(&output.step)?.outputs.get(&output.output)
}

/// Returns all parameters, those that other steps computed looked up.
fn params(
    planned: &Planned,
    records: &BTreeMap<StepId, Record>,
) -> Option<BTreeMap<String, Value>> {
    let value = |(name, arg): (&String, &Arg)| {
        let value = match arg {
            Arg::Value(value) => value.clone(),
            Arg::Late(output) => match find(records, output)? {
                Output::Scalar(value) => value.clone(),
                Output::Object { .. } => return None,
            },
        };
        Some((name.clone(), value))
    };
    let mut params: BTreeMap<_, _> =
        planned.step.params.iter().map(value).collect::<Option<_>>()?;
    params.extend(planned.step.unkeyed.clone());
    Some(params)
}

/// Returns the length of the longest path from each step to the end, in seconds; a step of unknown length counts as one.
fn weights(plan: &Plan, estimates: &BTreeMap<StepId, f64>) -> BTreeMap<StepId, f64> {
    let mut weights: BTreeMap<StepId, f64> = BTreeMap::new();
    for planned in plan.steps.iter().rev() {
        let users = plan.users(planned.id).filter_map(|user| weights.get(&user));
        let behind = users.fold(0.0, |longest: f64, weight| longest.max(*weight));
        let own = estimates.get(&planned.id).copied().unwrap_or(1.0);
        weights.insert(planned.id, own + behind);
    }
    weights
}
