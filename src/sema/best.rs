//! Values along an axis: the best of them, and all of them for a table.
//!
//! What is best is known only once the steps ran, so choosing is a step of its own, which the scheduler takes without a worker:
//! what uses the winner sees its content, and does not run again while it stays the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Atom, Span, Value};
use crate::sema::eval::{At, Eval};
use crate::sema::late::Late;
use crate::sema::memo::Point;
use crate::sema::node::{AxisId, Best, Node};
use crate::sema::steps::{
    Arg, Body, Input, OutputKind, OutputRef, Param, Rule, RunSpec, Site, StageDecl, Step, StepId,
};
use crate::sema::value::{Val, real};

/// What the step that chooses is called.
const STAGE: &str = "best";

/// A part of the values to choose from, under its dotted name: `out`, `model`, `model.tokenizer`.
struct Part {
    name: String,
    candidates: Vec<Val>,
}

impl<'p> Eval<'p> {
    /// Returns what a value is where another one is the least; the first one counts among equals.
    pub(super) fn best(&mut self, best: &'p Best, span: Span, at: At<'_, 'p>) -> Option<Val> {
        let values = self.along(&best.value, best.over, at);
        let numbers = self.along(&best.by, best.over, at);
        let (values, numbers) = (values?, numbers?);
        if let Some(known) = numbers.iter().map(Val::known).collect::<Option<Vec<_>>>() {
            let place = least(&known)?;
            return values.into_iter().nth(place);
        }
        let numbers: Option<Vec<Late>> = numbers.iter().map(Val::late).collect();
        let Some(numbers) = numbers else {
            self.late(best.by.span);
            return None;
        };
        let mut parts = Vec::new();
        collect(&values, "out", &mut parts);
        let Some(step) = self.chooser(best, &parts, numbers, span, at) else {
            self.late(best.value.span);
            return None;
        };
        Some(self.chosen(&values, "out", step))
    }

    /// Returns the values along an axis, for their mean and spread.
    pub(super) fn spread(&mut self, inner: &'p Node, axis: AxisId, at: At<'_, 'p>) -> Option<Val> {
        self.along(inner, axis, at).map(|values| Val::Spread(values.into()))
    }

    /// Evaluates at each value of an axis.
    fn along(&mut self, node: &'p Node, axis: AxisId, at: At<'_, 'p>) -> Option<Vec<Val>> {
        let mut point = Point::from(at.point);
        let places = 0..self.program.axes[axis].values.len();
        let values: Vec<_> = places
            .map(|place| {
                point[axis] = place;
                self.node(node, At { point: &point, ..at })
            })
            .collect();
        values.into_iter().collect()
    }

    /// Makes the step that chooses; none when something can't be chosen.
    fn chooser(
        &mut self,
        best: &Best,
        parts: &[Part],
        numbers: Vec<Late>,
        span: Span,
        at: At<'_, 'p>,
    ) -> Option<StepId> {
        let (mut names, mut inputs, mut outputs) = (Vec::new(), Vec::new(), BTreeMap::new());
        let by = Param {
            name: Atom::from("by"),
            rule: Rule::Always,
            fixed: Some(Arg::Late(Late::List(numbers.into()))),
        };
        let mut params = vec![by];
        for part in parts {
            let kind = match part.candidates[0] {
                Val::Artifact(..) => OutputKind::Artifact,
                _ => OutputKind::Scalar,
            };
            outputs.insert(part.name.clone(), kind);
            outputs.extend(self.fields_of_all(part));
            for (place, candidate) in part.candidates.iter().enumerate() {
                let name = Atom::from(format!("{}.{place}", part.name));
                match (candidate, kind) {
                    (Val::Artifact(output, _), OutputKind::Artifact) => {
                        names.push(name);
                        inputs.push(Input::Output(output.clone()));
                    }
                    (value, OutputKind::Scalar) => {
                        let arg = match value.known() {
                            Some(value) => Arg::Value(value),
                            None => Arg::Late(value.late()?),
                        };
                        params.push(Param { name, rule: Rule::Always, fixed: Some(arg) });
                    }
                    _ => return None,
                }
            }
        }
        let stage = StageDecl {
            name: STAGE.to_owned(),
            version: 1,
            tensor: false,
            outputs,
            body: Body::Best,
        };
        let site = Site::new(Arc::new(stage), names.into(), params, span, Box::default());
        let along = self.along.of(&best.axes, &self.program.axes);
        let step = Step {
            site: Arc::new(site),
            label: at.label.atom(),
            point: self.point(along, &best.axes, at),
            inputs: inputs.into(),
            args: Box::default(),
            run: Arc::new(RunSpec::default()),
        };
        Some(self.intern(step))
    }

    /// Returns the fields that all candidates of an artifact have, as `model.params`.
    fn fields_of_all(&self, part: &Part) -> Vec<(String, OutputKind)> {
        let fields = |candidate: &Val| -> BTreeMap<String, OutputKind> {
            let Val::Artifact(output, _) = candidate else { return BTreeMap::new() };
            let stage = self.steps[output.step.0 as usize].stage();
            let field = |(name, kind): (&String, &OutputKind)| {
                let rest = name.strip_prefix(&*output.output)?.strip_prefix('.')?;
                Some((rest.to_owned(), *kind))
            };
            stage.outputs.iter().filter_map(field).collect()
        };
        let mut all = part.candidates.iter().map(fields);
        let mut common = all.next().unwrap_or_default();
        all.for_each(|other| common.retain(|name, _| other.contains_key(name)));
        common.into_iter().map(|(name, kind)| (format!("{}.{name}", part.name), kind)).collect()
    }

    /// Returns the winner as a value of the same form as the candidates.
    fn chosen(&mut self, values: &[Val], name: &str, step: StepId) -> Val {
        let output = |name: &str| OutputRef { step, output: Atom::from(name) };
        match &values[0] {
            first if values.iter().all(|value| value == first) => first.clone(),
            Val::Record(fields) => {
                let names: Vec<String> = fields.iter().map(|(name, _)| name.to_owned()).collect();
                let field = |field: String| {
                    let inner: Vec<_> =
                        values.iter().filter_map(|value| of(value, &field)).collect();
                    let chosen = self.chosen(&inner, &under(name, &field), step);
                    (field.as_str().into(), chosen)
                };
                Val::Record(names.into_iter().map(field).collect())
            }
            Val::Artifact(own, tokenizer) => {
                let chosen = output(name);
                let carried = match tokenizer {
                    Some(tokenizer) if tokenizer == own => Some(chosen.clone()),
                    Some(tokenizer)
                        if values.iter().all(|value| carries(value) == Some(tokenizer)) =>
                    {
                        Some(tokenizer.clone())
                    }
                    Some(_) => Some(output(&format!("{name}.tokenizer"))),
                    None => None,
                };
                Val::Artifact(chosen, carried)
            }
            _ => Val::Late(Late::Output(output(name))),
        }
    }
}

/// Collects what there is to choose from: the leaves of records, and tokenizers that go with the winner.
fn collect(values: &[Val], name: &str, parts: &mut Vec<Part>) {
    match &values[0] {
        first if values.iter().all(|value| value == first) => {}
        Val::Record(fields) => {
            for (field, _) in fields.iter() {
                let inner: Vec<_> = values.iter().filter_map(|value| of(value, field)).collect();
                collect(&inner, &under(name, field), parts);
            }
        }
        Val::Artifact(own, Some(tokenizer)) if own != tokenizer => {
            let own = |value: &Val| carries(value).cloned();
            let tokenizers: Option<Vec<_>> = values.iter().map(own).collect();
            let tokenizers = tokenizers.into_iter().flatten();
            let tokenizers: Vec<_> =
                tokenizers.map(|made| Val::Artifact(made.clone(), Some(made))).collect();
            if tokenizers.iter().any(|tokenizer| *tokenizer != tokenizers[0]) {
                parts.push(Part { name: format!("{name}.tokenizer"), candidates: tokenizers });
            }
            parts.push(Part { name: name.to_owned(), candidates: values.to_vec() });
        }
        _ => parts.push(Part { name: name.to_owned(), candidates: values.to_vec() }),
    }
}

fn of(value: &Val, field: &str) -> Option<Val> {
    match value {
        Val::Record(fields) => fields.get(field).cloned(),
        _ => None,
    }
}

fn under(name: &str, field: &str) -> String {
    if name == "out" { field.to_owned() } else { format!("{name}.{field}") }
}

fn carries(value: &Val) -> Option<&OutputRef> {
    match value {
        Val::Artifact(_, tokenizer) => tokenizer.as_ref(),
        _ => None,
    }
}

/// Returns the place of the least number, the first one of equals.
pub fn least(numbers: &[Value]) -> Option<usize> {
    let places = (0..numbers.len()).rev();
    places.min_by(|a, b| real(&numbers[*a]).total_cmp(&real(&numbers[*b])))
}
