//! The tree of a recipe, as written. Every node has its span; nothing is resolved.

use smallvec::SmallVec;

use crate::base::Span;
use crate::base::source::Spanned;
use crate::base::units::Unit;

/// A name with its place.
pub type Name = Spanned<String>;

/// One `.tlm` file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Its items in source order.
    pub items: Vec<Item>,
}

/// A top-level item.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The doc comment above it (`## text` lines, joined by newlines), if any.
    pub doc: Option<String>,
    /// The whole item.
    pub span: Span,
    /// What it is.
    pub kind: ItemKind,
}

/// What an item is.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemKind {
    /// `use std.*`, `use std.{a, b}`, `use std.model as m`, `use "b0.tlm" as b0`
    Use(Use),
    /// `param name : Type = value`
    Param(Binding),
    /// `axis name : Type = [values]`; the first value is the baseline
    Axis(Binding),
    /// `let name : Type = value`
    Let(Binding),
    /// `fn name(inputs; params) -> Type = body`
    Fn(Fn),
    /// `stage name(inputs; params) -> Type  version 1 tensor`, or with `shell """..."""`
    Stage(Stage),
    /// `artifact Name { field: Type }`
    Artifact(Artifact),
    /// `plan name = target vary a, b each seed | other over a * b where a > 1`
    Plan(Plan),
    /// `report name = table(...)`
    Report(Binding),
    /// `profile name = { param: value }`
    Profile(Profile),
}

/// An import.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// Where it comes from.
    pub from: UseFrom,
    /// What is taken from it.
    pub names: UseNames,
}

/// Where an import comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum UseFrom {
    /// `std`, `std.model`
    Std(Vec<Name>),
    /// `"b0.tlm"`: another recipe, relative to this one.
    File(Name),
}

/// What an import takes.
#[derive(Clone, Debug, PartialEq)]
pub enum UseNames {
    /// The module itself, perhaps under another name.
    Module(Option<Name>),
    /// `.*`
    All(Span),
    /// `.{a, b}`
    Some(Vec<Name>),
}

/// `name : Type = value`
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The name.
    pub name: Name,
    /// The declared type, if written.
    pub ty: Option<Type>,
    /// `in low .. high`, of a param.
    pub range: Option<Range>,
    /// The value.
    pub value: Expr,
}

/// A pure function.
#[derive(Clone, Debug, PartialEq)]
pub struct Fn {
    /// The name.
    pub name: Name,
    /// Positional parameters, before the `;`.
    pub inputs: Vec<Parameter>,
    /// Named parameters, after the `;`.
    pub params: Vec<Parameter>,
    /// The result's type, if written.
    pub result: Option<Type>,
    /// The body.
    pub body: Expr,
}

/// The closed range a number must lie in; either end may be missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// The lowest number.
    pub low: Option<Expr>,
    /// The highest number.
    pub high: Option<Expr>,
}

/// A stage declaration; the body is Rust, or a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The name.
    pub name: Name,
    /// Positional artifacts.
    pub inputs: Vec<Parameter>,
    /// Named parameters.
    pub params: Vec<Parameter>,
    /// One artifact, or a record of them.
    pub result: Type,
    /// `version N`
    pub version: Spanned<u32>,
    /// `tensor`: runs in `tlm-torch`, and its numerics class enters the key.
    pub tensor: bool,
    /// `one of keep, coverage`: parameters of which each call gives exactly one.
    pub one_of: Vec<Name>,
    /// `uses "clean.py", "lib/"`: files the command reads, which are part of its identity.
    pub uses: Vec<Name>,
    /// `shell """..."""`: the command, with `{name}` for inputs, parameters and outputs.
    pub shell: Option<Spanned<Text>>,
}

/// A text in parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Literal parts and holes in turn.
    pub parts: Vec<TextPart>,
}

/// A part of a [`Text`].
#[derive(Clone, Debug, PartialEq)]
pub enum TextPart {
    /// As it is, escapes resolved.
    Literal(String),
    /// `{expression}`
    Hole(Expr),
}

/// A parameter of a function or a stage: `name: Type = default` with attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The doc comment above it, if any.
    pub doc: Option<String>,
    /// The name.
    pub name: Name,
    /// The type.
    pub ty: Type,
    /// The default, if any.
    pub default: Option<Expr>,
    /// `in low .. high`
    pub range: Option<Range>,
    /// `since N`: not hashed at its default, as it came with version N.
    pub since: Option<u32>,
    /// `place`: says where something is, not what it is; never hashed.
    pub place: bool,
}

/// An artifact type with the fields that every artifact of the type has.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// The name.
    pub name: Name,
    /// Its fields: artifacts or scalars, known once a stage made it.
    pub fields: Vec<(Name, Type)>,
}

/// `plan name = term | term`
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The name.
    pub name: Name,
    /// What it asks for; at least one.
    pub terms: Vec<PlanTerm>,
}

/// `target vary a, b over c * d each seed where condition`
#[derive(Clone, Debug, PartialEq)]
pub struct PlanTerm {
    /// What to make: an expression, a list of them, or another plan's name.
    pub target: Expr,
    /// The axes changed one at a time around the baseline.
    pub vary: Vec<Name>,
    /// The axes that are crossed.
    pub over: Vec<Name>,
    /// The axes whose every value repeats each point.
    pub each: Vec<Name>,
    /// What must hold of a point.
    pub filter: Option<Expr>,
}

/// `profile name = { param: value }`
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The name.
    pub name: Name,
    /// Params and axes with the values they have under it.
    pub values: Vec<(Name, Expr)>,
}

/// A type as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// Its place.
    pub span: Span,
    /// What it is.
    pub kind: TypeKind,
}

/// What a type is.
#[derive(Clone, Debug, PartialEq)]
pub enum TypeKind {
    /// `Tokens`, `Corpus`
    Named(String),
    /// `random | l1 | l2`
    Enum(Vec<Name>),
    /// `{ a: Int, b: Tokens = 4k }`
    Record(Vec<RecordField>),
    /// `[T]`
    List(Box<Type>),
    /// `T?`
    Optional(Box<Type>),
}

/// A field of a record type.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordField {
    /// The doc comment above it, if any.
    pub doc: Option<String>,
    /// The name.
    pub name: Name,
    /// The type.
    pub ty: Type,
    /// The default, if any.
    pub default: Option<Expr>,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Its place.
    pub span: Span,
    /// What it is.
    pub kind: ExprKind,
}

impl Text {
    /// Returns the expressions in it.
    pub fn holes(&self) -> impl Iterator<Item = &Expr> {
        self.parts.iter().filter_map(|part| match part {
            TextPart::Hole(expr) => Some(expr),
            TextPart::Literal(_) => None,
        })
    }
}

impl Expr {
    /// Returns the names of `a.b.c`, where it is nothing else.
    pub fn path(&self) -> Option<Vec<&str>> {
        match &self.kind {
            ExprKind::Name(name) => Some(vec![name]),
            ExprKind::Field(base, name) => {
                let mut path = base.path()?;
                path.push(&name.node);
                Some(path)
            }
            _ => None,
        }
    }

    /// Visits it and all expressions within it.
    pub fn walk<'e>(&'e self, visit: &mut dyn FnMut(&'e Expr)) {
        visit(self);
        let mut named = |values: &'e [(Name, Expr)]| {
            values.iter().for_each(|(_, value)| value.walk(visit));
        };
        match &self.kind {
            ExprKind::Record(fields) => named(fields),
            ExprKind::At(base, values) | ExprKind::With(base, values) => {
                named(values);
                base.walk(visit);
            }
            ExprKind::Text(text) => text.holes().for_each(|hole| hole.walk(visit)),
            ExprKind::Fold(fold) => {
                let parts = [&fold.init, &fold.low, &fold.high, &fold.body];
                parts.iter().for_each(|part| part.walk(visit));
            }
            ExprKind::Call(call) => {
                named(&call.params);
                named(&call.run);
                call.inputs.iter().chain([&call.callee]).for_each(|part| part.walk(visit));
            }
            ExprKind::List(items) => items.iter().for_each(|item| item.walk(visit)),
            ExprKind::Field(inner, _) | ExprKind::Unary(_, inner) | ExprKind::AtBaseline(inner) => {
                inner.walk(visit);
            }
            ExprKind::Binary(_, left, right) | ExprKind::Else(left, right) => {
                [left, right].iter().for_each(|e| e.walk(visit));
            }
            ExprKind::If(parts) => parts.iter().for_each(|part| part.walk(visit)),
            ExprKind::Number { .. }
            | ExprKind::Str(_)
            | ExprKind::Bool(_)
            | ExprKind::None
            | ExprKind::Name(_)
            | ExprKind::Error => {}
        }
    }
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number as written (`1_000`, `1e-3`, `2.5`) with its units (`k`, `%`, `tokens`, or a scale and a dimension:
    /// `4k tokens`).
    Number {
        /// Digits without `_`.
        digits: String,
        /// Its units in order.
        units: Units,
    },
    /// A text without holes, escapes resolved.
    Str(String),
    /// A text with holes: `"{steps}k"`.
    Text(Text),
    /// `true`, `false`
    Bool(bool),
    /// `none`
    None,
    /// A name: a binding, an import, or a variant where an enum is expected.
    Name(String),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `{a: 1, b: 2}`
    Record(Vec<(Name, Expr)>),
    /// `x.field`
    Field(Box<Expr>, Name),
    /// `f(a, b, c: 1) run { limit: 1h }`
    Call(Box<Call>),
    /// `x[axis: value, ...]`: fixes axes.
    At(Box<Expr>, Vec<(Name, Expr)>),
    /// `x at baseline`: fixes all axes.
    AtBaseline(Box<Expr>),
    /// `x with { field: value }`: a record with other fields, or a recipe with other params and axes.
    With(Box<Expr>, Vec<(Name, Expr)>),
    /// `fold r = init for i in low .. high { body }`
    Fold(Box<Fold>),
    /// `x ?? other`: `other` where `x` is none.
    Else(Box<Expr>, Box<Expr>),
    /// `-x`, `not x`
    Unary(UnaryOp, Box<Expr>),
    /// `a + b`
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `if c then a else b`
    If(Box<[Expr; 3]>),
    /// What could not be parsed; already reported.
    Error,
}

/// The units of a number: at most a scale and a dimension.
pub type Units = SmallVec<[&'static Unit; 2]>;

/// A bounded loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    /// What the body calls the value so far.
    pub name: Name,
    /// The first value.
    pub init: Expr,
    /// What the body calls the turn.
    pub index: Name,
    /// The turns, both ends included.
    pub low: Expr,
    /// The last turn.
    pub high: Expr,
    /// The next value.
    pub body: Expr,
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What is called.
    pub callee: Expr,
    /// Positional arguments.
    pub inputs: Vec<Expr>,
    /// Named arguments.
    pub params: Vec<(Name, Expr)>,
    /// `run { ... }`: what must not change the result.
    pub run: Vec<(Name, Expr)>,
}

/// An operator with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `-`
    Neg,
    /// `not`
    Not,
}

/// An operator with two operands, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
}

impl BinaryOp {
    /// Returns it as recipes write it.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
        }
    }
}
