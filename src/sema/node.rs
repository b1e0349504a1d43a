//! The checked form of a recipe: names resolved, types known, defaults at hand. Evaluation needs nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::units::Dim;
use crate::base::{Atom, FileId, Span};
use crate::sema::steps::{StageDecl, View};
use crate::sema::ty::Ty;
use crate::sema::value::Val;
use crate::syntax::ast::{BinaryOp, Name};

/// An axis by its place in [`Program::axes`].
pub(super) type AxisId = usize;
/// A `param` or `let` by its place in [`Program::bindings`].
pub(super) type BindingId = usize;
/// A `fn` by its place in [`Program::functions`].
pub(super) type FunctionId = usize;

/// A recipe that passed all checks that need no evaluation.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub(super) bindings: Vec<Binding>,
    pub(super) functions: Vec<Function>,
    pub(super) axes: Vec<Axis>,
    pub(super) plans: Vec<Plan>,
    pub(super) reports: Vec<Report>,
    /// Axes whose other values do not count, with a list of those that do.
    pub(super) only: Vec<(AxisId, Node)>,
    /// The folders that paths in each file are relative to.
    pub(super) folders: BTreeMap<FileId, PathBuf>,
    /// The recipe's own.
    pub(super) folder: PathBuf,
    /// The stage that texts with a scheme call.
    pub(super) fetch: Option<Arc<Stage>>,
}

impl Program {
    /// Returns the recipe's own file and those it imports, each with the folder it is in.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &Path)> {
        self.folders.iter().map(|(id, folder)| (*id, folder.as_path()))
    }

    /// Returns the folder that a path written here is relative to.
    pub(super) fn folder_at(&self, span: Span) -> &Path {
        self.folders.get(&span.file).unwrap_or(&self.folder)
    }
}

/// A `param` or `let`.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) typed: Typed,
}

/// An expression with its type and the axes its value may differ along.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) node: Node,
    pub(super) ty: Ty,
    pub(super) axes: BTreeSet<AxisId>,
}

/// An axis; the first value is the baseline.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) name: Atom,
    pub(super) ty: Ty,
    /// Other axes that its values, artifacts, differ along.
    pub(super) axes: BTreeSet<AxisId>,
    pub(super) span: Span,
    /// The list that the values are items of, where it is not written out.
    pub(super) list: Option<Node>,
    pub(super) values: Vec<Node>,
    /// The values as written.
    pub(super) shown: Vec<Atom>,
}

/// `plan name = term | term`
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) terms: Vec<Term>,
}

/// `targets vary axes over axes each axes where condition`
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) targets: Vec<(String, Typed)>,
    pub(super) vary: Vec<AxisId>,
    pub(super) over: Vec<AxisId>,
    pub(super) each: Vec<AxisId>,
    /// What must hold of a point: all of these.
    pub(super) filter: Vec<Typed>,
}

/// `report name = table(columns, rows: ..., cols: ...)`
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) name: String,
    /// Whether it stands in the recipe itself, not in one of which a plan is taken.
    pub(super) is_own: bool,
    pub(super) view: View,
    pub(super) span: Span,
    pub(super) caption: Option<String>,
    /// Head and value of each column.
    pub(super) columns: Vec<(String, Typed)>,
    pub(super) rows: Vec<AxisId>,
    pub(super) cols: Option<AxisId>,
}

/// A checked expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) kind: Kind,
}

impl Node {
    /// Visits it and all nodes within it.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&Node)) {
        visit(self);
        match &self.kind {
            Kind::Error | Kind::Const(_) | Kind::Axis(_) | Kind::Binding(_) | Kind::Local(_) => {}
            Kind::List(items) | Kind::Builtin(_, items) => {
                items.iter().for_each(|item| item.walk(visit));
            }
            Kind::Text(parts) => parts.iter().for_each(|(part, _)| part.walk(visit)),
            Kind::Record(fields) => fields.iter().for_each(|(_, value)| value.walk(visit)),
            Kind::Update(base, fields) => {
                base.walk(visit);
                fields.iter().for_each(|(_, value)| value.walk(visit));
            }
            Kind::Field(inner, _)
            | Kind::Item(inner, _)
            | Kind::ArtifactField(inner, ..)
            | Kind::Not(inner)
            | Kind::IsNone(inner, _)
            | Kind::AtBaseline(inner, _)
            | Kind::Spread(inner, _)
            | Kind::Rooted(inner)
            | Kind::Bounded(inner, _)
            | Kind::Convert(inner, ..) => inner.walk(visit),
            Kind::At(inner, fixed) => {
                inner.walk(visit);
                fixed.iter().for_each(|(_, value)| value.walk(visit));
            }
            Kind::Else(parts) => parts.iter().for_each(|part| part.walk(visit)),
            Kind::Apply(apply) => apply.args.iter().for_each(|arg| arg.walk(visit)),
            Kind::Fold(fold) => {
                [&fold.init, &fold.low, &fold.high, &fold.body].iter().for_each(|n| n.walk(visit));
            }
            Kind::And(left, right)
            | Kind::Or(left, right)
            | Kind::Arithmetic(_, left, right, _)
            | Kind::Compare(_, left, right) => [left, right].iter().for_each(|n| n.walk(visit)),
            Kind::If(parts) => parts.iter().for_each(|part| part.walk(visit)),
            Kind::Best(best) => [&best.value, &best.by].iter().for_each(|n| n.walk(visit)),
            Kind::Call(call) => {
                call.inputs.iter().for_each(|input| input.node().walk(visit));
                call.params.iter().for_each(|(_, value)| value.walk(visit));
                call.sha256.iter().for_each(|value| value.walk(visit));
                call.run.iter().for_each(|(_, value)| value.walk(visit));
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// What is wrong already.
    Error,
    Const(Val),
    Axis(AxisId),
    Binding(BindingId),
    List(Vec<Node>),
    Record(Vec<(String, Node)>),
    /// A field of a record.
    Field(Box<Node>, String),
    /// A field of an artifact: one that is an artifact itself, or a number that is known once its stage ran.
    ArtifactField(Box<Node>, String, Ty),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Arithmetic(BinaryOp, Box<Node>, Box<Node>, Option<Dim>),
    Compare(BinaryOp, Box<Node>, Box<Node>),
    /// Whether a value is `none`, or whether it is not.
    IsNone(Box<Node>, bool),
    If(Box<[Node; 3]>),
    /// The first value, or the other where it is none.
    Else(Box<[Node; 2]>),
    /// A record with some other fields.
    Update(Box<Node>, Vec<(String, Node)>),
    /// An item of a list.
    Item(Box<Node>, usize),
    /// A text with values in it.
    Text(Vec<(Node, Ty)>),
    /// A number in its range.
    Bounded(Box<Node>, Arc<Bounds>),
    /// What the function or fold around it calls so, the innermost one's last.
    Local(usize),
    /// A call of a function of the recipe.
    Apply(Box<Apply>),
    Fold(Box<Fold>),
    /// A call of a function of the language.
    Builtin(Builtin, Vec<Node>),
    /// The value at other values of some axes.
    At(Box<Node>, Vec<(AxisId, Node)>),
    /// The value at the baseline of these axes.
    AtBaseline(Box<Node>, BTreeSet<AxisId>),
    /// The value where another one is the least along an axis.
    Best(Box<Best>),
    /// The values along an axis, of which a table shows mean and spread.
    Spread(Box<Node>, AxisId),
    /// A text as a path.
    Rooted(Box<Node>),
    /// The value as a slot wants it.
    Convert(Box<Node>, Box<Ty>),
    Call(Box<Call>),
}

/// A function of the recipe.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) body: Node,
    pub(super) result: Ty,
    /// The axes that the body itself depends on.
    pub(super) axes: BTreeSet<AxisId>,
}

/// A call of a function of the recipe.
#[derive(Clone, Debug)]
pub(super) struct Apply {
    pub(super) function: FunctionId,
    /// One per parameter.
    pub(super) args: Vec<Node>,
    /// The axes the call depends on, or stands under a condition on.
    pub(super) axes: BTreeSet<AxisId>,
}

/// `fold name = init for index in low .. high { body }`
#[derive(Clone, Debug)]
pub(super) struct Fold {
    pub(super) init: Node,
    pub(super) index: String,
    pub(super) low: Node,
    pub(super) high: Node,
    pub(super) body: Node,
    /// The axes it depends on, or stands under a condition on.
    pub(super) axes: BTreeSet<AxisId>,
}

/// `best(value, by: by, over: over)`
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub(super) value: Node,
    pub(super) by: Node,
    pub(super) over: AxisId,
    /// The other axes it depends on, or stands under a condition on.
    pub(super) axes: BTreeSet<AxisId>,
}

/// A function of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    /// `range(low, high)`
    Range,
    /// `logspace(low, high, count)`
    Logspace,
    /// `round(x)`: to the nearest whole number, halves away from zero.
    Round,
    /// `floor(x)`
    Floor,
    /// `ceil(x)`
    Ceil,
    /// `pow(base, exponent)`
    Pow,
    /// `min(a, b, ...)`
    Min,
    /// `max(a, b, ...)`
    Max,
}

/// A stage call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) stage: Arc<Stage>,
    /// One per input of the stage.
    pub(super) inputs: Vec<InputArg>,
    /// Those given, by place in [`Stage::params`].
    pub(super) params: Vec<(usize, Node)>,
    /// The digest for texts with a scheme.
    pub(super) sha256: Option<Node>,
    /// The fields of `run { }`.
    pub(super) run: Vec<(String, Node)>,
    /// The axes the call depends on, or stands under a condition on.
    pub(super) axes: BTreeSet<AxisId>,
}

#[derive(Clone, Debug)]
pub(super) enum InputArg {
    /// An artifact.
    Artifact(Node),
    /// A text where a file is wanted: a path, a glob, or a source to fetch.
    Text(Node),
}

impl InputArg {
    pub(super) fn node(&self) -> &Node {
        match self {
            Self::Artifact(node) | Self::Text(node) => node,
        }
    }
}

/// A declared stage.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) decl: Arc<StageDecl>,
    pub(super) signature: Signature,
    pub(super) result: Ty,
    /// The places of those parameters of which each call gives exactly one.
    pub(super) one_of: Vec<usize>,
    /// Files that its command reads, which are inputs too.
    pub(super) uses: Vec<Name>,
}

/// What a stage or function takes.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub(super) name: String,
    /// By position; behind these a stage's optional ones, which are given by name.
    pub(super) inputs: Vec<Slot>,
    /// By name.
    pub(super) params: Vec<Slot>,
    /// Its name in the declaration.
    pub(super) span: Span,
}

impl Signature {
    /// Returns the inputs that are given by position.
    pub(super) fn positional(&self) -> &[Slot] {
        let count = self.inputs.iter().take_while(|slot| slot.default.is_none()).count();
        &self.inputs[..count]
    }

    /// Returns all that is given by name.
    pub(super) fn named(&self) -> impl Iterator<Item = &Slot> + Clone {
        self.params.iter().chain(&self.inputs[self.positional().len()..])
    }
}

/// An input or parameter of a stage.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: Atom,
    pub(super) ty: Ty,
    pub(super) default: Option<Val>,
    /// The closed range of a number, with how it is written.
    pub(super) range: Option<Range>,
    /// Not hashed at its default.
    pub(super) since: bool,
    /// Never hashed.
    pub(super) place: bool,
    pub(super) span: Span,
}

/// A number that must lie in a range, and where that is declared.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// `` `keep` of `tokenizer.prune` ``
    pub(super) what: String,
    pub(super) dim: Option<Dim>,
    pub(super) range: Range,
    pub(super) span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) shown: String,
}
