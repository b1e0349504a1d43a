//! What came out: tables and the HTML page, from a plan and how its run ended.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::base::{Digest, Encoder, Value, in_chunks};
use crate::data::train_log::{Points, read_log};
use crate::exec::{Outcome, last_attempt};
use crate::graph::{Plan, Planned};
use crate::report::draw::{Format, draw};
use crate::report::failure::clean;
use crate::report::html::{
    Artifact, Curve, Frequencies, Page, Progress, Status, StepCard, read_frequencies,
};
use crate::report::now::{Now, Stand};
use crate::report::number;
use crate::report::table::{Found, Shown, Source, Table, resolve};
use crate::sema::steps::{Input, OutputKind, OutputRef, StepId};
use crate::store::{Output, Record, Store};

/// How many lines of the log of a step that runs or failed are told.
const LOG_LINES: usize = 30;

/// A plan and how its run ended.
#[derive(Clone, Copy, Debug)]
pub struct Results<'r> {
    /// What was to be run.
    pub plan: &'r Plan,
    /// How it ended.
    pub outcome: &'r Outcome,
    /// Where the artifacts are.
    pub store: &'r Store,
    /// What goes on in the store, if that is to be told too.
    pub now: Option<&'r Now>,
}

impl Results<'_> {
    /// Returns the tables of all reports that have a cell some plan asks for.
    pub fn tables(&self) -> Vec<Table> {
        let asked =
            self.plan.expansion.reports.iter().filter(|report| {
                report.rows.iter().any(|row| row.cells.iter().any(Option::is_some))
            });
        asked.map(|report| resolve(report, &|output| self.find(output))).collect()
    }

    /// Returns the page of the run; `facts` stand in its head.
    pub fn page(
        &self,
        recipe: &Path,
        source: &str,
        facts: Vec<(String, String)>,
        tables: Vec<Table>,
        mark: String,
    ) -> Page {
        let ran: BTreeSet<StepId> = self.outcome.ran.iter().copied().collect();
        Page {
            title: recipe.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            recipe: recipe.display().to_string(),
            facts,
            tables,
            curves: self.curves(),
            frequencies: self.frequencies(),
            steps: self.plan.steps().map(|planned| self.card(planned, &ran)).collect(),
            source: source.to_owned(),
            mark,
            live: None,
        }
    }

    /// Returns what stands for all that the page of a run tells, but for when it was drawn and which steps ran just then.
    /// `machine` is what it tells of that.
    pub fn mark(&self, recipe: &Path, source: &str, machine: &str, tables: &[Table]) -> String {
        let mut out = Encoder::default();
        out.begin("tlm report");
        let tables = tables.iter().map(|table| draw(table, Format::Markdown));
        for text in [env!("CARGO_PKG_VERSION"), &recipe.to_string_lossy(), source, machine] {
            out.text(text);
        }
        tables.for_each(|table| out.text(&table));
        let steps: Vec<_> = self.plan.steps().collect();
        let marks = in_chunks(&steps, |steps| self.steps_mark(steps));
        marks.iter().for_each(|mark| out.digest_value(mark));
        out.digest().to_string()
    }

    fn steps_mark(&self, steps: &[Planned<'_>]) -> Digest {
        let mut out = Encoder::default();
        out.begin("tlm report steps");
        for planned in steps {
            out.digest_value(&planned.recipe);
            out.text(planned.step.label());
            for (axis, value) in planned.step.point() {
                out.text(axis);
                out.text(value);
            }
            let is_done =
                planned.status.is_done() || self.outcome.records.contains_key(&planned.id);
            out.value(&Value::Bool(is_done));
        }
        out.digest()
    }

    fn find(&self, output: &OutputRef) -> Found {
        let source = self.plan.get(output.step).map(|planned| Source {
            step: output.step,
            name: planned.step.name(),
            key: planned.recipe,
        });
        let record = self.record(output.step);
        let shown = match record.as_ref().and_then(|record| record.outputs.get(&*output.output)) {
            Some(Output::Scalar(value)) => Shown::Value(value.clone()),
            Some(Output::Object { .. }) => self.losses(output).unwrap_or(Shown::Pending),
            _ if self.has_failed(output.step) => Shown::Failed,
            _ => self.losses(output).unwrap_or(Shown::Pending),
        };
        Found { shown, source }
    }

    fn losses(&self, output: &OutputRef) -> Option<Shown> {
        let Points { data, .. } = self.points(output.step, &output.output)?;
        Some(Shown::Curve(data))
    }

    /// Returns the points of a training's log, so far if it is not done and that is to be told.
    fn points(&self, step: StepId, output: &str) -> Option<Points> {
        if let Some(log) = self.object(step, output) {
            return read_log(&log).ok();
        }
        let planned = self.plan.get(step).filter(|_| self.now.is_some())?;
        let is_artifact = planned.step.stage().outputs.get(output) == Some(&OutputKind::Artifact);
        let folders = self.store.unfinished(planned.recipe, output).into_iter();
        let points = folders.filter(|_| is_artifact).filter_map(|folder| read_log(&folder).ok());
        points.into_iter().find(|points| !points.data.is_empty())
    }

    /// Returns what is known of a step that has its outputs.
    pub fn record(&self, step: StepId) -> Option<Cow<'_, Record>> {
        let made = self.outcome.records.get(&step).map(Cow::Borrowed);
        made.or_else(|| self.plan.record(step, self.store).map(Cow::Owned))
    }

    fn has_failed(&self, step: StepId) -> bool {
        self.outcome.failed.contains_key(&step) || self.outcome.skipped.contains_key(&step)
    }

    fn card(&self, planned: Planned<'_>, ran: &BTreeSet<StepId>) -> StepCard {
        let name_of = |id| self.plan.get(id).map(|step| step.step.name()).unwrap_or_default();
        let mut card = StepCard::new(planned.id, planned.step, planned.recipe, &name_of);
        let record = self.record(planned.id);
        card.status = match planned.id {
            id if ran.contains(&id) => Status::Ran,
            _ if record.is_some() && self.now.is_some() => Status::Fresh,
            _ if record.is_some() => Status::Reused,
            id if self.outcome.failed.contains_key(&id) => Status::Failed,
            id if self.outcome.skipped.contains_key(&id) => Status::Skipped,
            _ => Status::NotRun,
        };
        let log = self.store.log_path(planned.recipe);
        card.log = log.exists().then(|| log.display().to_string());
        let Some(record) = record else {
            self.add_now(&mut card, planned.recipe);
            return card;
        };
        card.seconds = Some(record.seconds);
        let origin = record.origin.iter();
        card.origin = origin.map(|(name, fact)| (name.clone(), number::exact(fact))).collect();
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

    /// Adds to the card of a step without outputs how it stands with it now.
    fn add_now(&self, card: &mut StepCard, recipe: Digest) {
        let Some(now) = self.now else { return };
        match now.stand(recipe) {
            Stand::Running(step) => {
                card.status = Status::Running;
                card.seconds = Some(step.seconds);
                card.progress = Some(Progress { fraction: step.fraction, told: step.told });
            }
            Stand::Waiting if card.status == Status::NotRun => card.status = Status::Waiting,
            Stand::Waiting | Stand::Idle => {}
        }
        let has_news = matches!(card.status, Status::Running | Status::Failed);
        if let Some(last) = last_attempt(self.store, recipe).filter(|_| has_news) {
            let first = last.lines.len().saturating_sub(LOG_LINES);
            card.log_end = last.lines[first..].iter().map(|line| clean(line)).collect();
        }
    }

    /// Returns the loss curves of all training logs, in the order of the plan.
    fn curves(&self) -> Vec<Curve> {
        let curves = |planned: Planned<'_>| {
            planned.step.stage().outputs.get("log")?;
            let Points { data, valid } = self.points(planned.id, "log")?;
            let name = planned.step.name();
            let valid = Curve { name: format!("{name}, valid"), points: valid };
            Some([Curve { name, points: data }, valid])
        };
        let curves = self.plan.steps().filter_map(curves).flatten();
        curves.filter(|curve| !curve.points.is_empty()).collect()
    }

    /// Returns what all counts of tokens tell, in the order of the plan.
    fn frequencies(&self) -> Vec<Frequencies> {
        let found = |planned: Planned<'_>| {
            // Only `Counts` have this one field.
            let fields: Vec<_> = planned.step.stage().outputs.keys().map(String::as_str).collect();
            if fields != ["out", "out.tokens"] {
                return None;
            }
            let tokenizer = planned.step.inputs().find_map(|(name, input)| match input {
                Input::Output(made) if name == "tokenizer" => self.object(made.step, &made.output),
                _ => None,
            });
            let counts = self.object(planned.id, "out")?;
            read_frequencies(planned.step.name(), &counts, tokenizer.as_deref()).ok()
        };
        self.plan.steps().filter_map(found).collect()
    }

    /// Returns where an artifact lies. One that was removed or damaged leaves a gap in the report and fails nothing.
    fn object(&self, step: StepId, output: &str) -> Option<PathBuf> {
        let record = self.record(step)?;
        let Output::Object { digest, .. } = record.outputs.get(output)? else { return None };
        let path = self.store.object_path(*digest);
        self.store.check(&path).ok()?;
        Some(path)
    }
}
