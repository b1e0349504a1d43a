//! What goes on in a store: which steps run, wait or failed, as far as runs and logs told.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::base::Digest;
use crate::exec::{LastAttempt, Outcome, last_attempt};
use crate::graph::{Plan, Planned};
use crate::report::going::{Going, InProgress};
use crate::sema::steps::StepId;
use crate::stage::{Failure, FailureKind};
use crate::store::Store;

/// What goes on in a store.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// The runs that go on.
    pub runs: Vec<Going>,
    /// The steps in progress by key.
    running: BTreeMap<Digest, InProgress>,
    /// The steps of these runs, and when the last of them began.
    wanted: BTreeMap<Digest, SystemTime>,
}

/// How it stands with a step that has no outputs, as far as runs that go on tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stand {
    /// It runs.
    Running(InProgress),
    /// A run goes on that will come to it.
    Waiting,
    /// Nobody makes it.
    Idle,
}

impl Now {
    /// Looks what the runs on a store told; `now` is the time.
    pub fn of(store: &Store, now: SystemTime) -> Self {
        let mut all = Self::default();
        for told in store.going() {
            let Ok(going) = serde_json::from_str::<Going>(&told.text) else { continue };
            let since = now.duration_since(told.at).unwrap_or_default().as_secs_f64();
            for step in &going.running {
                let seconds = step.seconds + since;
                all.running.insert(step.key, InProgress { seconds, ..step.clone() });
            }
            for key in told.keys {
                let began = all.wanted.entry(key).or_insert(told.began);
                *began = told.began.max(*began);
            }
            all.runs.push(going);
        }
        all.runs.sort_by(|a, b| a.process.cmp(&b.process));
        all
    }

    /// Returns how it stands with a step without outputs that did not fail.
    pub(super) fn stand(&self, recipe: Digest) -> Stand {
        match self.running.get(&recipe) {
            Some(step) => Stand::Running(step.clone()),
            None if self.wanted.contains_key(&recipe) => Stand::Waiting,
            None => Stand::Idle,
        }
    }

    /// Returns how the steps of a plan stand: which failed, and no run tries again, and which therefore can't run.
    pub fn outcome(&self, plan: &Plan, store: &Store) -> Outcome {
        let mut outcome = Outcome { done: plan.done(), ..Outcome::default() };
        for planned in plan.due().iter().filter_map(|id| plan.get(*id)) {
            if let Some(message) = self.failure(planned, store) {
                let failure = Failure { kind: FailureKind::Input, message, help: None };
                outcome.failed.insert(planned.id, failure);
            } else if let Some(because) = broken(plan, planned.id, &outcome) {
                outcome.skipped.insert(planned.id, because);
            }
        }
        outcome
    }

    fn failure(&self, planned: Planned<'_>, store: &Store) -> Option<String> {
        let key = planned.recipe;
        let LastAttempt { failure, at, .. } = last_attempt(store, key)?;
        // What failed before a run began is tried again by it.
        let is_tried = self.wanted.get(&key).is_some_and(|began| at < *began);
        failure.filter(|_| !is_tried && !self.running.contains_key(&key))
    }
}

/// Returns the failed step that keeps this one from running.
fn broken(plan: &Plan, id: StepId, outcome: &Outcome) -> Option<StepId> {
    plan.inputs(id).find_map(|input| match outcome.failed.contains_key(&input) {
        true => Some(input),
        false => outcome.skipped.get(&input).copied(),
    })
}
