//! Progress on a terminal: a line per running step, and one for the whole.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::base::text::duration;
use crate::report::names::{columns, fit};
use crate::report::progress::Board;
use crate::sema::steps::StepId;

/// Names take at most this many columns.
const NAME_COLUMNS: usize = 28;

/// The view that draws bars.
pub(super) struct Live {
    lines: MultiProgress,
    steps: BTreeMap<StepId, ProgressBar>,
    whole: ProgressBar,
    name_columns: usize,
}

impl Live {
    pub(super) fn new(board: &Board, target: ProgressDrawTarget) -> Self {
        let lines = MultiProgress::with_draw_target(target);
        let whole = lines.add(ProgressBar::new(board.counts().1 as u64));
        let names = board.all_facts().map(|facts| columns(&facts.name));
        let name_columns = names.max().unwrap_or(0).clamp(5, NAME_COLUMNS);
        whole.set_style(style("{prefix} {bar:18.green/dim} {time:>6}  {pos}/{len} steps{msg}"));
        whole.set_prefix(fit("total", name_columns));
        whole.enable_steady_tick(Duration::from_millis(250));
        Self { lines, steps: BTreeMap::new(), whole, name_columns }
    }

    pub(super) fn started(&mut self, board: &Board, step: StepId, now_s: f64) {
        let line = self.lines.insert_before(&self.whole, ProgressBar::new_spinner());
        line.set_style(style("{prefix} {spinner:18.cyan} {time:>6}  {wide_msg}"));
        line.set_prefix(fit(board.name(step), self.name_columns));
        line.set_message(board.facts(step).map_or_else(String::new, |facts| facts.stage.clone()));
        line.enable_steady_tick(Duration::from_millis(250));
        self.steps.insert(step, line);
        self.refresh(board, now_s);
    }

    pub(super) fn moved(&mut self, board: &Board, step: StepId, now_s: f64) {
        let (Some(line), Some(running)) = (self.steps.get(&step), board.running(step)) else {
            return;
        };
        if let Some((done, total)) = running.position() {
            if line.length().is_none() {
                line.set_style(style("{prefix} {bar:18.cyan/dim} {time:>6}  {wide_msg}"));
            }
            line.set_length(total);
            line.set_position(done);
        }
        line.set_message(running.describe_drawn());
        self.refresh(board, now_s);
    }

    pub(super) fn ended(&mut self, board: &Board, step: StepId, text: &str, now_s: f64) {
        if let Some(line) = self.steps.remove(&step) {
            line.finish_and_clear();
            self.lines.remove(&line);
        }
        self.line(text);
        self.refresh(board, now_s);
    }

    pub(super) fn line(&self, text: &str) {
        // A terminal that went away is no reason to stop the run.
        let _ = self.lines.println(text);
    }

    /// Takes all bars off the screen.
    pub(super) fn close(&mut self) {
        std::mem::take(&mut self.steps).into_values().for_each(|line| line.finish_and_clear());
        self.whole.finish_and_clear();
        let _ = self.lines.clear();
    }

    fn refresh(&self, board: &Board, now_s: f64) {
        self.whole.set_position(board.counts().0 as u64);
        self.whole.set_message(
            board.left_text(now_s).map(|left| format!(" · {left}")).unwrap_or_default(),
        );
    }
}

fn style(template: &str) -> ProgressStyle {
    let elapsed = |state: &ProgressState, out: &mut dyn Write| {
        let _ = write!(out, "{}", duration(state.elapsed().as_secs_f64()));
    };
    ProgressStyle::with_template(template)
        .expect("the templates are constants")
        .with_key("time", elapsed)
        .progress_chars("━━╌")
}
