//! Plans and reports: what a recipe asks for.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Span;
use crate::base::text::did_you_mean;
use crate::diag::Diagnostic;
use crate::sema::lower::Lower;
use crate::sema::lower::on_one_line;
use crate::sema::node::{AxisId, Kind, Node, Plan, Report, Term, Typed};
use crate::sema::scope::Def;
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
        (plans, reports)
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
        let terms = plan.terms.iter().map(|term| self.term(plan, term)).collect();
        Plan { name: plan.name.node.clone(), terms }
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
        let (call, mut view) = match &report.value.kind {
            ExprKind::Call(call) if view(&call.callee).is_some() => (call, view(&call.callee)?),
            ExprKind::Error => return None,
            _ => {
                self.bad_report(
                    report.value.span,
                    "expected `table(...)`, `curve`, `bars`, `scatter` or `heat`",
                );
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
        let columns: Vec<_> = items.iter().flat_map(|item| self.columns(item, view)).collect();
        if let Some((name, _)) = call.run.first() {
            self.bad_report(name.span, "a report takes no `run` settings");
        }
        let (mut rows, mut cols) = (Vec::new(), None);
        let mut given: Vec<&Name> = Vec::new();
        for (name, value) in &call.params {
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
                    _ => self.bad_report(value.span, "columns follow one axis"),
                },
                ("best", View::Table { best, .. }) => *best = self.best_number(value),
                ("delta", View::Table { delta, .. }) => match value.kind {
                    ExprKind::Bool(is_told) => *delta = is_told,
                    _ => self.bad_report(value.span, "expected `true` or `false`"),
                },
                _ => self.bad_report(
                    name.span,
                    "reports take `rows:` and `cols:`, and `table` also `best:` and `delta:`",
                ),
            }
        }
        let mut seen: BTreeSet<AxisId> = BTreeSet::new();
        if let Some(twice) = rows.iter().chain(&cols).find(|axis| !seen.insert(**axis)) {
            let axis = &self.axis_items[*twice].name;
            self.bad_report(
                report.name.span,
                &format!("`{axis}` stands twice in rows and columns"),
            );
            return None;
        }
        self.can_be_drawn(view, report.value.span, &columns, &rows, cols);
        let columns = heads(columns);
        Some(Report {
            name: report.name.node.clone(),
            view,
            span: report.name.span,
            caption,
            columns,
            rows,
            cols,
        })
    }

    fn best_number(&mut self, value: &'r Expr) -> Option<Best> {
        match value.path().as_deref() {
            Some(["high"]) => Some(Best::High),
            Some(["low"]) => Some(Best::Low),
            _ => {
                self.bad_report(value.span, "expected `high` or `low`");
                None
            }
        }
    }

    /// Checks that a report has what its picture needs.
    fn can_be_drawn(
        &mut self,
        view: View,
        span: Span,
        columns: &[(String, String, Typed)],
        rows: &[AxisId],
        cols: Option<AxisId>,
    ) {
        let are_logs = columns.iter().any(|(.., typed)| is_log(&typed.ty));
        let along_a_number = match rows {
            [axis] => matches!(self.axis(*axis), Ty::Number(_) | Ty::Bare | Ty::Unknown),
            _ => false,
        };
        let missing = match view {
            View::Curve if are_logs && columns.iter().all(|(.., typed)| is_log(&typed.ty)) => None,
            View::Curve if !are_logs && along_a_number => None,
            View::Curve => Some("a curve shows logs, or numbers along one axis of numbers in `rows:`"),
            View::Bars if rows.is_empty() => Some("bars stand along the axes in `rows:`"),
            View::Scatter if columns.len() != 2 => Some("a scatter plot shows two values"),
            View::Scatter if rows.is_empty() => Some("a scatter plot has a point a row: name axes in `rows:`"),
            View::Heat if columns.len() != 1 || rows.len() != 1 || cols.is_none() => {
                Some("a heat map shows one value along one axis in `rows:` and one in `cols:`")
            }
            _ => None,
        };
        if let Some(missing) = missing {
            self.bad_report(span, missing);
        }
    }

    /// Lowers a value for a table: a record shows its numbers and texts. Each column has its short head and its long one.
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
        let short = match &item.kind {
            ExprKind::Field(_, name) => name.node.clone(),
            _ => long.clone(),
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
                None => self.bad_report(expr.span, "expected the name of an axis"),
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
}

/// Returns how a call shows a table.
fn view(callee: &Expr) -> Option<View> {
    match callee.path()?[..] {
        ["table"] => Some(View::Table { best: None, delta: false }),
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
