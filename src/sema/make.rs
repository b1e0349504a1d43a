//! Steps: stage calls with all arguments evaluated, each different one once.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::{Atom, Span, Value};
use crate::diag::Diagnostic;
use crate::sema::eval::{At, Eval};
use crate::sema::late::Late;
use crate::sema::memo::{AlongId, Label};
use crate::sema::node::{AxisId, Call, InputArg, Kind, Node, Slot, Stage};
use crate::sema::steps::{
    Arg, Files, Input, Inputs, Names, OutputRef, Param, Parts, Rule, RunSpec, Site, Step, StepId,
};
use crate::sema::ty::Ty;
use crate::sema::value::{Fields, Misfit, Val, real};

/// What `source.fetch` knows how to fetch.
const SCHEMES: [&str; 5] = ["https", "http", "hf", "pypi", "file"];

/// What is learned of a stage call when it is first evaluated.
pub(super) struct Called {
    site: Arc<Site>,
    slots: Slots,
    /// The given parameters that may have another value elsewhere, by name.
    open: Box<[usize]>,
    /// The `run { }` block, if it is the same everywhere.
    run: Option<Arc<RunSpec>>,
    /// The axes it depends on.
    along: AlongId,
    /// What the latest step is called.
    label: Cell<Atom>,
    makes: Rc<Makes>,
}

/// What calls of a stage make.
pub(super) struct Makes {
    outputs: Box<[Made]>,
    /// The names of the fields, if that is a record.
    fields: Option<Arc<[Atom]>>,
}

/// An output of a stage call.
struct Made {
    name: Atom,
    carries: Carries,
}

/// The tokenizer that the token ids of an output mean something under.
enum Carries {
    /// The output is a number or text.
    Late,
    None,
    Itself,
    /// That of the inputs; else the output of that name.
    Inputs(Option<Atom>),
}

/// For each input the place of its slot, which a list has several inputs of.
pub(super) type Slots = SmallVec<[usize; 2]>;

/// The inputs of a call, and the tokenizer of each.
#[derive(Default)]
struct Given {
    inputs: Inputs,
    tokenizers: SmallVec<[Option<OutputRef>; 2]>,
    slots: Slots,
}

impl Given {
    fn add(&mut self, slot: usize, value: &Val) -> Option<()> {
        let Val::Artifact(output, tokenizer) = value else { return None };
        self.push(slot, Input::Output(output.clone()), tokenizer.clone());
        Some(())
    }

    fn push(&mut self, slot: usize, input: Input, tokenizer: Option<OutputRef>) {
        self.inputs.push(input);
        self.tokenizers.push(tokenizer);
        self.slots.push(slot);
    }
}

/// Returns the names of inputs: that of the slot, and the place for an item of a list.
fn names(declared: &[Slot], slots: &Slots) -> Vec<Atom> {
    let mut place = 0;
    let name = |(at, slot): (usize, &usize)| {
        place = if at > 0 && slots[at - 1] == *slot { place + 1 } else { 0 };
        match is_list(&declared[*slot]) {
            true => Atom::from(format!("{}.{place}", declared[*slot].name)),
            false => declared[*slot].name,
        }
    };
    slots.iter().enumerate().map(name).collect()
}

fn is_list(slot: &Slot) -> bool {
    matches!(slot.ty, Ty::List(_))
}

impl<'p> Eval<'p> {
    pub(super) fn call(&mut self, call: &'p Call, span: Span, at: At<'_, 'p>) -> Option<Val> {
        // All arguments are evaluated before any missing one ends it, so that all mistakes are told.
        let inputs = self.inputs(call, at);
        let known = self.called.get(&ptr::from_ref(call).addr());
        // A list may have another length here, and what is optional may be given or not.
        let known = known.filter(|known| inputs.as_ref().is_none_or(|to| to.slots == known.slots));
        let known = known.cloned();
        let args = self.args(call, known.as_deref(), at);
        let run = match known.as_ref().and_then(|known| known.run.clone()) {
            Some(run) => Some(run),
            None => self.run_spec(call, at).map(Arc::new),
        };
        let Given { mut inputs, tokenizers, slots } = inputs?;
        inputs.extend(call.stage.uses.iter().map(|file| self.files(file.node.clone(), file.span)));
        let mut args = args?;
        self.one_of(call, span, at)?;
        let tokenizer = self.tokenizer(call, &slots, &tokenizers, span)?;
        self.fits_together(call, &slots, &inputs, span)?;
        let run = run?;
        let called = match known {
            Some(known) => known,
            None => self.learn(call, span, &slots, &mut args, &run, at),
        };
        let step = Step {
            site: Arc::clone(&called.site),
            label: Self::label(&called, at),
            point: self.point(called.along, &call.axes, at),
            inputs,
            args: args.into(),
            run,
        };
        let id = self.intern(step);
        Some(called.result(id, tokenizer.as_ref()))
    }

    /// Notes what all steps of a call share, and leaves of its arguments those that they do not.
    fn learn(
        &mut self,
        call: &'p Call,
        span: Span,
        slots: &Slots,
        args: &mut Vec<Arg>,
        run: &Arc<RunSpec>,
        at: At<'_, 'p>,
    ) -> Rc<Called> {
        let signature = &call.stage.signature;
        let (mut params, mut open) = (Vec::new(), Vec::new());
        for ((index, slot), arg) in signature.params.iter().enumerate().zip(args.drain(..)) {
            let given = call.params.iter().position(|(at, _)| *at == index);
            let moving = given.filter(|given| !self.is_fixed(&call.params[*given].1));
            let fixed = match moving {
                None => Some(arg),
                Some(given) => {
                    open.push((slot.name, given, arg));
                    None
                }
            };
            params.push(Param { name: slot.name, rule: rule(slot), fixed });
        }
        open.sort_by_key(|(name, ..)| *name);
        let (open, own): (Vec<_>, Vec<_>) =
            open.into_iter().map(|(_, given, arg)| (given, arg)).unzip();
        *args = own;
        let given = call.params.iter();
        let spans = given.map(|(at, node)| (signature.params[*at].name, node.span));
        let names: Vec<Atom> = names(&signature.inputs, slots);
        let inputs = slots.iter().map(|slot| call.inputs[*slot].node().span);
        let spans = spans.chain(names.iter().copied().zip(inputs)).collect();
        let uses = call.stage.uses.iter().map(|file| Atom::from(format!("uses {}", file.node)));
        let names = names.iter().copied().chain(uses).collect();
        let site = Site::new(Arc::clone(&call.stage.decl), names, params, span, spans);
        let makes = self.makes(&call.stage);
        let called = Rc::new(Called {
            site: Arc::new(site),
            slots: slots.clone(),
            open: open.into(),
            run: call.run.iter().all(|(_, node)| self.is_fixed(node)).then(|| Arc::clone(run)),
            along: self.along.of(&call.axes, &self.program.axes),
            label: Cell::new(at.label.atom()),
            makes,
        });
        self.called.insert(ptr::from_ref(call).addr(), Rc::clone(&called));
        called
    }

    /// Returns whether a node has the same value at every point and in every function call.
    fn is_fixed(&self, node: &Node) -> bool {
        let mut fixed = true;
        node.walk(&mut |node| {
            fixed &= match &node.kind {
                Kind::Binding(id) => self.program.bindings[*id].typed.axes.is_empty(),
                Kind::Axis(_)
                | Kind::Local(_)
                | Kind::Apply(_)
                | Kind::Fold(_)
                | Kind::At(..)
                | Kind::AtBaseline(..)
                | Kind::Best(_)
                | Kind::Spread(..)
                | Kind::Call(_) => false,
                _ => true,
            }
        });
        fixed
    }

    fn makes(&mut self, stage: &'p Stage) -> Rc<Makes> {
        let address = ptr::from_ref(stage).addr();
        Rc::clone(self.makes.entry(address).or_insert_with(|| Rc::new(Makes::of(stage))))
    }

    fn label(called: &Called, at: At<'_, 'p>) -> Atom {
        if !at.label.is(&called.label.get()) {
            called.label.set(at.label.atom());
        }
        called.label.get()
    }

    /// Returns the axis values and turns of folds that a call depends on. `along` are the axes of the call itself.
    pub(super) fn point(
        &mut self,
        along: AlongId,
        axes: &BTreeSet<AxisId>,
        at: At<'_, 'p>,
    ) -> Names {
        let along = match at.env.axes.is_subset(axes) {
            true => along,
            false => self.along.of(&(axes | &*at.env.axes), &self.program.axes),
        };
        let values = self.along.shown(along, at.point, &self.program.axes);
        if at.env.turns.is_empty() {
            return values;
        }
        let turns = at.env.turns.iter();
        let turns = turns.map(|(name, turn)| (Atom::from(*name), Atom::from(turn.to_string())));
        let mut point: Vec<_> = values.iter().copied().chain(turns).collect();
        point.sort();
        point.into()
    }

    /// Returns the number of the step, which is a known one when it does the same.
    pub(super) fn intern(&mut self, step: Step) -> StepId {
        let mut place = step.hash();
        while let Some(id) = self.known.get(&place) {
            if self.steps[id.0 as usize].is_same(&step) {
                return *id;
            }
            place = place.wrapping_add(1);
        }
        let id = StepId(self.steps.len() as u32);
        self.known.insert(place, id);
        self.steps.push(step);
        id
    }

    /// Returns the inputs.
    fn inputs(&mut self, call: &'p Call, at: At<'_, 'p>) -> Option<Given> {
        let slots = &call.stage.signature.inputs;
        let (mut given, mut complete) = (Given::default(), true);
        for (place, (input, slot)) in call.inputs.iter().zip(slots).enumerate() {
            complete &= self.input(call, input, (place, slot), &mut given, at).is_some();
        }
        (complete && call.inputs.len() == slots.len()).then_some(given)
    }

    fn input(
        &mut self,
        call: &'p Call,
        input: &'p InputArg,
        (place, slot): (usize, &Slot),
        given: &mut Given,
        at: At<'_, 'p>,
    ) -> Option<()> {
        let inner = At { label: Label::Within(&at.label, &slot.name), ..at };
        match input {
            InputArg::Artifact(node) => match self.node(node, inner)? {
                Val::List(items) if items.is_empty() => {
                    self.empty_list(call, slot, node.span);
                    None
                }
                Val::List(items) => items.iter().try_for_each(|item| given.add(place, item)),
                Val::Plain(Value::Null) if slot.default.is_some() => Some(()),
                one => given.add(place, &one),
            },
            InputArg::Text(node) => {
                let Val::Plain(Value::Str(text)) = self.node(node, inner)? else { return None };
                let input = self.file(call, text, node.span, inner)?;
                given.push(place, input, None);
                Some(())
            }
        }
    }

    fn empty_list(&mut self, call: &Call, slot: &Slot, span: Span) {
        let message = format!("`{}` takes at least one of `{}`", call.stage.decl.name, slot.name);
        self.found.push(
            Diagnostic::error("tlm::sema::inputs", message)
                .label(span, "an empty list")
                .label(slot.span, "declared here")
                .help("write one or more values into the list"),
        );
    }

    /// Returns what a text stands for where a file is wanted.
    fn file(&mut self, call: &'p Call, text: String, span: Span, at: At<'_, 'p>) -> Option<Input> {
        let Some((scheme, _)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            if let Some(digest) = &call.sha256
                && self.node(digest, at)? != Val::Plain(Value::Null)
            {
                self.found.push(
                    Diagnostic::error("tlm::eval::idle_digest", "a local path takes no `sha256:`")
                        .label(digest.span, "checked against nothing")
                        .label(span, "a local path: its content is part of the key as it is")
                        .help(format!("write `\"file:{text}\"` to pin its content")),
                );
                return None;
            }
            let base = self.program.folder.clone();
            return Some(Input::Files(Box::new(Files { pattern: text, base, span })));
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
        let along = self.along.of(&call.axes, &self.program.axes);
        let point = self.point(along, &call.axes, at);
        let label = at.label.atom();
        let mut step = Step::new(Parts {
            stage: Arc::clone(&fetch.decl),
            label: label.to_string(),
            point: Vec::new(),
            inputs: Vec::new(),
            params: BTreeMap::from([("sha256".to_owned(), Arg::Value(Value::Str(sha256)))]),
            unkeyed: BTreeMap::from([("uri".to_owned(), Value::Str(uri))]),
            run: RunSpec::default(),
            span,
            arg_spans: BTreeMap::from([("uri".to_owned(), span)]),
        });
        step.point = point;
        let id = self.intern(step);
        Some(Input::Output(OutputRef { step: id, output: Atom::from("out") }))
    }

    fn files(&self, pattern: String, span: Span) -> Input {
        let base = self.program.folder_at(span).to_owned();
        Input::Files(Box::new(Files { pattern, base, span }))
    }

    /// Returns a URI whose path does not depend on where tlm is called.
    fn absolute(&self, uri: &str) -> String {
        match uri.strip_prefix("file:") {
            Some(path) => format!("file:{}", self.program.folder.join(path).display()),
            None => uri.to_owned(),
        }
    }

    /// Returns a text as a path: one of an imported recipe is relative to that.
    pub(super) fn rooted(&self, text: &str, span: Span) -> String {
        let folder = self.program.folder_at(span);
        let (scheme, path) = match text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) {
            Some(("file", path)) => ("file:", path),
            Some(_) => return text.to_owned(),
            None => ("", text),
        };
        match folder == self.program.folder {
            true => text.to_owned(),
            false => format!("{scheme}{}", folder.join(path).display()),
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
        let digits = match self.node(node, at)? {
            Val::Plain(Value::Str(digits)) => digits,
            _ => String::new(),
        };
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

    /// Returns the parameters by their places in the signature, or of a known call those that are open.
    fn args(&mut self, call: &'p Call, known: Option<&Called>, at: At<'_, 'p>) -> Option<Vec<Arg>> {
        let slots = &call.stage.signature.params;
        let mut complete = true;
        let mut arg = |slot: &Slot, given: Option<&'p Node>| {
            let arg = self.arg(slot, given, at);
            complete &= arg.is_some();
            arg
        };
        let given = |index| call.params.iter().find(|(at, _)| *at == index).map(|(_, node)| node);
        let mut args = Vec::with_capacity(known.map_or(slots.len(), |known| known.open.len()));
        match known {
            Some(known) => {
                let open = known.open.iter().map(|given| &call.params[*given]);
                args.extend(open.filter_map(|(index, node)| arg(&slots[*index], Some(node))));
            }
            None => {
                let slots = slots.iter().enumerate();
                args.extend(slots.filter_map(|(index, slot)| arg(slot, given(index))));
            }
        }
        complete.then_some(args)
    }

    /// Checks that one of the parameters is given of which there has to be one.
    fn one_of(&mut self, call: &'p Call, span: Span, at: At<'_, 'p>) -> Option<()> {
        let group = &call.stage.one_of;
        let params = call.params.iter().filter(|(place, _)| group.contains(place));
        let mut given = Vec::new();
        for (_, node) in params {
            if self.node(node, at)? != Val::Plain(Value::Null) {
                given.push(node.span);
            }
        }
        if group.is_empty() || given.len() == 1 {
            return Some(());
        }
        let slots = || group.iter().map(|place| &call.stage.signature.params[*place]);
        let names: Vec<_> = slots().map(|slot| format!("`{}`", slot.name)).collect();
        let message =
            format!("`{}` takes exactly one of {}", call.stage.decl.name, names.join(", "));
        let mut finding = Diagnostic::error("tlm::eval::one_of", message);
        if given.is_empty() {
            finding = finding.label(span, "none is given");
        }
        for span in given {
            finding = finding.label(span, "given");
        }
        for slot in slots() {
            finding = finding.label(slot.span, "declared here");
        }
        self.found.push(finding.help("give one of them, and leave the others out or `none`"));
        None
    }

    fn arg(&mut self, slot: &Slot, given: Option<&'p Node>, at: At<'_, 'p>) -> Option<Arg> {
        let value = match given {
            Some(node) => self.node(node, at)?,
            None => slot.default.clone()?,
        };
        let known = match value {
            Val::Late(late) => return Some(Arg::Late(late)),
            Val::Plain(value) => Some(value),
            other => match (other.known(), other.late()) {
                (None, Some(late)) => return Some(Arg::Late(late)),
                (known, _) => known,
            },
        };
        match known {
            Some(Value::Str(uri)) if slot.place => {
                Some(Arg::Value(Value::Str(self.absolute(&uri))))
            }
            Some(value) => Some(Arg::Value(value)),
            None => {
                self.late(given.map_or(slot.span, |node| node.span));
                None
            }
        }
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
            if matches!(name.as_str(), "limit" | "stall") && !(1e-3..=1e9).contains(&real(&value)) {
                let wanted = "a time span above zero, and below thirty years";
                self.misfit(&Misfit { wanted, found: real(&value) }, node.span);
                complete = false;
            }
            match (name.as_str(), value) {
                ("cpus", _) => spec.cpus = whole,
                ("gpus", _) => spec.gpus = whole,
                ("mem", Value::Int(bytes)) => spec.mem = Some(bytes.unsigned_abs()),
                ("limit", value) => spec.limit_s = Some(real(&value)),
                ("stall", value) => spec.stall_s = Some(real(&value)),
                ("retries", _) => spec.retries = whole.unwrap_or(0),
                ("device", Value::Str(device)) => spec.device = Some(device),
                ("micro_batch", _) => spec.micro_batch = whole,
                ("recompute", Value::Bool(recompute)) => spec.recompute = recompute,
                _ => {}
            }
        }
        complete.then_some(spec)
    }

    /// Returns a field of an artifact. Token ids mean the same to an artifact and its tokenizer, so that is the one carried.
    pub(super) fn field(
        &mut self,
        output: &OutputRef,
        tokenizer: Option<OutputRef>,
        name: &str,
        ty: &Ty,
    ) -> Val {
        let full = Atom::from(format!("{}.{name}", output.output));
        let inner = OutputRef { step: output.step, output: full };
        match ty {
            Ty::Artifact(_) => {
                let made = tokenizer.unwrap_or(inner);
                Val::Artifact(made.clone(), Some(made))
            }
            _ => Val::Late(Late::Output(inner)),
        }
    }
}

impl Makes {
    fn of(stage: &Stage) -> Self {
        let made = |name: &str, ty: &Ty| {
            let carries = match ty {
                Ty::Artifact(artifact) => match &**artifact {
                    "Tokenizer" => Carries::Itself,
                    "File" | "Corpus" | "TrainLog" => Carries::None,
                    _ => {
                        let own = format!("{name}.tokenizer");
                        let makes = stage.decl.outputs.contains_key(&own);
                        Carries::Inputs(makes.then(|| Atom::from(&own)))
                    }
                },
                _ => Carries::Late,
            };
            Made { name: Atom::from(name), carries }
        };
        match &stage.result {
            Ty::Record(fields) => {
                let outputs: Box<[Made]> =
                    fields.iter().map(|(name, field)| made(name, &field.ty)).collect();
                let fields = Some(outputs.iter().map(|made| made.name).collect());
                Makes { outputs, fields }
            }
            one => Makes { outputs: [made("out", one)].into(), fields: None },
        }
    }
}

impl Called {
    /// Returns what a step makes, whose inputs agree on a tokenizer.
    fn result(&self, step: StepId, tokenizer: Option<&OutputRef>) -> Val {
        let output = |name: &Atom| OutputRef { step, output: *name };
        let value = |made: &Made| {
            let output_of = output(&made.name);
            let carried = match &made.carries {
                Carries::Late => return Val::Late(Late::Output(output_of)),
                Carries::None => None,
                Carries::Itself => Some(output_of.clone()),
                Carries::Inputs(own) => tokenizer.cloned().or_else(|| own.as_ref().map(output)),
            };
            Val::Artifact(output_of, carried)
        };
        match &self.makes.fields {
            None => value(&self.makes.outputs[0]),
            Some(names) => {
                let values = self.makes.outputs.iter().map(value).collect();
                Val::Record(Fields::new(Arc::clone(names), values))
            }
        }
    }
}

/// Returns when a parameter enters the key.
fn rule(slot: &Slot) -> Rule {
    match slot.default.as_ref().and_then(Val::known) {
        _ if slot.place => Rule::Never,
        Some(default) if slot.since => Rule::Unless(default),
        _ => Rule::Always,
    }
}

fn is_scheme(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c))
}
