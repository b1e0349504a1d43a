//! What a run tells of itself while it goes on; [`crate::report::Now`] is what another process makes of that.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::graph::Plan;
use crate::report::Terminal;
use crate::store::Telling;

/// How often progress is told.
const PAUSE: Duration = Duration::from_secs(1);

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Going {
    /// `process 4711 on box: tlm run a.tlm`
    pub process: String,
    /// How many of the steps that had to run are over.
    pub over: usize,
    /// How many there are.
    pub steps: usize,
    /// `about 5m02s left`
    pub left: Option<String>,
    /// The steps in progress.
    pub running: Vec<InProgress>,
}

/// A step in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InProgress {
    /// Its recipe key.
    pub key: Digest,
    /// For how many seconds it runs.
    pub seconds: f64,
    /// The part that is done, if it is known.
    pub fraction: Option<f64>,
    /// `160k of 400k tokens · 3.2k tokens/s · loss 5.312 · 1m10s left`
    pub told: String,
}

impl Going {
    fn of(process: &str, plan: &Plan, terminal: &Terminal) -> Self {
        let (board, now_s) = (terminal.board(), terminal.now_s());
        let (over, steps) = board.counts();
        let running = board.all_running().filter_map(|(step, running)| {
            Some(InProgress {
                key: plan.get(step)?.recipe,
                seconds: running.since_s(now_s),
                fraction: running.fraction(),
                told: running.describe(),
            })
        });
        let (process, left) = (process.to_owned(), board.left_text(now_s));
        Self { process, over, steps, left, running: running.collect() }
    }
}

/// Tells of a run in its store. That need not succeed: nobody may be told, but the run goes on.
pub struct Teller {
    telling: Telling,
    process: String,
    told: Option<Instant>,
}

impl Teller {
    /// Returns a teller of a run by this process.
    pub fn new(telling: Telling, process: String) -> Self {
        Self { telling, process, told: None }
    }

    /// Tells how far the run is, if the last time is long ago, or at once because something `is_new`.
    pub(super) fn tell(&mut self, plan: &Plan, terminal: &Terminal, is_new: bool) {
        if is_new || self.told.is_none_or(|told| told.elapsed() >= PAUSE) {
            let going = Going::of(&self.process, plan, terminal);
            let line = serde_json::to_string(&going).expect("plain data");
            let _ = self.telling.tell(&line);
            self.told = Some(Instant::now());
        }
    }
}
