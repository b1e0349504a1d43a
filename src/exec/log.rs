//! A step's log: `step NAME (STAGE) at TIME`, then what its worker said.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::graph::Planned;
use crate::store::Store;

/// How many lines of a failed step's log are shown.
const TAIL: usize = 10;

/// A log that is being written. One that can't be written must not fail the step, so errors are dropped.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    tail: VecDeque<String>,
}

impl Log {
    /// Opens the log of a step for appending: what earlier attempts wrote stays. `note` says more of this one.
    pub(super) fn open(
        store: &Store,
        planned: Planned<'_>,
        now: SystemTime,
        note: Option<&str>,
    ) -> Self {
        let (path, file) = (store.log_path(planned.recipe), store.open_log(planned.recipe).ok());
        let mut log = Self { path, file, tail: VecDeque::new() };
        let time = jiff::Timestamp::try_from(now).unwrap_or_default();
        log.write(&head(planned, &time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        note.into_iter().for_each(|note| log.write(note));
        log
    }

    pub(super) fn line(&mut self, text: &str) {
        self.write(text);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text.to_owned());
    }

    /// Writes why the step failed; returns the last lines before that, and the log's path if there is one.
    pub(super) fn close(mut self, message: &str) -> (Vec<String>, Option<PathBuf>) {
        self.write(&format!("failed: {message}"));
        (self.tail.into(), self.file.is_some().then_some(self.path))
    }

    fn write(&mut self, text: &str) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{text}");
        }
    }
}

fn head(planned: Planned<'_>, time: &str) -> String {
    format!("step {} ({}) at {time}", planned.step.name(), planned.step.stage().name)
}

/// Returns the name of the step, as `r2[rate=50%]`, whose log starts with this line.
pub fn logged_name(first: &str) -> Option<&str> {
    let (step, _time) = first.strip_prefix("step ")?.rsplit_once(" at ")?;
    step.rsplit_once(" (").map(|(name, _stage)| name)
}
