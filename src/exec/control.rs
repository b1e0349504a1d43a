//! The scheduler's hold on a running step.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::exec::worker::Handle;

/// How long a step whose time is over gets to save its state, but never longer than its limit was.
const GRACE: Duration = Duration::from_secs(60);

/// A step's worker, if it has one, and how long it has had it.
#[derive(Debug, Default)]
pub(super) struct Control(Mutex<Hold>);

#[derive(Debug, Default)]
struct Hold {
    /// The worker, and when it got the step; waiting for another process takes nothing of the limit.
    worker: Option<(Handle, Instant)>,
    /// When the time of this attempt was over.
    late: Option<Instant>,
}

impl Control {
    /// Asks the step to save its state and end.
    pub(super) fn stop(&self) {
        if let Some((worker, _)) = &self.hold().worker {
            worker.stop();
        }
    }

    /// Ends the step now.
    pub(super) fn kill(&self) {
        if let Some((worker, _)) = &self.hold().worker {
            worker.kill();
        }
    }

    /// Asks the step to end when its time is over, and ends it when it does not.
    pub(super) fn heed(&self, limit: Duration) {
        let mut hold = self.hold();
        let Hold { worker: Some((worker, began)), late } = &mut *hold else { return };
        match late {
            Some(late) if late.elapsed() > GRACE.min(limit) => worker.kill(),
            None if began.elapsed() > limit => {
                *late = Some(Instant::now());
                worker.stop();
            }
            _ => {}
        }
    }

    /// Begins an attempt: this worker has the step from now on.
    pub(super) fn begin(&self, worker: Handle) {
        *self.hold() = Hold { worker: Some((worker, Instant::now())), late: None };
    }

    /// Ends an attempt.
    pub(super) fn end(&self) {
        self.hold().worker = None;
    }

    /// Returns whether the time of the latest attempt was over before it ended.
    pub(super) fn was_late(&self) -> bool {
        self.hold().late.is_some()
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.0.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exec::worker::Worker;

    #[test]
    fn each_attempt_has_its_whole_time() {
        let worker = Worker::start(Path::new("sh"), &["-c", "sleep 1000"]).unwrap();
        let control = Control::default();
        control.begin(worker.handle());
        control.heed(Duration::from_secs(1000));
        assert!(!control.was_late());
        control.heed(Duration::ZERO);
        control.end();
        assert!(control.was_late());
        control.begin(worker.handle());
        assert!(!control.was_late());
        control.end();
        control.heed(Duration::ZERO);
        assert!(!control.was_late(), "publishing takes nothing of it");
    }
}
