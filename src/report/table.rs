//! Reports resolved into tables: what every cell shows, and which artifact it came from.

use crate::base::{Digest, Value};
use crate::data::train_log::Point;
use crate::report::number;
use crate::sema::late::Late;
use crate::sema::steps::{Best, Cell, Column, OutputRef, Report, StepId, View};

/// A resolved table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The report's name.
    pub name: String,
    /// How it is shown.
    pub view: View,
    /// The caption, if the recipe has one.
    pub caption: Option<String>,
    /// Heads of the label columns.
    pub axes: Vec<String>,
    /// The columns of values.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A row of a [`Table`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The axis values.
    pub labels: Vec<String>,
    /// The value of the last row axis, if that is a number.
    pub x: Option<f64>,
    /// Whether the others are compared with it.
    pub is_baseline: bool,
    /// The values.
    pub cells: Vec<TableCell>,
}

/// A cell of a [`Table`].
#[derive(Clone, Debug, PartialEq)]
pub struct TableCell {
    /// What it shows.
    pub shown: Shown,
    /// Where it came from; nothing for what was known without running, and for points nobody asked for.
    pub sources: Vec<Source>,
}

/// What a cell shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// A result.
    Value(Value),
    /// Results along an axis.
    Spread(Spread),
    /// The losses of a training log, of which the last ones stand for all.
    Curve(Vec<Point>),
    /// The plan did not ask for this point.
    NotPlanned,
    /// The step that makes it is not done yet.
    Pending,
    /// The step that makes it, or one before it, failed.
    Failed,
}

/// Mean and spread of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation (by n - 1); none of a single number.
    pub std: Option<f64>,
    /// How many they are.
    pub count: usize,
    /// How many should be there.
    pub of: usize,
}

impl Spread {
    fn new(numbers: &[f64], of: usize) -> Option<Self> {
        let count = numbers.len();
        // From the first on, so that equal numbers have no spread.
        let first = numbers.first().copied().unwrap_or_default();
        let mean = first + numbers.iter().map(|number| number - first).sum::<f64>() / count as f64;
        let squares = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>();
        let std = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        (count > 0).then_some(Self { mean, std, count, of })
    }
}

/// The artifact behind a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The step.
    pub step: StepId,
    /// `m[rate=50%]`
    pub name: String,
    /// Its recipe key.
    pub key: Digest,
}

/// What is known of an output when a table is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its value, or why there is none.
    pub shown: Shown,
    /// The step behind it.
    pub source: Option<Source>,
}

/// Returns a report with all its cells looked up.
pub fn resolve(report: &Report, find: &dyn Fn(&OutputRef) -> Found) -> Table {
    let cell = |cell: &Option<Cell>| match cell {
        None => TableCell { shown: Shown::NotPlanned, sources: Vec::new() },
        Some(Cell::Value(value)) => {
            TableCell { shown: Shown::Value(value.clone()), sources: Vec::new() }
        }
        Some(Cell::Late(late)) => {
            let (shown, sources) = of_late(late, find);
            TableCell { shown, sources }
        }
        Some(Cell::Spread(parts)) => of_spread(parts, find),
        Some(Cell::Log(output)) => {
            let Found { shown, source } = find(output);
            TableCell { shown, sources: source.into_iter().collect() }
        }
    };
    let row = |row: &crate::sema::steps::ReportRow| Row {
        labels: row.labels.clone(),
        x: row.x,
        is_baseline: row.is_baseline,
        cells: row.cells.iter().map(cell).collect(),
    };
    Table {
        name: report.name.clone(),
        view: report.view,
        caption: report.caption.clone(),
        axes: report.row_axes.clone(),
        columns: report.columns.clone(),
        rows: report.rows.iter().map(row).collect(),
    }
}

/// Returns the value of what is computed of outputs, with the steps behind it.
fn of_late(late: &Late, find: &dyn Fn(&OutputRef) -> Found) -> (Shown, Vec<Source>) {
    let mut found = Vec::new();
    late.outputs(&mut |output| found.push((output, find(output))));
    let sources = found.iter().filter_map(|(_, found)| found.source.clone()).collect();
    let is = |shown: &Shown| found.iter().any(|(_, found)| found.shown == *shown);
    if let Some(open) = [Shown::Failed, Shown::Pending].into_iter().find(|shown| is(shown)) {
        return (open, sources);
    }
    let value = late.value(&|output| {
        let found = found.iter().find(|(own, _)| *own == output);
        match found.map(|(_, found)| &found.shown) {
            Some(Shown::Value(value)) => Some(value.clone()),
            _ => None,
        }
    });
    (value.map_or(Shown::Failed, Shown::Value), sources)
}

/// Returns mean and spread of the numbers that are there.
fn of_spread(parts: &[Late], find: &dyn Fn(&OutputRef) -> Found) -> TableCell {
    let all: Vec<_> = parts.iter().map(|part| of_late(part, find)).collect();
    let number = |shown: &Shown| match shown {
        Shown::Value(Value::Int(number)) => Some(*number as f64),
        Shown::Value(Value::Float(number)) => Some(*number),
        _ => None,
    };
    let numbers: Vec<f64> = all.iter().filter_map(|(shown, _)| number(shown)).collect();
    let shown = match Spread::new(&numbers, parts.len()) {
        Some(spread) => Shown::Spread(spread),
        None if all.iter().any(|(shown, _)| *shown == Shown::Failed) => Shown::Failed,
        None => Shown::Pending,
    };
    TableCell { shown, sources: all.into_iter().flat_map(|(_, sources)| sources).collect() }
}

impl TableCell {
    /// Returns whether it shows a training's log.
    pub(super) fn is_log(&self) -> bool {
        matches!(self.shown, Shown::Curve(_))
    }

    /// Returns the number that it shows: of several the mean, of a log the mean of the last twentieth.
    pub fn number(&self) -> Option<f64> {
        match &self.shown {
            Shown::Value(Value::Int(number)) => Some(*number as f64),
            Shown::Value(Value::Float(number)) => Some(*number),
            Shown::Spread(spread) => Some(spread.mean),
            Shown::Curve(points) => {
                let last = &points[points.len() - (points.len() / 20).max(1).min(points.len())..];
                let sum = last.iter().map(|point| point.loss).sum::<f64>();
                (!last.is_empty()).then(|| sum / last.len() as f64)
            }
            Shown::Value(_) | Shown::NotPlanned | Shown::Pending | Shown::Failed => None,
        }
    }

    /// The same, if it isn't a whole number.
    fn real(&self) -> Option<f64> {
        self.number().filter(|_| !matches!(self.shown, Shown::Value(Value::Int(_))))
    }
}

/// The text of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What it says.
    pub text: String,
    /// Whether it is the best of its column.
    pub is_best: bool,
}

impl Table {
    /// Returns the cells' texts, a row a row: the reals of a column share their decimals.
    pub fn texts(&self) -> Vec<Vec<Text>> {
        let columns = 0..self.columns.len();
        let column = |column| self.rows.iter().filter_map(move |row: &Row| row.cells.get(column));
        let decimals: Vec<_> = columns
            .clone()
            .map(|index| number::decimals(column(index).filter_map(TableCell::real)))
            .collect();
        let best: Vec<_> = columns.map(|index| self.best(column(index))).collect();
        let baseline = self.rows.iter().find(|row| row.is_baseline);
        let text = |(at, cell): (usize, &TableCell), row: &Row| {
            let mut text = cell_text(cell, decimals[at]);
            let base = baseline.filter(|_| self.has_delta() && !row.is_baseline);
            if let Some(base) = base.and_then(|base| base.cells.get(at)?.number())
                && let Some(number) = cell.number()
            {
                text += &format!(" ({})", difference(number - base, cell, decimals[at]));
            }
            Text { text, is_best: best[at].is_some() && cell.number() == best[at] }
        };
        let row = |row: &Row| row.cells.iter().enumerate().map(|cell| text(cell, row)).collect();
        self.rows.iter().map(row).collect()
    }

    /// Returns the values of the row axes: `lr = 1e-3, rate = 50%`.
    pub(super) fn label(&self, row: &Row) -> String {
        let axes = self.axes.iter().zip(&row.labels);
        axes.map(|(axis, value)| format!("{axis} = {value}")).collect::<Vec<_>>().join(", ")
    }

    fn has_delta(&self) -> bool {
        matches!(self.view, View::Table { delta: true, .. })
    }

    /// Returns the best number of a column, where one is to be marked and there are several.
    fn best<'c>(&self, cells: impl Iterator<Item = &'c TableCell>) -> Option<f64> {
        let View::Table { best: Some(best), .. } = self.view else { return None };
        let numbers: Vec<f64> = cells.filter_map(TableCell::number).collect();
        let pick = match best {
            Best::High => f64::max,
            Best::Low => f64::min,
        };
        numbers.iter().copied().reduce(pick).filter(|_| numbers.len() > 1)
    }
}

fn cell_text(cell: &TableCell, decimals: usize) -> String {
    match &cell.shown {
        Shown::Value(Value::Float(real)) => number::float(*real, decimals),
        Shown::Value(other) => number::value(other),
        Shown::Spread(spread) => spread_text(spread, decimals),
        Shown::Curve(_) => {
            cell.number().map_or_else(|| "–".to_owned(), |loss| number::float(loss, decimals))
        }
        Shown::NotPlanned => "–".to_owned(),
        Shown::Pending => "…".to_owned(),
        Shown::Failed => "failed".to_owned(),
    }
}

/// Returns `+0.2`; of whole numbers `+2`.
fn difference(difference: f64, cell: &TableCell, decimals: usize) -> String {
    let decimals = if cell.real().is_some() { decimals } else { 0 };
    let text = number::float(difference.abs(), decimals);
    let is_zero = !text.contains(|digit: char| ('1'..='9').contains(&digit));
    format!("{}{text}", if difference < 0.0 && !is_zero { "-" } else { "+" })
}

/// Returns `12.3 ± 0.4`; with how many there are where some are missing.
fn spread_text(spread: &Spread, decimals: usize) -> String {
    let mut text = number::float(spread.mean, decimals);
    if let Some(std) = spread.std {
        text += &format!(" ± {}", number::float(std, decimals));
    }
    if spread.count < spread.of {
        text += &format!(" ({} of {})", spread.count, spread.of);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_have_no_spread() {
        let spread = Spread::new(&[0.4, 0.4, 0.4], 3).unwrap();
        assert_eq!((spread.mean, spread.std), (0.4, Some(0.0)));
        let spread = Spread::new(&[1.0, 2.0, 6.0], 3).unwrap();
        assert_eq!((spread.mean, spread.std), (3.0, Some(7.0_f64.sqrt())));
    }
}
