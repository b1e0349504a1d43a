//! What plans and reports ask for, as steps.

use std::collections::BTreeSet;

use crate::base::text::did_you_mean;
use crate::diag::{Checked, Diagnostic};
use crate::sema::eval::{Eval, Point};
use crate::sema::node::{AxisId, BindingId, Kind, Plan, Program, Report, Typed};
use crate::sema::steps::{
    Cell, Expansion, Goal, OutputRef, Report as Table, ReportRow, Step, StepId,
};
use crate::sema::value::Val;

/// Evaluates what the named plans ask for; without names, the plan `default`, or all plans when there is none.
pub(super) fn expand(program: &Program, plans: &[String]) -> Checked<Expansion> {
    let mut eval = Eval::new(program);
    let plans = chosen(program, plans, &mut eval.found);
    let mut expansion = Expansion::default();
    let mut points = Vec::new();
    for plan in plans {
        for point in plan_points(program, plan) {
            expansion.goals.push(goal(program, plan, &point, &mut eval));
            points.push(point);
        }
    }
    let made = needed(&eval.steps, expansion.goals.iter().flat_map(|goal| &goal.outputs));
    for report in &program.reports {
        let mut table = table(program, report, &points, &mut eval);
        if !expansion.goals.is_empty() {
            leave_out(&mut table, &made);
        }
        expansion.reports.push(table);
    }
    expansion.steps = eval.steps;
    Checked { value: expansion, diagnostics: eval.found }
}

/// Returns the steps behind some outputs, with all that they use.
fn needed<'o>(steps: &[Step], outputs: impl Iterator<Item = &'o OutputRef>) -> BTreeSet<StepId> {
    let mut needed = BTreeSet::new();
    let mut next: Vec<StepId> = outputs.map(|output| output.step).collect();
    while let Some(id) = next.pop() {
        if needed.insert(id) {
            next.extend(steps[id.0 as usize].uses().map(|output| output.step));
        }
    }
    needed
}

/// Empties the cells that no plan makes: a report shows results, it asks for none.
fn leave_out(table: &mut Table, made: &BTreeSet<StepId>) {
    for cell in table.rows.iter_mut().flat_map(|row| &mut row.cells) {
        if matches!(cell, Some(Cell::Output(output)) if !made.contains(&output.step)) {
            *cell = None;
        }
    }
}

/// Evaluates all plans, and at the baseline every binding that no other value uses.
pub(super) fn check(program: &Program) -> Vec<Diagnostic> {
    let mut eval = Eval::new(program);
    let baseline = baseline(program);
    // The others are evaluated where they are used, and only there: an `if` may guard them.
    let used = used(program);
    for id in (0..program.bindings.len()).filter(|id| !used.contains(id)) {
        eval.binding(id, &baseline);
    }
    let mut found = eval.found;
    let all = expand(program, &program.plan_names());
    found.extend(all.diagnostics);
    for (table, report) in all.value.reports.iter().zip(&program.reports) {
        if table.rows.iter().all(|row| row.cells.iter().all(Option::is_none)) {
            found.push(
                Diagnostic::warning(
                    "tlm::sema::idle_report",
                    format!("no plan makes what report `{}` shows", report.name),
                )
                .label(report.span, "stays empty")
                .help("name its values in a plan, or vary its axes there"),
            );
        }
    }
    found
}

/// Returns the bindings that others name.
fn used(program: &Program) -> BTreeSet<BindingId> {
    let mut used = BTreeSet::new();
    for binding in &program.bindings {
        binding.typed.node.walk(&mut |node| {
            if let Kind::Binding(id) = node.kind {
                used.insert(id);
            }
        });
    }
    used
}

impl Program {
    /// Returns the names of all plans.
    pub fn plan_names(&self) -> Vec<String> {
        self.plans.iter().map(|plan| plan.name.clone()).collect()
    }
}

fn chosen<'p>(
    program: &'p Program,
    names: &[String],
    found: &mut Vec<Diagnostic>,
) -> Vec<&'p Plan> {
    if names.is_empty() {
        let default = program.plans.iter().find(|plan| plan.name == "default");
        return default.map_or_else(|| program.plans.iter().collect(), |plan| vec![plan]);
    }
    let mut plans = Vec::new();
    for name in names {
        match program.plans.iter().find(|plan| plan.name == *name) {
            Some(plan) => plans.push(plan),
            None => {
                let known = program.plans.iter().map(|plan| plan.name.as_str());
                let help = match did_you_mean(name, known.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if program.plans.is_empty() => {
                        format!("add one: `plan {name} = ...`")
                    }
                    None => format!("plans are {}", known.collect::<Vec<_>>().join(", ")),
                };
                let message = format!("the recipe has no plan `{name}`");
                found.push(Diagnostic::error("tlm::sema::unknown_plan", message).help(help));
            }
        }
    }
    plans
}

fn baseline(program: &Program) -> Point {
    vec![0; program.axes.len()]
}

/// Returns the baseline, and the points that differ from it in one of the plan's axes.
fn plan_points(program: &Program, plan: &Plan) -> Vec<Point> {
    let mut points = vec![baseline(program)];
    for axis in &plan.vary {
        for value in 1..program.axes[*axis].values.len() {
            let mut point = baseline(program);
            point[*axis] = value;
            points.push(point);
        }
    }
    points
}

fn goal(program: &Program, plan: &Plan, point: &[usize], eval: &mut Eval<'_>) -> Goal {
    let mut outputs = Vec::new();
    for (text, target) in &plan.targets {
        if let Some(value) = eval.at(&target.node, point, text) {
            value.outputs(&mut outputs);
        }
    }
    let axes = plan.vary.iter();
    let point = axes.map(|id| shown(program, *id, point[*id])).collect();
    Goal { plan: plan.name.clone(), point, outputs }
}

fn shown(program: &Program, axis: AxisId, value: usize) -> (String, String) {
    let axis = &program.axes[axis];
    (axis.name.clone(), axis.shown[value].clone())
}

fn table(program: &Program, report: &Report, points: &[Point], eval: &mut Eval<'_>) -> Table {
    let cols: Vec<Option<(AxisId, usize)>> = match report.cols {
        Some(axis) => (0..program.axes[axis].values.len()).map(|v| Some((axis, v))).collect(),
        None => vec![None],
    };
    let heads = report.columns.iter().flat_map(|(head, _)| {
        cols.iter().map(move |col| match col {
            None => head.clone(),
            Some((axis, value)) => {
                let (axis, value) = shown(program, *axis, *value);
                format!("{head}, {axis} = {value}")
            }
        })
    });
    let asked: Vec<Asked> =
        report.columns.iter().map(|(_, typed)| Asked::new(&typed.axes, points)).collect();
    let mut row = |values: &[usize]| {
        let mut point = baseline(program);
        report.rows.iter().zip(values).for_each(|(axis, value)| point[*axis] = *value);
        let mut cells = Vec::new();
        for ((head, typed), asked) in report.columns.iter().zip(&asked) {
            for col in &cols {
                let mut point = point.clone();
                if let Some((axis, value)) = col {
                    point[*axis] = *value;
                }
                let asked = asked.has(&point);
                cells.push(asked.then(|| cell(typed, &point, head, eval)).flatten());
            }
        }
        let labels = report.rows.iter().zip(values).map(|(a, v)| shown(program, *a, *v).1);
        ReportRow { labels: labels.collect(), cells }
    };
    Table {
        name: report.name.clone(),
        caption: report.caption.clone(),
        row_axes: report.rows.iter().map(|axis| program.axes[*axis].name.clone()).collect(),
        columns: heads.collect(),
        rows: row_values(program, report, points).iter().map(|values| row(values)).collect(),
    }
}

/// The points that some plan has, as far as a value depends on them. Without any plan, reports ask themselves.
struct Asked<'a> {
    axes: &'a BTreeSet<AxisId>,
    points: BTreeSet<Point>,
    all: bool,
}

impl<'a> Asked<'a> {
    fn new(axes: &'a BTreeSet<AxisId>, points: &[Point]) -> Self {
        let points_asked = points.iter().map(|point| along(axes, point)).collect();
        Self { axes, points: points_asked, all: points.is_empty() }
    }

    fn has(&self, point: &[usize]) -> bool {
        self.all || self.points.contains(&along(self.axes, point))
    }
}

fn along<'a>(axes: impl IntoIterator<Item = &'a AxisId>, point: &[usize]) -> Point {
    axes.into_iter().map(|axis| point[*axis]).collect()
}

/// Returns the values of the row axes, a row a combination that some plan has, in the order of the axes' values. Without any
/// plan they are all combinations.
fn row_values(program: &Program, report: &Report, points: &[Point]) -> Vec<Point> {
    if points.is_empty() {
        return combinations(program, &report.rows);
    }
    let rows: BTreeSet<Point> = points.iter().map(|point| along(&report.rows, point)).collect();
    rows.into_iter().collect()
}

fn cell(typed: &Typed, point: &[usize], label: &str, eval: &mut Eval<'_>) -> Option<Cell> {
    match eval.at(&typed.node, point, label)? {
        Val::Late(output) => Some(Cell::Output(output)),
        Val::Plain(value) => Some(Cell::Value(value)),
        Val::List(_) | Val::Record(_) | Val::Artifact(..) => None,
    }
}

/// Returns all combinations of the axes' values, the last axis changing fastest.
fn combinations(program: &Program, axes: &[AxisId]) -> Vec<Point> {
    let mut all: Vec<Point> = vec![Point::new()];
    for axis in axes {
        let values = 0..program.axes[*axis].values.len();
        let longer = |row: Point| values.clone().map(move |value| [&row[..], &[value]].concat());
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}
