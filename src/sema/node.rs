//! The checked form of a recipe: names resolved, types known, defaults at hand. Evaluation needs nothing else.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::Span;
use crate::base::units::Dim;
use crate::sema::steps::StageDecl;
use crate::sema::ty::Ty;
use crate::sema::value::Val;
use crate::syntax::ast::BinaryOp;

/// An axis by its place in [`Program::axes`].
pub(super) type AxisId = usize;
/// A `param` or `let` by its place in [`Program::bindings`].
pub(super) type BindingId = usize;

/// A recipe that passed all checks that need no evaluation.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub(super) bindings: Vec<Binding>,
    pub(super) axes: Vec<Axis>,
    pub(super) plans: Vec<Plan>,
    pub(super) reports: Vec<Report>,
    /// The folder that paths are relative to.
    pub(super) folder: PathBuf,
    /// The stage that texts with a scheme call.
    pub(super) fetch: Option<Arc<Stage>>,
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
    pub(super) name: String,
    pub(super) ty: Ty,
    pub(super) values: Vec<Node>,
    /// The values as written.
    pub(super) shown: Vec<String>,
}

/// `plan name = targets vary axes`
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) targets: Vec<(String, Typed)>,
    pub(super) vary: Vec<AxisId>,
}

/// `report name = table(columns, rows: ..., cols: ...)`
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) name: String,
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
            Kind::Error | Kind::Const(_) | Kind::Axis(_) | Kind::Binding(_) => {}
            Kind::List(items) => items.iter().for_each(|item| item.walk(visit)),
            Kind::Record(fields) => fields.iter().for_each(|(_, value)| value.walk(visit)),
            Kind::Field(inner, _)
            | Kind::ArtifactField(inner, ..)
            | Kind::Not(inner)
            | Kind::Convert(inner, _) => inner.walk(visit),
            Kind::And(left, right)
            | Kind::Or(left, right)
            | Kind::Arithmetic(_, left, right, _)
            | Kind::Compare(_, left, right) => [left, right].iter().for_each(|n| n.walk(visit)),
            Kind::If(parts) => parts.iter().for_each(|part| part.walk(visit)),
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
    If(Box<[Node; 3]>),
    /// The value as a slot wants it.
    Convert(Box<Node>, Box<Ty>),
    Call(Box<Call>),
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
    pub(super) inputs: Vec<Slot>,
    pub(super) params: Vec<Slot>,
    pub(super) result: Ty,
    /// Its name in the declaration.
    pub(super) span: Span,
}

/// An input or parameter of a stage.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: String,
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

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) shown: String,
}
