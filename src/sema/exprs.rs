//! Expressions: names, literals, operators, fields. What is wanted goes down, what is there comes up.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::text::did_you_mean;
use crate::base::units::Dim;
use crate::base::{Span, Value};
use crate::diag::Diagnostic;
use crate::sema::declare::dim_of;
use crate::sema::lower::Lower;
use crate::sema::node::{Kind, Node};
use crate::sema::scope::{Def, Origin};
use crate::sema::ty::{Field, Ty};
use crate::sema::value::{Val, literal, real, result_dim};
use crate::syntax::ast::{BinaryOp, Expr, ExprKind, Name, UnaryOp};

impl<'r> Lower<'r> {
    /// Lowers an expression; `wanted` gives names their meaning as variants, and records their fields.
    pub(super) fn expr(&mut self, expr: &'r Expr, wanted: Option<&Ty>) -> (Node, Ty) {
        let wanted = match wanted {
            Some(Ty::Optional(inner)) => Some(&**inner),
            other => other,
        };
        let span = expr.span;
        let constant = |value, ty| (Node { span, kind: Kind::Const(Val::Plain(value)) }, ty);
        match &expr.kind {
            ExprKind::Number { digits, units } => {
                let value = literal(digits, units);
                if !real(&value).is_finite() {
                    self.found.push(
                        Diagnostic::error("tlm::eval::too_large", "the number is too large")
                            .label(span, "beyond what a float holds")
                            .help("use smaller numbers"),
                    );
                    return Self::error(span);
                }
                constant(value, dim_of(units).map_or(Ty::Bare, Ty::Number))
            }
            ExprKind::Str(text) => constant(Value::Str(text.clone()), Ty::Str),
            ExprKind::Bool(value) => constant(Value::Bool(*value), Ty::Bool),
            ExprKind::None => constant(Value::Null, Ty::None),
            ExprKind::Name(name) => self.name(name, span, wanted),
            ExprKind::List(items) => {
                let item = match wanted {
                    Some(Ty::List(item)) => Some(&**item),
                    _ => None,
                };
                let (nodes, ty) = self.joined(items, item);
                (Node { span, kind: Kind::List(nodes) }, Ty::List(Box::new(ty)))
            }
            ExprKind::Record(fields) => self.record(fields, span, wanted),
            ExprKind::Field(base, name) => self.field(base, name, span),
            ExprKind::Call(call) => self.call(call, span),
            ExprKind::Text(text) => self.text(text, span),
            ExprKind::At(base, fixed) => self.at(base, fixed, span),
            ExprKind::AtBaseline(base) => self.at_baseline(base, span),
            ExprKind::With(base, fields) => self.update(base, fields, span),
            ExprKind::Fold(fold) => self.fold(fold, span),
            ExprKind::Else(first, other) => self.coalesce(first, other, span),
            ExprKind::Unary(op, inner) => self.unary(*op, inner, span),
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right, span),
            ExprKind::If(parts) => self.condition(parts, span, wanted),
            ExprKind::Error => Self::error(span),
        }
    }

    /// Lowers an expression for a slot of a known type. `what` names the slot, `declared` is where.
    pub(super) fn fit(
        &mut self,
        expr: &'r Expr,
        wanted: &Ty,
        what: &str,
        declared: Option<Span>,
    ) -> Node {
        let (node, ty) = self.expr(expr, Some(wanted));
        if !ty.fits(wanted) {
            let mut diagnostic = Diagnostic::error(
                "tlm::sema::wrong_type",
                format!("`{what}` takes {wanted}, but this is {ty}"),
            )
            .label(expr.span, format!("this is {ty}"));
            if let Some(span) = declared {
                diagnostic = diagnostic.label(span, format!("`{what}` is declared here"));
            }
            self.found.push(match remedy(&ty, wanted) {
                Some(help) => diagnostic.help(help),
                None => diagnostic,
            });
            return Node { span: expr.span, kind: Kind::Error };
        }
        match (&ty, wanted) {
            (Ty::Str, Ty::Path) => rooted(node),
            (Ty::Str, Ty::Optional(inner)) if **inner == Ty::Path => rooted(node),
            _ => convert(node, wanted),
        }
    }

    /// Lowers expressions of one type; returns that type.
    pub(super) fn joined(&mut self, items: &'r [Expr], wanted: Option<&Ty>) -> (Vec<Node>, Ty) {
        let mut nodes = Vec::new();
        let mut all: Option<(Ty, Span)> = None;
        for item in items {
            let (node, ty) = self.expr(item, wanted.or(all.as_ref().map(|(ty, _)| ty)));
            all = match all {
                None => Some((ty, item.span)),
                Some((first, span)) => match first.join(&ty) {
                    Some(joined) if joined == first => Some((joined, span)),
                    Some(joined) => Some((joined, item.span)),
                    None => {
                        self.mixed(&first, span, &ty, item.span);
                        Some((Ty::Unknown, span))
                    }
                },
            };
            nodes.push(node);
        }
        let ty = all.map_or(Ty::Unknown, |(ty, _)| ty);
        (nodes.into_iter().map(|node| convert(node, &ty)).collect(), ty)
    }

    pub(super) fn literal_text(text: &str, span: Span) -> Node {
        Node { span, kind: Kind::Const(Val::Plain(Value::Str(text.to_owned()))) }
    }

    pub(super) fn mixed(&mut self, first: &Ty, first_span: Span, other: &Ty, other_span: Span) {
        self.found.push(
            Diagnostic::error("tlm::sema::mixed_types", format!("{first} and {other} do not mix"))
                .label(other_span, format!("this is {other}"))
                .label(first_span, format!("this is {first}"))
                .help("give all of them one type"),
        );
    }

    fn name(&mut self, name: &str, span: Span, wanted: Option<&Ty>) -> (Node, Ty) {
        if let Some(Ty::Enum(variants)) = wanted
            && variants.iter().any(|variant| variant == name)
        {
            let value = Val::Plain(Value::Str(name.to_owned()));
            return (Node { span, kind: Kind::Const(value) }, Ty::Enum(Arc::clone(variants)));
        }
        if let Some(at) = self.locals.iter().rposition(|local| local.name == name) {
            return (Node { span, kind: Kind::Local(at) }, self.locals[at].ty.clone());
        }
        match self.look_up(name) {
            Some(def) => self.meaning(def, name, span),
            None => {
                match wanted {
                    Some(Ty::Enum(variants)) => self.unknown_variant(name, variants, span),
                    _ => self.unknown_name(name, span),
                }
                Self::error(span)
            }
        }
    }

    /// Lowers a name that stands for something.
    pub(super) fn meaning(&mut self, def: Def, name: &str, span: Span) -> (Node, Ty) {
        match def {
            Def::Binding(id) => {
                if let Some(ty) = self.use_binding(id, span) {
                    return (Node { span, kind: Kind::Binding(id) }, ty);
                }
            }
            Def::Axis(id) => {
                if let Some(ty) = self.use_axis(id, span) {
                    return (Node { span, kind: Kind::Axis(id) }, ty);
                }
            }
            Def::Scope(scope) if matches!(self.scopes[scope].origin, Origin::Recipe(_)) => {
                return Self::recipe_value(scope, span);
            }
            Def::Function(_) => {
                self.no_value(span, &format!("`{name}` is a function"), "call it: `(...)`");
            }
            Def::Stage(stage) => {
                let what = format!("`{}` is a stage", stage.decl.name);
                self.no_value(span, &what, "call it: `(...)`");
            }
            Def::Scope(_) | Def::Std => {
                self.no_value(span, &format!("`{name}` is a module"), "call a stage of it");
            }
            Def::Broken => {}
        }
        Self::error(span)
    }

    fn no_value(&mut self, span: Span, what: &str, help: &str) {
        self.found.push(
            Diagnostic::error("tlm::sema::no_value", format!("{what}, not a value"))
                .label(span, "expected a value")
                .help(help),
        );
    }

    fn unknown_variant(&mut self, name: &str, variants: &[String], span: Span) {
        let help = match did_you_mean(name, variants.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one of {}", variants.join(", ")),
        };
        self.found.push(
            Diagnostic::error("tlm::sema::unknown_variant", format!("there is no choice `{name}`"))
                .label(span, format!("expected {}", variants.join(" | ")))
                .help(help),
        );
    }

    fn record(
        &mut self,
        fields: &'r [(Name, Expr)],
        span: Span,
        wanted: Option<&Ty>,
    ) -> (Node, Ty) {
        let wanted = match wanted {
            Some(Ty::Record(fields)) => Some(fields),
            _ => None,
        };
        let (mut nodes, mut types) = (Vec::new(), BTreeMap::new());
        for (name, value) in fields {
            let slot = wanted.and_then(|wanted| wanted.get(&name.node));
            let (node, ty) = match (slot, wanted) {
                (Some(slot), _) => (self.fit(value, &slot.ty, &name.node, None), slot.ty.clone()),
                (None, Some(wanted)) => {
                    self.unknown_field(name, "the record", wanted.keys());
                    self.expr(value, None);
                    continue;
                }
                (None, None) => self.expr(value, None),
            };
            if types.insert(name.node.clone(), Field { ty, default: None }).is_some()
                && let Some((first, _)) = fields.iter().find(|(first, _)| first.node == name.node)
            {
                self.twice(name, first.span);
            }
            nodes.push((name.node.clone(), node));
        }
        let missing = wanted.into_iter().flat_map(|wanted| wanted.iter());
        let missing: Vec<_> = missing
            .filter(|(name, field)| field.default.is_none() && !types.contains_key(*name))
            .map(|(name, field)| format!("`{name}: {}`", field.ty))
            .collect();
        if !missing.is_empty() {
            self.found.push(
                Diagnostic::error(
                    "tlm::sema::missing_field",
                    format!("the record lacks {}", missing.join(", ")),
                )
                .label(span, "not given here")
                .help("add what is missing"),
            );
            return Self::error(span);
        }
        (Node { span, kind: Kind::Record(nodes) }, Ty::Record(Arc::new(types)))
    }

    pub(super) fn unknown_field<'n>(
        &mut self,
        name: &Name,
        of: &str,
        known: impl Iterator<Item = &'n String> + Clone,
    ) {
        let help = match did_you_mean(&name.node, known.clone().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match known.map(String::as_str).collect::<Vec<_>>() {
                none if none.is_empty() => "use the value itself".to_owned(),
                names => format!("fields are {}", names.join(", ")),
            },
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::unknown_field",
                format!("{of} has no field `{}`", name.node),
            )
            .label(name.span, "no such field")
            .help(help),
        );
    }

    fn field(&mut self, base: &'r Expr, name: &Name, span: Span) -> (Node, Ty) {
        match self.scope_of(base) {
            Some(Ok(scope)) => return self.member(scope, name, span),
            Some(Err(())) => return Self::error(span),
            None => {}
        }
        let (node, ty) = self.expr(base, None);
        let base = Box::new(node);
        match &ty {
            Ty::Unknown => Self::error(span),
            Ty::Recipe(scope) => self.member(*scope, name, span),
            Ty::Record(fields) => match fields.get(&name.node) {
                Some(field) => {
                    (Node { span, kind: Kind::Field(base, name.node.clone()) }, field.ty.clone())
                }
                None => {
                    self.unknown_field(name, "the record", fields.keys());
                    Self::error(span)
                }
            },
            Ty::Artifact(artifact) => {
                let fields = self.library.fields(artifact);
                match fields.and_then(|fields| fields.get(&name.node)) {
                    Some(field) => {
                        let kind = Kind::ArtifactField(base, name.node.clone(), field.clone());
                        (Node { span, kind }, field.clone())
                    }
                    None => {
                        let known: Vec<_> = fields.into_iter().flat_map(BTreeMap::keys).collect();
                        let known = known.into_iter();
                        self.unknown_field(name, &format!("a {artifact}"), known);
                        Self::error(span)
                    }
                }
            }
            other => {
                self.unknown_field(name, &other.to_string(), std::iter::empty());
                Self::error(span)
            }
        }
    }

    fn unary(&mut self, op: UnaryOp, inner: &'r Expr, span: Span) -> (Node, Ty) {
        match op {
            UnaryOp::Not => {
                let inner = self.fit(inner, &Ty::Bool, "not", None);
                (Node { span, kind: Kind::Not(Box::new(inner)) }, Ty::Bool)
            }
            UnaryOp::Neg => {
                let zero = Val::Plain(Value::Int(0));
                let zero = (Node { span, kind: Kind::Const(zero) }, Ty::Bare);
                let (inner, ty) = self.expr(inner, None);
                if !matches!(ty, Ty::Unknown | Ty::Bare | Ty::Number(_)) {
                    self.found.push(
                        Diagnostic::error(
                            "tlm::sema::operands",
                            format!("`-` does not go before {ty}"),
                        )
                        .label(inner.span, format!("this is {ty}"))
                        .help("only numbers can be computed with"),
                    );
                    return Self::error(span);
                }
                self.arithmetic(BinaryOp::Sub, zero, (inner, ty), span)
            }
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &'r Expr, right: &'r Expr, span: Span) -> (Node, Ty) {
        match op {
            BinaryOp::And | BinaryOp::Or => {
                let left = Box::new(self.fit(left, &Ty::Bool, op.symbol(), None));
                let right = Box::new(self.fit(right, &Ty::Bool, op.symbol(), None));
                let kind = match op {
                    BinaryOp::And => Kind::And(left, right),
                    _ => Kind::Or(left, right),
                };
                (Node { span, kind }, Ty::Bool)
            }
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div => {
                let (left, right) = (self.expr(left, None), self.expr(right, None));
                self.arithmetic(op, left, right, span)
            }
            _ => self.compare(op, left, right, span),
        }
    }

    fn arithmetic(
        &mut self,
        op: BinaryOp,
        (left, left_ty): (Node, Ty),
        (right, right_ty): (Node, Ty),
        span: Span,
    ) -> (Node, Ty) {
        if left_ty == Ty::Unknown || right_ty == Ty::Unknown {
            return Self::error(span);
        }
        let Some(dim) = result_dim(op, &left_ty, &right_ty) else {
            self.operands(op, (&left, &left_ty), (&right, &right_ty));
            return Self::error(span);
        };
        // A division of whole numbers stays exact until a slot wants it whole, so that it can be rounded as is meant.
        let is_part = |ty: &Ty| matches!(ty, Ty::Number(Dim::Ratio | Dim::Float));
        let is_exact = op != BinaryOp::Mul && !is_part(&left_ty) && !is_part(&right_ty);
        let kept = dim.filter(|dim| !(is_exact && dim.is_whole()));
        let kind = Kind::Arithmetic(op, Box::new(left), Box::new(right), kept);
        (Node { span, kind }, dim.map_or(Ty::Bare, Ty::Number))
    }

    fn operands(&mut self, op: BinaryOp, left: (&Node, &Ty), right: (&Node, &Ty)) {
        let sign = op.symbol();
        let help = match (left.1, right.1) {
            (Ty::Number(_), Ty::Number(_)) if matches!(op, BinaryOp::Add | BinaryOp::Sub) => {
                "both sides must count the same"
            }
            (Ty::Number(_), Ty::Number(_)) => "a quantity goes with numbers and ratios",
            (Ty::Enum(_), Ty::Str) | (Ty::Str, Ty::Enum(_)) => "write the name without quotes",
            _ if matches!(op, BinaryOp::Eq | BinaryOp::Ne) => "compare values of one type",
            _ => "only numbers can be computed with",
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::operands",
                format!("`{sign}` does not go between {} and {}", left.1, right.1),
            )
            .label(right.0.span, format!("this is {}", right.1))
            .label(left.0.span, format!("this is {}", left.1))
            .help(help),
        );
    }

    fn compare(&mut self, op: BinaryOp, left: &'r Expr, right: &'r Expr, span: Span) -> (Node, Ty) {
        // A variant's name means something only beside an expression of its enum.
        let is_variant =
            |side: &Expr| matches!(&side.kind, ExprKind::Name(n) if self.look_up(n).is_none());
        let (left, right) = if is_variant(left) {
            let right = self.expr(right, None);
            (self.expr(left, Some(&right.1)), right)
        } else {
            let left = self.expr(left, None);
            let right = self.expr(right, Some(&left.1));
            (left, right)
        };
        let ordered = !matches!(op, BinaryOp::Eq | BinaryOp::Ne);
        // Whether something is there can be asked of all that may be `none`.
        let tested = match (&left.1, &right.1) {
            (Ty::Optional(_), Ty::None) => Some(&left.0),
            (Ty::None, Ty::Optional(_)) => Some(&right.0),
            _ => None,
        };
        if let Some(tested) = tested.filter(|_| !ordered) {
            let kind = Kind::IsNone(Box::new(tested.clone()), op == BinaryOp::Eq);
            return (Node { span, kind }, Ty::Bool);
        }
        let joined = left.1.join(&right.1);
        let comparable = match &joined {
            Some(Ty::Unknown | Ty::Bare | Ty::Number(_)) => true,
            Some(Ty::Bool | Ty::Str | Ty::Path | Ty::Enum(_)) => !ordered,
            Some(Ty::Optional(inner)) => !ordered && inner.is_scalar(),
            _ => false,
        };
        if !comparable {
            self.operands(op, (&left.0, &left.1), (&right.0, &right.1));
            return Self::error(span);
        }
        let kind = Kind::Compare(op, Box::new(left.0), Box::new(right.0));
        (Node { span, kind }, Ty::Bool)
    }

    fn condition(&mut self, parts: &'r [Expr; 3], span: Span, wanted: Option<&Ty>) -> (Node, Ty) {
        let [test, then, other] = parts;
        let before = self.conditions.clone();
        let (test, axes) = self.apart(|lower| lower.fit(test, &Ty::Bool, "if", None));
        self.touched.extend(axes.iter().copied());
        self.conditions.extend(axes);
        let then_part = self.expr(then, wanted);
        let other_part = self.expr(other, wanted.or(Some(&then_part.1)));
        self.conditions = before;
        let Some(ty) = then_part.1.join(&other_part.1) else {
            self.mixed(&then_part.1, then.span, &other_part.1, other.span);
            return Self::error(span);
        };
        let branches = [then_part.0, other_part.0].map(|node| convert(node, &ty));
        let [then_node, other_node] = branches;
        (Node { span, kind: Kind::If(Box::new([test, then_node, other_node])) }, ty)
    }
}

/// Returns the node of a text as a path: relative to the file that it is written in.
pub(super) fn rooted(node: Node) -> Node {
    Node { span: node.span, kind: Kind::Rooted(Box::new(node)) }
}

/// Returns the value of a node as its slot wants it; a constant that can't be is told when it is evaluated.
pub(super) fn convert(node: Node, wanted: &Ty) -> Node {
    if !wanted.converts() {
        return node;
    }
    if let Kind::Const(value) = &node.kind
        && let Ok(value) = value.clone().conform(wanted)
    {
        return Node { span: node.span, kind: Kind::Const(value) };
    }
    Node { span: node.span, kind: Kind::Convert(Box::new(node), Box::new(wanted.clone())) }
}

/// What to do where `ty` stands and `wanted` should.
fn remedy(ty: &Ty, wanted: &Ty) -> Option<String> {
    use crate::base::units::Dim;
    let unit = |dim: &Dim| match dim {
        Dim::Tokens => Some("1 tokens"),
        Dim::Params => Some("1 params"),
        Dim::Bytes => Some("1 bytes"),
        Dim::Duration => Some("1s"),
        Dim::Int | Dim::Count | Dim::Float | Dim::Ratio => None,
    };
    Some(match (ty, wanted) {
        (Ty::Number(own), Ty::Number(dim)) => match (unit(own), unit(dim)) {
            (None, Some(unit)) => format!("multiply it by `{unit}`"),
            (Some(unit), None) => format!("divide it by `{unit}`"),
            _ => return None,
        },
        (Ty::Record(fields), Ty::Artifact(name)) => {
            let field = fields.iter().find(|(_, field)| field.ty == *wanted);
            let field = field.map_or_else(|| format!("a {name}"), |(name, _)| format!("`.{name}`"));
            format!("choose {field} of it")
        }
        (Ty::Artifact(_), Ty::Number(_)) => "choose a field of it".to_owned(),
        (Ty::Str, Ty::Enum(_)) => "write the name without quotes".to_owned(),
        (Ty::Str, Ty::Artifact(name)) => match &**name {
            "Corpus" => "open it: `corpus.text(\"...\")`".to_owned(),
            "Checkpoint" => "open it: `model.open(\"...\")`".to_owned(),
            "Tokenizer" => "open it: `tokenizer.open(\"...\")`".to_owned(),
            _ => return None,
        },
        _ => return None,
    })
}
