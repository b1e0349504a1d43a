//! What steps may take, from what they took before.

use std::collections::BTreeMap;

use crate::graph::Plan;
use crate::sema::steps::StepId;
use crate::store::{Names, Store};

/// What a step took when it last ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// How long.
    pub seconds: f64,
    /// The size of all it made.
    pub bytes: u64,
}

/// Estimates by step.
pub type Estimates = BTreeMap<StepId, Estimate>;

/// Returns what the latest step of the same stage and name took, for every step that has to run and has such a forerunner.
pub fn estimates(plan: &Plan, store: &Store) -> Estimates {
    let due = plan.due();
    if due.is_empty() {
        return BTreeMap::new();
    }
    let named = |id: &StepId| {
        let step = plan.get(*id)?.step;
        Some((*id, Names::of::<&str>(&step.stage().name, step.label(), &[]).label))
    };
    let named: Vec<_> = due.iter().filter_map(named).collect();
    let latest = store.past().latest(named.iter().map(|(_, name)| *name), 1);
    let estimate = |(id, name)| {
        let took = latest.get(&name)?.first()?;
        Some((id, Estimate { seconds: took.seconds, bytes: took.bytes }))
    };
    named.into_iter().filter_map(estimate).collect()
}
