//! A step's log: `step NAME (STAGE) at TIME`, then what its worker said.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::base::Digest;
use crate::graph::Planned;
use crate::store::Store;

/// How many lines of a failed step's log are shown.
const TAIL: usize = 10;
/// How much of a log's end is looked at for how its last attempt ended.
const END_BYTES: u64 = 16 << 10;
/// What stands before the reason in the log of a step that failed.
const FAILED: &str = "failed: ";

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
        self.write(&format!("{FAILED}{message}"));
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

/// What the log of a step says of its last attempt, or the end of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastAttempt {
    /// What its worker said, and why it failed.
    pub lines: Vec<String>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// When the log was last written.
    pub at: SystemTime,
}

/// Returns what a step's log says of its last attempt, if it has a log.
pub fn last_attempt(store: &Store, recipe: Digest) -> Option<LastAttempt> {
    let path = store.log_path(recipe);
    let at = path.metadata().ok()?.modified().ok()?;
    let mut lines: Vec<_> = log_end(&path, END_BYTES).ok()?.lines().map(str::to_owned).collect();
    let first = lines.iter().rposition(|line| logged_name(line).is_some()).map_or(0, |at| at + 1);
    lines.drain(..first);
    let failed = lines.iter().rposition(|line| line.starts_with(FAILED));
    let failure = failed.map(|at| lines[at..].join("\n")[FAILED.len()..].to_owned());
    Some(LastAttempt { lines, failure, at })
}

/// Returns whole lines at the end of a log, at most so many bytes of them; a line that is longer is none.
///
/// # Errors
/// When it can't be read.
pub fn log_end(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    let whole = if from == 0 { &text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(whole.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_attempt_of_a_log_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let key = Digest::of(b"key");
        assert_eq!(last_attempt(&store, key), None);
        let head = "step r[a=1] (train.run) at 2026-01-01T00:00:00Z\n";
        let many = "a line of some length\n".repeat(1000);
        for (log, count, failure) in [
            (head.to_owned(), 0, None),
            (format!("{head}one\nfailed: no\nmore of it\n"), 3, Some("no\nmore of it")),
            (format!("{head}one\nfailed: no\n{head}two\n"), 1, None),
            (format!("{head}{many}failed: no\n"), 745, Some("no")),
        ] {
            let path = store.log_path(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, log).unwrap();
            let last = last_attempt(&store, key).unwrap();
            assert_eq!((last.lines.len(), last.failure.as_deref()), (count, failure));
        }
    }
}
