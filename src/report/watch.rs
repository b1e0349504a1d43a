//! A run as it goes: scheduler events to the terminal and, if wanted, to JSON lines.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::exec::Event;
use crate::graph::{Plan, Status};
use crate::report::jsonl::{self, Line, StepName};
use crate::report::{Teller, Terminal, Trace};
use crate::sema::steps::StepId;
use crate::stage;
use crate::store::{Output, Record};

/// Tells what happens during a run.
pub struct Watch<'w> {
    plan: &'w Plan,
    terminal: Terminal,
    json: Option<&'w mut dyn Write>,
    trace: Option<&'w mut Trace>,
    teller: Option<Teller>,
    /// Why JSON lines could not be written; the run goes on all the same.
    broken: Option<io::Error>,
}

/// What is left of a watch after the run.
pub struct Closed {
    /// How the run ended.
    pub text: String,
    /// Whether all JSON lines could be written.
    pub json: io::Result<()>,
}

impl<'w> Watch<'w> {
    /// Returns a watch of a run of `plan`; JSON lines go to `json`, what a trace shows to `trace`, and to `teller` what others
    /// may know.
    pub fn new(
        plan: &'w Plan,
        mut terminal: Terminal,
        json: Option<&'w mut dyn Write>,
        trace: Option<&'w mut Trace>,
        teller: Option<Teller>,
    ) -> Self {
        let (steps, fresh) = (plan.len(), plan.len() - plan.due().len());
        terminal.others(fresh, plan.done());
        let mut watch = Self { plan, terminal, json, trace, teller, broken: None };
        watch.tell(true);
        watch.write(|_| Some(Line::Plan { steps, fresh, elsewhere: 0 }));
        if watch.json.is_some() {
            let fresh = plan.steps().filter(|planned| *planned.status == Status::Fresh);
            fresh.for_each(|planned| {
                watch.write(|_| Some(Line::Reused { step: StepName::of(planned) }));
            });
        }
        watch
    }

    /// Tells one event.
    pub fn hear(&mut self, event: &Event) {
        if let Some(trace) = &mut self.trace {
            trace.hear(self.plan, event);
        }
        match event {
            Event::Started(step) => self.terminal.started(*step),
            Event::Waiting { step, holder } => {
                let holder = holder.as_ref().map(|who| format!(" ({who})")).unwrap_or_default();
                let name = self.name(*step).name;
                let text = format!("{name} is being made by another tlm{holder}; waiting");
                self.terminal.note(&text);
            }
            Event::Worker(step, event) => self.terminal.worker(*step, event),
            Event::Retrying { step, failure, raised } => {
                let name = self.name(*step).name;
                self.terminal.note(&format!("{name} is tried again{raised}: {}", failure.message));
            }
            Event::Finished(step, record) => self.terminal.finished(*step, record.seconds),
            Event::Reused(step) => self.terminal.reused(*step),
            Event::Failed { step, failure, log_tail, log } => {
                self.terminal.failed(*step, failure, log_tail, log.as_deref());
            }
            Event::Skipped { step, because } => self.terminal.skipped(*step, *because),
            Event::Interrupted(step) => self.terminal.interrupted(*step),
        }
        // Of what is left out there may be as many as steps at once.
        self.tell(!matches!(event, Event::Worker(..) | Event::Reused(_) | Event::Skipped { .. }));
        self.write(|watch| watch.line(event));
    }

    fn tell(&mut self, is_new: bool) {
        if let Some(teller) = &mut self.teller {
            teller.tell(self.plan, &self.terminal, is_new);
        }
    }

    /// Takes the bars away; returns how the run ended, as text, and what could not be written.
    pub fn close(mut self, interrupted: bool) -> Closed {
        Closed { text: self.terminal.close(interrupted), json: self.broken.map_or(Ok(()), Err) }
    }

    fn write(&mut self, line: impl FnOnce(&Self) -> Option<Line>) {
        if self.json.is_none() || self.broken.is_some() {
            return;
        }
        let line = line(self);
        if let (Some(out), Some(line)) = (&mut self.json, line) {
            self.broken = jsonl::write(out, &line).err();
        }
    }

    fn name(&self, step: StepId) -> StepName {
        StepName::of(self.plan.get(step).expect("what happens is about steps of the plan"))
    }

    fn line(&self, event: &Event) -> Option<Line> {
        Some(match event {
            Event::Waiting { step, holder } => {
                Line::Waiting { step: self.name(*step), holder: holder.clone() }
            }
            Event::Retrying { step, failure, raised } => Line::Retrying {
                step: self.name(*step),
                kind: failure.kind,
                message: failure.message.clone(),
                help: failure.help.clone(),
                limit: raised.limit.map(|limit| limit.as_secs_f64()),
                mem: raised.mem,
            },
            Event::Started(step) => Line::Started { step: self.name(*step) },
            Event::Worker(step, event) => return worker_line(self.name(*step), event),
            Event::Finished(step, record) => finished_line(self.name(*step), record),
            Event::Reused(step) => Line::Reused { step: self.name(*step) },
            Event::Failed { step, failure, log, .. } => Line::Failed {
                step: self.name(*step),
                kind: failure.kind,
                message: failure.message.clone(),
                help: failure.help.clone(),
                log: log.as_ref().map(|path| path.display().to_string()),
            },
            Event::Skipped { step, because } => {
                Line::Skipped { step: self.name(*step), because: self.name(*because) }
            }
            Event::Interrupted(step) => Line::Interrupted { step: self.name(*step) },
        })
    }
}

fn worker_line(step: StepName, event: &stage::Event) -> Option<Line> {
    Some(match event.clone() {
        stage::Event::Progress { done, total, unit } => Line::Progress { step, done, total, unit },
        stage::Event::Metric { name, value } => Line::Metric { step, name, value },
        stage::Event::Log { line } => Line::Log { step, line },
        stage::Event::Checkpointed { done } => Line::Checkpointed { step, done },
        stage::Event::Output { .. }
        | stage::Event::Used { .. }
        | stage::Event::Done
        | stage::Event::Interrupted
        | stage::Event::Failed(_) => return None,
    })
}

fn finished_line(step: StepName, record: &Record) -> Line {
    let (mut scalars, mut artifacts) = (BTreeMap::new(), BTreeMap::new());
    for (name, output) in &record.outputs {
        match output {
            Output::Scalar(value) => drop(scalars.insert(name.clone(), value.clone())),
            Output::Object { digest, .. } => drop(artifacts.insert(name.clone(), *digest)),
        }
    }
    Line::Finished { step, seconds: record.seconds, scalars, artifacts }
}
