//! What a run is going to do, told before it begins.

use crate::base::text::{bytes, duration, plural};
use crate::exec::Estimate;
use crate::report::jsonl::{Line, StepName};
use crate::report::{names, number};
use std::collections::BTreeSet;

/// A step to run, as far as a reader cares.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanLine {
    /// Which.
    pub step: StepName,
    /// Why it runs.
    pub state: PlanState,
    /// Whether steps before it have to run first.
    pub is_blocked: bool,
    /// What it may take, from an earlier run.
    pub expected: Option<Estimate>,
    /// What it computes.
    pub flops: Flops,
}

/// The floating-point operations of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Flops {
    /// So many.
    Known(f64),
    /// Known once this step ran.
    Until(String),
    /// Not known beforehand.
    Unknown,
}

/// Why a step runs.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanState {
    /// It runs: `lr: 0.001 -> 0.002`.
    Due {
        /// Why.
        why: String,
    },
    /// It runs unless the steps before it come out as before.
    Waiting {
        /// The steps it waits for.
        on: Vec<String>,
    },
}

/// Returns the summary of so many steps: a line for the whole, and one per step to run. With `rate`, the operations per
/// second of a GPU, it tells the hours that those of all steps take.
pub fn summary(steps: usize, due: &[PlanLine], rate: Option<f64>) -> String {
    if due.is_empty() {
        return format!("{}, all fresh\n", plural(steps, "step"));
    }
    let mut out = format!(
        "{}: {} fresh, {} to run{}{}{}\n{}",
        plural(steps, "step"),
        steps - due.len(),
        due.len(),
        blocked(due),
        cost(due),
        work(due, rate),
        unknown(due),
    );
    let computes = due.iter().any(|line| line.flops != Flops::Known(0.0));
    let width = due.iter().map(|line| names::columns(&line.step.name)).max().unwrap_or(0).min(40);
    for line in due {
        let name = if names::columns(&line.step.name) > width {
            line.step.name.clone()
        } else {
            names::fit(&line.step.name, width)
        };
        let why = match &line.state {
            PlanState::Due { why } => why.clone(),
            PlanState::Waiting { on } => format!("after {}", some(on)),
        };
        let flops = if computes { format!("{:<9}", column(&line.flops)) } else { String::new() };
        out += &format!("  {name}  {:<18}  {flops}{why}\n", line.step.stage);
    }
    out
}

/// Returns the step as a line of JSON.
pub fn json(line: &PlanLine) -> Line {
    let (why, after) = match &line.state {
        PlanState::Due { why } => (Some(why.clone()), Vec::new()),
        PlanState::Waiting { on } => (None, on.clone()),
    };
    let (flops, flops_after) = match &line.flops {
        Flops::Known(flops) => (Some(*flops), None),
        Flops::Until(step) => (None, Some(step.clone())),
        Flops::Unknown => (None, None),
    };
    Line::Due {
        step: line.step.clone(),
        why,
        after,
        seconds: line.expected.map(|expected| expected.seconds),
        bytes: line.expected.map(|expected| expected.bytes),
        flops,
        flops_after,
    }
}

fn blocked(due: &[PlanLine]) -> String {
    match due.iter().filter(|line| line.is_blocked).count() {
        0 => String::new(),
        blocked => format!(" ({blocked} of them after others)"),
    }
}

fn cost(due: &[PlanLine]) -> String {
    let known: Vec<_> = due.iter().filter_map(|line| line.expected).collect();
    let time = duration(known.iter().map(|expected| expected.seconds).sum());
    let size = bytes(known.iter().map(|expected| expected.bytes).sum());
    match known.len() {
        0 => String::new(),
        all if all == due.len() => format!(", about {time} and {size}"),
        _ => format!(", over {time} and {size}"),
    }
}

/// Tells the operations of all steps of which they are known, if there are any.
fn work(due: &[PlanLine], rate: Option<f64>) -> String {
    let known = due.iter().filter_map(|line| match line.flops {
        Flops::Known(flops) => Some(flops),
        Flops::Until(_) | Flops::Unknown => None,
    });
    let (count, all) = known.fold((0, 0.0), |(count, all), flops| (count + 1, all + flops));
    if all == 0.0 {
        return String::new();
    }
    let over = if count < due.len() { "over " } else { "" };
    let hours = rate.map(|rate| {
        let hours = all / rate / 3600.0;
        format!(" ({} GPU-hours at {} FLOP/s)", number::compact(hours), number::compact(rate))
    });
    format!(", {over}{} FLOPs{}", flops(all), hours.unwrap_or_default())
}

/// Tells of which steps the operations are not known, and until when.
fn unknown(due: &[PlanLine]) -> String {
    let (mut later, mut never) = (Vec::new(), Vec::new());
    for line in due {
        match &line.flops {
            Flops::Known(_) => {}
            Flops::Until(step) => later.push(step),
            Flops::Unknown => never.push(&line.step.stage),
        }
    }
    let told = |names: Vec<&String>, what: &dyn Fn(String) -> String| {
        let different: BTreeSet<_> = names.iter().copied().collect();
        let different: Vec<_> = different.into_iter().cloned().collect();
        match names.len() {
            0 => String::new(),
            1 => format!("  FLOPs of 1 step are not known {}\n", what(some(&different))),
            count => format!("  FLOPs of {count} steps are not known {}\n", what(some(&different))),
        }
    };
    told(later, &|steps| format!("until {steps} ran"))
        + &told(never, &|stages| format!("beforehand: {stages}"))
}

fn column(operations: &Flops) -> String {
    match operations {
        Flops::Known(0.0) => String::new(),
        Flops::Known(known) => flops(*known),
        Flops::Until(_) | Flops::Unknown => "?".to_owned(),
    }
}

/// Returns operations as they are written everywhere: `2.82e20`.
fn flops(operations: f64) -> String {
    format!("{operations:.2e}")
}

fn some(names: &[String]) -> String {
    match names {
        [a, b, c, rest @ ..] if !rest.is_empty() => {
            format!("{a}, {b}, {c} and {} more", rest.len())
        }
        _ => names.join(", "),
    }
}
