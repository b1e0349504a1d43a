//! What a run is going to do, told before it begins.

use crate::base::text::{bytes, duration, plural};
use crate::exec::Estimate;

/// A step to run, as far as a reader cares.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanLine {
    /// `r2[rate=50%]`
    pub name: String,
    /// `train.run`
    pub stage: String,
    /// Why it runs.
    pub state: PlanState,
    /// Whether steps before it have to run first.
    pub is_blocked: bool,
    /// What it may take, from an earlier run.
    pub expected: Option<Estimate>,
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

/// Returns the summary of so many steps: a line for the whole, and one per step to run.
pub fn summary(steps: usize, due: &[PlanLine]) -> String {
    if due.is_empty() {
        return format!("{}, all fresh\n", plural(steps, "step"));
    }
    let mut out = format!(
        "{}: {} fresh, {} to run{}{}\n",
        plural(steps, "step"),
        steps - due.len(),
        due.len(),
        blocked(due),
        cost(due)
    );
    let width = due.iter().map(|line| super::names::columns(&line.name)).max().unwrap_or(0).min(40);
    for line in due {
        let name = if super::names::columns(&line.name) > width {
            line.name.clone()
        } else {
            super::names::fit(&line.name, width)
        };
        let why = match &line.state {
            PlanState::Due { why } => why.clone(),
            PlanState::Waiting { on } => format!("after {}", some(on)),
        };
        out += &format!("  {name}  {:<18}  {why}\n", line.stage);
    }
    out
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

fn some(names: &[String]) -> String {
    match names {
        [a, b, c, rest @ ..] if !rest.is_empty() => {
            format!("{a}, {b}, {c} and {} more", rest.len())
        }
        _ => names.join(", "),
    }
}
