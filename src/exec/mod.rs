//! Level 7: running a plan. Which step runs when and where; worker processes; interruption.
//!
//! The scheduler itself runs no stage: it starts worker processes, gives each an action at a time and hears their events,
//! so whatever kills a stage ends one step, not the run. Everything it tells goes through [`Event`].

mod attempt;
mod command;
mod control;
mod estimate;
mod log;
mod machine;
mod origin;
mod schedule;
mod stop;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::sema::steps::StepId;
use crate::stage::{self, Failure};
use crate::store::Record;

pub use estimate::estimates;
pub use log::logged_name;
pub use machine::{LIBTORCH, Machine, fits};
pub use origin::Origins;
pub use schedule::run;
pub use stop::Stop;

/// What happens during a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A worker got the step.
    Started(StepId),
    /// Another tlm is making the step; this one waits for it.
    Waiting(StepId),
    /// The step's worker said something.
    Worker(StepId, stage::Event),
    /// The step failed in a way that may pass, and is tried again.
    Retrying(StepId, Failure),
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
