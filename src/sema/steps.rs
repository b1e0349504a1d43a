//! What the front end hands to `graph`: stage calls with all arguments evaluated, each different
//! call once, in an order in which inputs come first.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::text::name_at;
use crate::base::{Span, Value};

/// A stage call in an [`Expansion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u32);

/// The part of a stage's declaration that the back end needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageDecl {
    /// `train.run`
    pub name: String,
    /// The declared version.
    pub version: u32,
    /// Whether it runs in `tlm-torch` and has a numerics class.
    pub tensor: bool,
    /// The outputs every run of it must publish, by name. A result that is one artifact is `out`; a record's
    /// fields have their names; fields of artifact types follow as `out.size`.
    pub outputs: BTreeMap<String, OutputKind>,
    /// The command, of a stage that a recipe declares.
    pub shell: Option<Shell>,
}

/// The command of a stage that a recipe declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// Its text, cut at the values in it.
    pub parts: Vec<ShellPart>,
    /// Where it runs: the folder of the recipe that declares it.
    pub folder: PathBuf,
    /// The types of the artifacts it makes, by output name.
    pub kinds: BTreeMap<String, String>,
}

/// A part of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellPart {
    /// As it is.
    Text(String),
    /// The paths of an input.
    Input(String),
    /// A parameter, or a field of it.
    Param(Vec<String>),
    /// Where to write an output.
    Output(String),
}

impl Shell {
    /// Returns the command as it is written, which is part of a key.
    pub fn template(&self) -> String {
        let part = |part: &ShellPart| match part {
            ShellPart::Text(text) => text.clone(),
            ShellPart::Input(name) | ShellPart::Output(name) => format!("{{{name}}}"),
            ShellPart::Param(names) => format!("{{{}}}", names.join(".")),
        };
        self.parts.iter().map(part).collect()
    }
}

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A file or folder in the store.
    Artifact,
    /// A number or text in the record.
    Scalar,
}

/// One stage call.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is called.
    pub stage: Arc<StageDecl>,
    /// The binding it came from: `r2`; not part of any key.
    pub label: String,
    /// The axis values it depends on, as (axis, value as written), by axis name; not part of any key.
    pub point: Vec<(String, String)>,
    /// Positional arguments with the parameter's name, in declaration order.
    pub inputs: Vec<(String, Input)>,
    /// All identity parameters by name, defaults filled in; without `place` parameters and without `since`
    /// parameters at their default (those are in `unkeyed`).
    pub params: BTreeMap<String, Arg>,
    /// Parameters that the worker gets but the key does not: `place`, and `since` at their default.
    pub unkeyed: BTreeMap<String, Value>,
    /// The `run { }` block, evaluated.
    pub run: RunSpec,
    /// The call.
    pub span: Span,
    /// Where each argument is written, by name, for `why`.
    pub arg_spans: BTreeMap<String, Span>,
}

impl Step {
    /// Returns the label with the axis values: `r2[arm=hard, rate=50%]`.
    pub fn name(&self) -> String {
        name_at(&self.label, &self.point)
    }

    /// Returns the outputs of other steps that it uses.
    pub fn uses(&self) -> impl Iterator<Item = &OutputRef> {
        let inputs = self.inputs.iter().filter_map(|(_, input)| match input {
            Input::Output(output) => Some(output),
            Input::Files { .. } => None,
        });
        let late = self.params.values().filter_map(|arg| match arg {
            Arg::Late(output) => Some(output),
            Arg::Value(_) => None,
        });
        inputs.chain(late)
    }
}

/// A positional argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// An output of another step.
    Output(OutputRef),
    /// Local files: a path or glob as written, relative to `base`; the key takes their content.
    Files {
        /// As written.
        pattern: String,
        /// The recipe's folder.
        base: PathBuf,
        /// The text in the recipe.
        span: Span,
    },
}

/// An output of a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputRef {
    /// The step.
    pub step: StepId,
    /// The output's name, as in [`StageDecl::outputs`].
    pub output: String,
}

/// A named argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Known now.
    Value(Value),
    /// Known once a stage ran.
    Late(OutputRef),
}

/// How to run a step; never changes its result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSpec {
    /// Cores; by default all for tensor stages, a share of the free ones for others.
    pub cpus: Option<u32>,
    /// GPUs.
    pub gpus: Option<u32>,
    /// Peak memory in bytes.
    pub mem: Option<u64>,
    /// Seconds after which the step is stopped.
    pub limit_s: Option<f64>,
    /// How often a crashed worker is tried again.
    pub retries: u32,
    /// `cpu`, `cuda`; by default what the machine has.
    pub device: Option<String>,
    /// Sequences at once, a memory knob.
    pub micro_batch: Option<u32>,
}

/// All a run was asked for.
#[derive(Clone, Debug, Default)]
pub struct Expansion {
    /// The steps; inputs come before their users.
    pub steps: Vec<Step>,
    /// What the plans name.
    pub goals: Vec<Goal>,
    /// The reports.
    pub reports: Vec<Report>,
}

/// A value some plan asks for, at one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// The plan's name.
    pub plan: String,
    /// The axis values of the point, as written.
    pub point: Vec<(String, String)>,
    /// What it needs.
    pub outputs: Vec<OutputRef>,
}

/// A table to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// The doc comment above it, if any: the caption.
    pub caption: Option<String>,
    /// Heads of the leading columns: the row axes' names.
    pub row_axes: Vec<String>,
    /// Head of each value column: `perplexity`, or `perplexity, arm = hard`.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<ReportRow>,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportRow {
    /// The row axes' values, as written.
    pub labels: Vec<String>,
    /// One cell per column; none where the plan did not ask for the point.
    pub cells: Vec<Option<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Known without running.
    Value(Value),
    /// A scalar output.
    Output(OutputRef),
}
