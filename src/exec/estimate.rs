//! How long steps may take, from what they took before.

use std::collections::BTreeMap;

use crate::graph::Plan;
use crate::sema::steps::StepId;
use crate::store::Store;

/// Returns the seconds that the latest step of the same stage and name took, for every step that has to run and has such a
/// forerunner.
pub fn estimates(plan: &Plan, store: &Store) -> BTreeMap<StepId, f64> {
    let due = plan.due();
    if due.is_empty() {
        return BTreeMap::new();
    }
    let mut latest: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    let records = store.records();
    for record in &records {
        latest.insert((&record.stage, &record.label), record.seconds);
    }
    due.iter()
        .filter_map(|id| plan.get(*id))
        .filter_map(|planned| {
            let name = (planned.step.stage().name.as_str(), planned.step.label());
            latest.get(&name).map(|seconds| (planned.id, *seconds))
        })
        .collect()
}
