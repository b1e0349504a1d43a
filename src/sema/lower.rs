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
use crate::sema::node::{
    Axis, AxisId, Binding, BindingId, Kind, Node, Plan, Program, Report, Stage, Typed,
};
use crate::sema::ty::Ty;
use crate::syntax::ast::{self, Expr, ExprKind, ItemKind, Name, UseNames};

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
    Axis(AxisId),
}

/// How far a binding or axis is.
#[derive(Clone, Debug)]
enum State<T> {
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
    bindings: Vec<State<Typed>>,
    axis_items: Vec<&'r ast::Binding>,
    axes: Vec<State<Axis>>,
    /// The axes that the expression being lowered depends on.
    pub(super) touched: BTreeSet<AxisId>,
    /// The axes that the conditions around it depend on.
    pub(super) conditions: BTreeSet<AxisId>,
    /// How many bindings are being lowered within each other.
    depth: usize,
    /// Names that were told to be undefined.
    unknown: BTreeSet<String>,
    pub(super) found: Vec<Diagnostic>,
}

/// Lowers a recipe; `overrides` replace the values of its params.
pub(super) fn lower<'r>(
    sources: &'r SourceMap,
    library: &'r Library,
    file: &'r ast::File,
    overrides: &'r [(Name, Expr)],
    folder: &Path,
) -> (Program, Vec<Diagnostic>) {
    let mut lower = Lower {
        sources,
        library,
        names: BTreeMap::new(),
        items: Vec::new(),
        bindings: Vec::new(),
        axis_items: Vec::new(),
        axes: Vec::new(),
        touched: BTreeSet::new(),
        conditions: BTreeSet::new(),
        depth: 0,
        unknown: BTreeSet::new(),
        found: Vec::new(),
    };
    lower.declare(file, overrides);
    // Each after those it names, so that the stack does not grow with the length of a chain.
    lower.order().into_iter().for_each(|id| drop(lower.binding(id)));
    let (plans, reports) = lower.demands(file);
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
    let program = Program {
        bindings,
        axes: axes.collect(),
        plans,
        reports,
        folder: folder.to_owned(),
        fetch: library.get("source.fetch").cloned(),
    };
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
                    // The last one counts, as on any command line.
                    let given = overrides.iter().rfind(|(name, _)| name.node == param.name.node);
                    overridden.insert(param.name.node.as_str());
                    self.add_binding(param, given.map_or(&param.value, |(_, value)| value));
                }
                ItemKind::Let(binding) => self.add_binding(binding, &binding.value),
                ItemKind::Axis(axis) => {
                    self.define(&axis.name, Def::Axis(self.axis_items.len()));
                    self.axis_items.push(axis);
                    self.axes.push(State::Todo);
                }
                ItemKind::Fn(function) => self.not_yet(&function.name, "functions"),
                ItemKind::Stage(stage) => self.not_yet(&stage.name, "stages of a recipe's own"),
                ItemKind::Artifact(artifact) => {
                    self.not_yet(&artifact.name, "artifact types of a recipe's own");
                }
                ItemKind::Plan(_) | ItemKind::Report(_) => {}
            }
        }
        for (name, _) in overrides {
            if !overridden.contains(name.node.as_str()) {
                self.unknown_param(name, &overridden);
            }
        }
    }

    fn add_binding(&mut self, binding: &'r ast::Binding, value: &'r Expr) {
        self.define(&binding.name, Def::Binding(self.items.len()));
        self.items.push((binding, value));
        self.bindings.push(State::Todo);
    }

    fn define(&mut self, name: &Name, def: Def) {
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
            .label(name.span, "given with `-s`")
            .help(help),
        );
    }

    fn import(&mut self, import: &ast::Use) {
        let [std, rest @ ..] = &import.path[..] else { return };
        if std.node != "std" {
            names_of(&import.names).for_each(|name| self.define(name, Def::Broken));
            self.unknown_module(std, ["std"].into_iter());
            return;
        }
        let library = self.library;
        match (rest, &import.names) {
            ([], UseNames::All(_)) => {
                for module in library.modules.keys() {
                    let name = Name { node: module.clone(), span: std.span };
                    self.define(&name, Def::Module(module.clone()));
                }
            }
            ([], UseNames::Some(names)) => {
                names.iter().for_each(|name| self.use_module(name, name));
            }
            ([], UseNames::Module(alias)) => self.define(alias.as_ref().unwrap_or(std), Def::Std),
            ([module], UseNames::Module(alias)) => {
                self.use_module(module, alias.as_ref().unwrap_or(module));
            }
            ([module], names) => match library.modules.get(&module.node) {
                Some(stages) => self.use_stages(module, stages, names),
                None => {
                    names_of(names).for_each(|name| self.define(name, Def::Broken));
                    self.unknown_module(module, library.modules.keys().map(String::as_str));
                }
            },
            ([module, inner, ..], _) => self.module_in_module(module, inner),
        }
    }

    fn module_in_module(&mut self, module: &Name, inner: &Name) {
        let (module, name) = (&module.node, &inner.node);
        let message = format!("there is no module `{module}.{name}`");
        self.found.push(
            Diagnostic::error("tlm::sema::unknown_module", message)
                .label(inner.span, "not a module")
                .help(format!("take a stage of a module with `use std.{module}.{{{name}}}`")),
        );
    }

    fn use_module(&mut self, module: &Name, name: &Name) {
        let library = self.library;
        match library.modules.contains_key(&module.node) {
            true => self.define(name, Def::Module(module.node.clone())),
            false => {
                self.define(name, Def::Broken);
                self.unknown_module(module, library.modules.keys().map(String::as_str));
            }
        }
    }

    fn use_stages(
        &mut self,
        module: &Name,
        stages: &BTreeMap<String, Arc<Stage>>,
        names: &UseNames,
    ) {
        match names {
            UseNames::Some(names) => {
                for name in names {
                    match stages.get(&name.node) {
                        Some(stage) => self.define(name, Def::Stage(Arc::clone(stage))),
                        None => {
                            self.define(name, Def::Broken);
                            self.no_such_stage(&module.node, name);
                        }
                    }
                }
            }
            UseNames::All(_) | UseNames::Module(_) => {
                for (name, stage) in stages {
                    let name = Name { node: name.clone(), span: module.span };
                    self.define(&name, Def::Stage(Arc::clone(stage)));
                }
            }
        }
    }

    pub(super) fn unknown_module<'n>(
        &mut self,
        name: &Name,
        known: impl Iterator<Item = &'n str> + Clone,
    ) {
        let help = match did_you_mean(&name.node, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("modules are {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::unknown_module",
                format!("there is no module `{}`", name.node),
            )
            .label(name.span, "not a module")
            .help(help),
        );
    }

    pub(super) fn no_such_stage(&mut self, module: &str, name: &Name) {
        let stages = self.library.modules.get(module);
        let known = stages.into_iter().flat_map(BTreeMap::keys).map(String::as_str);
        let help = match did_you_mean(&name.node, known.clone()) {
            Some(near) => format!("did you mean `{module}.{near}`?"),
            None => format!("`{module}` has {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::unknown_stage",
                format!("`{module}` has no stage `{}`", name.node),
            )
            .label(name.span, "not a stage")
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

    /// Returns the type of a binding, which the expression being lowered depends on.
    pub(super) fn use_binding(&mut self, id: BindingId, span: Span) -> Ty {
        let is_new = matches!(self.bindings[id], State::Todo);
        if matches!(self.bindings[id], State::Doing) || (is_new && self.depth == DEPTH_MAX) {
            self.circle(self.items[id].0, span);
            return Ty::Unknown;
        }
        let (ty, axes) = self.binding(id);
        self.touched.extend(axes);
        ty
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
                    (node, wanted)
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

    fn circle(&mut self, item: &ast::Binding, span: Span) {
        self.found.push(
            Diagnostic::error(
                "tlm::sema::circle",
                format!("`{}` is defined through itself", item.name.node),
            )
            .label(span, "needs itself here")
            .label(item.name.span, "defined here")
            .help("break the circle: one of these values must not need the others"),
        );
    }

    /// Returns the type of an axis's values, which the expression being lowered depends on.
    pub(super) fn use_axis(&mut self, id: AxisId, span: Span) -> Ty {
        let is_new = matches!(self.axes[id], State::Todo);
        if matches!(self.axes[id], State::Doing) || (is_new && self.depth == DEPTH_MAX) {
            self.circle(self.axis_items[id], span);
            return Ty::Unknown;
        }
        let ty = self.axis(id);
        self.touched.insert(id);
        ty
    }

    fn axis(&mut self, id: AxisId) -> Ty {
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
            ExprKind::List(items) if !items.is_empty() => &items[..],
            ExprKind::Error => &[],
            _ => {
                self.found.push(
                    Diagnostic::error("tlm::sema::axis_values", format!("`{name}` has no values"))
                        .label(item.value.span, "expected a list with at least one value")
                        .help(format!("write `axis {name} = [baseline, other]`")),
                );
                &[]
            }
        };
        let (values, ty) = match declared {
            Some(ty) => {
                let span = item.ty.as_ref().map(|ty| ty.span);
                let fit = |value: &Expr| self.fit(value, &ty, &name, span);
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
        Axis { name, ty, values, shown }
    }

    // ---- plans and reports

    fn demands(&mut self, file: &'r ast::File) -> (Vec<Plan>, Vec<Report>) {
        let (mut plans, mut reports) = (Vec::new(), Vec::new());
        let mut names: BTreeMap<(bool, &str), Span> = BTreeMap::new();
        for item in &file.items {
            let (is_plan, name) = match &item.kind {
                ItemKind::Plan(plan) => (true, &plan.name),
                ItemKind::Report(report) => (false, &report.name),
                _ => continue,
            };
            if let Some(first) = names.insert((is_plan, &name.node), name.span) {
                self.found.push(
                    Diagnostic::error(
                        "tlm::sema::duplicate",
                        format!("`{}` is defined twice", name.node),
                    )
                    .label(name.span, "here again")
                    .label(first, "first here")
                    .help("give one of them another name"),
                );
            }
            match &item.kind {
                ItemKind::Plan(plan) => plans.push(self.plan(plan)),
                ItemKind::Report(report) => reports.extend(self.report(report, item.doc.clone())),
                _ => {}
            }
        }
        (plans, reports)
    }

    fn plan(&mut self, plan: &ast::Plan) -> Plan {
        let targets = match &plan.target.kind {
            ExprKind::List(items) => &items[..],
            _ => std::slice::from_ref(&plan.target),
        };
        let targets: Vec<_> = targets
            .iter()
            .map(|target| (self.sources.snippet(target.span).to_owned(), self.typed(target)))
            .collect();
        for (at, name) in plan.vary.iter().enumerate() {
            if let Some(first) = plan.vary[..at].iter().find(|first| first.node == name.node) {
                self.twice(name, first.span);
            }
        }
        let vary: Vec<_> = plan.vary.iter().filter_map(|name| self.axis_name(name)).collect();
        for (axis, name) in vary.iter().zip(&plan.vary) {
            let known = targets.iter().all(|(_, target)| target.ty != Ty::Unknown);
            if known && !targets.iter().any(|(_, target)| target.axes.contains(axis)) {
                self.found.push(
                    Diagnostic::warning(
                        "tlm::sema::idle_axis",
                        format!("plan `{}` does not depend on `{}`", plan.name.node, name.node),
                    )
                    .label(name.span, "changes nothing")
                    .label(plan.target.span, "what the plan makes")
                    .help("leave the axis out, or name a value that depends on it"),
                );
            }
        }
        Plan { name: plan.name.node.clone(), targets, vary }
    }

    fn typed(&mut self, expr: &Expr) -> Typed {
        let ((node, ty), axes) = self.apart(|lower| lower.expr(expr, None));
        Typed { node, ty, axes }
    }

    fn axis_name(&mut self, name: &Name) -> Option<AxisId> {
        match self.look_up(&name.node) {
            Some(Def::Axis(id)) => {
                self.axis(id);
                Some(id)
            }
            other => {
                let axes = self.axis_items.iter().map(|axis| axis.name.node.as_str());
                let help = match did_you_mean(&name.node, axes.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if axes.clone().next().is_none() => {
                        format!("define it: `axis {} = [baseline, other]`", name.node)
                    }
                    None => format!("axes are {}", axes.collect::<Vec<_>>().join(", ")),
                };
                let what = if other.is_some() { "not an axis" } else { "no such name" };
                self.found.push(
                    Diagnostic::error(
                        "tlm::sema::unknown_axis",
                        format!("there is no axis `{}`", name.node),
                    )
                    .label(name.span, what)
                    .help(help),
                );
                None
            }
        }
    }

    fn report(&mut self, report: &ast::Binding, caption: Option<String>) -> Option<Report> {
        let call = match &report.value.kind {
            ExprKind::Call(call) if call.callee.kind == ExprKind::Name("table".to_owned()) => call,
            ExprKind::Error => return None,
            _ => {
                self.bad_report(report.value.span, "expected `table(...)`");
                return None;
            }
        };
        let [shown] = &call.inputs[..] else {
            self.bad_report(report.value.span, "expected one value, or one list of values");
            return None;
        };
        let items = match &shown.kind {
            ExprKind::List(items) => &items[..],
            _ => std::slice::from_ref(shown),
        };
        let columns: Vec<_> = items.iter().map(|item| self.column(item)).collect();
        if let Some((name, _)) = call.run.first() {
            self.bad_report(name.span, "a table takes no `run` settings");
        }
        let (mut rows, mut cols) = (Vec::new(), None);
        let mut given: Vec<&Name> = Vec::new();
        for (name, value) in &call.params {
            if let Some(first) = given.iter().find(|first| first.node == name.node) {
                self.twice(name, first.span);
                continue;
            }
            given.push(name);
            let names = match &value.kind {
                ExprKind::List(items) => &items[..],
                _ => std::slice::from_ref(value),
            };
            let axes = self.axis_names(names);
            match name.node.as_str() {
                "rows" => rows = axes,
                "cols" if axes.len() <= 1 => cols = axes.first().copied(),
                "cols" => self.bad_report(value.span, "columns follow one axis"),
                _ => self.bad_report(name.span, "`table` takes `rows:` and `cols:`"),
            }
        }
        let mut shown: BTreeSet<AxisId> = BTreeSet::new();
        if let Some(twice) = rows.iter().chain(&cols).find(|axis| !shown.insert(**axis)) {
            let axis = &self.axis_items[*twice].name.node;
            self.bad_report(
                report.name.span,
                &format!("`{axis}` stands twice in rows and columns"),
            );
            return None;
        }
        let columns = heads(&columns, items, self.sources);
        Some(Report {
            name: report.name.node.clone(),
            span: report.name.span,
            caption,
            columns,
            rows,
            cols,
        })
    }

    fn column(&mut self, item: &Expr) -> Typed {
        let typed = self.typed(item);
        if !typed.ty.is_scalar() {
            let fields = match &typed.ty {
                Ty::Record(fields) => fields.keys().cloned().collect(),
                Ty::Artifact(name) => self
                    .library
                    .fields(name)
                    .into_iter()
                    .flat_map(BTreeMap::keys)
                    .cloned()
                    .collect(),
                _ => Vec::new(),
            };
            let help = match fields.is_empty() {
                true => "show a number that a stage computes".to_owned(),
                false => format!("choose a field: {}", fields.join(", ")),
            };
            self.found.push(
                Diagnostic::error(
                    "tlm::sema::not_a_cell",
                    format!("a table can't show {}", typed.ty),
                )
                .label(item.span, "expected a number or a text")
                .help(help),
            );
        }
        typed
    }

    fn axis_names(&mut self, names: &[Expr]) -> Vec<AxisId> {
        let mut axes = Vec::new();
        for expr in names {
            match &expr.kind {
                ExprKind::Name(name) => {
                    let name = Name { node: name.clone(), span: expr.span };
                    axes.extend(self.axis_name(&name));
                }
                ExprKind::Error => {}
                _ => self.bad_report(expr.span, "expected the name of an axis"),
            }
        }
        axes
    }

    fn bad_report(&mut self, span: Span, what: &str) {
        self.found.push(
            Diagnostic::error("tlm::sema::bad_report", "this is no report")
                .label(span, what)
                .help("write `report name = table([m.perplexity, m.loss], rows: axis)`"),
        );
    }

    pub(super) fn error(span: Span) -> (Node, Ty) {
        (Node { span, kind: Kind::Error }, Ty::Unknown)
    }
}

/// Returns the names that an import lists.
fn names_of(names: &UseNames) -> impl Iterator<Item = &Name> {
    match names {
        UseNames::Some(names) => names.as_slice(),
        UseNames::Module(Some(name)) => std::slice::from_ref(name),
        UseNames::Module(None) | UseNames::All(_) => &[],
    }
    .iter()
}

/// Returns a text with its line breaks and runs of blanks as one blank each.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Heads columns with their last field's name, or with all of their text where that is not enough.
fn heads(columns: &[Typed], items: &[Expr], sources: &SourceMap) -> Vec<(String, Typed)> {
    let short = |item: &Expr| match &item.kind {
        ExprKind::Field(_, name) => name.node.clone(),
        _ => sources.snippet(item.span).to_owned(),
    };
    let shorts: Vec<_> = items.iter().map(short).collect();
    let head = |at: usize| match shorts.iter().filter(|other| **other == shorts[at]).count() {
        1 => shorts[at].clone(),
        _ => sources.snippet(items[at].span).to_owned(),
    };
    columns.iter().enumerate().map(|(at, typed)| (head(at), typed.clone())).collect()
}
