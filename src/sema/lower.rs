//! From tree to checked program: bindings, axes, plans and reports.
//!
//! Bindings are lowered when they are first named, so their order in the file does not matter, and a circle is seen.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use crate::base::text::did_you_mean;
use crate::base::{FastSet, SourceMap, Span};
use crate::diag::Diagnostic;
use crate::sema::declare::{Library, module_names};
use crate::sema::files::Files;
use crate::sema::node::{
    Axis, AxisId, Binding, BindingId, Builtin, Function, Kind, Node, Plan, Program, Report,
    Signature, Typed,
};
use crate::sema::overlay::Overlaid;
use crate::sema::scope::{Def, MAIN, Origin, Scope, ScopeId};
use crate::sema::ty::Ty;
use crate::syntax::ast::{self, Expr, ExprKind, Name};

/// A name within a function or fold.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) name: String,
    pub(super) ty: Ty,
}

/// How far a binding or axis is.
#[derive(Clone, Debug)]
pub(super) enum State<T> {
    Todo,
    Doing,
    Done(T),
}

impl<T> State<T> {
    fn done(self) -> Option<T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Todo | Self::Doing => None,
        }
    }
}

/// How deep bindings may be lowered within each other; only names in a circle are.
const DEPTH_MAX: usize = 200;

/// How many parts a type may have.
const PARTS_MAX: usize = 1000;

/// A `param`, `let` or fixed axis on its way.
pub(super) struct Item<'r> {
    /// As the recipe itself calls it: `b0.m`.
    pub(super) name: String,
    pub(super) item: &'r ast::Binding,
    pub(super) scope: ScopeId,
    /// The value that counts.
    pub(super) value: &'r Expr,
    /// What names in it mean.
    pub(super) value_scope: ScopeId,
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Param,
    Let,
    /// An axis that `with` gives one value.
    Fixed,
}

/// An axis on its way.
pub(super) struct AxisItem<'r> {
    /// As the recipe itself calls it: `b0.rate`.
    pub(super) name: String,
    pub(super) item: &'r ast::Binding,
    pub(super) scope: ScopeId,
}

/// A function on its way.
pub(super) struct FunctionItem<'r> {
    pub(super) item: &'r ast::Fn,
    pub(super) scope: ScopeId,
}

/// A recipe on its way to a [`Program`].
pub(super) struct Lower<'r> {
    pub(super) sources: &'r SourceMap,
    pub(super) library: &'r Library,
    pub(super) files: &'r Files,
    pub(super) scopes: Vec<Scope<'r>>,
    /// The scopes of files as they are.
    pub(super) bases: HashMap<Origin, ScopeId>,
    /// Whose names count now.
    pub(super) scope: ScopeId,
    pub(super) items: Vec<Item<'r>>,
    pub(super) bindings: Vec<State<Typed>>,
    pub(super) function_items: Vec<FunctionItem<'r>>,
    pub(super) functions: Vec<State<(Arc<Signature>, Function)>>,
    /// The parameters of the function and the names of the folds around the expression being lowered.
    pub(super) locals: Vec<Local>,
    pub(super) axis_items: Vec<AxisItem<'r>>,
    pub(super) axes: Vec<State<Axis>>,
    /// The axes that the expression being lowered depends on.
    pub(super) touched: BTreeSet<AxisId>,
    /// The axes that the conditions around it depend on.
    pub(super) conditions: BTreeSet<AxisId>,
    /// How many bindings are being lowered within each other.
    pub(super) depth: usize,
    /// What the expression being lowered is called, where that is all of a `let`.
    pub(super) naming: Option<String>,
    /// Axes that plans go over though they do not say so.
    pub(super) swept: &'r [String],
    /// Whether values of an axis without type are being lowered.
    is_untyped_axis: bool,
    /// Other recipes of which a plan is taken.
    pub(super) taken: BTreeSet<ScopeId>,
    /// Names that were told to be undefined.
    unknown: BTreeSet<(ScopeId, String)>,
    pub(super) found: Vec<Diagnostic>,
}

/// Lowers a recipe as it is overlaid.
pub(super) fn lower<'r>(
    sources: &'r SourceMap,
    library: &'r Library,
    files: &'r Files,
    overlaid: &'r Overlaid,
) -> (Program, Vec<Diagnostic>) {
    let mut lower = Lower {
        sources,
        library,
        files,
        scopes: Vec::new(),
        bases: HashMap::new(),
        scope: MAIN,
        items: Vec::new(),
        bindings: Vec::new(),
        function_items: Vec::new(),
        functions: Vec::new(),
        locals: Vec::new(),
        axis_items: Vec::new(),
        axes: Vec::new(),
        touched: BTreeSet::new(),
        conditions: BTreeSet::new(),
        depth: 0,
        naming: None,
        swept: &overlaid.swept,
        is_untyped_axis: false,
        taken: BTreeSet::new(),
        unknown: BTreeSet::new(),
        found: Vec::new(),
    };
    lower.recipe_scope(0, String::new(), Vec::new());
    let (plans, reports) = lower.demands(&files.all[0].file);
    for recipe in 0..files.all.len() {
        if let Some(scope) = lower.bases.get(&Origin::Recipe(recipe)).copied() {
            lower.within(scope, |lower| lower.profiles(&files.all[recipe].file));
        }
    }
    let only = overlaid.only.iter().filter_map(|(name, list)| lower.only(name, list)).collect();
    lower.finish(plans, reports, only)
}

impl<'r> Lower<'r> {
    /// Lowers what nothing named, and puts all together.
    fn finish(
        mut self,
        plans: Vec<Plan>,
        reports: Vec<Report>,
        only: Vec<(AxisId, Node)>,
    ) -> (Program, Vec<Diagnostic>) {
        // Each may lead to more.
        let mut at = 0;
        while at < self.axis_items.len() {
            // An axis that `with` changes and nothing uses may well have no values: they could depend on another axis.
            match self.is_base(self.axis_items[at].scope) {
                true => drop(self.axis(at)),
                false => self.leave_out(at),
            }
            at += 1;
        }
        let mut at = 0;
        while at < self.functions.len() {
            let FunctionItem { item, scope } = self.function_items[at];
            if self.is_base(scope) {
                self.function(at, item.name.span);
            }
            at += 1;
        }
        let bindings = self.bindings.into_iter().zip(self.items);
        let bindings = bindings.map(|(state, item)| {
            // What nothing uses of a recipe that `with` changes is not looked at.
            let unused = || Typed {
                node: Node { span: item.value.span, kind: Kind::Error },
                ty: Ty::Unknown,
                axes: BTreeSet::new(),
            };
            Binding { name: item.name, typed: state.done().unwrap_or_else(unused) }
        });
        let folders = self.files.all.iter().map(|recipe| (recipe.id, recipe.folder.clone()));
        let functions = self.functions.into_iter().zip(self.function_items);
        let functions = functions.map(|(state, FunctionItem { item, .. })| {
            let unused = || Function {
                name: item.name.node.clone(),
                body: Node { span: item.name.span, kind: Kind::Error },
                result: Ty::Unknown,
                axes: BTreeSet::new(),
            };
            state.done().map_or_else(unused, |(_, function)| function)
        });
        let program = Program {
            bindings: bindings.collect(),
            functions: functions.collect(),
            axes: self.axes.into_iter().filter_map(State::done).collect(),
            plans,
            reports,
            only,
            folders: folders.collect(),
            folder: self.files.all[0].folder.clone(),
            fetch: self.library.get("source.fetch").cloned(),
        };
        (program, self.found)
    }

    /// Returns whether a name is that of a parameter or of a fold around the expression being lowered.
    pub(super) fn is_local(&self, name: &str) -> bool {
        self.locals.iter().any(|local| local.name == name)
    }

    fn leave_out(&mut self, id: AxisId) {
        let AxisItem { name, item, .. } = &self.axis_items[id];
        if let State::Todo = self.axes[id] {
            self.axes[id] = State::Done(Axis {
                name: name.into(),
                ty: Ty::Unknown,
                axes: BTreeSet::new(),
                span: item.value.span,
                list: None,
                values: vec![Node { span: item.value.span, kind: Kind::Error }],
                shown: vec!["?".into()],
            });
        }
    }

    pub(super) fn unknown_name(&mut self, name: &str, span: Span) {
        // Once is enough: all its uses are mended by one definition.
        if !self.unknown.insert((self.scope, name.to_owned())) {
            return;
        }
        let known = self.known_names().into_iter();
        let known = known.chain(self.locals.iter().map(|local| local.name.as_str()));
        let known = known.chain(Builtin::ALL.iter().map(|(_, name, _)| *name));
        let help = match did_you_mean(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if module_names().any(|module| module == name) => {
                format!("write `use std.{name}`")
            }
            None if self.is_untyped_axis => {
                "an axis over names of variants needs its type: `axis by : softmax | uniform = ...`"
                    .to_owned()
            }
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
        match self.resolve(name)? {
            Def::Binding(id) if self.items[id].role == Role::Param => Some(self.binding(id).0),
            Def::Axis(id) => Some(Ty::List(Box::new(self.axis(id)))),
            _ => None,
        }
    }

    /// Returns the type of a binding, which the expression being lowered depends on; none when it needs itself: nothing may
    /// ever be evaluated in a circle.
    pub(super) fn use_binding(&mut self, id: BindingId, span: Span) -> Option<Ty> {
        if self.is_circular(&self.bindings[id]) {
            let name = self.items[id].item.name.clone();
            self.circle(&name, span);
            return None;
        }
        if matches!(self.bindings[id], State::Todo) {
            self.in_order(id..id + 1);
        }
        let (ty, axes) = self.binding(id);
        self.touched.extend(axes);
        Some(ty)
    }

    /// Returns whether something is being lowered already, or can't be for depth: only what is in a circle gets that deep.
    pub(super) fn is_circular<T>(&self, state: &State<T>) -> bool {
        match state {
            State::Doing => true,
            State::Todo => self.depth == DEPTH_MAX,
            State::Done(_) => false,
        }
    }

    pub(super) fn binding(&mut self, id: BindingId) -> (Ty, BTreeSet<AxisId>) {
        if let State::Todo = self.bindings[id] {
            self.bindings[id] = State::Doing;
            self.depth += 1;
            let naming = self.naming.replace(self.items[id].name.clone());
            let ((node, ty), axes) = self.apart(|lower| lower.item(id));
            self.naming = naming;
            self.depth -= 1;
            let ty = self.of_some_size(ty, self.items[id].item.value.span);
            self.bindings[id] = State::Done(Typed { node, ty, axes });
        }
        match &self.bindings[id] {
            State::Done(typed) => (typed.ty.clone(), typed.axes.clone()),
            State::Todo | State::Doing => (Ty::Unknown, BTreeSet::new()),
        }
    }

    fn item(&mut self, id: BindingId) -> (Node, Ty) {
        let Item { item, scope, value, value_scope, role, .. } = self.items[id];
        let declared = item.ty.as_ref();
        let is_own = std::ptr::eq(value, &item.value);
        let wanted = match declared {
            Some(ty) => self.library.ty(ty, &mut self.found),
            None if is_own => return self.within(scope, |lower| lower.expr(value, None)),
            None => {
                let default = |lower: &mut Self| match role {
                    Role::Fixed => lower.axis_type(item),
                    Role::Param | Role::Let => lower.expr(&item.value, None).1,
                };
                self.within(scope, |lower| lower.apart(default).0)
            }
        };
        self.within(value_scope, |lower| {
            if wanted == Ty::Bare {
                return lower.number(item, value, &wanted);
            }
            let place = declared.map_or(item.value.span, |ty| ty.span);
            let node = lower.fit(value, &wanted, &item.name.node, Some(place));
            (lower.in_range(item, node, &wanted), wanted)
        })
    }

    /// Returns the type of an axis's values that has none declared.
    fn axis_type(&mut self, item: &'r ast::Binding) -> Ty {
        match self.expr(&item.value, None).1 {
            Ty::List(ty) => *ty,
            _ => Ty::Unknown,
        }
    }

    /// Lowers bindings, each after those it names, so that the stack does not grow with the length of a chain.
    pub(super) fn in_order(&mut self, roots: Range<BindingId>) {
        self.order(roots).into_iter().for_each(|id| drop(self.binding(id)));
    }

    /// Returns the bindings that are still to do, each after those it names as far as there is no circle.
    fn order(&self, roots: Range<BindingId>) -> Vec<BindingId> {
        let mut order = Vec::new();
        let mut seen: Vec<_> =
            self.bindings.iter().map(|state| !matches!(state, State::Todo)).collect();
        for root in roots {
            let mut path = vec![(root, None)];
            while let Some((id, named)) = path.pop() {
                let mut named: std::vec::IntoIter<BindingId> = match named {
                    Some(named) => named,
                    None if std::mem::replace(&mut seen[id], true) => continue,
                    None => self.named_in(&self.items[id]).into_iter(),
                };
                match named.next() {
                    Some(next) => path.extend([(id, Some(named)), (next, None)]),
                    None => order.push(id),
                }
            }
        }
        order
    }

    /// Returns the bindings whose names stand in the value of one; some may turn out to be variants.
    fn named_in(&self, item: &Item<'r>) -> Vec<BindingId> {
        let mut found = Vec::new();
        item.value.walk(&mut |expr| {
            if let ExprKind::Name(name) = &expr.kind
                && let Some(Def::Binding(id)) = self.look_up_in(item.value_scope, name)
            {
                found.push(id);
            }
        });
        found
    }

    /// Returns a type that is not too large: a few lines could double it over and over.
    fn of_some_size(&mut self, ty: Ty, span: Span) -> Ty {
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

    /// Lowers another value for a param whose default is a number without unit: any number will do.
    fn number(&mut self, item: &ast::Binding, value: &'r Expr, wanted: &Ty) -> (Node, Ty) {
        let before = self.found.len();
        let (node, ty) = self.expr(value, Some(wanted));
        if matches!(ty, Ty::Number(_)) {
            return (node, ty);
        }
        self.found.truncate(before);
        (self.fit(value, wanted, &item.name.node, Some(item.value.span)), Ty::Bare)
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

    /// Returns the type of an axis's values, which the expression being lowered depends on; none when they need themselves.
    pub(super) fn use_axis(&mut self, id: AxisId, span: Span) -> Option<Ty> {
        if self.is_circular(&self.axes[id]) {
            let name = self.axis_items[id].item.name.clone();
            self.circle(&name, span);
            return None;
        }
        let ty = self.axis(id);
        self.touched.insert(id);
        if let State::Done(axis) = &self.axes[id] {
            self.touched.extend(&axis.axes);
        }
        Some(ty)
    }

    pub(super) fn axis(&mut self, id: AxisId) -> Ty {
        if let State::Todo = self.axes[id] {
            self.axes[id] = State::Doing;
            self.depth += 1;
            let AxisItem { item, scope, .. } = self.axis_items[id];
            let (mut axis, axes) = self.apart(|lower| {
                // Steps in a value are steps of that point.
                lower.conditions.insert(id);
                lower.within(scope, |lower| lower.axis_values(id, item))
            });
            let is_free = matches!(axis.ty, Ty::Artifact(_)) && axis.list.is_none();
            if let Some(other) = axes.first().filter(|_| !is_free) {
                let other = self.axis_items[*other].name.clone();
                self.found.push(
                    Diagnostic::error("tlm::sema::axis_of_axis", "an axis can't depend on another")
                        .label(item.value.span, format!("depends on `{other}`"))
                        .help("sweep both together with an axis of records"),
                );
            }
            axis.axes = axes;
            self.depth -= 1;
            self.axes[id] = State::Done(axis);
        }
        match &self.axes[id] {
            State::Done(axis) => axis.ty.clone(),
            State::Todo | State::Doing => Ty::Unknown,
        }
    }

    fn axis_values(&mut self, id: AxisId, item: &'r ast::Binding) -> Axis {
        let name = self.axis_items[id].name.clone();
        let declared = item.ty.as_ref().map(|ty| self.library.ty(ty, &mut self.found));
        let items = match &item.value.kind {
            ExprKind::List(items) => &items[..],
            ExprKind::Error => &[],
            _ => return self.axis_of_list(name, item, declared),
        };
        if items.is_empty() && item.value.kind != ExprKind::Error {
            self.no_axis_values(&name, item.value.span);
        }
        let (values, ty) = match declared {
            Some(ty) => {
                let span = item.ty.as_ref().map(|ty| ty.span);
                let fit = |value: &'r Expr| {
                    let node = self.fit(value, &ty, &name, span);
                    self.in_range(item, node, &ty)
                };
                (items.iter().map(fit).collect(), ty.clone())
            }
            None => {
                self.is_untyped_axis = true;
                let joined = self.joined(items, None);
                self.is_untyped_axis = false;
                joined
            }
        };
        let shown: Vec<_> =
            items.iter().map(|v| on_one_line(self.sources.snippet(v.span)).into()).collect();
        let mut seen = FastSet::default();
        for (at, text) in shown.iter().enumerate() {
            if !seen.insert(*text) {
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
        let (span, axes) = (item.value.span, BTreeSet::new());
        Axis { name: name.into(), ty, axes, span, list: None, values, shown }
    }

    /// Lowers an axis whose values are those of a list, such as `range(1, 5)`.
    fn axis_of_list(&mut self, name: String, item: &'r ast::Binding, declared: Option<Ty>) -> Axis {
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
        let (values, shown) = (Vec::new(), Vec::new());
        Axis { name: name.into(), ty, axes: BTreeSet::new(), span, list, values, shown }
    }

    fn no_axis_values(&mut self, name: &str, span: Span) {
        self.found.push(no_axis_values(name, span));
    }

    pub(super) fn error(span: Span) -> (Node, Ty) {
        (Node { span, kind: Kind::Error }, Ty::Unknown)
    }
}

pub(super) fn no_axis_values(name: &str, span: Span) -> Diagnostic {
    Diagnostic::error("tlm::sema::axis_values", format!("`{name}` has no values"))
        .label(span, "expected a list with at least one value")
        .help(format!("write `axis {name} = [baseline, other]`"))
}

/// Leaves out what was found before: each `with` of a recipe finds the same mistakes in it.
pub(super) fn once(found: &mut Vec<Diagnostic>) {
    let mut seen = HashSet::new();
    found.retain(|diagnostic| {
        let places = diagnostic.labels.iter().map(|label| label.span).collect::<Vec<_>>();
        seen.insert((diagnostic.code, diagnostic.message.clone(), places))
    });
}

/// Returns a text with its line breaks and runs of blanks as one blank each.
pub(super) fn on_one_line(text: &str) -> String {
    match text.contains(char::is_whitespace) {
        true => text.split_whitespace().collect::<Vec<_>>().join(" "),
        false => text.to_owned(),
    }
}
