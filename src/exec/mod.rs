//! Level 7: running a plan. Which step runs when and where; worker processes; interruption.
//!
//! The scheduler itself runs no stage: it starts worker processes, gives each an action at a time and hears their events,
//! so whatever kills a stage ends one step, not the run. Everything it tells goes through [`Event`].

mod ask;
mod attempt;
mod command;
mod control;
mod estimate;
mod log;
mod machine;
mod origin;
mod retry;
mod schedule;
mod stop;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::sema::steps::StepId;
use crate::stage::{self, Failure};
use crate::store::Record;

pub use ask::ask;
pub use estimate::{Estimate, Estimates, estimates};
pub use log::{LastAttempt, last_attempt, log_end, logged_name};
pub use machine::{LIBTORCH, Machine, fits};
pub use origin::Origins;
pub use schedule::Run;
pub use stop::Stop;

/// What happens during a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A worker got the step.
    Started(StepId),
    /// Another tlm is making the step; this one waits for it.
    Waiting {
        /// For which.
        step: StepId,
        /// The other: its process, host and command, if they are known.
        holder: Option<String>,
    },
    /// The step's worker said something.
    Worker(StepId, stage::Event),
    /// The step failed in a way that may pass, and is tried again.
    Retrying {
        /// Which.
        step: StepId,
        /// Why.
        failure: Failure,
        /// What it gets more of.
        raised: Raised,
    },
    /// The step's outputs are in the store.
    Finished(StepId, Box<Record>),
    /// The step's outputs were in the store, under the key of what its inputs came out as.
    Reused(StepId),
    /// The step failed.
    Failed {
        /// Which.
        step: StepId,
        /// Why.
        failure: Failure,
        /// The last lines of its log.
        log_tail: Vec<String>,
        /// Its log, if it has one.
        log: Option<PathBuf>,
    },
    /// The step can't run, as one before it failed.
    Skipped {
        /// Which.
        step: StepId,
        /// The one that failed.
        because: StepId,
    },
    /// The step stopped on request; its state is kept.
    Interrupted(StepId),
}

/// What an attempt gets more of than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// How long it may take.
    pub limit: Option<Duration>,
    /// Peak memory in bytes.
    pub mem: Option<u64>,
}

/// What to do with the rest of a run when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Run all that does not need it.
    GoOn,
    /// Start nothing more, and let what runs save its state.
    Stop,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What is known of each step that has its outputs now, but for those that the plan has as fresh.
    pub records: BTreeMap<StepId, Record>,
    /// How many steps had their outputs in the store before.
    pub done: usize,
    /// Steps that ran.
    pub ran: Vec<StepId>,
    /// Steps whose inputs came out as before, so that their outputs were found in the store.
    pub reused: Vec<StepId>,
    /// Steps that failed, and why.
    pub failed: BTreeMap<StepId, Failure>,
    /// Steps that could not run, and the failed one before them.
    pub skipped: BTreeMap<StepId, StepId>,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

impl Outcome {
    /// Returns whether all was as it was before.
    pub fn is_idle(&self) -> bool {
        self.records.is_empty()
            && self.failed.is_empty()
            && self.skipped.is_empty()
            && !self.interrupted
    }
}
