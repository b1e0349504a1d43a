//! From tree to checked program: scopes, bindings, axes, plans and reports.
//!
//! Bindings are lowered when they are first named, so their order in the file does not matter, and a circle is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::Path;
use std::sync::Arc;

use crate::base::text::did_you_mean;
use crate::base::{SourceMap, Span};
use crate::diag::Diagnostic;
use crate::sema::declare::Library;
use crate::sema::eval::Eval;
use crate::sema::node::{
    Axis, AxisId, Binding, BindingId, Builtin, Function, FunctionId, Kind, Node, Program,
    Signature, Stage, Typed,
};
use crate::sema::overlay::Overlaid;
use crate::sema::ty::Ty;
use crate::sema::value::Val;
use crate::syntax::ast::{self, Expr, ExprKind, ItemKind, Name};

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Def {
    /// What could not be read; told already.
    Broken,
    /// `std`
    Std,
    /// A module of it.
    Module(String),
    Stage(Arc<Stage>),
    Binding(BindingId),
    Function(FunctionId),
    Axis(AxisId),
}

/// A name within a function or fold.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) name: String,
    pub(super) ty: Ty,
    /// Whether it stands for a value computed already, not for an expression.
    pub(super) is_value: bool,
}

/// How far a binding or axis is.
#[derive(Clone, Debug)]
pub(super) enum State<T> {
    Todo,
    Doing,
    Done(T),
}

/// How deep bindings may be lowered within each other; only names in a circle are.
const DEPTH_MAX: usize = 200;

/// How many parts a type may have.
const PARTS_MAX: usize = 1000;

/// A recipe on its way to a [`Program`].
pub(super) struct Lower<'r> {
    pub(super) sources: &'r SourceMap,
    pub(super) library: &'r Library,
    names: BTreeMap<String, (Def, Span)>,
    /// `param` and `let` items, with the value that counts.
    items: Vec<(&'r ast::Binding, &'r Expr)>,
    is_param: Vec<bool>,
    bindings: Vec<State<Typed>>,
    pub(super) function_items: Vec<&'r ast::Fn>,
    pub(super) functions: Vec<State<(Arc<Signature>, Function)>>,
    /// The parameters of the function and the names of the folds around the expression being lowered.
    pub(super) locals: Vec<Local>,
    pub(super) axis_items: Vec<&'r ast::Binding>,
    axes: Vec<State<Axis>>,
    /// The axes that the expression being lowered depends on.
    pub(super) touched: BTreeSet<AxisId>,
    /// The axes that the conditions around it depend on.
    pub(super) conditions: BTreeSet<AxisId>,
    /// How many bindings are being lowered within each other.
    pub(super) depth: usize,
    /// Axes that plans go over though they do not say so.
    pub(super) swept: &'r [String],
    /// Names that were told to be undefined.
    unknown: BTreeSet<String>,
    pub(super) found: Vec<Diagnostic>,
}

/// Lowers a recipe as it is overlaid.
pub(super) fn lower<'r>(
    sources: &'r SourceMap,
    library: &'r Library,
    file: &'r ast::File,
    overlaid: &'r Overlaid,
    folder: &Path,
) -> (Program, Vec<Diagnostic>) {
    let mut lower = Lower {
        sources,
        library,
        names: BTreeMap::new(),
        items: Vec::new(),
        is_param: Vec::new(),
        bindings: Vec::new(),
        function_items: Vec::new(),
        functions: Vec::new(),
        locals: Vec::new(),
        axis_items: Vec::new(),
        axes: Vec::new(),
        touched: BTreeSet::new(),
        conditions: BTreeSet::new(),
        depth: 0,
        swept: &[],
        unknown: BTreeSet::new(),
        found: Vec::new(),
    };
    lower.declare(file, &overlaid.values);
    lower.swept = &overlaid.swept;
    // Each after those it names, so that the stack does not grow with the length of a chain.
    lower.order().into_iter().for_each(|id| drop(lower.binding(id)));
    let (plans, reports) = lower.demands(file);
    lower.profiles(file);
    let only = overlaid.only.iter().filter_map(|(name, list)| lower.only(name, list)).collect();
    (0..lower.axis_items.len()).for_each(|id| drop(lower.axis(id)));
    let bindings = mem::take(&mut lower.bindings).into_iter().zip(&lower.items);
    let bindings = bindings.filter_map(|(state, (item, _))| match state {
        State::Done(typed) => Some(Binding { name: item.name.node.clone(), typed }),
        State::Todo | State::Doing => None,
    });
    let bindings = bindings.collect();
    let axes = mem::take(&mut lower.axes).into_iter().filter_map(|state| match state {
        State::Done(axis) => Some(axis),
        State::Todo | State::Doing => None,
    });
    (0..lower.functions.len()).for_each(|id| {
        let span = lower.function_items[id].name.span;
        drop(lower.function(id, span));
    });
    let functions = mem::take(&mut lower.functions).into_iter().filter_map(|state| match state {
        State::Done((_, function)) => Some(function),
        State::Todo | State::Doing => None,
    });
    let functions = functions.collect();
    let mut program = Program {
        bindings,
        functions,
        axes: axes.collect(),
        plans,
        reports,
        only,
        folder: folder.to_owned(),
        fetch: library.get("source.fetch").cloned(),
    };
    settle_axes(&mut program, &mut lower.found);
    (program, lower.found)
}

impl<'r> Lower<'r> {
    // ---- names

    /// Puts every name of the file into scope.
    fn declare(&mut self, file: &'r ast::File, overrides: &'r [(Name, Expr)]) {
        let mut overridden = BTreeSet::new();
        for item in &file.items {
            match &item.kind {
                ItemKind::Use(import) => self.import(import),
                ItemKind::Param(param) => {
                    let given = overrides.iter().find(|(name, _)| name.node == param.name.node);
                    overridden.insert(param.name.node.as_str());
                    self.add_binding(param, given.map_or(&param.value, |(_, value)| value), true);
                }
                ItemKind::Let(binding) => self.add_binding(binding, &binding.value, false),
                ItemKind::Axis(axis) => {
                    self.define(&axis.name, Def::Axis(self.axis_items.len()));
                    self.axis_items.push(axis);
                    self.axes.push(State::Todo);
                }
                ItemKind::Fn(function) => {
                    self.define(&function.name, Def::Function(self.function_items.len()));
                    self.function_items.push(function);
                    self.functions.push(State::Todo);
                }
                ItemKind::Stage(stage) => self.not_yet(&stage.name, "stages of a recipe's own"),
                ItemKind::Artifact(artifact) => {
                    self.not_yet(&artifact.name, "artifact types of a recipe's own");
                }
                ItemKind::Plan(_) | ItemKind::Report(_) | ItemKind::Profile(_) => {}
            }
        }
        for (name, _) in overrides {
            if !overridden.contains(name.node.as_str()) {
                self.unknown_param(name, &overridden);
            }
        }
    }

    fn add_binding(&mut self, binding: &'r ast::Binding, value: &'r Expr, is_param: bool) {
        self.define(&binding.name, Def::Binding(self.items.len()));
        self.items.push((binding, value));
        self.is_param.push(is_param);
        self.bindings.push(State::Todo);
    }

    pub(super) fn define(&mut self, name: &Name, def: Def) {
        if let Some((_, first)) = self.names.get(&name.node) {
            self.found.push(
                Diagnostic::error(
                    "tlm::sema::duplicate",
                    format!("`{}` is defined twice", name.node),
                )
                .label(name.span, "here again")
                .label(*first, "first here")
                .help("give one of them another name"),
            );
            return;
        }
        self.names.insert(name.node.clone(), (def, name.span));
    }

    fn not_yet(&mut self, name: &Name, what: &str) {
        self.define(name, Def::Broken);
        self.found.push(
            Diagnostic::error("tlm::sema::not_yet", format!("{what} are not supported yet"))
                .label(name.span, "this tlm only reads them")
                .help("write a `let` with the call itself"),
        );
    }

    fn unknown_param(&mut self, name: &Name, params: &BTreeSet<&str>) {
        let is_axis = matches!(self.names.get(&name.node), Some((Def::Axis(_), _)));
        let help = match did_you_mean(&name.node, params.iter().copied()) {
            _ if is_axis => format!("`{}` is an axis; change its values in the recipe", name.node),
            Some(near) => format!("did you mean `{near}`?"),
            None if params.is_empty() => "the recipe has no params".to_owned(),
            None => {
                let names: Vec<_> = params.iter().copied().collect();
                format!("params are {}", names.join(", "))
            }
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::unknown_param",
                format!("the recipe has no param `{}`", name.node),
            )
            .label(name.span, "no such param")
            .help(help),
        );
    }

    /// Returns what a name stands for, without a word when it stands for nothing.
    pub(super) fn look_up(&self, name: &str) -> Option<Def> {
        self.names.get(name).map(|(def, _)| def.clone())
    }

    pub(super) fn unknown_name(&mut self, name: &str, span: Span) {
        // Once is enough: all its uses are mended by one definition.
        if !self.unknown.insert(name.to_owned()) {
            return;
        }
        let known = self.names.keys().map(String::as_str);
        let known = known.chain(self.locals.iter().map(|local| local.name.as_str()));
        let known = known.chain(Builtin::ALL.iter().map(|(_, name, _)| *name));
        let help = match did_you_mean(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if self.library.modules.contains_key(name) => format!("write `use std.{name}`"),
            None => format!("define it: `let {name} = ...`"),
        };
        self.found.push(
            Diagnostic::error("tlm::sema::unknown_name", format!("`{name}` is not defined"))
                .label(span, "no such name")
                .help(help),
        );
    }

    // ---- bindings and axes

    /// Lowers with fresh sets of axes; returns the result with the axes it depends on.
    pub(super) fn apart<T>(&mut self, lower: impl FnOnce(&mut Self) -> T) -> (T, BTreeSet<AxisId>) {
        let touched = mem::take(&mut self.touched);
        let conditions = mem::take(&mut self.conditions);
        let value = lower(self);
        self.conditions = conditions;
        (value, mem::replace(&mut self.touched, touched))
    }

    /// Returns the type of a param.
    pub(super) fn param_type(&mut self, name: &str) -> Option<Ty> {
        match self.look_up(name)? {
            Def::Binding(id) if self.is_param[id] => Some(self.binding(id).0),
            Def::Axis(id) => Some(Ty::List(Box::new(self.axis(id)))),
            _ => None,
        }
    }

    /// Returns the type of a binding, which the expression being lowered depends on.
    pub(super) fn use_binding(&mut self, id: BindingId, span: Span) -> Ty {
        if self.is_circular(&self.bindings[id]) {
            self.circle(&self.items[id].0.name, span);
            return Ty::Unknown;
        }
        let (ty, axes) = self.binding(id);
        self.touched.extend(axes);
        ty
    }

    /// Returns whether something is being lowered already, or can't be for depth: only what is in a circle gets that deep.
    pub(super) fn is_circular<T>(&self, state: &State<T>) -> bool {
        match state {
            State::Doing => true,
            State::Todo => self.depth == DEPTH_MAX,
            State::Done(_) => false,
        }
    }

    fn binding(&mut self, id: BindingId) -> (Ty, BTreeSet<AxisId>) {
        if let State::Todo = self.bindings[id] {
            self.bindings[id] = State::Doing;
            self.depth += 1;
            let (item, value) = self.items[id];
            let ((node, ty), axes) = self.apart(|lower| match &item.ty {
                Some(declared) => {
                    let wanted = lower.library.ty(declared, &mut lower.found);
                    let node = lower.fit(value, &wanted, &item.name.node, Some(declared.span));
                    (lower.in_range(item, node, &wanted), wanted)
                }
                None if std::ptr::eq(value, &item.value) => lower.expr(value, None),
                None => lower.overridden(item, value),
            });
            self.depth -= 1;
            let ty = self.within(ty, item.value.span);
            self.bindings[id] = State::Done(Typed { node, ty, axes });
        }
        match &self.bindings[id] {
            State::Done(typed) => (typed.ty.clone(), typed.axes.clone()),
            State::Todo | State::Doing => (Ty::Unknown, BTreeSet::new()),
        }
    }

    /// Returns the bindings, each after those it names as far as there is no circle.
    fn order(&self) -> Vec<BindingId> {
        let mut order = Vec::new();
        let mut seen = vec![false; self.items.len()];
        for root in 0..self.items.len() {
            let mut path = vec![(root, None)];
            while let Some((id, named)) = path.pop() {
                let mut named: std::vec::IntoIter<BindingId> = match named {
                    Some(named) => named,
                    None if std::mem::replace(&mut seen[id], true) => continue,
                    None => self.named_in(self.items[id].1).into_iter(),
                };
                match named.next() {
                    Some(next) => path.extend([(id, Some(named)), (next, None)]),
                    None => order.push(id),
                }
            }
        }
        order
    }

    /// Returns the bindings whose names stand in an expression; some may turn out to be variants.
    fn named_in(&self, expr: &Expr) -> Vec<BindingId> {
        let mut found = Vec::new();
        expr.walk(&mut |expr| {
            if let ExprKind::Name(name) = &expr.kind
                && let Some((Def::Binding(id), _)) = self.names.get(name)
            {
                found.push(*id);
            }
        });
        found
    }

    /// Returns a type that is not too large: a few lines could double it over and over.
    fn within(&mut self, ty: Ty, span: Span) -> Ty {
        if ty.is_within(&mut { PARTS_MAX }) {
            return ty;
        }
        self.found.push(
            Diagnostic::error("tlm::sema::large_type", "the type of this value is too large")
                .label(span, format!("more than {PARTS_MAX} parts"))
                .help("nest less"),
        );
        Ty::Unknown
    }

    /// Lowers a param whose type is that of its default; where that is a number without unit, any number will do.
    fn overridden(&mut self, item: &ast::Binding, value: &Expr) -> (Node, Ty) {
        let ((_, wanted), _) = self.apart(|lower| lower.expr(&item.value, None));
        let (node, ty) = self.expr(value, Some(&wanted));
        if wanted == Ty::Bare && matches!(ty, Ty::Number(_)) {
            return (node, ty);
        }
        (self.fit(value, &wanted, &item.name.node, Some(item.value.span)), wanted)
    }

    pub(super) fn circle(&mut self, name: &Name, span: Span) {
        self.found.push(
            Diagnostic::error(
                "tlm::sema::circle",
                format!("`{}` is defined through itself", name.node),
            )
            .label(span, "needs itself here")
            .label(name.span, "defined here")
            .help("break the circle: one of these values must not need the others"),
        );
    }

    /// Returns the type of an axis's values, which the expression being lowered depends on.
    pub(super) fn use_axis(&mut self, id: AxisId, span: Span) -> Ty {
        if self.is_circular(&self.axes[id]) {
            self.circle(&self.axis_items[id].name, span);
            return Ty::Unknown;
        }
        let ty = self.axis(id);
        self.touched.insert(id);
        ty
    }

    pub(super) fn axis(&mut self, id: AxisId) -> Ty {
        if let State::Todo = self.axes[id] {
            self.axes[id] = State::Doing;
            self.depth += 1;
            let item = self.axis_items[id];
            let (axis, axes) = self.apart(|lower| {
                // Steps in a value are steps of that point.
                lower.conditions.insert(id);
                lower.axis_values(item)
            });
            if let Some(other) = axes.first() {
                let other = self.axis_items[*other].name.node.clone();
                self.found.push(
                    Diagnostic::error("tlm::sema::axis_of_axis", "an axis can't depend on another")
                        .label(item.value.span, format!("depends on `{other}`"))
                        .help("sweep both together with an axis of records"),
                );
            }
            self.depth -= 1;
            self.axes[id] = State::Done(axis);
        }
        match &self.axes[id] {
            State::Done(axis) => axis.ty.clone(),
            State::Todo | State::Doing => Ty::Unknown,
        }
    }

    fn axis_values(&mut self, item: &ast::Binding) -> Axis {
        let name = item.name.node.clone();
        let declared = item.ty.as_ref().map(|ty| self.library.ty(ty, &mut self.found));
        let items = match &item.value.kind {
            ExprKind::List(items) => &items[..],
            ExprKind::Error => &[],
            _ => return self.axis_of_list(item, declared),
        };
        if items.is_empty() && item.value.kind != ExprKind::Error {
            self.no_axis_values(&name, item.value.span);
        }
        let (values, ty) = match declared {
            Some(ty) => {
                let span = item.ty.as_ref().map(|ty| ty.span);
                let fit = |value: &Expr| {
                    let node = self.fit(value, &ty, &name, span);
                    self.in_range(item, node, &ty)
                };
                (items.iter().map(fit).collect(), ty.clone())
            }
            None => self.joined(items, None),
        };
        let shown: Vec<_> =
            items.iter().map(|v| on_one_line(self.sources.snippet(v.span))).collect();
        let mut seen = BTreeSet::new();
        for (at, text) in shown.iter().enumerate() {
            if !seen.insert(text) {
                self.found.push(
                    Diagnostic::error(
                        "tlm::sema::axis_values",
                        format!("`{name}` has `{text}` twice"),
                    )
                    .label(items[at].span, "here again")
                    .help("name each value once"),
                );
            }
        }
        Axis { name, ty, span: item.value.span, list: None, values, shown }
    }

    /// Lowers an axis whose values are those of a list, such as `range(1, 5)`.
    fn axis_of_list(&mut self, item: &ast::Binding, declared: Option<Ty>) -> Axis {
        let name = item.name.node.clone();
        let (list, ty) = match declared {
            Some(ty) => {
                let list = Ty::List(Box::new(ty.clone()));
                (self.fit(&item.value, &list, &name, item.ty.as_ref().map(|ty| ty.span)), ty)
            }
            None => match self.expr(&item.value, None) {
                (list, Ty::List(ty)) => (list, *ty),
                (list, Ty::Unknown) => (list, Ty::Unknown),
                (list, _) => {
                    self.no_axis_values(&name, item.value.span);
                    (list, Ty::Unknown)
                }
            },
        };
        let (span, list) = (item.value.span, Some(list));
        Axis { name, ty, span, list, values: Vec::new(), shown: Vec::new() }
    }

    fn no_axis_values(&mut self, name: &str, span: Span) {
        self.found.push(no_axis_values(name, span));
    }

    pub(super) fn error(span: Span) -> (Node, Ty) {
        (Node { span, kind: Kind::Error }, Ty::Unknown)
    }
}

fn no_axis_values(name: &str, span: Span) -> Diagnostic {
    Diagnostic::error("tlm::sema::axis_values", format!("`{name}` has no values"))
        .label(span, "expected a list with at least one value")
        .help(format!("write `axis {name} = [baseline, other]`"))
}

/// Computes the lists that axes take their values from.
fn settle_axes(program: &mut Program, found: &mut Vec<Diagnostic>) {
    for id in 0..program.axes.len() {
        let axis = &program.axes[id];
        let Some(list) = &axis.list else { continue };
        let mut eval = Eval::new(program);
        let items = match eval.at(list, &vec![0; program.axes.len()], &axis.name) {
            Some(Val::List(items)) => items,
            _ => [].into(),
        };
        if items.is_empty() && eval.found.is_empty() && found.is_empty() {
            found.push(no_axis_values(&axis.name, axis.span));
        }
        let value = |(at, item): (usize, &Val)| {
            let kind = match item {
                // What a stage makes is made anew for each command.
                Val::Artifact(..) | Val::Late(_) | Val::List(_) | Val::Record(_) => {
                    Kind::Item(Box::new(list.clone()), at)
                }
                Val::Plain(_) => Kind::Const(item.clone()),
            };
            Node { span: axis.span, kind }
        };
        let values = items.iter().enumerate().map(value).collect();
        let shown = items.iter().zip(1..).map(|(item, place)| match item.shown() {
            Some(text) => text,
            None => format!("#{place}"),
        });
        let shown = shown.collect();
        found.extend(eval.found);
        let axis = &mut program.axes[id];
        (axis.values, axis.shown) = (values, shown);
    }
}

/// Returns a text with its line breaks and runs of blanks as one blank each.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
