//! What a failed step looks like: what, why, the last log lines, and how to go on.

use std::path::Path;

use crate::stage::{Failure, FailureKind};

/// Everything to tell about a failed step.
#[derive(Clone, Copy, Debug)]
pub struct FailureReport<'a> {
    /// `r2[rate=50%]`
    pub name: &'a str,
    /// `train.run`
    pub stage: &'a str,
    /// Why.
    pub failure: &'a Failure,
    /// The last lines of its log.
    pub log_tail: &'a [String],
    /// The log.
    pub log_path: Option<&'a Path>,
    /// The command that goes on from here.
    pub resume: &'a str,
}

/// Returns the report as text, ending in a newline.
pub fn failure_text(report: &FailureReport<'_>) -> String {
    let FailureReport { name, stage, failure, log_tail, log_path, resume } = report;
    let mut out = format!("error: step `{name}` ({stage}) failed: {}\n", indent(&failure.message));
    if let Some(help) = &failure.help {
        out += &format!("  help: {}\n", indent(help));
    } else if let Some(help) = general_help(failure.kind) {
        out += &format!("  help: {help}\n");
    }
    if !log_tail.is_empty() {
        out += "  last lines of its log:\n";
        log_tail.iter().for_each(|line| out += &format!("    │ {}\n", clean(line)));
    }
    if let Some(path) = log_path {
        out += &format!("  whole log: {}\n", path.display());
    }
    out + &format!("  finished steps are kept; to go on: {resume}\n")
}

fn general_help(kind: FailureKind) -> Option<&'static str> {
    match kind {
        FailureKind::Internal => Some("this is a bug in tlm; please report it with the log"),
        FailureKind::Crashed => {
            Some("the log has what it said last; `retries` in the step's `run { }` tries it again")
        }
        FailureKind::Killed => Some(
            "if memory ran out, say in the step's `run { }` how much `mem` it takes, set a smaller `micro_batch`, or `recompute: true` for a training",
        ),
        FailureKind::Stalled => Some(
            "look at the log for what it waits for; raise `stall` in the step's `run { }` if it only takes long",
        ),
        FailureKind::TimedOut => {
            Some("raise `limit` in the step's `run { }`; it goes on from its last checkpoint")
        }
        FailureKind::Input | FailureKind::Environment => None,
    }
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(clean).collect::<Vec<_>>().join("\n    ")
}

/// Returns a line without control characters: a worker's log must not steer the terminal.
pub(super) fn clean(line: &str) -> String {
    line.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}
