//! What the front end hands to `graph`: stage calls with all arguments evaluated, each different
//! call once, in an order in which inputs come first.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::text::name_at;
use crate::base::{Atom, FastHasher, Span, Value};
use crate::sema::late::Late;

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
    /// What runs it.
    pub body: Body,
}

/// What runs a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A worker.
    Worker,
    /// A worker, by the command that a recipe declares.
    Command(Shell),
    /// The scheduler: it takes the inputs whose number among `by` is the least.
    Best,
}

impl StageDecl {
    /// Returns the command, of a stage that a recipe declares.
    pub fn shell(&self) -> Option<&Shell> {
        match &self.body {
            Body::Command(shell) => Some(shell),
            Body::Worker | Body::Best => None,
        }
    }
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
    /// Where it is written.
    pub span: Span,
    /// Where the stage's version is written.
    pub version_span: Span,
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

/// A stage call in the recipe: what all steps that it makes share.
#[derive(Debug)]
pub struct Site {
    stage: Arc<StageDecl>,
    span: Span,
    /// The inputs' names, in declaration order.
    inputs: Box<[Atom]>,
    /// The places of the inputs by name.
    by_name: Box<[usize]>,
    /// By name.
    params: Box<[Param]>,
    /// Where each argument is written, for `why`.
    arg_spans: Box<[(Atom, Span)]>,
    /// The outputs that fixed params are.
    late: Box<[OutputRef]>,
    /// The hash of all that steps of this call have in common.
    hash: u64,
}

/// A parameter at a [`Site`].
#[derive(Debug)]
pub(super) struct Param {
    pub(super) name: Atom,
    pub(super) rule: Rule,
    /// The value, where it is the same for all steps.
    pub(super) fixed: Option<Arg>,
}

/// When a parameter enters the key. What is known only later always does.
#[derive(Debug)]
pub(super) enum Rule {
    Always,
    Never,
    /// Where its value is another.
    Unless(Value),
}

impl Param {
    fn is_keyed(&self, arg: &Arg) -> bool {
        match (&self.rule, arg) {
            (Rule::Always, _) | (_, Arg::Late(_)) => true,
            (Rule::Never, Arg::Value(_)) => false,
            (Rule::Unless(default), Arg::Value(value)) => value != default,
        }
    }

    /// Returns the part that it has in the hash of a step, whose parts are added: parameters come in the order of their
    /// names, but fixed ones are hashed only once.
    fn hash(&self, arg: &Arg) -> u64 {
        match self.is_keyed(arg) {
            true => hash_of(&(&*self.name, arg)),
            false => 0,
        }
    }
}

impl Site {
    pub(super) fn new(
        stage: Arc<StageDecl>,
        inputs: Box<[Atom]>,
        mut params: Vec<Param>,
        span: Span,
        arg_spans: Box<[(Atom, Span)]>,
    ) -> Self {
        params.sort_by_key(|param| param.name);
        let mut by_name: Box<[usize]> = (0..inputs.len()).collect();
        by_name.sort_by_key(|place| &inputs[*place]);
        let fixed = params.iter().filter_map(|param| Some(param.hash(param.fixed.as_ref()?)));
        let hash = fixed.fold(hash_of(&stage.name), u64::wrapping_add);
        let mut late = Vec::new();
        let fixed = params.iter().filter_map(|param| param.fixed.as_ref());
        fixed.for_each(|arg| arg.outputs(&mut |output| late.push(output.clone())));
        let (params, late) = (params.into(), late.into());
        Self { stage, span, inputs, by_name, params, arg_spans, late, hash }
    }
}

fn hash_of(what: &impl Hash) -> u64 {
    let mut hasher = FastHasher::default();
    what.hash(&mut hasher);
    hasher.finish()
}

/// One stage call, evaluated. There may be very many, so it holds only what the others of its [`Site`] do not.
#[derive(Clone, Debug)]
pub struct Step {
    pub(super) site: Arc<Site>,
    pub(super) label: Atom,
    pub(super) point: Names,
    /// By the site's inputs.
    pub(super) inputs: Inputs,
    /// Of the site's params those that are not fixed.
    pub(super) args: Box<[Arg]>,
    pub(super) run: Arc<RunSpec>,
}

/// The inputs of a step, few of which need room elsewhere.
pub(super) type Inputs = SmallVec<[Input; 2]>;

/// Axis values, as (axis, value as written).
pub type Names = Arc<[(Atom, Atom)]>;

/// A step written out, of which [`Step::new`] makes one.
#[derive(Clone, Debug)]
pub struct Parts {
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
    /// Returns the step with a site of its own.
    pub fn new(parts: Parts) -> Self {
        let keyed = parts.params.into_iter().map(|(name, arg)| (name, Rule::Always, arg));
        let unkeyed = parts.unkeyed.into_iter();
        let unkeyed = unkeyed.map(|(name, value)| (name, Rule::Never, Arg::Value(value)));
        let params = keyed.chain(unkeyed).map(|(name, rule, arg)| Param {
            name: name.into(),
            rule,
            fixed: Some(arg),
        });
        let inputs = parts.inputs.into_iter().map(|(name, input)| (Atom::from(name), input));
        let (names, inputs): (Vec<_>, Inputs) = inputs.unzip();
        let arg_spans = parts.arg_spans.into_iter().map(|(name, span)| (name.into(), span));
        let site =
            Site::new(parts.stage, names.into(), params.collect(), parts.span, arg_spans.collect());
        let point = parts.point.into_iter().map(|(axis, value)| (axis.into(), value.into()));
        Self {
            site: Arc::new(site),
            label: parts.label.into(),
            point: point.collect(),
            inputs,
            args: Box::default(),
            run: Arc::new(parts.run),
        }
    }

    /// Returns what is called.
    pub fn stage(&self) -> &StageDecl {
        &self.site.stage
    }

    /// Returns the binding it came from: `r2`; not part of any key.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the axis values it depends on, by axis name; not part of any key.
    pub fn point(&self) -> &[(Atom, Atom)] {
        &self.point
    }

    /// Returns the label with the axis values: `r2[arm=hard, rate=50%]`.
    pub fn name(&self) -> String {
        name_at(&self.label, &self.point)
    }

    /// Returns the positional arguments with the parameter's name, in declaration order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &Input)> {
        self.site.inputs.iter().map(|name| &**name).zip(&self.inputs)
    }

    /// Returns the positional arguments by name.
    pub fn inputs_by_name(&self) -> impl ExactSizeIterator<Item = (&str, &Input)> {
        self.site.by_name.iter().map(|at| (&*self.site.inputs[*at], &self.inputs[*at]))
    }

    /// Returns all identity parameters by name, defaults filled in; without those of [`Step::unkeyed`].
    pub fn params(&self) -> impl Iterator<Item = (&str, &Arg)> {
        self.args()
            .filter(|(param, arg)| param.is_keyed(arg))
            .map(|(param, arg)| (&*param.name, arg))
    }

    /// Returns an identity parameter.
    pub fn param(&self, name: &str) -> Option<&Arg> {
        self.params().find(|(param, _)| *param == name).map(|(_, arg)| arg)
    }

    /// Returns the parameters that the worker gets but the key does not: `place`, and `since` at their default.
    pub fn unkeyed(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.args().filter_map(|(param, arg)| match arg {
            Arg::Value(value) if !param.is_keyed(arg) => Some((&*param.name, value)),
            Arg::Value(_) | Arg::Late(_) => None,
        })
    }

    /// Returns the `run { }` block, evaluated.
    pub fn run(&self) -> &RunSpec {
        &self.run
    }

    /// Returns the call.
    pub fn span(&self) -> Span {
        self.site.span
    }

    /// Returns where an argument is written.
    pub fn arg_span(&self, name: &str) -> Option<Span> {
        let mut spans = self.site.arg_spans.iter();
        spans.find(|(arg, _)| **arg == *name).map(|(_, span)| *span)
    }

    /// Returns the outputs of other steps that it uses.
    pub fn uses(&self) -> impl Iterator<Item = &OutputRef> {
        let mut uses = SmallVec::<[&OutputRef; 4]>::new();
        self.each_use(&mut |output| uses.push(output));
        uses.into_iter()
    }

    /// Visits the outputs of other steps that it uses.
    pub fn each_use<'a>(&'a self, visit: &mut dyn FnMut(&'a OutputRef)) {
        for input in &self.inputs {
            if let Input::Output(output) = input {
                visit(output);
            }
        }
        self.site.late.iter().for_each(&mut *visit);
        self.args.iter().for_each(|arg| arg.outputs(visit));
    }

    fn args(&self) -> impl Iterator<Item = (&Param, &Arg)> {
        let mut own = self.args.iter();
        self.site.params.iter().filter_map(move |param| match &param.fixed {
            Some(fixed) => Some((param, fixed)),
            None => Some((param, own.next()?)),
        })
    }

    /// Returns a hash of what it does: steps that do the same have the same.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = FastHasher::default();
        self.device().hash(&mut hasher);
        for input in &self.inputs {
            match input {
                Input::Output(output) => output.hash(&mut hasher),
                Input::Files(files) => (&files.pattern, &files.base).hash(&mut hasher),
            }
        }
        let open = self.site.params.iter().filter(|param| param.fixed.is_none());
        let params = open.zip(&self.args).map(|(param, arg)| param.hash(arg));
        hasher.write_u64(params.fold(self.site.hash, u64::wrapping_add));
        hasher.finish()
    }

    /// Returns whether both do the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_same = |(own, other): (&Input, &Input)| match (own, other) {
            (Input::Output(own), Input::Output(other)) => own == other,
            (Input::Files(own), Input::Files(other)) => {
                (&own.pattern, &own.base) == (&other.pattern, &other.base)
            }
            (Input::Output(_), Input::Files(_)) | (Input::Files(_), Input::Output(_)) => false,
        };
        let (stage, others) = (&self.site.stage, &other.site.stage);
        let is_same_command = || {
            let commands = [stage, others].map(|stage| stage.shell().map(Shell::template));
            stage.name == others.name && commands[0] == commands[1]
        };
        (Arc::ptr_eq(stage, others) || is_same_command())
            && self.device() == other.device()
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(is_same)
            && self.params().eq(other.params())
    }

    /// Returns the device that is chosen for a tensor stage: results differ between classes of devices, so it is part of what
    /// the step does.
    pub fn device(&self) -> Option<&str> {
        self.run.device.as_deref().filter(|_| self.site.stage.tensor)
    }
}

/// A positional argument.
#[derive(Clone, Debug)]
pub enum Input {
    /// An output of another step.
    Output(OutputRef),
    /// Local files; the key takes their content.
    Files(Box<Files>),
}

/// Returns the parameter that an input is of: the inputs `corpora.0` and `corpora.1` are a list's, given for `corpora`.
pub fn slot_of(input: &str) -> &str {
    match input.split_once('.') {
        Some((slot, _)) if !slot.starts_with("uses ") => slot,
        _ => input,
    }
}

/// Local files as a recipe names them.
#[derive(Clone, Debug)]
pub struct Files {
    /// A path or glob, as written.
    pub pattern: String,
    /// The recipe's folder, which it is relative to.
    pub base: PathBuf,
    /// The text in the recipe.
    pub span: Span,
}

/// An output of a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputRef {
    /// The step.
    pub step: StepId,
    /// The output's name, as in [`StageDecl::outputs`].
    pub output: Atom,
}

/// A named argument.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Arg {
    /// Known now.
    Value(Value),
    /// Known once stages ran.
    Late(Late),
}

impl Arg {
    /// Visits the outputs that it is computed of, if it is not known now.
    fn outputs<'a>(&'a self, visit: &mut dyn FnMut(&'a OutputRef)) {
        match self {
            Self::Late(late) => late.outputs(visit),
            Self::Value(_) => {}
        }
    }
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
    /// Seconds without a sign of life after which the step is stopped.
    pub stall_s: Option<f64>,
    /// How often it is tried again after a failure that may pass.
    pub retries: u32,
    /// `cpu`, `cuda`; by default what the machine has.
    pub device: Option<String>,
    /// Sequences at once, a memory knob.
    pub micro_batch: Option<u32>,
    /// Whether a backward pass computes each layer again instead of keeping what it made, a memory knob too.
    pub recompute: bool,
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

/// Returns for each step whether the targets need it.
pub fn needed(steps: &[Step], targets: impl Iterator<Item = StepId>) -> Vec<bool> {
    let mut needed = vec![false; steps.len()];
    targets.for_each(|id| needed[id.0 as usize] = true);
    // Users come after their inputs.
    for (index, step) in steps.iter().enumerate().rev() {
        if needed[index] {
            step.each_use(&mut |output| needed[output.step.0 as usize] = true);
        }
    }
    needed
}

/// A value some plan asks for, at one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// What it needs.
    pub outputs: SmallVec<[OutputRef; 1]>,
}

/// How a report is shown: what it says is a table, which others than [`View::Table`] draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Table {
        /// Which number of each column is the best.
        best: Option<Best>,
        /// Whether the difference from the baseline's row is told.
        delta: bool,
    },
    /// A line a column along the numbers of the last row axis; or the losses of each log.
    Curve,
    /// A group of bars a row, a bar a column.
    Bars,
    /// A point a row: a pair of columns is its two coordinates.
    Scatter,
    /// A coloured field a cell.
    Heat,
}

impl View {
    /// Returns what it is called in recipes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Table { .. } => "table",
            Self::Curve => "curve",
            Self::Bars => "bars",
            Self::Scatter => "scatter",
            Self::Heat => "heat",
        }
    }
}

/// Which number is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// The largest.
    High,
    /// The smallest.
    Low,
}

/// A table to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// How it is shown.
    pub view: View,
    /// The doc comment above it, if any: the caption.
    pub caption: Option<String>,
    /// Heads of the leading columns: the row axes' names.
    pub row_axes: Vec<String>,
    /// The columns of values: of the first value all of the column axis, then of the next.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<ReportRow>,
}

/// A column of a table. Its text is its head: `perplexity`, or `perplexity, arm = hard`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// What it shows: `perplexity`.
    pub value: String,
    /// The column axis and its value, as written.
    pub at: Option<(String, String)>,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)?;
        self.at.iter().try_for_each(|(axis, value)| write!(f, ", {axis} = {value}"))
    }
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportRow {
    /// The row axes' values, as written.
    pub labels: Vec<String>,
    /// The value of the last row axis, if that is a number.
    pub x: Option<f64>,
    /// Whether all row axes are at their baseline.
    pub is_baseline: bool,
    /// One cell per column; none where the plan did not ask for the point.
    pub cells: Vec<Option<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Known without running.
    Value(Value),
    /// Known once steps ran.
    Late(Late),
    /// Numbers along an axis: mean and spread are shown.
    Spread(Vec<Late>),
    /// The losses of a training log.
    Log(OutputRef),
}

impl Cell {
    /// Returns the outputs that it shows or is computed of.
    pub fn outputs(&self) -> Vec<&OutputRef> {
        let mut outputs = Vec::new();
        let mut visit = |output| outputs.push(output);
        match self {
            Self::Value(_) => {}
            Self::Late(late) => late.outputs(&mut visit),
            Self::Log(output) => visit(output),
            Self::Spread(parts) => parts.iter().for_each(|part| part.outputs(&mut visit)),
        }
        outputs
    }
}
