//! Stage calls: who is called, and which argument goes where.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::text::{did_you_mean, plural};
use crate::base::units::Dim;
use crate::base::{Span, Value};
use crate::diag::{Diagnostic, Severity};
use crate::sema::exprs::rooted;
use crate::sema::lower::Lower;
use crate::sema::node::{
    Apply, AxisId, Bounds, Builtin, Call, FunctionId, InputArg, Kind, Node, Range, Signature, Slot,
    Stage,
};
use crate::sema::scope::{Def, ScopeId};
use crate::sema::ty::Ty;
use crate::sema::value::Val;
use crate::syntax::ast::{self, Expr, ExprKind, Name};

/// The digest beside a text with a scheme; not a parameter of the stage that is called.
const SHA256: &str = "sha256";

/// What a call calls.
enum Callee {
    Stage(Arc<Stage>),
    Function(FunctionId),
    Builtin(Builtin),
    /// `adopt`
    Adopt,
    /// `best`
    Best,
    /// `mean_std`
    MeanStd,
}

impl<'r> Lower<'r> {
    pub(super) fn call(&mut self, call: &'r ast::Call, span: Span) -> (Node, Ty) {
        match self.callee(&call.callee) {
            Some(Callee::Stage(stage)) => self.call_stage(call, &stage, span),
            Some(Callee::Function(id)) => self.apply(call, id, span),
            Some(Callee::Builtin(builtin)) => self.builtin(builtin, call, span),
            Some(Callee::Adopt) => self.adopt(call, span),
            Some(Callee::Best) => self.best(call, span),
            Some(Callee::MeanStd) => self.mean_std(call, span),
            None => {
                let args = call.inputs.iter().chain(call.params.iter().map(|(_, value)| value));
                args.for_each(|value| drop(self.expr(value, None)));
                Self::error(span)
            }
        }
    }

    fn call_stage(&mut self, call: &'r ast::Call, stage: &Arc<Stage>, span: Span) -> (Node, Ty) {
        let (lowered, axes) = self.under_conditions(|lower| lower.arguments(call, stage, span));
        let result = stage.result.clone();
        match lowered {
            Some(mut lowered) => {
                lowered.axes = axes;
                (Node { span, kind: Kind::Call(Box::new(lowered)) }, result)
            }
            // The result's type is known all the same, so what uses it is checked too.
            None => (Node { span, kind: Kind::Error }, result),
        }
    }

    /// Lowers `adopt("path", as: Checkpoint)`.
    fn adopt(&mut self, call: &'r ast::Call, span: Span) -> (Node, Ty) {
        let Some(any) = self.library.adopting("File").map(Arc::new) else {
            return Self::error(span);
        };
        let (lowered, axes) = self.under_conditions(|lower| lower.arguments(call, &any, span));
        let chosen = lowered.and_then(|mut lowered| {
            let mut kind = None;
            let is_as = |at: &usize| any.signature.params[*at].name == *"as";
            for (_, node) in lowered.params.iter().filter(|(at, _)| is_as(at)) {
                node.walk(&mut |node| {
                    if let Kind::Const(Val::Plain(Value::Str(name))) = &node.kind {
                        kind = self.library.adopting(name);
                    }
                });
            }
            lowered.stage = Arc::new(kind?);
            lowered.axes = axes;
            Some(lowered)
        });
        match chosen {
            Some(call) => {
                let result = call.stage.result.clone();
                (Node { span, kind: Kind::Call(Box::new(call)) }, result)
            }
            None => Self::error(span),
        }
    }

    fn apply(&mut self, call: &'r ast::Call, id: FunctionId, span: Span) -> (Node, Ty) {
        let Some((signature, result, own)) = self.function(id, call.callee.span) else {
            return Self::error(span);
        };
        if let Some((name, _)) = call.run.first() {
            self.idle_run(name);
        }
        let (args, axes) = self.under_conditions(|lower| {
            lower.touched.extend(own);
            lower.function_arguments(call, &signature, span)
        });
        let kind = match args {
            Some(args) => Kind::Apply(Box::new(Apply { function: id, args, axes })),
            None => Kind::Error,
        };
        (Node { span, kind }, result)
    }

    pub(super) fn idle_run(&mut self, setting: &Name) {
        self.found.push(
            Diagnostic::error("tlm::sema::idle_run", "only a stage takes `run` settings")
                .label(setting.span, "this is no stage call")
                .help("write them after the stage call within the function"),
        );
    }

    fn function_arguments(
        &mut self,
        call: &'r ast::Call,
        signature: &Signature,
        span: Span,
    ) -> Option<Vec<Node>> {
        let before = self.found.len();
        self.count(call, signature, span);
        let mut args: Vec<Option<Node>> = Vec::new();
        for (slot, value) in signature.inputs.iter().zip(&call.inputs) {
            args.push(Some(self.argument(value, slot, signature)));
        }
        let extra = call.inputs.iter().skip(signature.inputs.len());
        extra.for_each(|value| drop(self.expr(value, None)));
        args.resize(signature.inputs.len(), None);
        for slot in &signature.params {
            args.push(slot.default.clone().map(|value| Node { span, kind: Kind::Const(value) }));
        }
        let given = self.named(call, signature, |lower, at, value| {
            let slot = &signature.params[at];
            args[signature.inputs.len() + at] = Some(lower.argument(value, slot, signature));
        });
        self.missing(signature, &given, call.callee.span);
        self.is_right(before).then(|| args.into_iter().collect())?
    }

    /// Returns whether no error was found since so many findings.
    pub(super) fn is_right(&self, before: usize) -> bool {
        self.found[before..].iter().all(|finding| finding.severity != Severity::Error)
    }

    /// Lowers a value for a slot; a number is checked to lie in the slot's range.
    fn argument(&mut self, value: &'r Expr, slot: &Slot, signature: &Signature) -> Node {
        let node = self.fit(value, &slot.ty, &slot.name, Some(slot.span));
        let what = format!("`{}` of `{}`", slot.name, signature.name);
        bounded(node, &slot.ty, slot.range.as_ref(), what, slot.span)
    }

    /// Lowers with the conditions around it, and returns the axes it depends on or stands under a condition on.
    pub(super) fn under_conditions<T>(
        &mut self,
        lower: impl FnOnce(&mut Self) -> T,
    ) -> (T, BTreeSet<AxisId>) {
        let outer = self.conditions.clone();
        let (value, axes) = self.apart(|apart| {
            apart.conditions = outer.clone();
            lower(apart)
        });
        self.touched.extend(axes.iter().copied());
        (value, axes.union(&outer).copied().collect())
    }

    fn callee(&mut self, callee: &'r Expr) -> Option<Callee> {
        let def = match &callee.kind {
            ExprKind::Name(name) => match self.look_up(name) {
                Some(def) => def,
                None => {
                    let builtin = match name.as_str() {
                        "adopt" => Some(Callee::Adopt),
                        "best" => Some(Callee::Best),
                        "mean_std" => Some(Callee::MeanStd),
                        _ => Builtin::named(name).map(Callee::Builtin),
                    };
                    if builtin.is_none() {
                        self.unknown_name(name, callee.span);
                    }
                    return builtin;
                }
            },
            ExprKind::Field(base, name) => {
                let scope = self.callee_scope(base)?.ok()?;
                match self.member_of(scope, &name.node) {
                    Some(def) => def,
                    None => {
                        self.unknown_member(scope, name);
                        return None;
                    }
                }
            }
            ExprKind::Error => return None,
            _ => return self.not_callable(callee.span),
        };
        match def {
            Def::Stage(stage) => Some(Callee::Stage(stage)),
            Def::Function(id) => Some(Callee::Function(id)),
            Def::Broken => None,
            _ => self.not_callable(callee.span),
        }
    }

    /// Returns the module or recipe whose member is called.
    fn callee_scope(&mut self, base: &'r Expr) -> Option<Result<ScopeId, ()>> {
        if let Some(scope) = self.scope_of(base) {
            return Some(scope);
        }
        if let ExprKind::Name(name) = &base.kind
            && self.look_up(name).is_none()
            && !self.is_local(name)
        {
            self.unknown_name(name, base.span);
            return Some(Err(()));
        }
        match self.expr(base, None).1 {
            Ty::Recipe(scope) => Some(Ok(scope)),
            Ty::Unknown => Some(Err(())),
            _ => self.not_callable(base.span).map(|_| Err(())),
        }
    }

    fn not_callable(&mut self, span: Span) -> Option<Callee> {
        self.found.push(
            Diagnostic::error("tlm::sema::not_a_stage", "this can't be called")
                .label(span, "expected a stage or a function")
                .help("call a function, or a stage of a module, such as `train.run(...)`"),
        );
        None
    }

    fn arguments(&mut self, call: &'r ast::Call, stage: &Arc<Stage>, span: Span) -> Option<Call> {
        let before = self.found.len();
        let signature = &stage.signature;
        let inputs = self.inputs(call, signature, span);
        let takes_text = inputs.iter().any(|input| matches!(input, InputArg::Text(_)));
        let (mut params, mut sha256) = (Vec::new(), None);
        let is_digest = |name: &Name| takes_text && name.node == SHA256;
        if let Some((_, value)) = call.params.iter().find(|(name, _)| is_digest(name)) {
            sha256 = Some(self.fit(value, &Ty::Optional(Box::new(Ty::Str)), SHA256, None));
        }
        let given = self.named(call, signature, |lower, at, value| {
            params.push((at, lower.argument(value, &signature.params[at], signature)));
        });
        let inputs = self.optional_inputs(call, signature, inputs, span);
        self.missing(signature, &given, call.callee.span);
        let run = self.run_block(&call.run);
        let complete = self.is_right(before);
        let stage = Arc::clone(stage);
        complete.then(|| Call { stage, inputs, params, sha256, run, axes: BTreeSet::new() })
    }

    /// Hands each named argument that is a parameter to `take`, with the parameter's place; returns all names given.
    fn named(
        &mut self,
        call: &'r ast::Call,
        signature: &Signature,
        mut take: impl FnMut(&mut Self, usize, &'r Expr),
    ) -> Vec<&'r Name> {
        let takes_text = signature.inputs.iter().any(|slot| slot.ty == Ty::file());
        let mut given: Vec<&'r Name> = Vec::new();
        for (name, value) in &call.params {
            if let Some(first) = given.iter().find(|first| first.node == name.node) {
                self.twice(name, first.span);
            }
            given.push(name);
            match signature.params.iter().position(|slot| slot.name == *name.node) {
                Some(at) => take(self, at, value),
                None if signature.named().any(|slot| slot.name == *name.node) => {}
                None if name.node == SHA256 && takes_text => {}
                // What it holds may make sense only where it belongs, so that is not checked.
                None => self.unknown_argument(name, signature, takes_text),
            }
        }
        given
    }

    fn inputs(&mut self, call: &'r ast::Call, signature: &Signature, span: Span) -> Vec<InputArg> {
        self.count(call, signature, span);
        let mut args = Vec::new();
        for (at, value) in call.inputs.iter().enumerate() {
            match signature.positional().get(at) {
                Some(slot) => args.push(self.input(value, slot)),
                None => drop(self.expr(value, None)),
            }
        }
        args
    }

    /// Appends the inputs that are given by name, or `none`.
    fn optional_inputs(
        &mut self,
        call: &'r ast::Call,
        signature: &Signature,
        mut inputs: Vec<InputArg>,
        span: Span,
    ) -> Vec<InputArg> {
        for slot in &signature.inputs[signature.positional().len()..] {
            let given = call.params.iter().find(|(name, _)| slot.name == *name.node);
            let node = match given {
                Some((_, value)) => self.fit(value, &slot.ty, &slot.name, Some(slot.span)),
                None => Node { span, kind: Kind::Const(Val::Plain(Value::Null)) },
            };
            inputs.push(InputArg::Artifact(node));
        }
        inputs
    }

    /// Checks the number of positional arguments.
    fn count(&mut self, call: &'r ast::Call, signature: &Signature, span: Span) {
        // An input that is given by name is told as that.
        let named = |slot: &Slot| call.params.iter().any(|(name, _)| slot.name == *name.node);
        let inputs = signature.positional();
        if call.inputs.len() == inputs.len() || inputs.iter().any(named) {
            return;
        }
        let names: Vec<_> =
            inputs.iter().map(|slot| format!("{}: {}", slot.name, slot.ty)).collect();
        let takes = match names.is_empty() {
            true => "it takes named parameters only".to_owned(),
            false => format!("it takes ({})", names.join(", ")),
        };
        let extra = call.inputs.get(inputs.len()).map_or(span, |extra| extra.span);
        let given = match call.inputs.len() {
            1 => "1 is".to_owned(),
            n => format!("{n} are"),
        };
        let wanted = plural(inputs.len(), "positional argument");
        let message = format!("`{}` takes {wanted}, but {given} given", signature.name);
        self.found.push(
            Diagnostic::error("tlm::sema::inputs", message)
                .label(extra, "in this call")
                .label(signature.span, "declared here")
                .help(takes),
        );
    }

    fn input(&mut self, value: &'r Expr, slot: &Slot) -> InputArg {
        if slot.ty != Ty::file() {
            return InputArg::Artifact(self.fit(value, &slot.ty, &slot.name, Some(slot.span)));
        }
        let (node, ty) = self.expr(value, None);
        match ty {
            Ty::Str => InputArg::Text(rooted(node)),
            Ty::Path => InputArg::Text(node),
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

    fn unknown_argument(&mut self, name: &Name, signature: &Signature, takes_text: bool) {
        let known = signature.named().map(|slot| &*slot.name);
        let known = known.chain(takes_text.then_some(SHA256));
        let help = match did_you_mean(&name.node, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if signature.inputs.iter().any(|slot| slot.name == *name.node) => {
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
                format!("`{}` has no parameter `{}`", signature.name, name.node),
            )
            .label(name.span, "no such parameter")
            .label(signature.span, format!("`{}` is declared here", signature.name))
            .help(help),
        );
    }

    fn missing(&mut self, signature: &Signature, given: &[&Name], span: Span) {
        let missing: Vec<_> = signature
            .params
            .iter()
            .filter(|slot| {
                slot.default.is_none() && !given.iter().any(|name| slot.name == *name.node)
            })
            .collect();
        let Some(first) = missing.first() else { return };
        let names: Vec<_> = missing.iter().map(|slot| format!("`{}`", slot.name)).collect();
        let example: Vec<_> =
            missing.iter().map(|slot| format!("{}: {}", slot.name, slot.ty)).collect();
        self.found.push(
            Diagnostic::error(
                "tlm::sema::missing_argument",
                format!("`{}` needs {}", signature.name, names.join(", ")),
            )
            .label(span, "not given in this call")
            .label(first.span, "declared here, without default")
            .help(format!("add `{}`", example.join(", "))),
        );
    }

    fn run_block(&mut self, fields: &'r [(Name, Expr)]) -> Vec<(String, Node)> {
        let device = Ty::Enum(vec!["cpu".to_owned(), "cuda".to_owned()].into());
        let slots = [
            ("cpus", Ty::Number(Dim::Count)),
            ("gpus", Ty::Number(Dim::Count)),
            ("mem", Ty::Number(Dim::Bytes)),
            ("limit", Ty::Number(Dim::Duration)),
            ("stall", Ty::Number(Dim::Duration)),
            ("retries", Ty::Number(Dim::Count)),
            ("device", device),
            ("micro_batch", Ty::Number(Dim::Count)),
            ("recompute", Ty::Bool),
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

/// Returns a node whose value is checked to lie in a range, if there is one.
pub(super) fn bounded(
    node: Node,
    ty: &Ty,
    range: Option<&Range>,
    what: String,
    span: Span,
) -> Node {
    let Some(range) = range.cloned() else { return node };
    let dim = match ty {
        Ty::Number(dim) => Some(*dim),
        _ => None,
    };
    let bounds = Arc::new(Bounds { what, dim, range, span });
    Node { span: node.span, kind: Kind::Bounded(Box::new(node), bounds) }
}
