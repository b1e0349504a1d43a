//! Progress as plain lines, for logs and pipes.

use std::collections::BTreeMap;
use std::io::Write;

use crate::base::text::duration;
use crate::report::progress::Board;
use crate::sema::steps::StepId;

/// A step tells again after this many seconds or after a tenth of its way, whichever comes first, but never twice
/// within [`QUIET_S`].
const EVERY_S: f64 = 10.0;
/// The shortest time between two lines of a step.
const QUIET_S: f64 = 1.0;

/// The view that writes lines.
pub(super) struct Plain {
    out: Box<dyn Write>,
    /// When each running step last told, and at which tenth.
    told: BTreeMap<StepId, (f64, u64)>,
}

impl Plain {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self { out, told: BTreeMap::new() }
    }

    pub(super) fn started(&mut self, board: &Board, step: StepId, now_s: f64) {
        self.told.insert(step, (now_s, 0));
        let stage = board.facts(step).map_or("", |facts| &facts.stage);
        self.line(&format!("started {} ({stage})", board.name(step)));
    }

    pub(super) fn moved(&mut self, board: &Board, step: StepId, now_s: f64) {
        let Some(running) = board.running(step) else { return };
        let tenth = running.fraction().map_or(0, |part| (part * 10.0).floor() as u64);
        let (last_s, last_tenth) = self.told.get(&step).copied().unwrap_or((now_s, 0));
        let waited_s = now_s - last_s;
        if waited_s < EVERY_S && (tenth <= last_tenth || waited_s < QUIET_S) {
            return;
        }
        self.told.insert(step, (now_s, tenth));
        let percent =
            running.fraction().map(|part| format!("{:.0}% · ", part * 100.0)).unwrap_or_default();
        let told = match running.describe() {
            told if told.is_empty() => format!("for {}", duration(running.since_s(now_s))),
            told => format!("{percent}{told}"),
        };
        self.line(&format!("  {}: {told}", board.name(step)));
    }

    pub(super) fn ended(&mut self, board: &Board, step: StepId, text: &str, now_s: f64) {
        self.told.remove(&step);
        let (done, all) = board.counts();
        let left = board.left_text(now_s).map(|left| format!(", {left}")).unwrap_or_default();
        self.line(&format!("[{done}/{all}] {text}{left}"));
    }

    /// Writes a line. Nobody can be told of a closed stderr, so errors are dropped.
    pub(super) fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }
}
