//! What came out: tables and the HTML page, from a plan and how its run ended.

use std::collections::BTreeSet;
use std::path::Path;

use crate::exec::Outcome;
use crate::graph::{Plan, Planned};
use crate::report::html::{Artifact, Curve, Page, Status, StepCard, read_log};
use crate::report::number;
use crate::report::table::{Found, Shown, Source, Table, resolve};
use crate::sema::Expansion;
use crate::sema::steps::{OutputRef, StepId};
use crate::store::{Output, Store};

/// A plan and how its run ended.
#[derive(Clone, Copy, Debug)]
pub struct Results<'r> {
    /// What was to be run.
    pub plan: &'r Plan,
    /// How it ended.
    pub outcome: &'r Outcome,
    /// Where the artifacts are.
    pub store: &'r Store,
}

impl Results<'_> {
    /// Returns the tables of all reports that have a cell some plan asks for.
    pub fn tables(&self, expansion: &Expansion) -> Vec<Table> {
        let asked = expansion
            .reports
            .iter()
            .filter(|report| report.rows.iter().any(|row| row.cells.iter().any(Option::is_some)));
        asked.map(|report| resolve(report, &|output| self.find(output))).collect()
    }

    /// Returns the page of the run; `facts` stand in its head.
    pub fn page(
        &self,
        recipe: &Path,
        source: &str,
        facts: Vec<(String, String)>,
        tables: Vec<Table>,
    ) -> Page {
        let ran: BTreeSet<StepId> = self.outcome.ran.iter().copied().collect();
        Page {
            title: recipe.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            recipe: recipe.display().to_string(),
            facts,
            tables,
            curves: self.curves(),
            steps: self.plan.steps.iter().map(|planned| self.card(planned, &ran)).collect(),
            source: source.to_owned(),
        }
    }

    fn find(&self, output: &OutputRef) -> Found {
        let source = self.plan.get(output.step).map(|planned| Source {
            step: output.step,
            name: planned.step.name(),
            key: planned.recipe,
        });
        let record = self.outcome.records.get(&output.step);
        let shown = match record.and_then(|record| record.outputs.get(&output.output)) {
            Some(Output::Scalar(value)) => Shown::Value(value.clone()),
            _ if self.has_failed(output.step) => Shown::Failed,
            _ => Shown::Pending,
        };
        Found { shown, source }
    }

    fn has_failed(&self, step: StepId) -> bool {
        self.outcome.failed.contains_key(&step) || self.outcome.skipped.contains_key(&step)
    }

    fn card(&self, planned: &Planned, ran: &BTreeSet<StepId>) -> StepCard {
        let name_of = |id| self.plan.get(id).map(|step| step.step.name()).unwrap_or_default();
        let mut card = StepCard::new(planned.id, &planned.step, planned.recipe, &name_of);
        card.status = match planned.id {
            id if ran.contains(&id) => Status::Ran,
            id if self.outcome.records.contains_key(&id) => Status::Reused,
            id if self.has_failed(id) => Status::Failed,
            _ => Status::NotRun,
        };
        let log = self.store.log_path(planned.recipe);
        card.log = log.exists().then(|| log.display().to_string());
        let Some(record) = self.outcome.records.get(&planned.id) else { return card };
        card.seconds = Some(record.seconds);
        for (name, output) in &record.outputs {
            match output {
                Output::Scalar(value) => card.scalars.push((name.clone(), number::value(value))),
                Output::Object { digest, bytes } => card.artifacts.push(Artifact {
                    name: name.clone(),
                    path: self.store.object_path(*digest).display().to_string(),
                    bytes: *bytes,
                }),
            }
        }
        card
    }

    /// Returns the loss curves of all training logs, in the order of the plan.
    fn curves(&self) -> Vec<Curve> {
        let curve = |planned: &Planned| {
            let output = self.outcome.records.get(&planned.id)?.outputs.get("log")?;
            let Output::Object { digest, .. } = output else { return None };
            // A log that was removed by hand leaves a gap, not a failed report.
            let points = read_log(&self.store.object_path(*digest)).ok()?;
            Some(Curve { name: planned.step.name(), points })
        };
        let curves = self.plan.steps.iter().filter_map(curve);
        curves.filter(|curve| !curve.points.is_empty()).collect()
    }
}
