//! Items to documents. The tree says where lines may break; what is printed are the tokens
//! themselves, in order, so that no literal, parenthesis or comment can get lost.

use super::ast::{
    Artifact, BinaryOp, Binding, Call, Expr, ExprKind, Fn, Fold, Item, ItemKind, Name, Parameter,
    Plan, PlanTerm, Profile, Range, RecordField, Stage, Type, TypeKind, UnaryOp, Use, UseFrom,
    UseNames,
};
use super::format::Gap;
use super::layout::Doc;
use super::token::Token;

/// An item as a document.
pub(super) struct Printed<'t> {
    pub(super) docs: Vec<Doc<'t>>,
    /// What its `:` and `=` can be aligned by.
    pub(super) columns: Option<Columns>,
}

/// The widths of what stands before `:` and `=`.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) name: usize,
    /// Only of a type of one word: longer ones would push the others far away.
    pub(super) ty: Option<usize>,
}

/// Returns an item's document; `tokens` start with its first one, of which `count` are its own.
/// None where a comment stands at a place where no line can end.
pub(super) fn print<'t>(
    text: &'t str,
    tokens: &'t [Token],
    first: usize,
    count: usize,
    item: &Item,
) -> Option<Printed<'t>> {
    let (out, columns) = (Vec::new(), None);
    let end = first + count;
    let mut printer =
        Printer { text, tokens, at: first, end, told: first, refused: false, out, columns };
    printer.item(&item.kind);
    let whole = !printer.refused && printer.at == end;
    whole.then_some(Printed { docs: printer.out, columns: printer.columns })
}

struct Printer<'t> {
    text: &'t str,
    tokens: &'t [Token],
    at: usize,
    end: usize,
    /// The token before which comments are printed already.
    told: usize,
    /// Whether something stands where nothing is foreseen: the item stays as it is.
    refused: bool,
    out: Vec<Doc<'t>>,
    columns: Option<Columns>,
}

/// What ends a list.
const CLOSERS: [&str; 3] = [")", "]", "}"];

/// Whether a broken list ends with a comma.
#[derive(Clone, Copy, PartialEq)]
enum Comma {
    Last,
    Never,
}

/// Returns the operands and the strength of a binary expression.
fn sides(expr: &Expr) -> Option<(&Expr, &Expr, u8)> {
    match &expr.kind {
        ExprKind::Else(left, right) => Some((left, right, 4)),
        ExprKind::Binary(op, left, right) => {
            let strength = match op {
                BinaryOp::Or => 1,
                BinaryOp::And => 2,
                BinaryOp::Eq | BinaryOp::Ne => 3,
                BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => 3,
                BinaryOp::Add | BinaryOp::Sub => 5,
                BinaryOp::Mul | BinaryOp::Div => 6,
            };
            Some((left, right, strength))
        }
        _ => None,
    }
}

/// Returns the part that an expression starts with, if it starts with one.
fn leftmost(expr: &Expr) -> Option<&Expr> {
    match &expr.kind {
        ExprKind::Binary(_, left, _) | ExprKind::Else(left, _) => Some(left),
        ExprKind::Field(left, _) | ExprKind::At(left, _) | ExprKind::With(left, _) => Some(left),
        ExprKind::AtBaseline(left) => Some(left),
        ExprKind::Call(call) => Some(&call.callee),
        _ => None,
    }
}

impl<'t> Printer<'t> {
    // ---- looking

    fn word(&self) -> &'t str {
        match self.tokens.get(self.at) {
            Some(token) if self.at < self.end => &self.text[token.range()],
            _ => "",
        }
    }

    fn at(&self, text: &str) -> bool {
        self.word() == text
    }

    fn gap(&self) -> Gap<'t> {
        Gap::before(self.text, self.tokens, self.at)
    }

    // ---- printing tokens

    fn text(&mut self, text: &'t str) {
        self.out.push(Doc::Text(text));
    }

    fn space(&mut self) {
        self.text(" ");
    }

    /// Prints the next token.
    fn token(&mut self) {
        self.tokens(1);
    }

    /// Prints some tokens with what stands between them.
    fn tokens(&mut self, count: usize) {
        self.refused |= self.told != self.at && !self.gap().comments.is_empty();
        let last = self.at + count - 1;
        if last >= self.end {
            self.refused = true;
            return;
        }
        let (start, end) = (self.tokens[self.at].start, self.tokens[last].end);
        self.text(&self.text[start as usize..end as usize]);
        self.at = last + 1;
    }

    /// Prints tokens without blanks between them.
    fn glued(&mut self, count: usize) {
        for _ in 0..count {
            self.token();
        }
    }

    /// Prints tokens, each with a blank before it.
    fn spaced(&mut self, count: usize) {
        for _ in 0..count {
            self.space();
            self.token();
        }
    }

    // ---- lines and comments

    fn wrapped(
        &mut self,
        wrap: impl FnOnce(Vec<Doc<'t>>) -> Doc<'t>,
        inner: impl FnOnce(&mut Self),
    ) {
        let outer = std::mem::take(&mut self.out);
        inner(self);
        let docs = std::mem::replace(&mut self.out, outer);
        self.out.push(wrap(docs));
    }

    fn group(&mut self, inner: impl FnOnce(&mut Self)) {
        self.wrapped(Doc::Group, inner);
    }

    fn indent(&mut self, inner: impl FnOnce(&mut Self)) {
        self.wrapped(Doc::Indent, inner);
    }

    /// Prints the comments before the next token; returns whether there are any.
    fn comments(&mut self, mut blank: bool) -> bool {
        let comments = self.gap().comments;
        for comment in &comments {
            if comment.alone {
                self.out.push(Doc::Break { blank: comment.blank && blank });
                self.text(comment.text);
            } else {
                self.out.push(Doc::Comment(comment.text));
            }
            blank |= comment.alone;
        }
        self.told = self.at;
        !comments.is_empty()
    }

    /// Lets the line end before the next token, perhaps with an empty one after it.
    fn line(&mut self, flat: &'static str, blank: bool) {
        let gap = self.gap();
        let commented = self.comments(blank);
        let blank = gap.blank && (blank || gap.comments.iter().any(|comment| comment.alone));
        self.out.push(match commented {
            true => Doc::Break { blank },
            false => Doc::Line { flat, blank },
        });
    }

    /// Prints the comments that stand before a comma or semicolon.
    fn before_separator(&mut self) {
        self.refused |= self.gap().comments.iter().any(|comment| comment.alone);
        self.comments(false);
    }

    /// Passes over a comma; prints one if another element follows or the list is broken.
    fn comma(&mut self, comma: Comma) {
        if self.at(",") {
            self.before_separator();
            self.at += 1;
        }
        let ends = CLOSERS.contains(&self.word());
        if ends && comma == Comma::Last {
            self.out.push(Doc::Comma);
        } else if !ends && !self.at(";") {
            self.text(",");
        }
    }

    /// Prints `open element, element, ... close`.
    fn list(&mut self, pad: &'static str, comma: Comma, element: impl FnMut(&mut Self)) {
        self.group(|printer| printer.elements(pad, comma, element));
    }

    fn elements(&mut self, pad: &'static str, comma: Comma, mut element: impl FnMut(&mut Self)) {
        self.token();
        if CLOSERS.contains(&self.word()) && self.gap().comments.is_empty() {
            return self.token();
        }
        let mut first = true;
        self.indent(|printer| {
            while !printer.refused && !CLOSERS.contains(&printer.word()) {
                printer.line(if first { pad } else { " " }, !first);
                element(printer);
                printer.comma(comma);
                first = false;
            }
            printer.comments(!first);
        });
        self.out.push(Doc::Line { flat: pad, blank: false });
        self.token();
    }

    /// Prints a list of the parts of a tree.
    fn list_of<T>(&mut self, pad: &'static str, parts: &[T], mut part: impl FnMut(&mut Self, &T)) {
        let mut parts = parts.iter();
        self.list(pad, Comma::Last, |printer| match parts.next() {
            Some(next) => part(printer, next),
            None => printer.refused = true,
        });
    }

    // ---- items

    fn item(&mut self, item: &ItemKind) {
        self.token();
        self.space();
        match item {
            ItemKind::Use(import) => self.import(import),
            ItemKind::Param(binding) | ItemKind::Axis(binding) => self.binding(binding),
            ItemKind::Let(binding) | ItemKind::Report(binding) => self.binding(binding),
            ItemKind::Fn(function) => self.function(function),
            ItemKind::Stage(stage) => self.stage(stage),
            ItemKind::Artifact(artifact) => self.artifact(artifact),
            ItemKind::Plan(plan) => self.plan(plan),
            ItemKind::Profile(profile) => self.profile(profile),
        }
    }

    fn import(&mut self, import: &Use) {
        self.token();
        if let UseFrom::Std(path) = &import.from {
            self.glued(2 * (path.len() - 1));
        }
        match &import.names {
            UseNames::Module(None) => {}
            UseNames::Module(Some(_)) => self.spaced(2),
            UseNames::All(_) => self.glued(2),
            UseNames::Some(names) => {
                self.token();
                self.list_of("", names, |printer, _| printer.token());
            }
        }
    }

    /// Prints a name with blanks behind it, so that what follows can be aligned.
    fn defined(&mut self, ty: Option<usize>) {
        self.columns = Some(Columns { name: self.word().chars().count(), ty });
        self.token();
        self.out.push(Doc::Pad(0));
    }

    fn binding(&mut self, binding: &Binding) {
        self.defined(None);
        if let Some(ty) = &binding.ty {
            self.spaced(1);
            self.space();
            let start = self.at;
            self.ty(ty, "");
            let plain = match &ty.kind {
                TypeKind::Optional(inner) => matches!(inner.kind, TypeKind::Named(_)),
                kind => matches!(kind, TypeKind::Named(_)),
            };
            let words = &self.tokens[start..self.at];
            if plain && binding.range.is_none() {
                let width = words.iter().map(|word| self.text[word.range()].chars().count());
                let ty = Some(width.sum());
                self.columns = self.columns.map(|columns| Columns { ty, ..columns });
                self.out.push(Doc::Pad(1));
            }
        }
        if let Some(range) = &binding.range {
            self.range(range);
        }
        self.equals(&binding.value);
    }

    /// Prints `= value`.
    fn equals(&mut self, value: &Expr) {
        self.spaced(1);
        if !self.gap().comments.is_empty() {
            return self.indent(|printer| {
                printer.line(" ", false);
                printer.expr(value);
            });
        }
        if matches!(value.kind, ExprKind::Str(_) | ExprKind::Text(_)) {
            // It could not be broken on its own line either.
            self.space();
            return self.expr(value);
        }
        self.wrapped(Doc::Hug, |printer| printer.expr(value));
    }

    fn profile(&mut self, profile: &Profile) {
        self.defined(None);
        self.spaced(1);
        self.space();
        self.named_list(" ", &profile.values);
    }

    fn function(&mut self, function: &Fn) {
        self.token();
        self.header(&function.inputs, &function.params, |printer| {
            if let Some(ty) = &function.result {
                printer.spaced(1);
                printer.space();
                printer.ty(ty, " ");
            }
        });
        self.equals(&function.body);
    }

    fn stage(&mut self, stage: &Stage) {
        self.token();
        self.header(&stage.inputs, &stage.params, |printer| {
            printer.spaced(1);
            printer.space();
            printer.ty(&stage.result, " ");
            printer.space();
            printer.spaced(if stage.tensor { 3 } else { 2 });
            if !stage.one_of.is_empty() {
                printer.spaced(2);
                printer.names(&stage.one_of, ",");
            }
        });
        let (uses, shell) = (&stage.uses, &stage.shell);
        self.group(|printer| {
            printer.indent(|printer| {
                if !uses.is_empty() {
                    printer.line(" ", false);
                    printer.token();
                    printer.names(uses, ",");
                }
                if shell.is_some() {
                    printer.line(" ", false);
                    printer.token();
                    printer.spaced(1);
                }
            });
        });
    }

    fn artifact(&mut self, artifact: &Artifact) {
        self.token();
        if self.at("{") {
            self.space();
            self.list_of(" ", &artifact.fields, |printer, (_, ty)| {
                printer.glued(2);
                printer.space();
                printer.ty(ty, "");
            });
        }
    }

    fn plan(&mut self, plan: &Plan) {
        self.defined(None);
        self.spaced(1);
        self.space();
        let mut terms = plan.terms.iter();
        self.group(|printer| {
            terms.next().into_iter().for_each(|term| printer.plan_term(term));
            printer.indent(|printer| {
                for term in terms {
                    printer.line(" ", false);
                    printer.token();
                    printer.space();
                    printer.plan_term(term);
                }
            });
        });
    }

    /// Prints a term of a plan; its clauses stay in the order they have.
    fn plan_term(&mut self, term: &PlanTerm) {
        self.group(|printer| {
            printer.expr(&term.target);
            printer.indent(|printer| {
                while !printer.refused {
                    let (names, separator) = match printer.word() {
                        "vary" => (&term.vary, ","),
                        "over" => (&term.over, " *"),
                        "each" => (&term.each, ","),
                        "where" => (&Vec::new(), ""),
                        _ => return,
                    };
                    printer.line(" ", false);
                    printer.token();
                    match &term.filter {
                        Some(filter) if separator.is_empty() => {
                            printer.space();
                            printer.expr(filter);
                        }
                        _ => printer.names(names, separator),
                    }
                }
            });
        });
    }

    /// Prints names with a separator between them.
    fn names(&mut self, names: &[Name], separator: &str) {
        for i in 0..names.len() {
            match separator {
                " *" if i > 0 => self.spaced(1),
                _ if i > 0 => self.token(),
                _ => {}
            }
            self.spaced(1);
        }
    }

    // ---- types and parameters

    /// Prints the parameters and what belongs to the same lines: these break first.
    fn header(&mut self, inputs: &[Parameter], params: &[Parameter], rest: impl FnOnce(&mut Self)) {
        self.group(|printer| {
            printer.parameters(inputs, params);
            rest(printer);
        });
    }

    fn parameters(&mut self, inputs: &[Parameter], params: &[Parameter]) {
        if params.is_empty() {
            let mut inputs = inputs.iter();
            return self.elements("", Comma::Last, |printer| match inputs.next() {
                Some(input) => printer.parameter(input),
                None => printer.refused = true,
            });
        }
        self.token();
        self.indent(|printer| {
            if !inputs.is_empty() {
                printer.line("", false);
                printer.group(|printer| printer.inputs(inputs));
            }
            printer.before_separator();
            printer.token();
            for (i, param) in params.iter().enumerate() {
                printer.line(" ", i > 0);
                printer.parameter(param);
                printer.comma(Comma::Last);
            }
            printer.comments(true);
        });
        self.out.push(Doc::Line { flat: "", blank: false });
        self.token();
    }

    fn inputs(&mut self, inputs: &[Parameter]) {
        for (i, input) in inputs.iter().enumerate() {
            if i > 0 {
                self.line(" ", true);
            }
            self.parameter(input);
            self.comma(Comma::Never);
        }
    }

    fn parameter(&mut self, parameter: &Parameter) {
        self.glued(2);
        self.space();
        self.ty(&parameter.ty, "");
        if let Some(range) = &parameter.range {
            self.range(range);
        }
        self.default(parameter.default.as_ref());
        if parameter.since.is_some() {
            self.spaced(2);
        }
        if parameter.place {
            self.spaced(1);
        }
    }

    fn default(&mut self, value: Option<&Expr>) {
        if let Some(value) = value {
            self.spaced(1);
            self.space();
            self.expr(value);
        }
    }

    /// Prints `in low .. high`.
    fn range(&mut self, range: &Range) {
        self.spaced(1);
        if let Some(low) = &range.low {
            self.space();
            self.expr(low);
        }
        self.spaced(1);
        if let Some(high) = &range.high {
            self.space();
            self.expr(high);
        }
    }

    fn ty(&mut self, ty: &Type, pad: &'static str) {
        match &ty.kind {
            TypeKind::Named(_) => self.token(),
            TypeKind::Optional(inner) => {
                self.ty(inner, pad);
                self.token();
            }
            TypeKind::List(inner) => {
                self.list("", Comma::Never, |printer| printer.ty(inner, ""));
            }
            TypeKind::Record(fields) => self.list_of(pad, fields, Self::record_field),
            TypeKind::Enum(variants) => self.group(|printer| {
                printer.token();
                printer.indent(|printer| {
                    for _ in 1..variants.len() {
                        printer.line(" ", false);
                        printer.token();
                        printer.spaced(1);
                    }
                });
            }),
        }
    }

    fn record_field(&mut self, field: &RecordField) {
        self.glued(2);
        self.space();
        self.ty(&field.ty, "");
        self.default(field.default.as_ref());
    }

    // ---- expressions

    fn expr(&mut self, expr: &Expr) {
        let here = self.tokens[self.at.min(self.tokens.len() - 1)].start;
        let begins = |part: &Expr| part.span.start > here;
        if self.at("(") && leftmost(expr).is_none_or(begins) {
            return self.list("", Comma::Never, |printer| printer.expr(expr));
        }
        match &expr.kind {
            ExprKind::Number { units, .. } => self.tokens(1 + units.len()),
            ExprKind::Str(_) | ExprKind::Text(_) | ExprKind::Bool(_) | ExprKind::None => {
                self.token();
            }
            ExprKind::Name(_) => self.token(),
            ExprKind::List(items) => self.list_of("", items, Self::expr),
            ExprKind::Record(fields) => self.named_list("", fields),
            ExprKind::Field(inner, _) => {
                self.expr(inner);
                self.glued(2);
            }
            ExprKind::Call(call) => {
                self.expr(&call.callee);
                self.arguments(call);
            }
            ExprKind::At(inner, values) => {
                self.expr(inner);
                self.named_list("", values);
            }
            ExprKind::AtBaseline(inner) => {
                self.expr(inner);
                self.spaced(2);
            }
            ExprKind::With(inner, values) => {
                self.expr(inner);
                self.spaced(1);
                self.space();
                self.named_list("", values);
            }
            ExprKind::Unary(op, operand) => self.unary(*op, operand),
            ExprKind::Binary(..) | ExprKind::Else(..) => self.chain(expr),
            ExprKind::If(parts) => self.conditional(parts),
            ExprKind::Fold(fold) => self.fold(fold),
            ExprKind::Error => self.refused = true,
        }
    }

    fn named_list(&mut self, pad: &'static str, values: &[(Name, Expr)]) {
        self.list_of(pad, values, Self::named);
    }

    fn named(&mut self, (_, value): &(Name, Expr)) {
        self.glued(2);
        self.space();
        self.expr(value);
    }

    fn arguments(&mut self, call: &Call) {
        let (mut inputs, mut params) = (call.inputs.iter(), call.params.iter());
        self.list("", Comma::Last, |printer| match inputs.next() {
            Some(input) => printer.expr(input),
            None => match params.next() {
                Some(param) => printer.named(param),
                None => printer.refused = true,
            },
        });
        let mut settings = call.run.iter();
        while settings.len() > 0 && self.at("run") && !self.refused {
            self.spaced(1);
            self.space();
            self.list(" ", Comma::Last, |printer| match settings.next() {
                Some(setting) => printer.named(setting),
                None => printer.refused = true,
            });
        }
    }

    fn unary(&mut self, op: UnaryOp, operand: &Expr) {
        self.token();
        if op == UnaryOp::Not {
            self.space();
        }
        self.expr(operand);
    }

    /// Prints operators of one strength, each on a line of its own if they do not fit into one.
    fn chain(&mut self, expr: &Expr) {
        let (mut left, mut right) = (expr, Vec::new());
        let strength = sides(expr).map(|(_, _, strength)| strength);
        while let Some((inner, operand, own)) = sides(left) {
            let enclosed = !right.is_empty() && inner.span.start > left.span.start;
            if Some(own) != strength || enclosed {
                break;
            }
            right.push(operand);
            left = inner;
        }
        self.group(|printer| {
            printer.expr(left);
            printer.indent(|printer| {
                for operand in right.into_iter().rev() {
                    printer.line(" ", false);
                    printer.token();
                    printer.space();
                    printer.expr(operand);
                }
            });
        });
    }

    fn conditional(&mut self, [condition, yes, no]: &[Expr; 3]) {
        self.group(|printer| {
            printer.token();
            printer.space();
            printer.expr(condition);
            printer.indent(|printer| {
                for branch in [yes, no] {
                    printer.line(" ", false);
                    printer.token();
                    printer.space();
                    printer.expr(branch);
                }
            });
        });
    }

    fn fold(&mut self, fold: &Fold) {
        self.token();
        self.spaced(2);
        self.space();
        self.expr(&fold.init);
        self.spaced(3);
        self.space();
        self.expr(&fold.low);
        let is_word = |end: &Expr| matches!(end.kind, ExprKind::Name(_) | ExprKind::Number { .. });
        if is_word(&fold.low) && is_word(&fold.high) {
            self.token();
        } else {
            self.spaced(1);
            self.space();
        }
        self.expr(&fold.high);
        self.space();
        // The braces around the body; its parentheses, if any, stand within them.
        self.list(" ", Comma::Never, |printer| printer.expr(&fold.body));
    }
}
