//! How far a run is: what each running step does, and how long the rest may take.
//!
//! All times are seconds since the run began, given by the caller, so that tests need no clock.

use std::collections::{BTreeMap, VecDeque};

use crate::base::text::{bytes, duration};
use crate::report::course::Course;
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
    /// Live numbers by name: what each is now, and how it went.
    metrics: BTreeMap<String, (f64, Course)>,
    /// (time, units done), oldest first, over the window.
    recent: VecDeque<(f64, u64)>,
}

impl Running {
    /// Returns the seconds since it started.
    pub fn since_s(&self, now_s: f64) -> f64 {
        now_s - self.started_s
    }

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
        let numbers = self.metrics.iter().map(|(name, (value, _))| number(name, *value));
        let parts = [self.count(), self.speed()].into_iter().flatten();
        joined(parts.chain(numbers).chain(self.left()))
    }

    /// Returns the same for a line of which a narrow terminal shows only the beginning, beside a bar for the count, with the
    /// course of each number drawn: `1m10s left · loss 5.312 ▇▅▃▂▁ · 3.2k tokens/s · 160k of 400k tokens`.
    pub fn describe_drawn(&self) -> String {
        let drawn = |(name, (value, course)): (&String, &(f64, Course))| {
            format!("{} {}", number(name, *value), course.draw()).trim_end().to_owned()
        };
        let parts = self.left().into_iter().chain(self.metrics.iter().map(drawn));
        joined(parts.chain(self.speed()).chain(self.count()))
    }

    fn count(&self) -> Option<String> {
        let (done, total, unit) = self.progress.as_ref()?;
        let done = match total {
            Some(total) => format!("{} of {}", amount(*done, unit), amount(*total, unit)),
            None => amount(*done, unit),
        };
        Some(format!("{done}{}", unit_word(unit)))
    }

    fn speed(&self) -> Option<String> {
        let (_, _, unit) = self.progress.as_ref()?;
        let rate = self.rate()?.round() as u64;
        Some(format!("{}{}/s", amount(rate, unit), unit_word(unit)))
    }

    fn left(&self) -> Option<String> {
        self.left_s().map(|left| format!("{} left", duration(left)))
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" · ")
}

fn number(name: &str, value: f64) -> String {
    format!("{name} {}", float(value, decimals([value])))
}

fn amount(number: u64, unit: &str) -> String {
    if unit == "bytes" { bytes(number) } else { compact(number as f64) }
}

/// Returns the unit behind an amount; that of bytes has its own.
fn unit_word(unit: &str) -> String {
    if unit == "bytes" { String::new() } else { format!(" {unit}") }
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

/// The steps that a run has to execute. Nothing asked at each event looks at more than the running ones.
#[derive(Clone, Debug)]
pub struct Board {
    facts: BTreeMap<StepId, StepFacts>,
    running: BTreeMap<StepId, Running>,
    ended: BTreeMap<StepId, End>,
    /// Steps that need not run: how many, and how many of them have their outputs.
    others: (usize, usize),
    idle: Idle,
}

/// The steps that have to run and have not begun.
#[derive(Clone, Copy, Debug, Default)]
struct Idle {
    /// What those of known length may take together; whole microseconds, so that taking away leaves no rest.
    expected_us: u64,
    /// How many are of unknown length.
    unknown: usize,
}

impl Board {
    /// Returns the board of a run that has not begun.
    pub fn new(facts: BTreeMap<StepId, StepFacts>) -> Self {
        let mut idle = Idle::default();
        for facts in facts.values() {
            match facts.expected_seconds {
                Some(seconds) => idle.expected_us += microseconds(seconds),
                None => idle.unknown += 1,
            }
        }
        Self { facts, running: BTreeMap::new(), ended: BTreeMap::new(), others: (0, 0), idle }
    }

    /// Notes how many more steps the plan has, and how many of them have their outputs.
    pub fn others(&mut self, steps: usize, reused: usize) {
        self.others = (steps, reused);
    }

    /// Returns what is known of a step.
    pub fn facts(&self, step: StepId) -> Option<&StepFacts> {
        self.facts.get(&step)
    }

    /// Returns what is known of all steps to run.
    pub fn all_facts(&self) -> impl Iterator<Item = &StepFacts> {
        self.facts.values()
    }

    /// Returns how many steps the plan has.
    pub fn steps(&self) -> usize {
        self.facts.len() + self.others.0
    }

    /// Notes that a step began.
    pub fn start(&mut self, step: StepId, now_s: f64) {
        let running = Running { started_s: now_s, ..Running::default() };
        if self.running.insert(step, running).is_none() {
            self.leave_idle(step);
        }
    }

    fn leave_idle(&mut self, step: StepId) {
        let Some(facts) = self.facts.get(&step) else { return };
        match facts.expected_seconds {
            Some(seconds) => self.idle.expected_us -= microseconds(seconds),
            None => self.idle.unknown -= 1,
        }
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
                let (now, course) = running.metrics.entry(name.clone()).or_default();
                *now = *value;
                course.push(*value);
            }
            _ => {}
        }
    }

    /// Notes that a step ended.
    pub fn end(&mut self, step: StepId, end: End) {
        if self.running.remove(&step).is_none() && !self.ended.contains_key(&step) {
            self.leave_idle(step);
        }
        self.ended.insert(step, end);
    }

    /// Returns a step in progress.
    pub fn running(&self, step: StepId) -> Option<&Running> {
        self.running.get(&step)
    }

    /// Returns all steps in progress.
    pub fn all_running(&self) -> impl Iterator<Item = (StepId, &Running)> {
        self.running.iter().map(|(step, running)| (*step, running))
    }

    /// Returns a step's name.
    pub fn name(&self, step: StepId) -> &str {
        self.facts.get(&step).map_or("?", |facts| &facts.name)
    }

    /// Returns how many of the steps that had to run are over, and how many there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.ended.len(), self.facts.len())
    }

    /// Returns how many steps ended so.
    pub fn ended_as(&self, end: End) -> usize {
        let others = if end == End::Reused { self.others.1 } else { 0 };
        others + self.ended.values().filter(|e| **e == end).count()
    }

    /// Returns the seconds to go, a step after the other, and whether every step's time is known.
    pub fn left_s(&self, now_s: f64) -> (f64, bool) {
        let mut left = self.idle.expected_us as f64 / 1e6;
        let mut known = self.idle.unknown == 0;
        for (step, running) in &self.running {
            let Some(facts) = self.facts.get(step) else { continue };
            let spent = running.since_s(now_s);
            let expected = facts.expected_seconds.map(|all| (all - spent).max(0.0));
            match running.left_s().or(expected) {
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

fn microseconds(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn progress(done: u64) -> stage::Event {
        stage::Event::Progress { done, total: Some(1000), unit: "tokens".into() }
    }

    fn board() -> Board {
        let facts = |name: &str, expected_seconds| StepFacts {
            name: name.into(),
            expected_seconds,
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
    fn a_live_number_is_told_with_its_course() {
        let mut board = board();
        board.start(StepId(0), 0.0);
        for value in [4.0, 3.0, 2.0, f64::NAN] {
            let event = stage::Event::Metric { name: "loss".into(), value };
            board.hear(StepId(0), &event, 1.0);
        }
        let running = board.running(StepId(0)).unwrap();
        assert_eq!(running.describe(), "loss nan");
        assert_eq!(running.describe_drawn(), "loss nan █▅▁");
        board.hear(StepId(0), &progress(500), 1.0);
        board.hear(StepId(0), &progress(600), 2.0);
        assert_eq!(
            board.running(StepId(0)).unwrap().describe_drawn(),
            "4.0s left · loss nan █▅▁ · 100 tokens/s · 600 of 1k tokens"
        );
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
        board.start(StepId(1), 3.0);
        board.start(StepId(1), 4.0);
        assert_eq!(board.left_s(14.0), (20.0, true));
        board.end(StepId(1), End::Failed);
        assert_eq!((board.left_s(14.0), board.counts()), ((0.0, true), (2, 2)));
    }

    #[test]
    fn an_event_costs_the_same_however_many_steps_there_are() {
        const STEPS: u32 = 20_000;
        let facts = || StepFacts { expected_seconds: Some(1.0), ..StepFacts::default() };
        let mut board = Board::new((0..STEPS).map(|id| (StepId(id), facts())).collect());
        let began = Instant::now();
        for id in 0..STEPS {
            board.start(StepId(id), 0.0);
            board.end(StepId(id), End::Finished);
            assert_eq!(board.counts(), (id as usize + 1, STEPS as usize));
            assert_eq!(board.left_s(0.0), (f64::from(STEPS - id - 1), true));
        }
        // Looking at all steps each time takes minutes.
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
