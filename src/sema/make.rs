//! Steps: stage calls with all arguments evaluated, each different one once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{Span, Value};
use crate::diag::Diagnostic;
use crate::sema::eval::{At, Eval};
use crate::sema::node::{AxisId, Call, InputArg, Slot, Stage};
use crate::sema::steps::{Arg, Input, OutputRef, RunSpec, Shell, Step, StepId};
use crate::sema::ty::Ty;
use crate::sema::value::{Misfit, Val, real};

/// What `source.fetch` knows how to fetch.
const SCHEMES: [&str; 2] = ["pypi", "file"];

impl<'p> Eval<'p> {
    pub(super) fn call(&mut self, call: &'p Call, span: Span, at: At<'_, 'p>) -> Option<Val> {
        // All arguments are evaluated before any missing one ends it, so that all mistakes are told.
        let inputs: Vec<_> = call
            .inputs
            .iter()
            .zip(&call.stage.signature.inputs)
            .map(|(input, slot)| self.input(call, input, slot, at))
            .collect();
        let params = self.params(call, at);
        let run = self.run_spec(call, at);
        let inputs: Vec<(Input, Option<OutputRef>)> = inputs.into_iter().collect::<Option<_>>()?;
        let (params, unkeyed) = params?;
        let tokenizer = self.tokenizer(call, &inputs, span)?;
        let names = call.stage.signature.inputs.iter().map(|slot| slot.name.clone());
        let mut arg_spans: BTreeMap<_, _> =
            names.clone().zip(call.inputs.iter().map(|input| input.node().span)).collect();
        let given = call.params.iter();
        arg_spans
            .extend(given.map(|(at, v)| (call.stage.signature.params[*at].name.clone(), v.span)));
        let uses = call.stage.uses.iter().map(|file| {
            let base = self.program.folder_at(file.span).to_owned();
            let input = Input::Files { pattern: file.node.clone(), base, span: file.span };
            (format!("uses {}", file.node), input)
        });
        let step = Step {
            stage: Arc::clone(&call.stage.decl),
            label: at.label.to_owned(),
            point: self.point(&call.axes, at),
            inputs: names.zip(inputs.into_iter().map(|(input, _)| input)).chain(uses).collect(),
            params,
            unkeyed,
            run: run?,
            span,
            arg_spans,
        };
        let id = self.intern(step);
        Some(result(&call.stage, id, tokenizer.as_ref()))
    }

    /// Returns the axis values and turns of folds that a call depends on.
    fn point(&self, axes: &BTreeSet<AxisId>, at: At<'_, 'p>) -> Vec<(String, String)> {
        let axes = axes.union(&at.env.axes).map(|id| (&self.program.axes[*id], at.point[*id]));
        let values = axes.map(|(axis, at)| (axis.name.clone(), axis.shown[at].clone()));
        let mut point: Vec<_> = values.chain(at.env.turns.iter().cloned()).collect();
        point.sort();
        point
    }

    /// Returns the number of the step, which is a known one when it does the same.
    fn intern(&mut self, step: Step) -> StepId {
        let reference = |output: &OutputRef| {
            let step = Value::Int(i64::from(output.step.0));
            Value::List(vec![step, Value::Str(output.output.clone())])
        };
        let input = |input: &Input| match input {
            Input::Output(output) => reference(output),
            Input::Files { pattern, .. } => Value::Str(pattern.clone()),
        };
        let arg = |arg: &Arg| match arg {
            Arg::Value(value) => Value::List(vec![value.clone()]),
            Arg::Late(output) => reference(output),
        };
        // Results differ between classes of devices, so what is chosen for a tensor stage is part of what it does.
        let device = step.run.device.clone().filter(|_| step.stage.tensor);
        let shell = step.stage.shell.as_ref().map(Shell::template);
        let what = Value::List(vec![
            Value::Str(step.stage.name.clone()),
            shell.map_or(Value::Null, Value::Str),
            device.map_or(Value::Null, Value::Str),
            Value::List(step.inputs.iter().map(|(_, value)| input(value)).collect()),
            Value::map(step.params.iter().map(|(name, value)| (name, arg(value)))),
        ]);
        let next = StepId(self.steps.len() as u32);
        let id = *self.known.entry(what.digest("tlm step")).or_insert(next);
        if id == next {
            self.steps.push(step);
        }
        id
    }

    fn input(
        &mut self,
        call: &'p Call,
        input: &'p InputArg,
        slot: &Slot,
        at: At<'_, 'p>,
    ) -> Option<(Input, Option<OutputRef>)> {
        let label = format!("{}.{}", at.label, slot.name);
        let inner = At { label: &label, ..at };
        match input {
            InputArg::Artifact(node) => match self.node(node, inner)? {
                Val::Artifact(output, tokenizer) => Some((Input::Output(output), tokenizer)),
                _ => None,
            },
            InputArg::Text(node) => {
                let Val::Plain(Value::Str(text)) = self.node(node, inner)? else { return None };
                self.file(call, text, node.span, inner).map(|input| (input, None))
            }
        }
    }

    /// Returns what a text stands for where a file is wanted.
    fn file(&mut self, call: &'p Call, text: String, span: Span, at: At<'_, 'p>) -> Option<Input> {
        let Some((scheme, _)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            if let Some(digest) = &call.sha256 {
                self.found.push(
                    Diagnostic::error("tlm::eval::idle_digest", "a local path takes no `sha256:`")
                        .label(digest.span, "checked against nothing")
                        .label(span, "a local path: its content is part of the key as it is")
                        .help(format!("write `\"file:{text}\"` to pin its content")),
                );
                return None;
            }
            let base = self.program.folder_at(span).to_owned();
            return Some(Input::Files { pattern: text, base, span });
        };
        if !SCHEMES.contains(&scheme) {
            let known = SCHEMES.map(|scheme| format!("`{scheme}:`")).join(", ");
            self.found.push(
                Diagnostic::error("tlm::eval::unknown_scheme", format!("can't fetch `{scheme}:`"))
                    .label(span, "no such kind of source")
                    .help(format!("sources are {known}, and local paths")),
            );
            return None;
        }
        let sha256 = self.sha256(call, span, at)?;
        let uri = self.absolute(&text, span);
        let fetch = self.program.fetch.as_ref()?;
        let id = self.intern(Step {
            stage: Arc::clone(&fetch.decl),
            label: at.label.to_owned(),
            point: self.point(&call.axes, at),
            inputs: Vec::new(),
            params: BTreeMap::from([("sha256".to_owned(), Arg::Value(Value::Str(sha256)))]),
            unkeyed: BTreeMap::from([("uri".to_owned(), Value::Str(uri))]),
            run: RunSpec::default(),
            span,
            arg_spans: BTreeMap::from([("uri".to_owned(), span)]),
        });
        Some(Input::Output(OutputRef { step: id, output: "out".to_owned() }))
    }

    /// Returns a URI whose path does not depend on where tlm is called.
    fn absolute(&self, uri: &str, span: Span) -> String {
        match uri.strip_prefix("file:") {
            Some(path) => format!("file:{}", self.program.folder_at(span).join(path).display()),
            None => uri.to_owned(),
        }
    }

    fn sha256(&mut self, call: &'p Call, span: Span, at: At<'_, 'p>) -> Option<String> {
        let Some(node) = &call.sha256 else {
            self.found.push(
                Diagnostic::error("tlm::eval::no_digest", "a fetched file needs its digest")
                    .label(span, "could be another file tomorrow")
                    .help("add `sha256: \"...\"`, the 64 digits that `sha256sum` prints"),
            );
            return None;
        };
        let Val::Plain(Value::Str(digits)) = self.node(node, at)? else { return None };
        let digits = digits.to_ascii_lowercase();
        if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Some(digits);
        }
        self.found.push(
            Diagnostic::error("tlm::eval::no_digest", "this is no SHA-256 digest")
                .label(node.span, format!("{} characters", digits.chars().count()))
                .help("write the 64 hexadecimal digits that `sha256sum` prints"),
        );
        None
    }

    /// Returns identity parameters, and those that the worker gets but the key does not.
    fn params(
        &mut self,
        call: &'p Call,
        at: At<'_, 'p>,
    ) -> Option<(BTreeMap<String, Arg>, BTreeMap<String, Value>)> {
        let (mut params, mut unkeyed) = (BTreeMap::new(), BTreeMap::new());
        let mut complete = true;
        for (index, slot) in call.stage.signature.params.iter().enumerate() {
            let given = call.params.iter().find(|(at, _)| *at == index).map(|(_, node)| node);
            let value = match given {
                Some(node) => self.node(node, at),
                None => slot.default.clone(),
            };
            let Some(value) = value else {
                complete = false;
                continue;
            };
            let is_default = slot.since && Some(&value) == slot.default.as_ref();
            match (value.known(), value) {
                (Some(Value::Str(uri)), _) if slot.place => {
                    unkeyed.insert(
                        slot.name.clone(),
                        Value::Str(self.absolute(&uri, given.map_or(slot.span, |node| node.span))),
                    );
                }
                (Some(value), _) if slot.place || is_default => {
                    unkeyed.insert(slot.name.clone(), value);
                }
                (Some(value), _) => drop(params.insert(slot.name.clone(), Arg::Value(value))),
                (None, Val::Late(output)) => {
                    params.insert(slot.name.clone(), Arg::Late(output));
                }
                (None, _) => {
                    self.late(given.map_or(slot.span, |node| node.span));
                    complete = false;
                }
            }
        }
        complete.then_some((params, unkeyed))
    }

    fn run_spec(&mut self, call: &'p Call, at: At<'_, 'p>) -> Option<RunSpec> {
        let mut spec = RunSpec::default();
        let mut complete = true;
        for (name, node) in &call.run {
            let Some(value) = self.plain(node, at) else {
                complete = false;
                continue;
            };
            let whole = match &value {
                Value::Int(value) => Some(u32::try_from(*value).unwrap_or(u32::MAX)),
                _ => None,
            };
            if name == "limit" && !(1e-3..=1e9).contains(&real(&value)) {
                let wanted = "a time span above zero, and below thirty years";
                self.misfit(&Misfit { wanted, found: real(&value) }, node.span);
                complete = false;
            }
            match (name.as_str(), value) {
                ("cpus", _) => spec.cpus = whole,
                ("gpus", _) => spec.gpus = whole,
                ("mem", Value::Int(bytes)) => spec.mem = Some(bytes.unsigned_abs()),
                ("limit", value) => spec.limit_s = Some(real(&value)),
                ("retries", _) => spec.retries = whole.unwrap_or(0),
                ("device", Value::Str(device)) => spec.device = Some(device),
                ("micro_batch", _) => spec.micro_batch = whole,
                _ => {}
            }
        }
        complete.then_some(spec)
    }

    /// Returns the tokenizer that the outputs' token ids mean something under: the one given, or the one that all inputs agree on.
    fn tokenizer(
        &mut self,
        call: &'p Call,
        inputs: &[(Input, Option<OutputRef>)],
        span: Span,
    ) -> Option<Option<OutputRef>> {
        let slots = || call.stage.signature.inputs.iter().zip(inputs).zip(&call.inputs);
        let given = slots().find(|((slot, _), _)| slot.ty == Ty::Artifact("Tokenizer".to_owned()));
        let mut first: Option<(&OutputRef, Span)> = None;
        for ((slot, (_, tokenizer)), arg) in slots() {
            // A donor goes with any tokenizer: its embeddings are gathered anew.
            let free = given.is_some() && slot.ty == Ty::Artifact("Checkpoint".to_owned());
            let Some(own) = tokenizer.as_ref().filter(|_| !free) else { continue };
            match first {
                None => first = Some((own, arg.node().span)),
                Some((other, _)) if other == own => {}
                Some((other, other_span)) => {
                    let (own, other) = (self.describe(own), self.describe(other));
                    self.found.push(
                        Diagnostic::error(
                            "tlm::eval::tokenizer_mismatch",
                            format!("`{}` gets token ids of two tokenizers", call.stage.decl.name),
                        )
                        .label(arg.node().span, format!("made with `{own}`"))
                        .label(other_span, format!("made with `{other}`"))
                        .label(span, "in this call")
                        .help("pack the data with the model's own tokenizer"),
                    );
                    return None;
                }
            }
        }
        Some(first.map(|(tokenizer, _)| tokenizer.clone()))
    }

    fn describe(&self, output: &OutputRef) -> String {
        let label = &self.steps[output.step.0 as usize].label;
        match output.output.strip_prefix("out") {
            Some(rest) => format!("{label}{rest}"),
            None => format!("{label}.{}", output.output),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c))
}

/// Returns a field of an artifact. Token ids mean the same to an artifact and its tokenizer, so that is the one carried.
pub(super) fn field(output: &OutputRef, tokenizer: Option<OutputRef>, name: &str, ty: &Ty) -> Val {
    let inner = OutputRef { step: output.step, output: format!("{}.{name}", output.output) };
    match ty {
        Ty::Artifact(_) => {
            let made = tokenizer.unwrap_or(inner);
            Val::Artifact(made.clone(), Some(made))
        }
        _ => Val::Late(inner),
    }
}

/// Returns what a step makes.
fn result(stage: &Stage, id: StepId, tokenizer: Option<&OutputRef>) -> Val {
    let output = |name: &str, ty: &Ty| {
        let output = OutputRef { step: id, output: name.to_owned() };
        match ty {
            Ty::Artifact(artifact) => {
                let carried = match artifact.as_str() {
                    "Tokenizer" => Some(output.clone()),
                    "File" | "Corpus" | "TrainLog" => None,
                    _ => tokenizer.cloned().or_else(|| {
                        let own = format!("{name}.tokenizer");
                        let makes = stage.decl.outputs.contains_key(&own);
                        makes.then_some(OutputRef { step: id, output: own })
                    }),
                };
                Val::Artifact(output, carried)
            }
            _ => Val::Late(output),
        }
    };
    match &stage.result {
        Ty::Record(fields) => Val::Record(
            fields.iter().map(|(name, field)| (name.clone(), output(name, &field.ty))).collect(),
        ),
        one => output("out", one),
    }
}
