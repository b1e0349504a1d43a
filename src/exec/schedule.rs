//! The scheduler: starts what can start, longest path first, until nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, Scope};
use std::time::Duration;

use crate::base::Value;
use crate::exec::attempt::{Attempt, End, Message, Shared, alias};
use crate::exec::control::Control;
use crate::exec::machine::{Machine, Share};
use crate::exec::retry::Terms;
use crate::exec::{Estimates, Event, OnFailure, Origins, Outcome, Stop};
use crate::graph::{Plan, Planned};
use crate::sema::least;
use crate::sema::steps::{Arg, Body, Input, OutputRef, StepId, slot_of};
use crate::stage::{Failure, FailureKind};
use crate::store::{Output, Record, Store};

/// How often stop requests and time limits are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What is to be run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Run<'r> {
    /// The plan, whose steps that are due run.
    pub plan: &'r Plan,
    /// Where their outputs go.
    pub store: &'r Store,
    /// What there is to run on.
    pub machine: &'r Machine,
    /// What the steps come from, and the process's surroundings.
    pub origins: &'r Origins<'r>,
    /// When to stop.
    pub stop: &'r Stop,
    /// Whether to go on when a step failed.
    pub on_failure: OnFailure,
    /// What the steps may take.
    pub estimates: &'r Estimates,
}

impl Run<'_> {
    /// Runs the steps, and tells what `begun` returns what happens. That is called when the first steps can have started.
    ///
    /// The scheduler has a thread of its own: telling may wait for a reader, time limits and stop requests may not.
    pub fn go<W>(
        self,
        begun: impl FnOnce() -> W,
        mut hear: impl FnMut(&mut W, &Event),
    ) -> (Outcome, W) {
        let Self { plan, store, machine, origins, stop, .. } = self;
        store.sweep();
        let shared = Shared { store, machine, origins, stop, idle: Mutex::new(Vec::new()) };
        let controls: BTreeMap<StepId, Control> =
            plan.unrecorded().into_iter().map(|id| (id, Control::default())).collect();
        let (shared, controls) = (&shared, &controls);
        thread::scope(|scope| {
            let (events, told) = channel();
            if !controls.is_empty() {
                scope.spawn(|| shared.origins.look());
            }
            let scheduler = scope.spawn(move || {
                let (sender, receiver) = channel();
                let mut scheduler = Scheduler::new(&self, shared, controls, sender, events);
                scheduler.run(scope, &receiver);
                scheduler.outcome
            });
            let mut watch = begun();
            told.iter().for_each(|event| hear(&mut watch, &event));
            (scheduler.join().expect("the scheduler does not panic"), watch)
        })
    }
}

struct Scheduler<'r> {
    plan: &'r Plan,
    shared: &'r Shared<'r>,
    controls: &'r BTreeMap<StepId, Control>,
    sender: Sender<(StepId, Message)>,
    events: Sender<Event>,
    /// The records of fresh steps that were asked for.
    fresh: BTreeMap<StepId, Record>,
    /// Steps by the length of the longest path behind each, the longest first.
    ranks: BTreeMap<StepId, usize>,
    /// Steps to run that need others first, and how many.
    waiting: BTreeMap<StepId, usize>,
    /// Steps that need no others, by rank; whether the store has their outputs by content is still to be seen.
    unsure: BTreeSet<(usize, StepId)>,
    /// Steps to run that need no others, by rank.
    ready: BTreeSet<(usize, StepId)>,
    /// Steps that are to be tried again, and when by the run's clock.
    resting: BTreeMap<StepId, Duration>,
    /// How steps are run that were tried before.
    terms: BTreeMap<StepId, Terms>,
    running: BTreeMap<StepId, Running>,
    on_failure: OnFailure,
    free: Share,
    gpus: BTreeSet<u32>,
    outcome: Outcome,
}

struct Running {
    share: Share,
    gpus: Vec<u32>,
    terms: Terms,
}

impl<'r> Scheduler<'r> {
    fn new(
        run: &Run<'r>,
        shared: &'r Shared<'r>,
        controls: &'r BTreeMap<StepId, Control>,
        sender: Sender<(StepId, Message)>,
        events: Sender<Event>,
    ) -> Self {
        let (machine, plan) = (shared.machine, run.plan);
        Self {
            plan,
            shared,
            controls,
            sender,
            events,
            fresh: BTreeMap::new(),
            ranks: ranks(plan, controls.keys().rev(), run.estimates),
            waiting: BTreeMap::new(),
            unsure: BTreeSet::new(),
            ready: BTreeSet::new(),
            resting: BTreeMap::new(),
            terms: BTreeMap::new(),
            running: BTreeMap::new(),
            on_failure: run.on_failure,
            free: Share {
                cpus: machine.cpus,
                gpus: machine.gpus,
                mem: machine.mem.unwrap_or(u64::MAX),
            },
            gpus: (0..machine.gpus).collect(),
            outcome: Outcome { done: plan.done(), ..Outcome::default() },
        }
    }

    fn tell(&self, event: Event) {
        // Nobody hears it only when telling panicked.
        let _ = self.events.send(event);
    }

    fn run<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, 'r>,
        messages: &Receiver<(StepId, Message)>,
    ) {
        self.line_up();
        loop {
            self.heed_stop();
            self.wake();
            while let Some((id, share)) = self.next() {
                self.start(scope, id, share);
            }
            let is_done =
                self.unsure.is_empty() && self.ready.is_empty() && self.resting.is_empty();
            if self.running.is_empty() && (is_done || self.is_stopping()) {
                let has_rest = !is_done || !self.waiting.is_empty();
                self.outcome.interrupted |= has_rest && self.shared.stop.is_asked();
                return;
            }
            // While nothing can start, there is time to look at those behind.
            let patience = if self.look_up() { Duration::ZERO } else { TICK };
            match messages.recv_timeout(patience) {
                Ok((id, message)) => self.hear(id, message),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.heed_limits();
        }
    }

    /// Sorts the steps into those that need others first, and the rest.
    fn line_up(&mut self) {
        for id in self.controls.keys() {
            let is_due = |input: &StepId| self.controls.contains_key(input);
            match self.plan.inputs(*id).filter(is_due).count() {
                0 => drop(self.unsure.insert((self.ranks[id], *id))),
                needed => drop(self.waiting.insert(*id, needed)),
            }
        }
    }

    // ---- stopping

    fn is_stopping(&self) -> bool {
        let is_failing = self.on_failure == OnFailure::Stop && !self.outcome.failed.is_empty();
        is_failing || self.shared.stop.is_asked()
    }

    fn heed_stop(&mut self) {
        if self.shared.stop.is_urgent() {
            self.running.keys().for_each(|id| self.controls[id].kill());
        }
        if self.is_stopping() {
            self.running.keys().for_each(|id| self.controls[id].stop());
        }
    }

    fn heed_limits(&self) {
        let now = self.shared.stop.clock();
        for (id, running) in &self.running {
            self.controls[id].heed(running.terms.limits, now);
        }
    }

    // ---- trying again

    /// Lines up the steps that have rested.
    fn wake(&mut self) {
        let now = self.shared.stop.clock();
        let ranks = &self.ranks;
        let rested = self.resting.extract_if(.., |_, until| *until <= now);
        self.ready.extend(rested.map(|(id, _)| (ranks[&id], id)));
    }

    /// Tries a failed step again later, or notes the failure.
    fn retry(&mut self, id: StepId, failure: Failure, log_tail: Vec<String>, log: Option<PathBuf>) {
        let again =
            self.terms.get(&id).and_then(|terms| terms.again(&failure, self.shared.machine));
        match again.filter(|_| !self.is_stopping()) {
            Some((terms, raised, rest)) => {
                self.terms.insert(id, terms);
                self.resting.insert(id, self.shared.stop.clock() + rest);
                self.tell(Event::Retrying { step: id, failure, raised });
            }
            None => self.fail(id, failure, log_tail, log),
        }
    }

    // ---- looking up

    /// Looks the first of the steps up by content whose inputs are known now; one that the store has need not run. Returns
    /// whether there was one.
    fn look_up(&mut self) -> bool {
        if self.is_stopping() {
            return false;
        }
        let Some((rank, id)) = self.unsure.pop_first() else { return false };
        match self.same(id) {
            Some(record) => self.ended(id, End::Found(Box::new(record))),
            None => drop(self.ready.insert((rank, id))),
        }
        true
    }

    /// Returns whether the step to start next is one that has to be looked up first.
    fn is_next_unsure(&self) -> bool {
        let is_before = |unsure| self.ready.first().is_none_or(|ready| unsure < ready);
        self.unsure.first().is_some_and(is_before)
    }

    /// Returns what the store has of a step under its content key, as its own.
    fn same(&mut self, id: StepId) -> Option<Record> {
        self.read_fresh(id);
        let content = self.plan.content_key(id, |output| self.find(output).cloned())?;
        let record = self.shared.store.lookup(content)?;
        let record = alias(self.plan, self.plan.get(id)?, record);
        // Without it the step is found by content again the next time.
        let _ = self.shared.store.record(&record);
        Some(record)
    }

    // ---- starting

    /// Returns the step to start now: the one with the longest path behind it, if there is room for it. Lesser ones do not
    /// overtake it, or a large step could wait forever.
    fn next(&mut self) -> Option<(StepId, Share)> {
        while self.is_next_unsure() {
            if !self.look_up() {
                return None;
            }
        }
        let (_, id) = *self.ready.first().filter(|_| !self.is_stopping())?;
        let planned = self.plan.get(id)?;
        let others = self.ready.len() + self.unsure.len() - 1;
        let mut share = self.shared.machine.share(planned, self.free.cpus, others);
        share.mem = self.terms.get(&id).map_or(share.mem, |terms| terms.mem);
        let room = share.cpus <= self.free.cpus
            && share.gpus <= self.free.gpus
            && share.mem <= self.free.mem;
        room.then_some((id, share))
    }

    fn start<'scope>(&mut self, scope: &'scope Scope<'scope, 'r>, id: StepId, share: Share) {
        self.ready.pop_first();
        let Some(planned) = self.plan.get(id) else { return };
        self.read_fresh(id);
        let params = match self.params(planned) {
            Ok(params) => params,
            Err(failure) => return self.fail(id, failure, Vec::new(), None),
        };
        let content = self.plan.content_key(id, |output| self.find(output).cloned());
        let chosen = self.chosen(planned, &params);
        let Some(content) = content.filter(|_| chosen.is_ok()) else {
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
        let terms = self.terms.entry(id).or_insert_with(|| Terms::of(planned.step.run())).clone();
        let attempt = Attempt {
            plan: self.plan,
            planned,
            content,
            inputs: self.inputs(planned),
            chosen: chosen.ok().flatten(),
            params,
            share,
            device: gpus.first().map_or_else(|| "cpu".to_owned(), |gpu| format!("cuda:{gpu}")),
            terms: terms.clone(),
            control: &self.controls[&id],
        };
        self.running.insert(id, Running { share, gpus, terms });
        let (shared, sender) = (self.shared, self.sender.clone());
        scope.spawn(move || attempt.run(shared, &sender));
    }

    /// Reads what the store has of the fresh steps that one uses.
    fn read_fresh(&mut self, id: StepId) {
        for input in self.plan.inputs(id) {
            if !self.outcome.records.contains_key(&input) && !self.fresh.contains_key(&input) {
                let record = self.plan.record(input, self.shared.store);
                self.fresh.extend(record.map(|record| (input, record)));
            }
        }
    }

    fn find(&self, output: &OutputRef) -> Option<&Output> {
        let made = self.outcome.records.get(&output.step);
        made.or_else(|| self.fresh.get(&output.step))?.outputs.get(&*output.output)
    }

    /// Returns all parameters, those that other steps computed looked up.
    fn params(&self, planned: Planned<'_>) -> Result<BTreeMap<String, Value>, Failure> {
        let value = |(name, arg): (&str, &Arg)| {
            let value = match arg {
                Arg::Value(value) => value.clone(),
                Arg::Late(late) => late
                    .value(&|output| self.find(output)?.scalar().cloned())
                    .map_err(|why| Failure {
                        kind: FailureKind::Input,
                        message: format!("its `{name}` came out as {why}"),
                        help: Some("look at the numbers that it is computed of".to_owned()),
                    })?,
            };
            Ok((name.to_owned(), value))
        };
        let mut params: BTreeMap<_, _> =
            planned.step.params().map(value).collect::<Result<_, _>>()?;
        let unkeyed = planned.step.unkeyed();
        params.extend(unkeyed.map(|(name, value)| (name.to_owned(), value.clone())));
        Ok(params)
    }

    /// Returns the outputs of a step that chooses: those of the winner. An error when one is missing.
    fn chosen(
        &self,
        planned: Planned<'_>,
        params: &BTreeMap<String, Value>,
    ) -> Result<Option<BTreeMap<String, Output>>, ()> {
        let stage = planned.step.stage();
        let Some(Value::List(numbers)) = params.get("by").filter(|_| stage.body == Body::Best)
        else {
            return Ok(None);
        };
        let place = least(numbers).ok_or(())?;
        let inputs: BTreeMap<&str, &Input> = planned.step.inputs().collect();
        let output = |name: &String| {
            if let Some(value) = params.get(&format!("{name}.{place}")) {
                return Some((name.clone(), Output::Scalar(value.clone())));
            }
            // An artifact, or a field of one.
            let mut artifact = name.as_str();
            let winner = loop {
                match inputs.get(&*format!("{artifact}.{place}")) {
                    Some(Input::Output(winner)) => break winner,
                    _ => artifact = artifact.rsplit_once('.')?.0,
                }
            };
            let full = format!("{}{}", winner.output, &name[artifact.len()..]);
            let winner = OutputRef { step: winner.step, output: full.into() };
            Some((name.clone(), self.find(&winner)?.clone()))
        };
        stage.outputs.keys().map(output).collect::<Option<_>>().map(Some).ok_or(())
    }

    fn inputs(&self, planned: Planned<'_>) -> BTreeMap<String, Vec<PathBuf>> {
        let mut all: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for (name, input) in planned.step.inputs() {
            let paths = match input {
                Input::Files(_) => self.plan.files(planned.id, name).to_vec(),
                Input::Output(output) => match self.find(output) {
                    Some(Output::Object { digest, .. }) => {
                        vec![self.shared.store.object_path(*digest)]
                    }
                    _ => Vec::new(),
                },
            };
            all.entry(slot_of(name).to_owned()).or_default().extend(paths);
        }
        all
    }

    // ---- hearing

    fn hear(&mut self, id: StepId, message: Message) {
        match message {
            Message::Waiting(holder) => self.tell(Event::Waiting { step: id, holder }),
            Message::Started => self.tell(Event::Started(id)),
            Message::Worker(event) => self.tell(Event::Worker(id, event)),
            Message::Ended(end) => self.ended(id, end),
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
                self.tell(Event::Finished(id, record.clone()));
                self.made(id, *record);
            }
            End::Found(record) => {
                self.outcome.reused.push(id);
                self.tell(Event::Reused(id));
                self.made(id, *record);
            }
            End::Interrupted => {
                self.outcome.interrupted |= self.shared.stop.is_asked();
                self.tell(Event::Interrupted(id));
            }
            End::Failed { failure, log_tail, log } => self.retry(id, failure, log_tail, log),
        }
    }

    /// Notes what a step made; those that only needed this can start.
    fn made(&mut self, id: StepId, record: Record) {
        self.outcome.records.insert(id, record);
        for user in self.plan.users(id) {
            let Some(needed) = self.waiting.get_mut(&user) else { continue };
            *needed -= 1;
            if *needed == 0 {
                self.waiting.remove(&user);
                self.unsure.insert((self.ranks[&user], user));
            }
        }
    }

    fn fail(&mut self, id: StepId, failure: Failure, log_tail: Vec<String>, log: Option<PathBuf>) {
        self.outcome.failed.insert(id, failure.clone());
        self.tell(Event::Failed { step: id, failure, log_tail, log });
        let mut next = vec![id];
        while let Some(broken) = next.pop() {
            for user in self.plan.users(broken) {
                if self.waiting.remove(&user).is_some() {
                    self.outcome.skipped.insert(user, id);
                    self.tell(Event::Skipped { step: user, because: id });
                    next.push(user);
                }
            }
        }
    }
}

/// Returns the place of each of these steps, the last given first, when the one with the longest path to the end, in seconds,
/// is the first; a step of unknown length counts as one second.
fn ranks<'s>(
    plan: &Plan,
    steps: impl Iterator<Item = &'s StepId>,
    estimates: &Estimates,
) -> BTreeMap<StepId, usize> {
    let mut weights: BTreeMap<StepId, f64> = BTreeMap::new();
    for id in steps {
        let users = plan.users(*id).filter_map(|user| weights.get(&user));
        let behind = users.fold(0.0, |longest: f64, weight| longest.max(*weight));
        let own = estimates.get(id).map_or(1.0, |estimate| estimate.seconds);
        weights.insert(*id, own + behind);
    }
    let mut order: Vec<_> = weights.into_iter().collect();
    order.sort_by(|(a, a_weight), (b, b_weight)| b_weight.total_cmp(a_weight).then(a.cmp(b)));
    order.into_iter().enumerate().map(|(rank, (id, _))| (id, rank)).collect()
}
