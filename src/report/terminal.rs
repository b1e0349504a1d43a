//! The terminal reporter: bars on a terminal, plain lines elsewhere; all on stderr, so that stdout has results only.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use indicatif::ProgressDrawTarget;

use crate::base::text::{duration, plural};
use crate::report::failure::{FailureReport, failure_text};
use crate::report::live::Live;
use crate::report::names::StepFacts;
use crate::report::plain::Plain;
use crate::report::progress::{Board, End};
use crate::sema::steps::StepId;
use crate::stage::{self, Failure};

/// Draws a run as it goes.
pub struct Terminal {
    board: Board,
    view: View,
    began: Instant,
    resume: String,
    failures: Vec<String>,
}

enum View {
    Plain(Plain),
    Live(Live),
}

impl Terminal {
    /// Returns a reporter that writes lines. `resume` is the command that goes on after a failure.
    pub fn plain(facts: BTreeMap<StepId, StepFacts>, out: Box<dyn Write>, resume: &str) -> Self {
        Self::new(Board::new(facts), View::Plain(Plain::new(out)), resume)
    }

    /// Returns a reporter that draws bars on stderr.
    pub fn live(facts: BTreeMap<StepId, StepFacts>, resume: &str) -> Self {
        Self::on(facts, ProgressDrawTarget::stderr(), resume)
    }

    fn on(facts: BTreeMap<StepId, StepFacts>, target: ProgressDrawTarget, resume: &str) -> Self {
        let board = Board::new(facts);
        let view = View::Live(Live::new(&board, target));
        Self::new(board, view, resume)
    }

    fn new(board: Board, view: View, resume: &str) -> Self {
        Self { board, view, began: Instant::now(), resume: resume.to_owned(), failures: Vec::new() }
    }

    /// Returns how far the run is.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Tells how many steps need not run, and how many of them have their outputs.
    pub fn others(&mut self, steps: usize, reused: usize) {
        self.board.others(steps, reused);
    }

    /// Tells that a step began.
    pub fn started(&mut self, step: StepId) {
        let now_s = self.now_s();
        self.board.start(step, now_s);
        match &mut self.view {
            View::Plain(view) => view.started(&self.board, step, now_s),
            View::Live(view) => view.started(&self.board, step, now_s),
        }
    }

    /// Tells what a step's worker said.
    pub fn worker(&mut self, step: StepId, event: &stage::Event) {
        let now_s = self.now_s();
        self.board.hear(step, event, now_s);
        match &mut self.view {
            View::Plain(view) => view.moved(&self.board, step, now_s),
            View::Live(view) => view.moved(&self.board, step, now_s),
        }
    }

    /// Tells that a step is done.
    pub fn finished(&mut self, step: StepId, seconds: f64) {
        let text = format!("finished {} in {}", self.board.name(step), duration(seconds));
        self.ended(step, End::Finished, &text);
    }

    /// Tells that a step that was thought due has its outputs already.
    pub fn reused(&mut self, step: StepId) {
        // The others are in the plan's summary; a line each would only bury the rest.
        if self.board.facts(step).is_none() {
            return;
        }
        let text = format!("reused {}: its inputs came out as before", self.board.name(step));
        self.ended(step, End::Reused, &text);
    }

    /// Tells that a step failed.
    pub fn failed(
        &mut self,
        step: StepId,
        failure: &Failure,
        log_tail: &[String],
        log_path: Option<&Path>,
    ) {
        let facts = self.board.facts(step).cloned().unwrap_or_default();
        let text = failure_text(&FailureReport {
            name: &facts.name,
            stage: &facts.stage,
            failure,
            log_tail,
            log_path,
            resume: &self.resume,
        });
        self.failures.push(text);
        let first = failure.message.lines().next().unwrap_or_default();
        let text = format!("failed {}: {}", facts.name, super::failure::clean(first));
        self.ended(step, End::Failed, &text);
    }

    /// Tells that a step can't run, as one before it failed.
    pub fn skipped(&mut self, step: StepId, because: StepId) {
        let text = format!("skipped {}: needs {}", self.board.name(step), self.board.name(because));
        self.ended(step, End::Skipped, &text);
    }

    /// Tells that a step stopped on request.
    pub fn interrupted(&mut self, step: StepId) {
        let text = format!("stopped {}; its state is kept", self.board.name(step));
        self.ended(step, End::Interrupted, &text);
    }

    /// Writes a line between the others.
    pub fn note(&mut self, text: &str) {
        match &mut self.view {
            View::Plain(view) => view.line(text),
            View::Live(view) => view.line(text),
        }
    }

    /// Takes the bars away and tells how the run ended, `interrupted` or not; returns the text about the failures, to be
    /// printed last.
    pub fn close(&mut self, interrupted: bool) -> String {
        if let View::Live(view) = &mut self.view {
            view.close();
        }
        let elapsed = duration(self.now_s());
        let mut text = self.ending(&elapsed, interrupted);
        self.failures.iter().for_each(|failure| text += &format!("\n{failure}"));
        text
    }

    fn ending(&self, elapsed: &str, interrupted: bool) -> String {
        let count = |end| self.board.ended_as(end);
        let (ran, failed) = (count(End::Finished), count(End::Failed));
        if interrupted {
            return format!(
                "stopped after {elapsed}; finished steps are kept; to go on: {}\n",
                self.resume
            );
        }
        if ran + failed == 0 {
            return format!("nothing to do: all {} fresh\n", plural(self.board.steps(), "step"));
        }
        let (over, all) = self.board.counts();
        let also = [
            (failed, "failed"),
            (count(End::Skipped), "skipped"),
            (count(End::Interrupted), "stopped"),
            (all - over, "not started"),
            (count(End::Reused), "reused"),
        ];
        let also: String =
            also.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!(", {n} {word}")).collect();
        format!("{} ran in {elapsed}{also}\n", plural(ran, "step"))
    }

    fn ended(&mut self, step: StepId, end: End, text: &str) {
        let now_s = self.now_s();
        self.board.end(step, end);
        match &mut self.view {
            View::Plain(view) => view.ended(&self.board, step, text, now_s),
            View::Live(view) => view.ended(&self.board, step, text, now_s),
        }
    }

    /// Returns for how many seconds the run goes.
    pub fn now_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_run_survives_a_terminal_that_is_not_there() {
        let facts = StepFacts { name: "r1".into(), ..StepFacts::default() };
        let facts = BTreeMap::from([(StepId(0), facts)]);
        let mut terminal = Terminal::on(facts, ProgressDrawTarget::hidden(), "tlm run a.tlm");
        terminal.started(StepId(0));
        for done in [0, 5, 10] {
            let event = stage::Event::Progress { done, total: Some(10), unit: "tokens".into() };
            terminal.worker(StepId(0), &event);
        }
        terminal.finished(StepId(0), 2.0);
        assert!(terminal.close(false).starts_with("1 step ran in "));
    }
}
