//! What plans and reports ask for, as steps.

use std::collections::BTreeSet;

use smallvec::{SmallVec, smallvec};

use crate::base::text::did_you_mean;
use crate::base::{FastMap, Value};
use crate::diag::{Checked, Diagnostic};
use crate::sema::eval::Eval;
use crate::sema::memo::AlongId;
use crate::sema::memo::Point;
use crate::sema::node::{AxisId, BindingId, Kind, Plan, Program, Report, Term, Typed};
use crate::sema::points::{only, points_of};
use crate::sema::steps::{
    self, Cell, Column, Expansion, Goal, OutputRef, Report as Table, ReportRow, Step, StepId,
};
use crate::sema::value::Val;

/// Evaluates what the named plans ask for, or of the default plans what is named; without names, all of the default plans.
pub(super) fn expand(program: &Program, names: &[String]) -> Checked<Expansion> {
    let mut eval = Eval::new(program);
    let mut expansion = asked(program, names, &mut eval);
    expansion.steps = eval.steps;
    Checked { value: expansion, diagnostics: eval.found }
}

/// Evaluates the same; the steps stay with the evaluation.
fn asked<'p>(program: &'p Program, names: &[String], eval: &mut Eval<'p>) -> Expansion {
    let (plans, selectors) = chosen(program, names, &mut eval.found);
    let mut expansion = Expansion::default();
    let mut points = Vec::new();
    let only = only(eval);
    for term in plans.iter().flat_map(|plan| &plan.terms) {
        let from = points.len();
        points.extend(points_of(term, &only, eval));
        expansion.goals.extend(points[from..].iter().map(|point| goal(term, point, eval)));
    }
    if !selectors.is_empty() {
        expansion.goals = vec![selected(&selectors, &expansion.goals, &points, eval)];
    }
    let made = match program.reports.is_empty() {
        true => Vec::new(),
        false => needed(&eval.steps, &expansion.goals),
    };
    for report in &program.reports {
        let mut table = table(program, report, &points, eval);
        if !expansion.goals.is_empty() {
            leave_out(&mut table, &made);
        }
        expansion.reports.push(table);
    }
    expansion
}

/// Returns for each step whether it is behind some goal.
fn needed(steps: &[Step], goals: &[Goal]) -> Vec<bool> {
    let outputs = goals.iter().flat_map(|goal| &goal.outputs);
    steps::needed(steps, outputs.map(|output| output.step))
}

/// Empties the cells that no plan makes: a report shows results, it asks for none.
fn leave_out(table: &mut Table, made: &[bool]) {
    for cell in table.rows.iter_mut().flat_map(|row| &mut row.cells) {
        // What only a report asks for was made after that was looked at.
        let is_made = |output: &OutputRef| made.get(output.step.0 as usize) == Some(&true);
        if let Some(Cell::Spread(parts)) = cell {
            parts.retain(|part| {
                let mut all = true;
                part.outputs(&mut |output| all &= is_made(output));
                all
            });
        }
        let is_shown = |cell: &Cell| match cell {
            Cell::Spread(parts) => !parts.is_empty(),
            Cell::Late(_) | Cell::Value(_) | Cell::Log(_) => {
                cell.outputs().into_iter().all(is_made)
            }
        };
        if cell.as_ref().is_some_and(|cell| !is_shown(cell)) {
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
    for (id, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
        eval.binding(id, &baseline);
    }
    let asked = asked(program, &program.plan_names(), &mut eval);
    let mut found = eval.found;
    for (table, report) in asked.reports.iter().zip(&program.reports) {
        let is_empty = || table.rows.iter().all(|row| row.cells.iter().all(Option::is_none));
        if report.is_own && is_empty() {
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

/// Returns for each binding whether others name it.
fn used(program: &Program) -> Vec<bool> {
    let mut used = vec![false; program.bindings.len()];
    let bindings = program.bindings.iter().map(|binding| &binding.typed.node);
    let functions = program.functions.iter().map(|function| &function.body);
    for node in bindings.chain(functions) {
        node.walk(&mut |node| {
            if let Kind::Binding(id) = node.kind {
                used[id] = true;
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

/// A value that is named instead of a plan.
struct Selector {
    binding: BindingId,
    /// Whether all that is made of it is asked for too: `r1+`.
    downstream: bool,
    /// The points that count: `r1[rate=50%, seed=1]`.
    at: Vec<(AxisId, usize)>,
}

/// Returns the plans to look at, and the values to pick from what they make.
fn chosen<'p>(
    program: &'p Program,
    names: &[String],
    found: &mut Vec<Diagnostic>,
) -> (Vec<&'p Plan>, Vec<Selector>) {
    let (mut plans, mut selectors) = (Vec::new(), Vec::new());
    for name in names {
        let value = name.trim_start_matches('+').trim_end_matches('+');
        let (value, at) = value.split_once('[').unwrap_or((value, ""));
        if let Some(plan) = program.plans.iter().find(|plan| plan.name == *name) {
            plans.push(plan);
        } else if let Some(binding) = program.bindings.iter().position(|b| b.name == value) {
            let downstream = name.ends_with('+');
            let at = points_named(program, at.trim_end_matches(']'), found);
            selectors.push(Selector { binding, downstream, at });
        } else {
            found.push(unknown_plan(program, name, value));
        }
    }
    if plans.is_empty() {
        let default = program.plans.iter().find(|plan| plan.name == "default");
        plans = default.map_or_else(|| program.plans.iter().collect(), |plan| vec![plan]);
    }
    (plans, selectors)
}

/// Returns the axis values of `rate=50%, seed=1`.
fn points_named(
    program: &Program,
    text: &str,
    found: &mut Vec<Diagnostic>,
) -> Vec<(AxisId, usize)> {
    let mut named = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (name.trim(), value.trim());
        let Some(id) = program.axes.iter().position(|axis| &*axis.name == name) else {
            let axes: Vec<_> = program.axes.iter().map(|axis| &*axis.name).collect();
            let message = format!("there is no axis `{name}`");
            found.push(
                Diagnostic::error("tlm::sema::unknown_axis", message)
                    .help(format!("axes are {}", axes.join(", "))),
            );
            return None;
        };
        let shown = &program.axes[id].shown;
        let place = shown.iter().position(|known| &**known == value);
        if place.is_none() {
            let message = format!("`{name}` does not take the value `{value}`");
            found.push(
                Diagnostic::error("tlm::eval::no_such_value", message)
                    .help(format!("its values are {}", shown.join(", "))),
            );
        }
        Some((id, place?))
    };
    text.split(',').filter(|pair| !pair.trim().is_empty()).filter_map(&mut named).collect()
}

fn unknown_plan(program: &Program, name: &str, value: &str) -> Diagnostic {
    let plans = program.plans.iter().map(|plan| plan.name.as_str());
    let values = program.bindings.iter().map(|binding| binding.name.as_str());
    let help = match did_you_mean(value, plans.clone().chain(values)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if program.plans.is_empty() => format!("add one: `plan {name} = ...`"),
        None => format!("plans are {}", plans.collect::<Vec<_>>().join(", ")),
    };
    let message = format!("the recipe has no plan `{name}`");
    Diagnostic::error("tlm::sema::unknown_plan", message).help(help)
}

/// Returns a goal for the values that are named, at the points of the plans; of what the plans need, also what is made of them
/// where that is asked.
fn selected(selectors: &[Selector], goals: &[Goal], points: &[Point], eval: &mut Eval<'_>) -> Goal {
    let planned = needed(&eval.steps, goals);
    let baseline = [baseline(eval.program)];
    let points = if points.is_empty() { &baseline[..] } else { points };
    let (mut outputs, mut spread) = (Vec::new(), BTreeSet::new());
    for selector in selectors {
        let before = outputs.len();
        let mut points: Vec<Point> = points.to_vec();
        for (axis, place) in &selector.at {
            points.iter_mut().for_each(|point| point[*axis] = *place);
        }
        for point in points {
            if let Some(value) = eval.binding(selector.binding, &point) {
                value.outputs(&mut |output| outputs.push(output.clone()));
            }
        }
        if selector.downstream {
            spread.extend(outputs[before..].iter().map(|output| output.step));
        }
    }
    // Inputs come before their users.
    for (index, _) in planned.into_iter().enumerate().filter(|(_, planned)| *planned) {
        let (id, step) = (StepId(index as u32), &eval.steps[index]);
        if step.uses().any(|used| spread.contains(&used.step)) {
            spread.insert(id);
            let output = step.stage().outputs.keys().next();
            outputs.extend(output.map(|name| OutputRef { step: id, output: name.as_str().into() }));
        }
    }
    outputs.sort();
    outputs.dedup();
    Goal { outputs: outputs.into() }
}

fn baseline(program: &Program) -> Point {
    smallvec![0; program.axes.len()]
}

/// Evaluates what a term of a plan asks for at a point.
fn goal<'p>(term: &'p Term, point: &[usize], eval: &mut Eval<'p>) -> Goal {
    let mut outputs = SmallVec::new();
    for (text, target) in &term.targets {
        if let Some(value) = eval.at(&target.node, point, text) {
            value.outputs(&mut |output| outputs.push(output.clone()));
        }
    }
    Goal { outputs }
}

fn shown(program: &Program, axis: AxisId, value: usize) -> (String, String) {
    let axis = &program.axes[axis];
    (axis.name.to_string(), axis.shown[value].to_string())
}

fn table<'p>(
    program: &'p Program,
    report: &'p Report,
    points: &[Point],
    eval: &mut Eval<'p>,
) -> Table {
    let cols: Vec<Option<(AxisId, usize)>> = match report.cols {
        Some(axis) => (0..program.axes[axis].values.len()).map(|v| Some((axis, v))).collect(),
        None => vec![None],
    };
    let columns = report.columns.iter().flat_map(|(head, _)| {
        let at =
            |col: &Option<(AxisId, usize)>| col.map(|(axis, value)| shown(program, axis, value));
        cols.iter().map(move |col| Column { value: head.clone(), at: at(col) })
    });
    let asked: Vec<Asked> =
        report.columns.iter().map(|(_, typed)| Asked::new(&typed.axes, points, eval)).collect();
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
                let asked = asked.has(&point, eval);
                cells.push(asked.then(|| cell(typed, &point, head, eval)).flatten());
            }
        }
        let labels = report.rows.iter().zip(values).map(|(a, v)| shown(program, *a, *v).1);
        let last = report.rows.last().zip(values.last());
        let x = last.and_then(|(axis, value)| number(program, *axis, *value, eval));
        let is_baseline = values.iter().all(|value| *value == 0);
        ReportRow { labels: labels.collect(), x, is_baseline, cells }
    };
    Table {
        name: report.name.clone(),
        view: report.view,
        caption: report.caption.clone(),
        row_axes: report.rows.iter().map(|axis| program.axes[*axis].name.to_string()).collect(),
        columns: columns.collect(),
        rows: row_values(program, report, points).iter().map(|values| row(values)).collect(),
    }
}

/// Returns a value of an axis, if it is a number.
fn number<'p>(
    program: &'p Program,
    axis: AxisId,
    value: usize,
    eval: &mut Eval<'p>,
) -> Option<f64> {
    let axis = &program.axes[axis];
    match eval.at(&axis.values[value], &baseline(program), &axis.name)? {
        Val::Plain(Value::Int(number)) => Some(number as f64),
        Val::Plain(Value::Float(number)) => Some(number),
        _ => None,
    }
}

/// The points that some plan has, as far as a value depends on them. Without any plan, reports ask themselves.
struct Asked {
    along: AlongId,
    /// By their numbers.
    points: FastMap<u64, ()>,
    all: bool,
}

impl Asked {
    fn new(axes: &BTreeSet<AxisId>, points: &[Point], eval: &mut Eval<'_>) -> Self {
        let along = eval.along.of(axes, &eval.program.axes);
        let numbers = points.iter().map(|point| (eval.along.number(along, point), ()));
        Self { along, points: numbers.collect(), all: points.is_empty() }
    }

    fn has(&self, point: &[usize], eval: &mut Eval<'_>) -> bool {
        self.all || self.points.contains_key(&eval.along.number(self.along, point))
    }
}

/// Returns the values of the row axes, a row a combination that some plan has, in the order of the axes' values. Without any
/// plan they are all combinations.
fn row_values(program: &Program, report: &Report, points: &[Point]) -> Vec<Point> {
    if points.is_empty() {
        return combinations(program, &report.rows);
    }
    let values = |point: &Point| report.rows.iter().map(|axis| point[*axis]).collect();
    let mut rows: Vec<Point> = points.iter().map(values).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

fn cell<'p>(typed: &'p Typed, point: &[usize], label: &str, eval: &mut Eval<'p>) -> Option<Cell> {
    match eval.at(&typed.node, point, label)? {
        Val::Late(late) => Some(Cell::Late(late)),
        Val::Spread(values) => {
            values.iter().map(Val::late).collect::<Option<_>>().map(Cell::Spread)
        }
        Val::Plain(value) => Some(Cell::Value(value)),
        Val::Artifact(log, _) => Some(Cell::Log(log)),
        Val::List(_) | Val::Record(_) => None,
    }
}

/// Returns all combinations of the axes' values, the last axis changing fastest.
fn combinations(program: &Program, axes: &[AxisId]) -> Vec<Point> {
    let mut all = vec![Point::new()];
    for axis in axes {
        let values = 0..program.axes[*axis].values.len();
        let longer = |row: Point| {
            values.clone().map(move |value| row.iter().copied().chain([value]).collect())
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}
