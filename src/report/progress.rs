//! How far a run is: what each running step does, and how long the rest may take.
//!
//! All times are seconds since the run began, given by the caller, so that tests need no clock.

use std::collections::{BTreeMap, VecDeque};

use crate::base::text::duration;
use crate::report::names::StepFacts;
use crate::report::number::{compact, decimals, float};
use crate::sema::steps::StepId;
use crate::stage;

/// Rates are measured over this many seconds.
const WINDOW_S: f64 = 20.0;

/// A step in progress.
#[derive(Clone, Debug, Default)]
pub struct Running {
    started_s: f64,
    progress: Option<(u64, Option<u64>, String)>,
    /// Live numbers by name, and the latest one's last.
    metrics: BTreeMap<String, f64>,
    /// (time, units done), oldest first, over the window.
    recent: VecDeque<(f64, u64)>,
}

impl Running {
    /// Returns the units done and those in all, if the step told.
    pub fn position(&self) -> Option<(u64, u64)> {
        self.progress.as_ref().and_then(|(done, total, _)| Some((*done, (*total)?)))
    }

    /// Returns the part that is done.
    pub fn fraction(&self) -> Option<f64> {
        self.position()
            .filter(|(_, total)| *total > 0)
            .map(|(done, total)| done as f64 / total as f64)
    }

    /// Returns units per second of late.
    pub fn rate(&self) -> Option<f64> {
        let ((t0, d0), (t1, d1)) = (self.recent.front()?, self.recent.back()?);
        (t1 - t0 > 0.2 && d1 > d0).then(|| (d1 - d0) as f64 / (t1 - t0))
    }

    /// Returns the seconds to go by the rate of late.
    pub fn left_s(&self) -> Option<f64> {
        let (done, total) = self.position()?;
        Some(total.saturating_sub(done) as f64 / self.rate()?)
    }

    /// Returns what there is to tell: `160k of 400k tokens · 3.2k tokens/s · loss 5.312 · 1m10s left`.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some((done, total, unit)) = &self.progress {
            let count = |n: &u64| {
                if unit == "bytes" { crate::base::text::bytes(*n) } else { compact(*n as f64) }
            };
            let unit_word = if unit == "bytes" { String::new() } else { format!(" {unit}") };
            parts.push(match total {
                Some(total) => format!("{} of {}{unit_word}", count(done), count(total)),
                None => format!("{}{unit_word}", count(done)),
            });
            if let Some(rate) = self.rate() {
                parts.push(format!("{}{unit_word}/s", count(&(rate.round() as u64))));
            }
        }
        parts.extend(
            self.metrics.iter().map(|(name, v)| format!("{name} {}", float(*v, decimals([*v])))),
        );
        if let Some(left) = self.left_s() {
            parts.push(format!("{} left", duration(left)));
        }
        parts.join(" · ")
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ran, and its outputs are kept.
    Finished,
    /// It did not have to run.
    Reused,
    /// It failed.
    Failed,
    /// A step before it failed.
    Skipped,
    /// The run was stopped.
    Interrupted,
}

/// All steps of a run.
#[derive(Clone, Debug)]
pub struct Board {
    /// What is known of the steps.
    pub facts: BTreeMap<StepId, StepFacts>,
    running: BTreeMap<StepId, Running>,
    ended: BTreeMap<StepId, End>,
}

impl Board {
    /// Returns the board of a run that has not begun.
    pub fn new(facts: BTreeMap<StepId, StepFacts>) -> Self {
        Self { facts, running: BTreeMap::new(), ended: BTreeMap::new() }
    }

    /// Notes that a step began.
    pub fn start(&mut self, step: StepId, now_s: f64) {
        self.running.insert(step, Running { started_s: now_s, ..Running::default() });
    }

    /// Notes what a worker said.
    pub fn hear(&mut self, step: StepId, event: &stage::Event, now_s: f64) {
        let Some(running) = self.running.get_mut(&step) else { return };
        match event {
            stage::Event::Progress { done, total, unit } => {
                running.progress = Some((*done, *total, unit.clone()));
                running.recent.push_back((now_s, *done));
                while running.recent.len() > 2 && now_s - running.recent[0].0 > WINDOW_S {
                    running.recent.pop_front();
                }
            }
            stage::Event::Metric { name, value } => {
                running.metrics.insert(name.clone(), *value);
            }
            _ => {}
        }
    }

    /// Notes that a step ended.
    pub fn end(&mut self, step: StepId, end: End) {
        self.running.remove(&step);
        self.ended.insert(step, end);
    }

    /// Returns a step in progress.
    pub fn running(&self, step: StepId) -> Option<&Running> {
        self.running.get(&step)
    }

    /// Returns a step's name.
    pub fn name(&self, step: StepId) -> &str {
        self.facts.get(&step).map_or("?", |facts| &facts.name)
    }

    /// Returns how many of the steps that had to run are over, and how many there are.
    pub fn counts(&self) -> (usize, usize) {
        let due = self.facts.iter().filter(|(_, facts)| facts.due);
        let (mut done, mut all) = (0, 0);
        for (step, _) in due {
            all += 1;
            done += usize::from(self.ended.contains_key(step));
        }
        (done, all)
    }

    /// Returns how many steps ended so.
    pub fn ended_as(&self, end: End) -> usize {
        self.ended.values().filter(|e| **e == end).count()
    }

    /// Returns the seconds to go, a step after the other, and whether every step's time is known.
    pub fn left_s(&self, now_s: f64) -> (f64, bool) {
        let (mut left, mut known) = (0.0, true);
        for (step, facts) in
            self.facts.iter().filter(|(id, f)| f.due && !self.ended.contains_key(id))
        {
            let running = self.running.get(step);
            let expected = facts
                .expected_seconds
                .map(|all| (all - running.map_or(0.0, |r| now_s - r.started_s)).max(0.0));
            match running.and_then(Running::left_s).or(expected) {
                Some(seconds) => left += seconds,
                None => known = false,
            }
        }
        (left, known)
    }

    /// Returns `about 5m02s left`, `over 5m02s left` when some step's time is unknown, or nothing.
    pub fn left_text(&self, now_s: f64) -> Option<String> {
        match self.left_s(now_s) {
            (left, true) if left > 0.0 => Some(format!("about {} left", duration(left))),
            (left, false) if left >= 1.0 => Some(format!("over {} left", duration(left))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done: u64) -> stage::Event {
        stage::Event::Progress { done, total: Some(1000), unit: "tokens".into() }
    }

    fn board() -> Board {
        let facts = |name: &str, expected_seconds| StepFacts {
            name: name.into(),
            expected_seconds,
            due: true,
            ..StepFacts::default()
        };
        Board::new(BTreeMap::from([
            (StepId(0), facts("a", None)),
            (StepId(1), facts("b", Some(30.0))),
        ]))
    }

    #[test]
    fn a_resumed_step_s_rate_counts_only_what_it_did_now() {
        let mut board = board();
        board.start(StepId(0), 0.0);
        board.hear(StepId(0), &progress(500), 1.0);
        board.hear(StepId(0), &progress(600), 2.0);
        let running = board.running(StepId(0)).unwrap();
        assert_eq!(running.rate(), Some(100.0));
        assert_eq!(running.left_s(), Some(4.0));
        assert_eq!(running.describe(), "600 of 1k tokens · 100 tokens/s · 4.0s left");
    }

    #[test]
    fn the_whole_s_eta_says_when_it_is_a_lower_bound() {
        let mut board = board();
        assert_eq!(board.left_text(0.0).as_deref(), Some("over 30s left"));
        board.start(StepId(0), 0.0);
        board.hear(StepId(0), &progress(500), 1.0);
        board.hear(StepId(0), &progress(600), 2.0);
        assert_eq!(board.left_text(2.0).as_deref(), Some("about 34s left"));
        board.end(StepId(0), End::Finished);
        assert_eq!(board.counts(), (1, 2));
    }
}
