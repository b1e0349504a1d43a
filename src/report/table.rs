//! Reports resolved into tables: what every cell shows, and which artifact it came from.

use crate::base::{Digest, Value};
use crate::report::number;
use crate::sema::steps::{Cell, OutputRef, Report, StepId};

/// A resolved table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The report's name.
    pub name: String,
    /// The caption, if the recipe has one.
    pub caption: Option<String>,
    /// Heads of the label columns.
    pub axes: Vec<String>,
    /// Heads of the value columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A row of a [`Table`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The axis values.
    pub labels: Vec<String>,
    /// The values.
    pub cells: Vec<TableCell>,
}

/// A cell of a [`Table`].
#[derive(Clone, Debug, PartialEq)]
pub struct TableCell {
    /// What it shows.
    pub shown: Shown,
    /// Where it came from; none for what was known without running, and for points nobody asked for.
    pub source: Option<Source>,
}

/// What a cell shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// A result.
    Value(Value),
    /// The plan did not ask for this point.
    NotPlanned,
    /// The step that makes it is not done yet.
    Pending,
    /// The step that makes it, or one before it, failed.
    Failed,
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
        None => TableCell { shown: Shown::NotPlanned, source: None },
        Some(Cell::Value(value)) => TableCell { shown: Shown::Value(value.clone()), source: None },
        Some(Cell::Output(output)) => {
            let Found { shown, source } = find(output);
            TableCell { shown, source }
        }
    };
    let row = |row: &crate::sema::steps::ReportRow| Row {
        labels: row.labels.clone(),
        cells: row.cells.iter().map(cell).collect(),
    };
    Table {
        name: report.name.clone(),
        caption: report.caption.clone(),
        axes: report.row_axes.clone(),
        columns: report.columns.clone(),
        rows: report.rows.iter().map(row).collect(),
    }
}

impl Table {
    /// Returns the cells' texts, a row a row: the reals of a column share their decimals.
    pub fn texts(&self) -> Vec<Vec<String>> {
        let decimals: Vec<_> =
            (0..self.columns.len()).map(|column| number::decimals(self.floats(column))).collect();
        let text = |column: usize, cell: &TableCell| match &cell.shown {
            Shown::Value(Value::Float(real)) => number::float(*real, decimals[column]),
            Shown::Value(other) => number::value(other),
            Shown::NotPlanned => "–".to_owned(),
            Shown::Pending => "…".to_owned(),
            Shown::Failed => "failed".to_owned(),
        };
        let row = |row: &Row| row.cells.iter().enumerate().map(|(i, cell)| text(i, cell)).collect();
        self.rows.iter().map(row).collect()
    }

    fn floats(&self, column: usize) -> Vec<f64> {
        let real = |cell: &TableCell| match cell.shown {
            Shown::Value(Value::Float(real)) => Some(real),
            _ => None,
        };
        self.rows.iter().filter_map(|row| row.cells.get(column).and_then(real)).collect()
    }
}
