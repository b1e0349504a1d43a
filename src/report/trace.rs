//! A run as a Chrome trace, for `chrome://tracing` and Perfetto: a lane for each step that runs at once, a slice an attempt.
//!
//! Events are written as they come, so what a killed run leaves can still be opened: the format's closing bracket may be
//! missing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::exec::Event;
use crate::graph::Plan;
use crate::sema::steps::StepId;
use crate::stage;

/// Writes what happens during a run.
pub struct Trace {
    out: Box<dyn Write>,
    began: Instant,
    lanes: BTreeSet<usize>,
    free: BTreeSet<usize>,
    open: BTreeMap<StepId, Slice>,
    /// When steps ended that others may have waited for.
    ended: BTreeMap<StepId, Duration>,
    is_empty: bool,
    broken: Option<io::Error>,
}

/// What goes on in a lane.
struct Slice {
    lane: usize,
    began: Duration,
    /// The other process that makes the step, while this one waits for it.
    waits_for: Option<String>,
    cpu_seconds: Option<f64>,
}

impl Trace {
    /// Returns a trace of a run that begins now.
    pub fn new(out: Box<dyn Write>) -> Self {
        Self {
            out,
            began: Instant::now(),
            lanes: BTreeSet::new(),
            free: BTreeSet::new(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            is_empty: true,
            broken: None,
        }
    }

    /// Notes one event.
    pub fn hear(&mut self, plan: &Plan, event: &Event) {
        let now = self.began.elapsed();
        match event {
            Event::Waiting { step, holder } => {
                self.begin(
                    *step,
                    now,
                    Some(holder.clone().unwrap_or_else(|| "another tlm".to_owned())),
                );
            }
            Event::Started(step) => {
                self.end(plan, *step, now, "waited");
                self.begin(*step, now, None);
            }
            Event::Worker(step, stage::Event::Used { cpu_seconds, .. }) => {
                if let Some(slice) = self.open.get_mut(step) {
                    slice.cpu_seconds = Some(*cpu_seconds);
                }
            }
            Event::Retrying { step, .. } => self.end(plan, *step, now, "tried again"),
            Event::Finished(step, _) => self.end(plan, *step, now, "finished"),
            Event::Reused(step) => self.end(plan, *step, now, "reused"),
            Event::Failed { step, .. } => self.end(plan, *step, now, "failed"),
            Event::Interrupted(step) => self.end(plan, *step, now, "interrupted"),
            Event::Worker(..) | Event::Skipped { .. } => {}
        }
    }

    /// Ends the trace; returns whether all of it could be written.
    ///
    /// # Errors
    /// The first one that writing met.
    pub fn close(mut self) -> io::Result<()> {
        let end = if self.is_empty { "[]\n" } else { "\n]\n" };
        self.broken.map_or_else(|| self.out.write_all(end.as_bytes()), Err)?;
        self.out.flush()
    }

    fn begin(&mut self, step: StepId, now: Duration, waits_for: Option<String>) {
        let lane = self.free.pop_first().unwrap_or_else(|| {
            let lane = self.lanes.len() + 1;
            self.lanes.insert(lane);
            let name = json!({"name": format!("lane {lane}")});
            self.write(
                &json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": lane, "args": name}),
            );
            lane
        });
        self.open.insert(step, Slice { lane, began: now, waits_for, cpu_seconds: None });
    }

    fn end(&mut self, plan: &Plan, step: StepId, now: Duration, how: &str) {
        self.ended.insert(step, now);
        let Some(slice) = self.open.remove(&step) else { return };
        self.free.insert(slice.lane);
        let Some(planned) = plan.get(step) else { return };
        let ready = plan.inputs(step).filter_map(|input| self.ended.get(&input)).max();
        let waited = slice.began.saturating_sub(ready.copied().unwrap_or_default());
        let mut args = json!({
            "stage": planned.step.stage().name, "key": planned.recipe, "ended": how,
            "cpu_seconds": slice.cpu_seconds, "waited_seconds": waited.as_secs_f64(),
        });
        if let (Some(holder), Value::Object(args)) = (&slice.waits_for, &mut args) {
            args.insert("waits_for".to_owned(), holder.as_str().into());
        }
        let category = if slice.waits_for.is_some() { "wait" } else { "step" };
        self.write(&json!({
            "name": planned.step.name(), "cat": category, "ph": "X", "pid": 1, "tid": slice.lane,
            "ts": microseconds(slice.began), "dur": microseconds(now - slice.began), "args": args,
        }));
    }

    fn write(&mut self, event: &Value) {
        if self.broken.is_none() {
            let before = if self.is_empty { "[\n" } else { ",\n" };
            self.is_empty = false;
            let written = write!(self.out, "{before}{event}").and_then(|()| self.out.flush());
            self.broken = written.err();
        }
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
