//! Plans and reports: what a recipe asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use crate::base::Span;
use crate::base::text::did_you_mean;
use crate::diag::Diagnostic;
use crate::sema::lower::Lower;
use crate::sema::lower::on_one_line;
use crate::sema::node::{AxisId, Kind, Node, Plan, Report, Term, Typed};
use crate::sema::scope::{Def, MAIN, Origin, ScopeId};
use crate::sema::steps::{Best, View};
use crate::sema::ty::Ty;
use crate::syntax::ast::{self, Expr, ExprKind, ItemKind, Name};

impl<'r> Lower<'r> {
    pub(super) fn demands(&mut self, file: &'r ast::File) -> (Vec<Plan>, Vec<Report>) {
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
        for scope in mem::take(&mut self.taken) {
            reports.extend(self.reports_of(scope));
        }
        (plans, reports)
    }

    /// Lowers the reports of another recipe.
    fn reports_of(&mut self, scope: ScopeId) -> Vec<Report> {
        let Origin::Recipe(recipe) = self.scopes[scope].origin else { return Vec::new() };
        let (files, prefix) = (self.files, self.scopes[scope].prefix.clone());
        let report = |item: &'r ast::Item| match &item.kind {
            ItemKind::Report(report) => {
                let report = self.within(scope, |lower| lower.report(report, item.doc.clone()))?;
                Some(Report { name: format!("{prefix}{}", report.name), ..report })
            }
            _ => None,
        };
        files.all[recipe].file.items.iter().filter_map(report).collect()
    }

    /// Checks that profiles give params and axes what these take.
    pub(super) fn profiles(&mut self, file: &'r ast::File) {
        let mut names: BTreeMap<&str, Span> = BTreeMap::new();
        for item in &file.items {
            let ItemKind::Profile(profile) = &item.kind else { continue };
            if let Some(first) = names.insert(&profile.name.node, profile.name.span) {
                self.twice(&profile.name, first);
            }
            // What `--axis` names has another type for this command.
            let is_swept = |name: &Name| self.swept.contains(&name.node);
            for (name, value) in profile.values.iter().filter(|(name, _)| !is_swept(name)) {
                match self.param_type(&name.node) {
                    Some(wanted) => {
                        drop(self.apart(|lower| lower.fit(value, &wanted, &name.node, None)));
                    }
                    None => self.found.push(
                        Diagnostic::error(
                            "tlm::sema::unknown_param",
                            format!("the recipe has no param or axis `{}`", name.node),
                        )
                        .label(name.span, "no such name")
                        .help("name a param or an axis of the recipe"),
                    ),
                }
            }
        }
    }

    /// Lowers the values of an axis that count.
    pub(super) fn only(&mut self, name: &Name, list: &'r Expr) -> Option<(AxisId, Node)> {
        let axis = self.axis_name(name)?;
        let wanted = Ty::List(Box::new(self.axis(axis)));
        Some((axis, self.fit(list, &wanted, &name.node, None)))
    }

    fn plan(&mut self, plan: &'r ast::Plan) -> Plan {
        let terms = plan.terms.iter().flat_map(|term| match self.other_plan(term) {
            Some((scope, other)) => {
                self.taken.insert(scope);
                self.within(scope, |lower| lower.plan(other)).terms
            }
            None => vec![self.term(plan, term)],
        });
        Plan { name: plan.name.node.clone(), terms: terms.collect() }
    }

    /// Returns the plan of another recipe that a term is: `b0.default`.
    fn other_plan(&mut self, term: &ast::PlanTerm) -> Option<(ScopeId, &'r ast::Plan)> {
        let ExprKind::Field(base, name) = &term.target.kind else { return None };
        let def = self.resolve(&base.path()?.join("."))?;
        let scope = self.scope_behind(&def)?;
        let Origin::Recipe(recipe) = self.scopes[scope].origin else { return None };
        if self.member_of(scope, &name.node).is_some() {
            return None;
        }
        let files = self.files;
        let plan = files.all[recipe].file.items.iter().find_map(|item| match &item.kind {
            ItemKind::Plan(plan) if plan.name.node == name.node => Some(plan),
            _ => None,
        });
        let axes = term.vary.iter().chain(&term.over).chain(&term.each).map(|axis| axis.span);
        let more = axes.chain(term.filter.iter().map(|condition| condition.span)).next();
        if let (Some(_), Some(more)) = (plan, more) {
            self.found.push(
                Diagnostic::error(
                    "tlm::sema::whole_plan",
                    "a plan of another recipe is taken as it is",
                )
                .label(more, "changes its points")
                .help("write this behind a value of the recipe"),
            );
        }
        plan.map(|plan| (scope, plan))
    }

    fn term(&mut self, plan: &'r ast::Plan, term: &'r ast::PlanTerm) -> Term {
        let targets = match &term.target.kind {
            ExprKind::List(items) => &items[..],
            _ => std::slice::from_ref(&term.target),
        };
        let targets: Vec<_> = targets
            .iter()
            .map(|target| (self.sources.snippet(target.span).to_owned(), self.typed(target)))
            .collect();
        let all: Vec<&Name> = term.vary.iter().chain(&term.over).chain(&term.each).collect();
        for (at, name) in all.iter().enumerate() {
            if let Some(first) = all[..at].iter().find(|first| first.node == name.node) {
                self.twice(name, first.span);
            }
        }
        let [vary, over, each] = [&term.vary, &term.over, &term.each].map(|names| {
            let named =
                names.iter().filter_map(|name| self.axis_name(name).map(|axis| (axis, name)));
            named.collect::<Vec<_>>()
        });
        for (axis, name) in vary.iter().chain(&over).chain(&each) {
            let known = targets.iter().all(|(_, target)| target.ty != Ty::Unknown);
            if known && !targets.iter().any(|(_, target)| target.axes.contains(axis)) {
                self.found.push(
                    Diagnostic::warning(
                        "tlm::sema::idle_axis",
                        format!("plan `{}` does not depend on `{}`", plan.name.node, name.node),
                    )
                    .label(name.span, "changes nothing")
                    .label(term.target.span, "what the plan makes")
                    .help("leave the axis out, or name a value that depends on it"),
                );
            }
        }
        let mut filter = Vec::new();
        term.filter.iter().for_each(|condition| self.conjuncts(condition, &mut filter));
        let [vary, over, mut each] = [vary, over, each]
            .map(|axes| axes.into_iter().map(|(axis, _)| axis).collect::<Vec<_>>());
        for name in self.swept {
            if let Some(Def::Axis(axis)) = self.resolve(name)
                && targets.iter().any(|(_, target)| target.axes.contains(&axis))
                && ![&vary, &over, &each].iter().any(|axes| axes.contains(&axis))
            {
                each.push(axis);
            }
        }
        Term { targets, vary, over, each, filter }
    }

    /// Lowers the parts of a condition that must all hold.
    fn conjuncts(&mut self, condition: &'r Expr, all: &mut Vec<Typed>) {
        if let ExprKind::Binary(ast::BinaryOp::And, left, right) = &condition.kind {
            self.conjuncts(left, all);
            self.conjuncts(right, all);
            return;
        }
        let (node, axes) = self.apart(|lower| lower.fit(condition, &Ty::Bool, "where", None));
        all.push(Typed { node, ty: Ty::Bool, axes });
    }

    fn typed(&mut self, expr: &'r Expr) -> Typed {
        let ((node, ty), axes) = self.apart(|lower| lower.expr(expr, None));
        Typed { node, ty, axes }
    }

    pub(super) fn axis_name(&mut self, name: &Name) -> Option<AxisId> {
        match self.resolve(&name.node) {
            Some(Def::Axis(id)) => {
                self.axis(id);
                Some(id)
            }
            other => {
                let axes = self.axis_items.iter().map(|axis| axis.name.as_str());
                let help = match did_you_mean(&name.node, axes.clone()) {
                    _ if matches!(other, Some(Def::Binding(_))) => format!(
                        "make it an axis: `axis {} = [baseline, other]`, or for once `--axis {}=a,b`",
                        name.node, name.node
                    ),
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

    fn report(&mut self, report: &'r ast::Binding, caption: Option<String>) -> Option<Report> {
        let (call, view) = match &report.value.kind {
            ExprKind::Call(call) if view(&call.callee).is_some() => (call, view(&call.callee)?),
            ExprKind::Error => return None,
            _ => {
                let what = "expected `table`, `curve`, `bars`, `scatter` or `heat`";
                self.bad_report(TABLE, report.value.span, what);
                return None;
            }
        };
        let [shown] = &call.inputs[..] else {
            let what = "expected one value, or one list of values";
            self.bad_report(view, report.value.span, what);
            return None;
        };
        let items = match &shown.kind {
            ExprKind::List(items) => &items[..],
            _ => std::slice::from_ref(shown),
        };
        let before = self.found.len();
        let columns: Vec<_> = items.iter().flat_map(|item| self.columns(item, view)).collect();
        if let Some((name, _)) = call.run.first() {
            self.bad_report(view, name.span, "a report takes no `run` settings");
        }
        let (view, rows, cols) = self.layout(view, &call.params);
        let mut seen: BTreeSet<AxisId> = BTreeSet::new();
        if let Some(twice) = rows.iter().chain(&cols).find(|axis| !seen.insert(**axis)) {
            let what =
                format!("`{}` stands twice in rows and columns", self.axis_items[*twice].name);
            self.bad_report(view, report.name.span, &what);
            return None;
        }
        if self.found.len() == before
            && let Some(lacking) = self.lacks(view, &columns, &rows, cols)
        {
            self.bad_report(view, report.value.span, lacking);
        }
        Some(Report {
            name: report.name.node.clone(),
            is_own: self.scope == MAIN,
            view,
            span: report.name.span,
            caption,
            columns: heads(columns),
            rows,
            cols,
        })
    }

    /// Lowers the named arguments of a report.
    fn layout(
        &mut self,
        mut view: View,
        named: &'r [(Name, Expr)],
    ) -> (View, Vec<AxisId>, Option<AxisId>) {
        let (mut rows, mut cols) = (Vec::new(), None);
        let mut given: Vec<&Name> = Vec::new();
        for (name, value) in named {
            if let Some(first) = given.iter().find(|first| first.node == name.node) {
                self.twice(name, first.span);
                continue;
            }
            given.push(name);
            match (name.node.as_str(), &mut view) {
                ("rows", _) => rows = self.axis_names(value),
                ("cols", _) => match self.axis_names(value)[..] {
                    [] => {}
                    [axis] => cols = Some(axis),
                    _ => self.bad_report(view, value.span, "columns follow one axis"),
                },
                ("best", View::Table { best, .. }) => match value.path().as_deref() {
                    Some(["high"]) => *best = Some(Best::High),
                    Some(["low"]) => *best = Some(Best::Low),
                    _ => self.bad_report(view, value.span, "expected `high` or `low`"),
                },
                ("delta", View::Table { delta, .. }) => match value.kind {
                    ExprKind::Bool(is_told) => *delta = is_told,
                    _ => self.bad_report(view, value.span, "expected `true` or `false`"),
                },
                (_, View::Table { .. }) => {
                    let what = "a table takes `rows:`, `cols:`, `best:` and `delta:`";
                    self.bad_report(view, name.span, what);
                }
                _ => self.bad_report(view, name.span, "a figure takes `rows:` and `cols:`"),
            }
        }
        (view, rows, cols)
    }

    /// Returns what a report lacks to be drawn, if anything.
    fn lacks(
        &mut self,
        view: View,
        columns: &[(String, String, Typed)],
        rows: &[AxisId],
        cols: Option<AxisId>,
    ) -> Option<&'static str> {
        let types = || columns.iter().map(|(.., typed)| &typed.ty).filter(|ty| **ty != Ty::Unknown);
        match view {
            View::Curve if types().all(is_log) => None,
            View::Curve => {
                let x = rows.last().map(|axis| self.axis(*axis));
                let is_number = matches!(x, Some(Ty::Number(_) | Ty::Bare | Ty::Unknown));
                (!is_number || types().any(is_log)).then_some(
                    "a curve shows logs, or numbers along numbers: the last axis in `rows:`",
                )
            }
            View::Bars if rows.is_empty() => Some("bars stand along the axes in `rows:`"),
            View::Scatter if columns.len() != 2 => Some("a scatter plot shows two values"),
            View::Scatter if rows.is_empty() => {
                Some("a scatter plot has a point a row: name axes in `rows:`")
            }
            View::Heat if columns.len() != 1 || rows.len() != 1 || cols.is_none() => {
                Some("a heat map shows one value along one axis in `rows:` and one in `cols:`")
            }
            View::Table { .. } | View::Bars | View::Scatter | View::Heat => None,
        }
    }

    /// Lowers a value for a report: a record shows what of it can be shown. Each column has its short head and its long one.
    fn columns(&mut self, item: &'r Expr, view: View) -> Vec<(String, String, Typed)> {
        let typed = self.typed(item);
        let long = on_one_line(self.sources.snippet(item.span));
        if let Ty::Record(fields) = &typed.ty {
            let shown = fields.iter().filter(|(_, field)| shows(view, &field.ty));
            let columns: Vec<_> = shown
                .map(|(name, field)| {
                    let kind = Kind::Field(Box::new(typed.node.clone()), name.clone());
                    let node = Node { span: item.span, kind };
                    let typed = Typed { node, ty: field.ty.clone(), axes: typed.axes.clone() };
                    (name.clone(), format!("{long}.{name}"), typed)
                })
                .collect();
            if !columns.is_empty() {
                return columns;
            }
        }
        // That it is a mean is told by how it is shown.
        let shown = match &item.kind {
            ExprKind::Call(call) if typed.ty == Ty::Spread => call.inputs.first().unwrap_or(item),
            _ => item,
        };
        let short = match &shown.kind {
            ExprKind::Field(_, name) => name.node.clone(),
            _ => on_one_line(self.sources.snippet(shown.span)),
        };
        vec![(short, long, self.column(item, typed, view))]
    }

    fn column(&mut self, item: &'r Expr, typed: Typed, view: View) -> Typed {
        if !shows(view, &typed.ty) && typed.ty != Ty::Unknown {
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
                    format!("{} can't show {}", named(view), typed.ty),
                )
                .label(item.span, expected(view))
                .help(help),
            );
        }
        typed
    }

    /// Returns the axes that an expression names, one or a list.
    pub(super) fn axis_names(&mut self, names: &'r Expr) -> Vec<AxisId> {
        let names = match &names.kind {
            ExprKind::List(items) => &items[..],
            _ => std::slice::from_ref(names),
        };
        let mut axes = Vec::new();
        for expr in names {
            match expr.path().map(|path| path.join(".")) {
                Some(node) => axes.extend(self.axis_name(&Name { node, span: expr.span })),
                None if expr.kind == ExprKind::Error => {}
                None => self.bad_report(TABLE, expr.span, "expected the name of an axis"),
            }
        }
        axes
    }

    fn bad_report(&mut self, view: View, span: Span, what: &str) {
        let example = match view {
            View::Table { .. } => "table([m.perplexity, m.loss], rows: axis)",
            View::Curve => "curve(run.log, rows: axis)",
            View::Bars => "bars(m.loss, rows: axis)",
            View::Scatter => "scatter([run.params, m.loss], rows: axis)",
            View::Heat => "heat(m.loss, rows: axis, cols: other)",
        };
        self.found.push(
            Diagnostic::error("tlm::sema::bad_report", "this is no report")
                .label(span, what)
                .help(format!("write `report name = {example}`")),
        );
    }
}

const TABLE: View = View::Table { best: None, delta: false };

/// Returns how a call shows a table.
fn view(callee: &Expr) -> Option<View> {
    match callee.path()?[..] {
        ["table"] => Some(TABLE),
        ["curve"] => Some(View::Curve),
        ["bars"] => Some(View::Bars),
        ["scatter"] => Some(View::Scatter),
        ["heat"] => Some(View::Heat),
        _ => None,
    }
}

fn named(view: View) -> &'static str {
    match view {
        View::Table { .. } => "a table",
        View::Curve => "a curve",
        View::Bars | View::Scatter => "a plot",
        View::Heat => "a heat map",
    }
}

fn expected(view: View) -> &'static str {
    match view {
        View::Table { .. } => "expected a number or a text",
        View::Curve => "expected a number or a training's log",
        View::Bars | View::Scatter | View::Heat => "expected a number",
    }
}

/// Returns whether values of a type can stand in such a report.
fn shows(view: View, ty: &Ty) -> bool {
    let is_number = matches!(ty, Ty::Number(_) | Ty::Bare | Ty::Spread);
    match view {
        View::Table { .. } => ty.is_cell(),
        View::Curve => is_number || is_log(ty),
        View::Bars | View::Scatter | View::Heat => is_number,
    }
}

fn is_log(ty: &Ty) -> bool {
    *ty == Ty::Artifact("TrainLog".into())
}

/// Heads columns with their short names, or with the long ones where those are not enough.
fn heads(columns: Vec<(String, String, Typed)>) -> Vec<(String, Typed)> {
    let shorts: Vec<_> = columns.iter().map(|(short, ..)| short.clone()).collect();
    let head = |(short, long, typed)| {
        let is_enough = shorts.iter().filter(|other| **other == short).count() == 1;
        (if is_enough { short } else { long }, typed)
    };
    columns.into_iter().map(head).collect()
}
