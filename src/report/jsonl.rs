//! A run as JSON lines on stdout, for other programs. The format is described in `docs/events.md`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::base::{Digest, Value};
use crate::exec::Outcome;
use crate::graph::Planned;
use crate::report::Table;
use crate::report::table::{Shown, Spread, TableCell};
use crate::stage::FailureKind;

/// The format's version; bumped when a field is added or changes its meaning.
pub const FORMAT: u32 = 5;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// First line: what is going to happen.
    Plan {
        /// All steps.
        steps: usize,
        /// Those whose outputs are in a store.
        fresh: usize,
        /// Those of them that are to be taken over from another store.
        elsewhere: usize,
    },
    /// A step would run; of `tlm plan`.
    Due {
        /// Which.
        step: StepName,
        /// Why, if it does not only wait.
        why: Option<String>,
        /// The steps it waits for.
        after: Vec<String>,
        /// How long it took when it last ran.
        seconds: Option<f64>,
        /// The size of all it made then.
        bytes: Option<u64>,
        /// Its floating-point operations, if they are known.
        flops: Option<f64>,
        /// The step that has to run for them to be known, if that helps.
        flops_after: Option<String>,
    },
    /// A step waits for another tlm that is making it.
    Waiting {
        /// Which.
        step: StepName,
        /// The other: its process, host and command.
        holder: Option<String>,
    },
    /// A worker got a step.
    Started {
        /// Which.
        step: StepName,
    },
    /// A step failed in a way that may pass, and is tried again.
    Retrying {
        /// Which.
        step: StepName,
        /// What kind of failure.
        kind: FailureKind,
        /// What is wrong.
        message: String,
        /// What to do.
        help: Option<String>,
        /// Seconds that it may take now, if that is more than before.
        limit: Option<f64>,
        /// Bytes of memory that are kept for it now, if that is more than before.
        mem: Option<u64>,
    },
    /// How far a step is.
    Progress {
        /// Which.
        step: StepName,
        /// Units done.
        done: u64,
        /// Units in all.
        total: Option<u64>,
        /// What is counted.
        unit: String,
    },
    /// A live number of a step.
    Metric {
        /// Which.
        step: StepName,
        /// The number's name.
        name: String,
        /// Its value now; null when it is not finite.
        value: f64,
    },
    /// A line of a step's log.
    Log {
        /// Which.
        step: StepName,
        /// The line.
        line: String,
    },
    /// A step saved a state to resume from.
    Checkpointed {
        /// Which.
        step: StepName,
        /// Units done.
        done: u64,
    },
    /// A step is done and its outputs are kept.
    Finished {
        /// Which.
        step: StepName,
        /// How long it took.
        seconds: f64,
        /// Its scalar outputs by name.
        scalars: BTreeMap<String, Value>,
        /// Its artifacts: digest by name.
        artifacts: BTreeMap<String, Digest>,
    },
    /// A step's outputs were there.
    Reused {
        /// Which.
        step: StepName,
    },
    /// A step failed.
    Failed {
        /// Which.
        step: StepName,
        /// What kind of failure.
        kind: FailureKind,
        /// What is wrong.
        message: String,
        /// What to do.
        help: Option<String>,
        /// The log's path.
        log: Option<String>,
    },
    /// A step can't run, as one before it failed.
    Skipped {
        /// Which.
        step: StepName,
        /// The one that failed.
        because: StepName,
    },
    /// A step stopped on request.
    Interrupted {
        /// Which.
        step: StepName,
    },
    /// A cell of a table.
    Cell {
        /// The report.
        report: String,
        /// The row's axis values by axis.
        row: BTreeMap<String, String>,
        /// The column's head.
        column: String,
        /// `value`, `spread`, `not_planned`, `pending`, `failed`
        state: &'static str,
        /// The value, if there is one; of a spread `mean`, `std` and `count`.
        value: Option<Value>,
        /// The recipe keys of the steps behind it.
        keys: Vec<Digest>,
    },
    /// Last line: how the run ended.
    Summary {
        /// Steps that ran.
        ran: usize,
        /// Steps whose outputs were there.
        reused: usize,
        /// Steps that failed.
        failed: usize,
        /// Steps that could not run.
        skipped: usize,
        /// Whether the run was stopped.
        interrupted: bool,
        /// How long all took.
        seconds: f64,
    },
}

/// How lines name a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepName {
    /// Its number in the plan.
    pub id: u32,
    /// `r2[rate=50%]`
    pub name: String,
    /// `train.run`
    pub stage: String,
    /// Its recipe key, in full.
    pub key: Digest,
}

impl StepName {
    /// Names a step of a plan.
    pub fn of(planned: Planned<'_>) -> Self {
        Self {
            id: planned.id.0,
            name: planned.step.name(),
            stage: planned.step.stage().name.clone(),
            key: planned.recipe,
        }
    }
}

/// Returns a line's JSON, without newline.
pub fn json(line: &Line) -> String {
    #[derive(Serialize)]
    struct Versioned<'a> {
        format: u32,
        #[serde(flatten)]
        line: &'a Line,
    }
    serde_json::to_string(&Versioned { format: FORMAT, line }).expect("lines are plain data")
}

/// Writes a line at once, so that a reader is never behind.
///
/// # Errors
/// When nobody reads any more.
pub fn write(out: &mut dyn Write, line: &Line) -> io::Result<()> {
    writeln!(out, "{}", json(line))?;
    out.flush()
}

/// Writes what comes after the run: the tables and how it ended.
///
/// # Errors
/// When nobody reads any more.
pub fn close(
    out: &mut dyn Write,
    outcome: &Outcome,
    tables: &[Table],
    seconds: f64,
) -> io::Result<()> {
    tables.iter().flat_map(cells).try_for_each(|line| write(out, &line))?;
    let summary = Line::Summary {
        ran: outcome.ran.len(),
        reused: outcome.done + outcome.reused.len(),
        failed: outcome.failed.len(),
        skipped: outcome.skipped.len(),
        interrupted: outcome.interrupted,
        seconds,
    };
    write(out, &summary)
}

/// Returns a table's cells as lines.
pub fn cells(table: &Table) -> Vec<Line> {
    let mut lines = Vec::new();
    for row in &table.rows {
        let point: BTreeMap<_, _> =
            table.axes.iter().cloned().zip(row.labels.iter().cloned()).collect();
        for (column, cell) in table.columns.iter().zip(&row.cells) {
            let (state, value) = shown(cell);
            lines.push(Line::Cell {
                report: table.name.clone(),
                row: point.clone(),
                column: column.to_string(),
                state,
                value,
                keys: cell.sources.iter().map(|source| source.key).collect(),
            });
        }
    }
    lines
}

/// Returns what a cell shows, in a word, and its value.
pub(super) fn shown(cell: &TableCell) -> (&'static str, Option<Value>) {
    match &cell.shown {
        Shown::Value(value) => ("value", Some(value.clone())),
        Shown::Spread(spread) => ("spread", Some(spread_value(spread))),
        Shown::Curve(_) => ("curve", cell.number().map(Value::Float)),
        Shown::NotPlanned => ("not_planned", None),
        Shown::Pending => ("pending", None),
        Shown::Failed => ("failed", None),
    }
}

fn spread_value(spread: &Spread) -> Value {
    Value::map([
        ("mean", Value::Float(spread.mean)),
        ("std", spread.std.map_or(Value::Null, Value::Float)),
        ("count", Value::Int(spread.count as i64)),
    ])
}
