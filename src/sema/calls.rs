//! Stage calls: who is called, and which argument goes where.

use std::sync::Arc;

use crate::base::Span;
use crate::base::text::{did_you_mean, plural};
use crate::base::units::Dim;
use crate::diag::Diagnostic;
use crate::sema::lower::{Def, Lower};
use crate::sema::node::{Call, InputArg, Kind, Node, Slot, Stage};
use crate::sema::ty::Ty;
use crate::syntax::ast::{self, Expr, ExprKind, Name};

/// The digest beside a text with a scheme; not a parameter of the stage that is called.
const SHA256: &str = "sha256";

impl Lower<'_> {
    pub(super) fn call(&mut self, call: &ast::Call, span: Span) -> (Node, Ty) {
        let Some(stage) = self.callee(&call.callee) else {
            let args = call.inputs.iter().chain(call.params.iter().map(|(_, value)| value));
            args.for_each(|value| drop(self.expr(value, None)));
            return Self::error(span);
        };
        let outer = self.conditions.clone();
        let (lowered, axes) = self.apart(|lower| {
            lower.conditions = outer.clone();
            lower.arguments(call, &stage, span)
        });
        self.touched.extend(axes.iter().copied());
        let result = stage.result.clone();
        match lowered {
            Some(mut lowered) => {
                lowered.axes = axes.union(&outer).copied().collect();
                (Node { span, kind: Kind::Call(Box::new(lowered)) }, result)
            }
            // The result's type is known all the same, so what uses it is checked too.
            None => (Node { span, kind: Kind::Error }, result),
        }
    }

    fn callee(&mut self, callee: &Expr) -> Option<Arc<Stage>> {
        match &callee.kind {
            ExprKind::Name(name) => match self.look_up(name) {
                Some(Def::Stage(stage)) => return Some(stage),
                Some(Def::Broken) => return None,
                None => {
                    self.unknown_name(name, callee.span);
                    return None;
                }
                Some(_) => {}
            },
            ExprKind::Field(base, name) => match self.module(base) {
                Some(Ok(module)) => {
                    let found = self.library.modules.get(&module).and_then(|m| m.get(&name.node));
                    if found.is_none() {
                        self.no_such_stage(&module, name);
                    }
                    return found.cloned();
                }
                Some(Err(())) => return None,
                None => {}
            },
            _ => {}
        }
        if callee.kind != ExprKind::Error {
            self.found.push(
                Diagnostic::error("tlm::sema::not_a_stage", "this can't be called")
                    .label(callee.span, "expected a stage")
                    .help("call a stage of a module, such as `train.run(...)`"),
            );
        }
        None
    }

    /// Returns the module that an expression names; an error when it should name one and does not.
    fn module(&mut self, base: &Expr) -> Option<Result<String, ()>> {
        match &base.kind {
            ExprKind::Name(name) => match self.look_up(name) {
                Some(Def::Module(module)) => Some(Ok(module)),
                Some(Def::Broken) => Some(Err(())),
                Some(_) => None,
                None => {
                    self.unknown_name(name, base.span);
                    Some(Err(()))
                }
            },
            ExprKind::Field(inner, module) => match &inner.kind {
                ExprKind::Name(std) if matches!(self.look_up(std), Some(Def::Std)) => {
                    if self.library.modules.contains_key(&module.node) {
                        return Some(Ok(module.node.clone()));
                    }
                    let library = self.library;
                    self.unknown_module(module, library.modules.keys().map(String::as_str));
                    Some(Err(()))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn arguments(&mut self, call: &ast::Call, stage: &Arc<Stage>, span: Span) -> Option<Call> {
        let before = self.found.len();
        let inputs = self.inputs(call, stage, span);
        let takes_text = inputs.iter().any(|input| matches!(input, InputArg::Text(_)));
        let (mut params, mut sha256) = (Vec::new(), None);
        let mut given: Vec<&Name> = Vec::new();
        for (name, value) in &call.params {
            if let Some(first) = given.iter().find(|first| first.node == name.node) {
                self.twice(name, first.span);
            }
            given.push(name);
            match stage.params.iter().position(|slot| slot.name == name.node) {
                Some(at) => {
                    let slot = &stage.params[at];
                    params.push((at, self.fit(value, &slot.ty, &slot.name, Some(slot.span))));
                }
                None if name.node == SHA256 && takes_text => {
                    sha256 = Some(self.fit(value, &Ty::Str, SHA256, None));
                }
                // What it holds may make sense only where it belongs, so that is not checked.
                None => self.unknown_argument(name, stage, takes_text),
            }
        }
        self.missing(stage, &given, call.callee.span);
        let run = self.run_block(&call.run);
        let complete = self.found.len() == before;
        let stage = Arc::clone(stage);
        complete.then(|| Call { stage, inputs, params, sha256, run, axes: Default::default() })
    }

    fn inputs(&mut self, call: &ast::Call, stage: &Stage, span: Span) -> Vec<InputArg> {
        // An input that is given by name is told as that.
        let named = |slot: &Slot| call.params.iter().any(|(name, _)| name.node == slot.name);
        if call.inputs.len() != stage.inputs.len() && !stage.inputs.iter().any(named) {
            let names: Vec<_> =
                stage.inputs.iter().map(|slot| format!("{}: {}", slot.name, slot.ty)).collect();
            let takes = match names.is_empty() {
                true => "it takes named parameters only".to_owned(),
                false => format!("it takes ({})", names.join(", ")),
            };
            let extra = call.inputs.get(stage.inputs.len()).map_or(span, |extra| extra.span);
            self.found.push(
                Diagnostic::error(
                    "tlm::sema::inputs",
                    format!(
                        "`{}` takes {}, but {} given",
                        stage.decl.name,
                        plural(stage.inputs.len(), "positional argument"),
                        match call.inputs.len() {
                            1 => "1 is".to_owned(),
                            n => format!("{n} are"),
                        }
                    ),
                )
                .label(extra, "in this call")
                .label(stage.span, "declared here")
                .help(takes),
            );
        }
        let mut args = Vec::new();
        for (at, value) in call.inputs.iter().enumerate() {
            match stage.inputs.get(at) {
                Some(slot) => args.push(self.input(value, slot)),
                None => drop(self.expr(value, None)),
            }
        }
        args
    }

    fn input(&mut self, value: &Expr, slot: &Slot) -> InputArg {
        if slot.ty != Ty::file() {
            return InputArg::Artifact(self.fit(value, &slot.ty, &slot.name, Some(slot.span)));
        }
        let (node, ty) = self.expr(value, None);
        match ty {
            Ty::Str => InputArg::Text(node),
            ty if ty.fits(&slot.ty) => InputArg::Artifact(node),
            ty => {
                self.found.push(
                    Diagnostic::error(
                        "tlm::sema::wrong_type",
                        format!("`{}` takes a file, but this is {ty}", slot.name),
                    )
                    .label(value.span, format!("this is {ty}"))
                    .label(slot.span, format!("`{}` is declared here", slot.name))
                    .help("write a path, a pattern such as `\"data/*.txt\"`, or `\"pypi:...\"`"),
                );
                InputArg::Artifact(Node { span: value.span, kind: Kind::Error })
            }
        }
    }

    pub(super) fn twice(&mut self, name: &Name, first: Span) {
        self.found.push(
            Diagnostic::error("tlm::sema::duplicate", format!("`{}` is given twice", name.node))
                .label(name.span, "here again")
                .label(first, "first here")
                .help("leave one of them out"),
        );
    }

    fn unknown_argument(&mut self, name: &Name, stage: &Stage, takes_text: bool) {
        let known = stage.params.iter().map(|slot| slot.name.as_str());
        let known = known.chain(takes_text.then_some(SHA256));
        let help = match did_you_mean(&name.node, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if stage.inputs.iter().any(|slot| slot.name == name.node) => {
                format!("`{}` is positional: write its value without the name", name.node)
            }
            None => match known.collect::<Vec<_>>() {
                none if none.is_empty() => "it takes no named parameters".to_owned(),
                names => format!("parameters are {}", names.join(", ")),
            },
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::unknown_argument",
                format!("`{}` has no parameter `{}`", stage.decl.name, name.node),
            )
            .label(name.span, "no such parameter")
            .label(stage.span, "the stage is declared here")
            .help(help),
        );
    }

    fn missing(&mut self, stage: &Stage, given: &[&Name], span: Span) {
        let missing: Vec<_> = stage
            .params
            .iter()
            .filter(|slot| slot.default.is_none() && !given.iter().any(|n| n.node == slot.name))
            .collect();
        let Some(first) = missing.first() else { return };
        let names: Vec<_> = missing.iter().map(|slot| format!("`{}`", slot.name)).collect();
        let example: Vec<_> =
            missing.iter().map(|slot| format!("{}: {}", slot.name, slot.ty)).collect();
        self.found.push(
            Diagnostic::error(
                "tlm::sema::missing_argument",
                format!("`{}` needs {}", stage.decl.name, names.join(", ")),
            )
            .label(span, "not given in this call")
            .label(first.span, "declared here, without default")
            .help(format!("add `{}`", example.join(", "))),
        );
    }

    fn run_block(&mut self, fields: &[(Name, Expr)]) -> Vec<(String, Node)> {
        let device = Ty::Enum(vec!["cpu".to_owned(), "cuda".to_owned()].into());
        let slots = [
            ("cpus", Ty::Number(Dim::Count)),
            ("gpus", Ty::Number(Dim::Count)),
            ("mem", Ty::Number(Dim::Bytes)),
            ("limit", Ty::Number(Dim::Duration)),
            ("retries", Ty::Number(Dim::Count)),
            ("device", device),
            ("micro_batch", Ty::Number(Dim::Count)),
        ];
        let mut nodes: Vec<(String, Node)> = Vec::new();
        let mut given: Vec<&Name> = Vec::new();
        for (name, value) in fields {
            if let Some(first) = given.iter().find(|first| first.node == name.node) {
                self.twice(name, first.span);
            }
            given.push(name);
            match slots.iter().find(|(slot, _)| *slot == name.node) {
                Some((slot, ty)) => {
                    nodes.push(((*slot).to_owned(), self.fit(value, ty, slot, None)));
                }
                None => {
                    let known = slots.iter().map(|(slot, _)| *slot);
                    let help = match did_you_mean(&name.node, known.clone()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("`run` takes {}", known.collect::<Vec<_>>().join(", ")),
                    };
                    self.found.push(
                        Diagnostic::error(
                            "tlm::sema::unknown_argument",
                            format!("`run` has no `{}`", name.node),
                        )
                        .label(name.span, "no such setting")
                        .help(help),
                    );
                }
            }
        }
        nodes
    }
}
