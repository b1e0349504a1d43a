//! Evaluation: a checked expression at one point of the axes. Stage calls become steps, each different one once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::base::{Digest, Span, Value};
use crate::diag::Diagnostic;
use crate::sema::node::{AxisId, BindingId, Call, InputArg, Kind, Node, Program, Slot, Stage};
use crate::sema::steps::{Arg, Input, OutputRef, RunSpec, Step, StepId};
use crate::sema::ty::Ty;
use crate::sema::value::{Misfit, NoResult, Val, arithmetic, real};
use crate::syntax::ast::BinaryOp;

/// For each axis, which of its values.
pub(super) type Point = Vec<usize>;

/// How many parts a value may have.
const PARTS_MAX: usize = 100_000;

/// What `source.fetch` knows how to fetch.
const SCHEMES: [&str; 2] = ["pypi", "file"];

pub(super) struct Eval<'p> {
    program: &'p Program,
    pub(super) steps: Vec<Step>,
    /// Steps by what they are made of.
    known: HashMap<Digest, StepId>,
    /// Values of bindings, by the part of the point that they depend on; none where an error was told.
    values: HashMap<(BindingId, Point), Option<Val>>,
    /// How many bindings are being evaluated within each other.
    depth: usize,
    /// The binding, at a point, that has to be evaluated before what was tried: evaluating it there would go too deep.
    first: Option<(BindingId, Point)>,
    pub(super) found: Vec<Diagnostic>,
}

/// How deep bindings are evaluated within each other. Longer chains are begun at their far end, so that the stack does not
/// grow with them.
const DEPTH_MAX: usize = 50;

/// Where evaluation stands: the point, and what the steps made here are called.
#[derive(Clone, Copy)]
struct At<'a> {
    point: &'a [usize],
    label: &'a str,
}

impl<'p> Eval<'p> {
    pub(super) fn new(program: &'p Program) -> Self {
        Self {
            program,
            steps: Vec::new(),
            known: HashMap::new(),
            values: HashMap::new(),
            depth: 0,
            first: None,
            found: Vec::new(),
        }
    }

    /// Returns the value of an expression at a point; none when an error was told. `label` names the steps made for it.
    pub(super) fn at(&mut self, node: &Node, point: &[usize], label: &str) -> Option<Val> {
        self.until_settled(|eval| eval.node(node, At { point, label }))
    }

    /// Returns the value of a binding at a point.
    pub(super) fn binding(&mut self, id: BindingId, point: &[usize]) -> Option<Val> {
        self.until_settled(|eval| eval.bound(id, point))
    }

    /// Tries again until all that has to be evaluated first is.
    fn until_settled(&mut self, mut evaluate: impl FnMut(&mut Self) -> Option<Val>) -> Option<Val> {
        loop {
            let value = evaluate(self);
            let Some(first) = self.first.take() else { return value };
            let mut waiting = vec![first];
            while let Some((id, point)) = waiting.pop() {
                self.bound(id, &point);
                if let Some(first) = self.first.take() {
                    waiting.extend([(id, point), first]);
                }
            }
        }
    }

    fn bound(&mut self, id: BindingId, point: &[usize]) -> Option<Val> {
        let program = self.program;
        let binding = &program.bindings[id];
        let part: Point = binding.typed.axes.iter().map(|axis| point[*axis]).collect();
        if let Some(value) = self.values.get(&(id, part.clone())) {
            return value.clone();
        }
        if self.depth == DEPTH_MAX {
            self.first = Some((id, point.to_owned()));
            return None;
        }
        self.depth += 1;
        let value = self.node(&binding.typed.node, At { point, label: &binding.name });
        self.depth -= 1;
        if self.first.is_none() {
            self.values.insert((id, part), value.clone());
        }
        value
    }

    fn node(&mut self, node: &Node, at: At<'_>) -> Option<Val> {
        match &node.kind {
            Kind::Error => None,
            Kind::Const(value) => Some(value.clone()),
            Kind::Axis(id) => {
                let program = self.program;
                self.node(&program.axes[*id].values[at.point[*id]], at)
            }
            Kind::Binding(id) => self.bound(*id, at.point),
            Kind::List(items) => {
                let items: Vec<_> = items.iter().map(|item| self.node(item, at)).collect();
                let list = items.into_iter().collect::<Option<_>>().map(Val::List)?;
                self.bounded(list, node.span)
            }
            Kind::Record(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, v)| Some((name.clone(), self.node(v, at)?)))
                    .collect();
                let record = fields.into_iter().collect::<Option<_>>().map(Val::Record)?;
                self.bounded(record, node.span)
            }
            Kind::Field(base, name) => match self.node(base, at)? {
                Val::Record(mut fields) => fields.remove(name),
                _ => None,
            },
            Kind::ArtifactField(base, name, ty) => match self.node(base, at)? {
                Val::Artifact(output, tokenizer) => Some(field(&output, tokenizer, name, ty)),
                _ => None,
            },
            Kind::Not(inner) => {
                let value = self.truth(inner, at)?;
                Some(Val::Plain(Value::Bool(!value)))
            }
            Kind::And(left, right) => {
                let value = self.truth(left, at)? && self.truth(right, at)?;
                Some(Val::Plain(Value::Bool(value)))
            }
            Kind::Or(left, right) => {
                let value = self.truth(left, at)? || self.truth(right, at)?;
                Some(Val::Plain(Value::Bool(value)))
            }
            Kind::Arithmetic(op, left, right, dim) => {
                let (a, b) = (self.plain(left, at), self.plain(right, at));
                match arithmetic(*op, &a?, &b?, *dim) {
                    Ok(value) => Some(Val::Plain(value)),
                    Err(why) => self.no_result(why, node.span, right.span),
                }
            }
            Kind::Compare(op, left, right) => {
                let (a, b) = (self.plain(left, at), self.plain(right, at));
                Some(Val::Plain(Value::Bool(compare(*op, &a?, &b?))))
            }
            Kind::If(parts) => {
                let [test, then, other] = &**parts;
                let chosen = if self.truth(test, at)? { then } else { other };
                self.node(chosen, at)
            }
            Kind::Convert(inner, ty) => {
                let value = self.node(inner, at)?;
                match value.conform(ty) {
                    Ok(value) => Some(value),
                    Err(misfit) => self.misfit(&misfit, node.span),
                }
            }
            Kind::Call(call) => self.call(call, node.span, at),
        }
    }

    /// Returns a value that is not too large: a few lines could double it over and over.
    fn bounded(&mut self, value: Val, span: Span) -> Option<Val> {
        if value.parts() <= PARTS_MAX {
            return Some(value);
        }
        self.found.push(
            Diagnostic::error("tlm::eval::too_large", "the value has too many parts")
                .label(span, format!("more than {PARTS_MAX}"))
                .help("use smaller lists"),
        );
        None
    }

    /// Returns a value that must be known now.
    fn plain(&mut self, node: &Node, at: At<'_>) -> Option<Value> {
        match self.node(node, at)? {
            Val::Plain(value) => Some(value),
            _ => {
                self.late(node.span);
                None
            }
        }
    }

    fn truth(&mut self, node: &Node, at: At<'_>) -> Option<bool> {
        match self.plain(node, at)? {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn late(&mut self, span: Span) {
        self.found.push(
            Diagnostic::error("tlm::eval::late", "this is known only once a stage ran")
                .label(span, "can't be computed with")
                .help("pass it to a stage's parameter as it is"),
        );
    }

    fn misfit(&mut self, misfit: &Misfit, span: Span) -> Option<Val> {
        self.found.push(
            Diagnostic::error("tlm::eval::out_of_range", format!("expected {}", misfit.wanted))
                .label(span, format!("this is {}", misfit.found))
                .help(format!("give it {}", misfit.wanted)),
        );
        None
    }

    fn no_result(&mut self, why: NoResult, span: Span, right: Span) -> Option<Val> {
        self.found.push(match why {
            NoResult::DivisionByZero => {
                Diagnostic::error("tlm::eval::division_by_zero", "division by zero")
                    .label(right, "this is zero")
                    .help("guard it: `if x == 0 then ... else ...`")
            }
            NoResult::TooLarge => {
                Diagnostic::error("tlm::eval::too_large", "the result is too large")
                    .label(span, "beyond 2^63")
                    .help("use smaller numbers")
            }
        });
        None
    }

    // ---- stage calls

    fn call(&mut self, call: &Call, span: Span, at: At<'_>) -> Option<Val> {
        // All arguments are evaluated before any missing one ends it, so that all mistakes are told.
        let inputs: Vec<_> = call
            .inputs
            .iter()
            .zip(&call.stage.inputs)
            .map(|(input, slot)| self.input(call, input, slot, at))
            .collect();
        let params = self.params(call, at);
        let run = self.run_spec(call, at);
        let inputs: Vec<(Input, Option<OutputRef>)> = inputs.into_iter().collect::<Option<_>>()?;
        let (params, unkeyed) = params?;
        let tokenizer = self.tokenizer(call, &inputs, span)?;
        let names = call.stage.inputs.iter().map(|slot| slot.name.clone());
        let mut arg_spans: BTreeMap<_, _> =
            names.clone().zip(call.inputs.iter().map(|input| input.node().span)).collect();
        let given = call.params.iter();
        arg_spans.extend(given.map(|(at, v)| (call.stage.params[*at].name.clone(), v.span)));
        let step = Step {
            stage: std::sync::Arc::clone(&call.stage.decl),
            label: at.label.to_owned(),
            point: self.point(&call.axes, at.point),
            inputs: names.zip(inputs.into_iter().map(|(input, _)| input)).collect(),
            params,
            unkeyed,
            run: run?,
            span,
            arg_spans,
        };
        let id = self.intern(step);
        Some(result(&call.stage, id, tokenizer.as_ref()))
    }

    fn point(&self, axes: &BTreeSet<AxisId>, point: &[usize]) -> Vec<(String, String)> {
        let axes = axes.iter().map(|id| (&self.program.axes[*id], point[*id]));
        let mut values: Vec<_> =
            axes.map(|(axis, at)| (axis.name.clone(), axis.shown[at].clone())).collect();
        values.sort();
        values
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
        let what = Value::List(vec![
            Value::Str(step.stage.name.clone()),
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
        call: &Call,
        input: &InputArg,
        slot: &Slot,
        at: At<'_>,
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
                self.text(call, text, node.span, inner).map(|input| (input, None))
            }
        }
    }

    /// Returns what a text stands for where a file is wanted.
    fn text(&mut self, call: &Call, text: String, span: Span, at: At<'_>) -> Option<Input> {
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
            let base = self.program.folder.clone();
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
        let uri = self.absolute(&text);
        let fetch = self.program.fetch.as_ref()?;
        let id = self.intern(Step {
            stage: std::sync::Arc::clone(&fetch.decl),
            label: at.label.to_owned(),
            point: self.point(&call.axes, at.point),
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
    fn absolute(&self, uri: &str) -> String {
        match uri.strip_prefix("file:") {
            Some(path) => format!("file:{}", self.program.folder.join(path).display()),
            None => uri.to_owned(),
        }
    }

    fn sha256(&mut self, call: &Call, span: Span, at: At<'_>) -> Option<String> {
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
        call: &Call,
        at: At<'_>,
    ) -> Option<(BTreeMap<String, Arg>, BTreeMap<String, Value>)> {
        let (mut params, mut unkeyed) = (BTreeMap::new(), BTreeMap::new());
        let mut complete = true;
        for (index, slot) in call.stage.params.iter().enumerate() {
            let given = call.params.iter().find(|(at, _)| *at == index).map(|(_, node)| node);
            let value = match given {
                Some(node) => self.param(node, slot, call, at),
                None => slot.default.clone(),
            };
            let Some(value) = value else {
                complete = false;
                continue;
            };
            let is_default = slot.since && Some(&value) == slot.default.as_ref();
            match (value.known(), value) {
                (Some(Value::Str(uri)), _) if slot.place => {
                    unkeyed.insert(slot.name.clone(), Value::Str(self.absolute(&uri)));
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

    fn param(&mut self, node: &Node, slot: &Slot, call: &Call, at: At<'_>) -> Option<Val> {
        let value = self.node(node, at)?;
        let (Val::Plain(number @ (Value::Int(_) | Value::Float(_))), Some(range)) =
            (&value, &slot.range)
        else {
            return Some(value);
        };
        let real = real(number);
        if (range.low..=range.high).contains(&real) {
            return Some(value);
        }
        let shown = match &slot.ty {
            Ty::Number(crate::base::units::Dim::Ratio) => percent(real),
            _ => real.to_string(),
        };
        self.found.push(
            Diagnostic::error(
                "tlm::eval::out_of_range",
                format!("`{}` of `{}` is out of range", slot.name, call.stage.decl.name),
            )
            .label(node.span, format!("this is {shown}"))
            .label(slot.span, "declared here")
            .help(format!("give it {}", range.shown)),
        );
        None
    }

    fn run_spec(&mut self, call: &Call, at: At<'_>) -> Option<RunSpec> {
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
        call: &Call,
        inputs: &[(Input, Option<OutputRef>)],
        span: Span,
    ) -> Option<Option<OutputRef>> {
        let slots = || call.stage.inputs.iter().zip(inputs).zip(&call.inputs);
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

/// Returns a ratio in percent, without the noise of binary fractions.
fn percent(ratio: f64) -> String {
    let text = format!("{:.6}", ratio * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn is_scheme(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c))
}

/// Returns a field of an artifact. Token ids mean the same to an artifact and its tokenizer, so that is the one carried.
fn field(output: &OutputRef, tokenizer: Option<OutputRef>, name: &str, ty: &Ty) -> Val {
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

fn compare(op: BinaryOp, left: &Value, right: &Value) -> bool {
    use std::cmp::Ordering;
    let order = match (left, right) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            real(left).partial_cmp(&real(right))
        }
        _ => (left == right).then_some(Ordering::Equal),
    };
    match op {
        BinaryOp::Eq => order == Some(Ordering::Equal),
        BinaryOp::Ne => order != Some(Ordering::Equal),
        BinaryOp::Lt => order == Some(Ordering::Less),
        BinaryOp::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        BinaryOp::Gt => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}
