//! What steps may take, from what they took before.

use std::collections::BTreeMap;

use crate::graph::Plan;
use crate::sema::steps::StepId;
use crate::store::{Record, Store};

/// What a step took when it last ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// How long.
    pub seconds: f64,
    /// The size of all it made.
    pub bytes: u64,
}

impl Estimate {
    fn of(record: &Record) -> Self {
        let bytes = record.objects().map(|(_, bytes)| bytes).sum();
        Self { seconds: record.seconds, bytes }
    }
}

/// Estimates by step.
pub type Estimates = BTreeMap<StepId, Estimate>;

/// Returns what the latest step of the same stage and name took, for every step that has to run and has such a forerunner.
pub fn estimates(plan: &Plan, store: &Store) -> Estimates {
    let due = plan.due();
    if due.is_empty() {
        return BTreeMap::new();
    }
    let mut latest: BTreeMap<(&str, &str), Estimate> = BTreeMap::new();
    let records = store.records();
    for record in &records {
        latest.insert((&record.stage, &record.label), Estimate::of(record));
    }
    due.iter()
        .filter_map(|id| plan.get(*id))
        .filter_map(|planned| {
            let name = (planned.step.stage().name.as_str(), planned.step.label());
            latest.get(&name).map(|estimate| (planned.id, *estimate))
        })
        .collect()
}
