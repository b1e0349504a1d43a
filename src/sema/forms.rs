//! Forms beyond plain expressions: functions, folds, fixed axes, updates, texts with values, functions of the language.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::Span;
use crate::base::units::Dim;
use crate::diag::Diagnostic;
use crate::sema::calls::bounded;
use crate::sema::exprs::convert;
use crate::sema::lower::{FunctionItem, Local, Lower, State};
use crate::sema::node::{
    AxisId, Best, Builtin, Fold, Function, FunctionId, Kind, Node, Signature, Slot,
};
use crate::sema::ty::{Field, Ty};
use crate::syntax::ast::{self, Expr, Name, Text, TextPart};

/// What is known of a function: its signature, its result, and the axes that its body depends on.
pub(super) type Known = (Arc<Signature>, Ty, BTreeSet<AxisId>);

impl Builtin {
    /// Every function of the language, with how it is called.
    pub(super) const ALL: [(Self, &'static str, &'static str); 8] = [
        (Self::Range, "range", "range(1, 5)"),
        (Self::Logspace, "logspace", "logspace(1e-4, 1e-3, 5)"),
        (Self::Round, "round", "round(2.5)"),
        (Self::Floor, "floor", "floor(2.5)"),
        (Self::Ceil, "ceil", "ceil(2.5)"),
        (Self::Pow, "pow", "pow(2, 0.5)"),
        (Self::Min, "min", "min(a, b)"),
        (Self::Max, "max", "max(a, b)"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(builtin, ..)| *builtin == self).map_or("", |(_, name, _)| name)
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(builtin, ..)| *builtin)
    }
}

impl<'r> Lower<'r> {
    // ---- functions

    /// Returns what is known of a function, whose body is lowered now if it was not before; none when it calls itself.
    pub(super) fn function(&mut self, id: FunctionId, span: Span) -> Option<Known> {
        if self.is_circular(&self.functions[id]) {
            let name = self.function_items[id].item.name.clone();
            self.circle(&name, span);
            return None;
        }
        if let State::Todo = self.functions[id] {
            self.functions[id] = State::Doing;
            self.depth += 1;
            let FunctionItem { item, scope } = self.function_items[id];
            let (function, _) =
                self.apart(|lower| lower.within(scope, |lower| lower.function_body(item)));
            self.depth -= 1;
            self.functions[id] = State::Done(function);
        }
        match &self.functions[id] {
            State::Done((signature, function)) => {
                let (result, axes) = (function.result.clone(), function.axes.clone());
                Some((Arc::clone(signature), result, axes))
            }
            State::Todo | State::Doing => None,
        }
    }

    fn function_body(&mut self, item: &'r ast::Fn) -> (Arc<Signature>, Function) {
        let library = self.library;
        let mut slots = |params: &[ast::Parameter]| -> Vec<Slot> {
            params.iter().map(|param| library.slot(param, &mut self.found)).collect()
        };
        let (inputs, params) = (slots(&item.inputs), slots(&item.params));
        let locals = inputs
            .iter()
            .chain(&params)
            .map(|slot| Local { name: slot.name.to_string(), ty: slot.ty.clone() });
        let outer = std::mem::replace(&mut self.locals, locals.collect());
        let declared = item.result.as_ref().map(|ty| (library.ty(ty, &mut self.found), ty.span));
        let ((body, result), axes) = self.apart(|lower| match declared {
            Some((ty, span)) => (lower.fit(&item.body, &ty, &item.name.node, Some(span)), ty),
            None => lower.expr(&item.body, None),
        });
        self.locals = outer;
        let (name, span) = (item.name.node.clone(), item.name.span);
        let signature = Arc::new(Signature { name, inputs, params, span });
        (Arc::clone(&signature), Function { name: signature.name.clone(), body, result, axes })
    }

    pub(super) fn fold(&mut self, fold: &'r ast::Fold, span: Span) -> (Node, Ty) {
        let (lowered, axes) = self.under_conditions(|lower| {
            let count = Ty::Number(Dim::Int);
            let low = lower.fit(&fold.low, &count, "fold", None);
            let high = lower.fit(&fold.high, &count, "fold", None);
            let (init, ty) = lower.expr(&fold.init, None);
            let before = lower.found.len();
            let (mut body, mut body_ty) = lower.turn(fold, &ty);
            let mut all = ty.clone();
            // What begins as a plain number may become a quantity in the first turn.
            if let Some(joined) = ty.join(&body_ty).filter(|joined| *joined != ty) {
                lower.found.truncate(before);
                (body, body_ty) = lower.turn(fold, &joined);
                all = joined;
            }
            if !body_ty.fits(&all) {
                lower.mixed(&all, fold.init.span, &body_ty, fold.body.span);
            }
            let (init, body) = (convert(init, &all), convert(body, &all));
            let ty = all;
            (init, low, high, body, ty)
        });
        let (init, low, high, body, ty) = lowered;
        let index = fold.index.node.clone();
        let fold = Fold { init, index, low, high, body, axes };
        (Node { span, kind: Kind::Fold(Box::new(fold)) }, ty)
    }

    /// Lowers the body of a fold whose value so far is of a type.
    fn turn(&mut self, fold: &'r ast::Fold, ty: &Ty) -> (Node, Ty) {
        let value = |name: &Name, ty: &Ty| Local { name: name.node.clone(), ty: ty.clone() };
        self.locals.extend([value(&fold.name, ty), value(&fold.index, &Ty::Number(Dim::Int))]);
        let body = self.expr(&fold.body, Some(ty));
        self.locals.truncate(self.locals.len() - 2);
        body
    }

    // ---- axes

    /// Lowers `x[axis: value]`.
    pub(super) fn at(
        &mut self,
        base: &'r Expr,
        fixed: &'r [(Name, Expr)],
        span: Span,
    ) -> (Node, Ty) {
        let ((node, ty), mut axes) = self.apart(|lower| lower.expr(base, None));
        let mut values = Vec::new();
        for (name, value) in fixed {
            let Some(axis) = self.axis_name(name) else { continue };
            // What a parameter depends on is known where the function is called.
            if !axes.remove(&axis) && ty != Ty::Unknown && !is_local(&node) {
                self.found.push(
                    Diagnostic::warning(
                        "tlm::sema::idle_axis",
                        format!("this does not depend on `{}`", name.node),
                    )
                    .label(name.span, "changes nothing")
                    .label(base.span, "the same at each of its values")
                    .help("leave the axis out"),
                );
            }
            let wanted = self.axis(axis);
            values.push((axis, self.fit(value, &wanted, &name.node, None)));
        }
        self.touched.extend(axes);
        (Node { span, kind: Kind::At(Box::new(node), values) }, ty)
    }

    pub(super) fn at_baseline(&mut self, base: &'r Expr, span: Span) -> (Node, Ty) {
        let ((node, ty), axes) = self.apart(|lower| lower.expr(base, None));
        (Node { span, kind: Kind::AtBaseline(Box::new(node), axes) }, ty)
    }

    // ---- values

    /// Lowers `record with { field: value }`.
    pub(super) fn update(
        &mut self,
        base: &'r Expr,
        fields: &'r [(Name, Expr)],
        span: Span,
    ) -> (Node, Ty) {
        let (node, ty) = self.expr(base, None);
        let known = match &ty {
            Ty::Unknown => return Self::error(span),
            Ty::Recipe(scope) => return self.with_recipe(*scope, fields, span),
            Ty::Record(known) => Arc::clone(known),
            other => {
                self.found.push(
                    Diagnostic::error("tlm::sema::wrong_type", format!("{other} has no fields"))
                        .label(base.span, format!("this is {other}"))
                        .help("only a record or a recipe goes before `with`"),
                );
                return Self::error(span);
            }
        };
        let mut values = Vec::new();
        let mut types = (*known).clone();
        for (name, value) in fields {
            match known.get(&name.node) {
                // A number without unit becomes one that counts something.
                Some(field) if field.ty == Ty::Bare => {
                    let (node, ty) = match self.expr(value, None) {
                        (node, ty @ (Ty::Bare | Ty::Number(_))) => (node, ty),
                        _ => (self.fit(value, &Ty::Bare, &name.node, None), Ty::Unknown),
                    };
                    types.insert(name.node.clone(), Field { ty, default: None });
                    values.push((name.node.clone(), node));
                }
                Some(field) => {
                    values.push((name.node.clone(), self.fit(value, &field.ty, &name.node, None)));
                }
                None => self.unknown_field(name, "the record", known.keys()),
            }
        }
        let kind = Kind::Update(Box::new(node), values);
        (Node { span, kind }, Ty::Record(Arc::new(types)))
    }

    /// Lowers `x ?? other`.
    pub(super) fn coalesce(&mut self, first: &'r Expr, other: &'r Expr, span: Span) -> (Node, Ty) {
        let (node, ty) = self.expr(first, None);
        let inner = match &ty {
            Ty::Unknown => return Self::error(span),
            Ty::Optional(inner) => (**inner).clone(),
            Ty::None => return self.expr(other, None),
            never => {
                self.found.push(
                    Diagnostic::error("tlm::sema::operands", format!("{never} is never `none`"))
                        .label(first.span, format!("this is {never}"))
                        .help("leave out `??` and what follows"),
                );
                return Self::error(span);
            }
        };
        let (other_node, other_ty) = self.expr(other, Some(&inner));
        let Some(joined) = inner.join(&other_ty) else {
            self.mixed(&inner, first.span, &other_ty, other.span);
            return Self::error(span);
        };
        (Node { span, kind: Kind::Else(Box::new([node, other_node])) }, joined)
    }

    /// Lowers a text with holes.
    pub(super) fn text(&mut self, text: &'r Text, span: Span) -> (Node, Ty) {
        let part = |part: &'r TextPart| match part {
            TextPart::Literal(text) => (Self::literal_text(text, span), Ty::Str),
            TextPart::Hole(expr) => {
                let (node, ty) = self.expr(expr, None);
                if !ty.is_scalar() || ty == Ty::None {
                    self.found.push(
                        Diagnostic::error(
                            "tlm::sema::not_a_text",
                            format!("{ty} can't stand in a text"),
                        )
                        .label(expr.span, "expected a number or a text")
                        .help("choose a field of it"),
                    );
                }
                (node, ty)
            }
        };
        let parts: Vec<_> = text.parts.iter().map(part).collect();
        // What begins with a path is one.
        let ty = match parts.first() {
            Some((_, Ty::Path)) => Ty::Path,
            _ => Ty::Str,
        };
        (Node { span, kind: Kind::Text(parts) }, ty)
    }

    // ---- functions of the language

    pub(super) fn builtin(
        &mut self,
        builtin: Builtin,
        call: &'r ast::Call,
        span: Span,
    ) -> (Node, Ty) {
        if let Some((name, _)) = call.params.first().or(call.run.first()) {
            self.bad_builtin(builtin, name.span, "takes no named arguments");
            return Self::error(span);
        }
        let (least, wanted) = match builtin {
            Builtin::Round | Builtin::Floor | Builtin::Ceil => (1, "takes 1 number"),
            Builtin::Range | Builtin::Pow => (2, "takes 2 numbers"),
            Builtin::Logspace => (3, "takes 3 numbers"),
            Builtin::Min | Builtin::Max => (2, "takes 2 numbers or more"),
        };
        let any_more = matches!(builtin, Builtin::Min | Builtin::Max);
        if call.inputs.len() < least || (call.inputs.len() > least && !any_more) {
            self.bad_builtin(builtin, span, wanted);
            return Self::error(span);
        }
        let float = Ty::Number(Dim::Float);
        let (nodes, ty) = match builtin {
            Builtin::Logspace => {
                let (mut nodes, _) = self.joined(&call.inputs[..2], Some(&float));
                nodes.push(self.fit(&call.inputs[2], &Ty::Number(Dim::Count), "logspace", None));
                (nodes, float)
            }
            Builtin::Pow => {
                let fit = |value: &'r Expr| self.fit(value, &float, "pow", None);
                (call.inputs.iter().map(fit).collect(), float.clone())
            }
            // What is to be rounded need not be whole yet.
            Builtin::Round | Builtin::Floor | Builtin::Ceil => {
                let (node, ty) = self.expr(&call.inputs[0], None);
                (vec![node], ty)
            }
            Builtin::Range | Builtin::Min | Builtin::Max => self.joined(&call.inputs, None),
        };
        let result = match (builtin, ty) {
            (_, Ty::Unknown) => return Self::error(span),
            (Builtin::Range | Builtin::Logspace, ty @ (Ty::Bare | Ty::Number(_))) => {
                Ty::List(Box::new(ty))
            }
            (
                Builtin::Round | Builtin::Floor | Builtin::Ceil,
                Ty::Bare | Ty::Number(Dim::Float | Dim::Ratio),
            ) => Ty::Number(Dim::Int),
            (_, ty @ (Ty::Bare | Ty::Number(_))) => ty,
            (_, other) => {
                self.bad_builtin(builtin, span, &format!("takes numbers, not {other}"));
                return Self::error(span);
            }
        };
        (Node { span, kind: Kind::Builtin(builtin, nodes) }, result)
    }

    // ---- removing an axis

    /// Lowers `best(x, by: m.loss, over: lr)`: what `x` is where `by` is the least.
    pub(super) fn best(&mut self, call: &'r ast::Call, span: Span) -> (Node, Ty) {
        let Some((value, by, over)) = self.reduction(call, "best", Some("by"), span) else {
            return Self::error(span);
        };
        let ((value, by), axes) = self.under_conditions(|lower| {
            let (value, mut axes) = lower.apart(|lower| lower.expr(value, None));
            let (by, more) = lower.apart(|lower| by.map(|by| (lower.expr(by, None), by.span)));
            axes.extend(more);
            lower.remove_axis(&mut axes, over, &value.0);
            lower.touched.extend(axes);
            (value, by)
        });
        let (value, ty) = value;
        let Some(((by, by_ty), by_span)) = by else { return Self::error(span) };
        if !matches!(by_ty, Ty::Unknown | Ty::Bare | Ty::Number(_)) {
            self.bad_reduction(by_span, &format!("expected a number, this is {by_ty}"), "best");
            return Self::error(span);
        }
        if matches!(ty, Ty::Recipe(_) | Ty::List(_) | Ty::Spread) {
            self.bad_reduction(value.span, &format!("{ty} can't be chosen"), "best");
            return Self::error(span);
        }
        let best = Best { value, by, over, axes };
        (Node { span, kind: Kind::Best(Box::new(best)) }, ty)
    }

    /// Lowers `mean_std(x, over: seed)`: of a number, or of each number of a record.
    pub(super) fn mean_std(&mut self, call: &'r ast::Call, span: Span) -> (Node, Ty) {
        let Some((value, _, over)) = self.reduction(call, "mean_std", None, span) else {
            return Self::error(span);
        };
        let ((node, ty), mut axes) = self.apart(|lower| lower.expr(value, None));
        self.remove_axis(&mut axes, over, &node);
        self.touched.extend(axes);
        let spread = |node: Node| Node { span, kind: Kind::Spread(Box::new(node), over) };
        let numbers: Vec<_> = ty.numbers().map(str::to_owned).collect();
        match ty {
            Ty::Bare | Ty::Number(_) => (spread(node), Ty::Spread),
            Ty::Record(_) if !numbers.is_empty() => {
                let field = Field { ty: Ty::Spread, default: None };
                let fields = numbers.iter().map(|name| (name.clone(), field.clone())).collect();
                let value = |name: String| {
                    let kind = Kind::Field(Box::new(node.clone()), name.clone());
                    (name, spread(Node { span: node.span, kind }))
                };
                let values = numbers.into_iter().map(value).collect();
                (Node { span, kind: Kind::Record(values) }, Ty::Record(Arc::new(fields)))
            }
            Ty::Unknown => Self::error(span),
            other => {
                let what = format!("expected a number, this is {other}");
                self.bad_reduction(value.span, &what, "mean_std");
                Self::error(span)
            }
        }
    }

    /// Returns the value, what is looked at, and the axis of a call that removes one.
    fn reduction(
        &mut self,
        call: &'r ast::Call,
        name: &str,
        by: Option<&str>,
        span: Span,
    ) -> Option<(&'r Expr, Option<&'r Expr>, AxisId)> {
        let [value] = &call.inputs[..] else {
            self.bad_reduction(span, "takes one value by position", name);
            return None;
        };
        if let Some((run, _)) = call.run.first() {
            self.idle_run(run);
        }
        let (mut looked_at, mut axis) = (None, None);
        for (param, value) in &call.params {
            match param.node.as_str() {
                "over" if axis.is_none() => axis = Some(self.axis_names(value)),
                given if Some(given) == by && looked_at.is_none() => looked_at = Some(value),
                _ => self.bad_reduction(param.span, "not a parameter of it", name),
            }
        }
        match axis.as_deref() {
            Some([over]) if by.is_none() || looked_at.is_some() => Some((value, looked_at, *over)),
            // An axis that does not exist is told already.
            Some([]) => None,
            Some([_, more @ ..]) if !more.is_empty() => {
                self.bad_reduction(call.callee.span, "goes over one axis", name);
                None
            }
            None => {
                self.bad_reduction(call.callee.span, "lacks the axis: `over:`", name);
                None
            }
            Some(_) => {
                self.bad_reduction(call.callee.span, "lacks what is to be least: `by:`", name);
                None
            }
        }
    }

    /// Takes an axis out of those that a value depends on.
    fn remove_axis(&mut self, axes: &mut BTreeSet<AxisId>, over: AxisId, value: &Node) {
        if !axes.remove(&over) && !is_local(value) {
            let name = &self.axis_items[over].name;
            self.found.push(
                Diagnostic::warning(
                    "tlm::sema::idle_axis",
                    format!("this does not depend on `{name}`"),
                )
                .label(value.span, format!("the same at each value of `{name}`"))
                .help("name an axis that the value depends on"),
            );
        }
    }

    fn bad_reduction(&mut self, span: Span, what: &str, name: &str) {
        let example = match name {
            "best" => "best(r1.model, by: m.loss, over: lr)",
            _ => "mean_std(m.loss, over: seed)",
        };
        self.found.push(
            Diagnostic::error("tlm::sema::inputs", format!("this is no `{name}`"))
                .label(span, what)
                .help(format!("write `{example}`")),
        );
    }

    fn bad_builtin(&mut self, builtin: Builtin, span: Span, what: &str) {
        let shown = Builtin::ALL.iter().find(|(known, ..)| *known == builtin);
        let (name, example) = (builtin.name(), shown.map_or("", |(.., example)| *example));
        self.found.push(
            Diagnostic::error("tlm::sema::inputs", format!("`{name}` {what}"))
                .label(span, "in this call")
                .help(format!("write `{example}`")),
        );
    }

    /// Returns the node of a param's value, checked to lie in the param's range.
    pub(super) fn in_range(&mut self, item: &'r ast::Binding, node: Node, ty: &Ty) -> Node {
        let Some(range) = item.range.as_ref().map(crate::sema::declare::range) else { return node };
        bounded(node, ty, Some(&range), format!("`{}`", item.name.node), item.name.span)
    }
}

/// Returns whether a node holds what the function or fold around it gives a name.
fn is_local(node: &Node) -> bool {
    let mut found = false;
    node.walk(&mut |node| found |= matches!(node.kind, Kind::Local(_)));
    found
}
