//! What the HTML report tells, as plain data.

use crate::base::{Digest, Value};
use crate::report::html::curves::Curve;
use crate::report::html::frequencies::Frequencies;
use crate::report::number;
use crate::report::table::Table;
use crate::sema::steps::{Arg, Input, OutputRef, Step, StepId};

/// The report of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The page's title: the recipe's name.
    pub title: String,
    /// The recipe's path as the user gave it.
    pub recipe: String,
    /// Name and text of what else stands in the head: when, machine, how many steps ran.
    pub facts: Vec<(String, String)>,
    /// The tables.
    pub tables: Vec<Table>,
    /// The loss curves of the training steps.
    pub curves: Vec<Curve>,
    /// What was counted of vocabularies.
    pub frequencies: Vec<Frequencies>,
    /// Every step of the plan, inputs first.
    pub steps: Vec<StepCard>,
    /// The recipe's text.
    pub source: String,
    /// Stands for all that the page tells but the time; empty when nobody asks.
    pub mark: String,
    /// What only a page tells that is asked for again and again.
    pub live: Option<Live>,
}

/// What goes on while a page is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Why the page may be out of date.
    pub problem: Option<String>,
    /// The runs that go on, a line each.
    pub runs: Vec<String>,
}

/// A step on the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepCard {
    /// Its number in the plan.
    pub id: u32,
    /// `r2`
    pub label: String,
    /// `r2[rate=50%]`
    pub name: String,
    /// The axis values, as written.
    pub point: Vec<(String, String)>,
    /// `train.run`
    pub stage: String,
    /// How it ended.
    pub status: Status,
    /// Its recipe key, in full.
    pub key: String,
    /// How long it took when it ran.
    pub seconds: Option<f64>,
    /// Identity parameters by name.
    pub params: Vec<(String, String)>,
    /// Scalar outputs by name.
    pub scalars: Vec<(String, String)>,
    /// Artifacts by name.
    pub artifacts: Vec<Artifact>,
    /// Input name, step number and text: `init`, 4, `init.model`.
    pub inputs: Vec<(String, u32, String)>,
    /// Where and how its outputs were made.
    pub origin: Vec<(String, String)>,
    /// The log's path.
    pub log: Option<String>,
    /// How far it is, if it runs.
    pub progress: Option<Progress>,
    /// The last lines of its log, if they matter now.
    pub log_end: Vec<String>,
}

/// How far a step is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The part that is done, from 0 to 1, if it is known.
    pub fraction: Option<f64>,
    /// `160k of 400k tokens · 3.2k tokens/s · loss 5.312 · 1m10s left`
    pub told: String,
}

impl StepCard {
    /// Returns the card of a step that did not run yet. `name_of` gives the names of the steps before it.
    pub fn new(id: StepId, step: &Step, key: Digest, name_of: &dyn Fn(StepId) -> String) -> Self {
        let mut inputs = Vec::new();
        let mut params = Vec::new();
        let text = |output: &OutputRef| match &*output.output {
            "out" => name_of(output.step),
            name => format!("{}.{}", name_of(output.step), name.trim_start_matches("out.")),
        };
        let mut used = |name: &str, output: &OutputRef| {
            inputs.push((name.to_owned(), output.step.0, text(output)));
        };
        for (name, input) in step.inputs() {
            match input {
                Input::Output(output) => used(name, output),
                Input::Files(files) => {
                    params.push((name.to_owned(), format!("\"{}\"", files.pattern)));
                }
            }
        }
        for (name, arg) in step.params() {
            match arg {
                Arg::Value(Value::Null) => {}
                Arg::Value(value) => params.push((name.to_owned(), number::exact(value))),
                Arg::Late(late) => late.outputs(&mut |output| used(name, output)),
            }
        }
        let point = step.point().iter();
        Self {
            id: id.0,
            label: step.label().to_owned(),
            name: step.name(),
            point: point.map(|(axis, value)| (axis.to_string(), value.to_string())).collect(),
            stage: step.stage().name.clone(),
            key: key.to_string(),
            params,
            inputs,
            ..Self::default()
        }
    }
}

/// An artifact of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artifact {
    /// The output's name.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// It ran now.
    Ran,
    /// It was there already.
    Reused,
    /// It failed.
    Failed,
    /// It did not come to run.
    #[default]
    NotRun,
    /// The store has its outputs.
    Fresh,
    /// It runs now.
    Running,
    /// A run goes on that will come to it.
    Waiting,
    /// It can't run, as one before it failed.
    Skipped,
}

impl Status {
    /// All, the one that matters most first.
    pub const ALL: [Self; 8] = [
        Self::Failed,
        Self::Running,
        Self::Waiting,
        Self::Skipped,
        Self::NotRun,
        Self::Ran,
        Self::Reused,
        Self::Fresh,
    ];

    /// Returns what marks it on the page.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::NotRun => "notrun",
            other => other.word(),
        }
    }

    /// Returns the status as a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Reused => "reused",
            Self::Failed => "failed",
            Self::NotRun => "not run",
            Self::Fresh => "fresh",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Skipped => "skipped",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::base::{FileId, Span};
    use crate::sema::late::Late;
    use crate::sema::steps::{Files, Parts, RunSpec, StageDecl};

    #[test]
    fn a_card_shows_files_as_parameters_and_late_values_as_inputs() {
        let output = |step, output: &str| OutputRef { step: StepId(step), output: output.into() };
        let span = Span::new(FileId(0), 0, 0);
        let files = Files { pattern: "data/*.txt".into(), base: "x".into(), span };
        let step = Step::new(Parts {
            stage: Arc::new(StageDecl {
                body: crate::sema::steps::Body::Worker,
                name: "a.b".into(),
                version: 1,
                tensor: false,
                outputs: BTreeMap::new(),
            }),
            label: "c".into(),
            point: vec![("rate".into(), "50%".into())],
            inputs: vec![
                ("data".into(), Input::Output(output(0, "train"))),
                ("files".into(), Input::Files(Box::new(files))),
            ],
            params: BTreeMap::from([
                ("keep".into(), Arg::Late(Late::Output(output(1, "out.size")))),
                ("none".into(), Arg::Value(Value::Null)),
                ("seed".into(), Arg::Value(Value::Int(10_000))),
            ]),
            unkeyed: BTreeMap::new(),
            run: RunSpec::default(),
            span,
            arg_spans: BTreeMap::new(),
        });
        let name = |id: StepId| format!("s{}", id.0);
        let card = StepCard::new(StepId(2), &step, Digest::of(b"key"), &name);
        assert_eq!(card.name, "c[rate=50%]");
        let inputs: Vec<_> = card.inputs.iter().map(|(n, i, t)| (&**n, *i, &**t)).collect();
        assert_eq!(inputs, [("data", 0, "s0.train"), ("keep", 1, "s1.size")]);
        let params: Vec<_> = card.params.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(params, [("files", "\"data/*.txt\""), ("seed", "10000")]);
    }
}
