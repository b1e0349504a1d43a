//! The scheduler's hold on a running step.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::exec::worker::Handle;

/// How long a step whose time is over gets to save its state, but never longer than its limit was.
const GRACE: Duration = Duration::from_secs(60);
/// A step that uses less than this part of a core does nothing.
const IDLE: f64 = 0.01;
/// How often in the time that a step may be silent its processor time is looked at.
const LOOKS: u32 = 8;

/// Why a step was asked to end before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The run is to stop.
    Stop,
    /// It took longer than it may.
    Late,
    /// It said and did nothing for longer than it may.
    Stalled,
}

/// How long a step may take, and how long it may do nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) limit: Option<Duration>,
    pub(super) stall: Option<Duration>,
}

/// A step's worker, if it has one, and what is known of its attempt. All times are those of the run's clock.
#[derive(Debug, Default)]
pub(super) struct Control(Mutex<Hold>);

#[derive(Debug, Default)]
struct Hold {
    /// Waiting for another process takes nothing of the limit.
    attempt: Option<Attempt>,
    /// Why and when this attempt was asked to end.
    asked: Option<(Reason, Duration)>,
    is_stopped: bool,
}

#[derive(Debug)]
struct Attempt {
    worker: Handle,
    began: Duration,
    /// When it last said or did something.
    alive: Duration,
    /// When its processor time was last looked at, and what it was.
    looked: (Duration, f64),
}

impl Control {
    /// Asks the step to save its state and end.
    pub(super) fn stop(&self) {
        let mut hold = self.hold();
        hold.is_stopped = true;
        if let Some(attempt) = &hold.attempt {
            attempt.worker.stop();
        }
    }

    /// Ends the step now.
    pub(super) fn kill(&self) {
        if let Some(attempt) = &self.hold().attempt {
            attempt.worker.kill();
        }
    }

    /// Asks the step to end when it takes too long or does nothing, and ends it when it does not. What began or was heard after
    /// `now` was read has not lasted at all.
    pub(super) fn heed(&self, limits: Limits, now: Duration) {
        let mut hold = self.hold();
        let Hold { attempt: Some(attempt), asked, .. } = &mut *hold else { return };
        let is_over = |limit: Option<Duration>, since| {
            limit.is_some_and(|limit| now.saturating_sub(since) > limit)
        };
        let grace = |limit: Option<Duration>| GRACE.min(limit.unwrap_or(GRACE));
        let reason = match asked {
            Some((Reason::Late, at)) if now.saturating_sub(*at) > grace(limits.limit) => {
                return attempt.worker.kill();
            }
            Some((Reason::Stalled, at)) if now.saturating_sub(*at) > grace(limits.stall) => {
                return attempt.worker.kill();
            }
            Some(_) => return,
            None if is_over(limits.limit, attempt.began) => Reason::Late,
            None if is_over(limits.stall, attempt.sign_of_life(limits.stall, now)) => {
                Reason::Stalled
            }
            None => return,
        };
        *asked = Some((reason, now));
        attempt.worker.stop();
    }

    /// Begins an attempt: this worker has the step from now on.
    pub(super) fn begin(&self, worker: Handle, now: Duration) {
        let mut hold = self.hold();
        let attempt = Attempt { worker, began: now, alive: now, looked: (now, 0.0) };
        (hold.attempt, hold.asked) = (Some(attempt), None);
    }

    /// Notes that the worker said something.
    pub(super) fn heard(&self, now: Duration) {
        if let Some(attempt) = &mut self.hold().attempt {
            attempt.alive = now;
        }
    }

    /// Ends an attempt.
    pub(super) fn end(&self) {
        self.hold().attempt = None;
    }

    /// Returns why the latest attempt was asked to end, if it was.
    pub(super) fn asked(&self) -> Option<Reason> {
        let hold = self.hold();
        match hold.is_stopped {
            true => Some(Reason::Stop),
            false => hold.asked.map(|(reason, _)| reason),
        }
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.0.lock().expect("no holder panics")
    }
}

impl Attempt {
    /// Returns when the step last said or did something. What it does is looked at only if that matters.
    fn sign_of_life(&mut self, stall: Option<Duration>, now: Duration) -> Duration {
        let (looked, before) = self.looked;
        let since = now.saturating_sub(looked);
        if stall.is_some_and(|stall| since > stall / LOOKS) {
            let used = self.worker.cpu_seconds();
            if used - before > since.as_secs_f64() * IDLE {
                self.alive = now;
            }
            self.looked = (now, used);
        }
        self.alive
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exec::worker::Worker;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(limit: Option<Duration>, stall: Option<Duration>) -> Limits {
        Limits { limit, stall }
    }

    #[test]
    fn each_attempt_has_its_whole_time() {
        let worker = Worker::start(Path::new("sh"), &["-c", "sleep 1000"]).unwrap();
        let control = Control::default();
        control.begin(worker.handle(), SECOND);
        control.heed(limits(Some(SECOND), Some(SECOND)), Duration::ZERO);
        control.heed(limits(Some(9 * SECOND), None), 10 * SECOND);
        assert_eq!(control.asked(), None);
        control.heed(limits(Some(9 * SECOND), None), 11 * SECOND);
        control.end();
        assert_eq!(control.asked(), Some(Reason::Late));
        control.begin(worker.handle(), 12 * SECOND);
        assert_eq!(control.asked(), None);
        control.end();
        control.heed(limits(Some(SECOND), None), 99 * SECOND);
        assert_eq!(control.asked(), None, "publishing takes nothing of it");
        control.stop();
        control.begin(worker.handle(), 100 * SECOND);
        assert_eq!(control.asked(), Some(Reason::Stop), "a stop is for all attempts");
    }

    #[test]
    fn a_silent_step_that_works_does_not_stall() {
        for (script, expected) in
            [("sleep 1000", Some(Reason::Stalled)), ("while :; do :; done", None)]
        {
            let worker = Worker::start(Path::new("sh"), &["-c", script]).unwrap();
            std::thread::sleep(SECOND / 2);
            let control = Control::default();
            control.begin(worker.handle(), Duration::ZERO);
            control.heed(limits(None, Some(SECOND)), SECOND / 2);
            control.heard(SECOND / 2);
            control.heed(limits(None, Some(SECOND)), SECOND);
            assert_eq!(control.asked(), None, "{script}");
            std::thread::sleep(SECOND / 2);
            control.heed(limits(None, Some(SECOND)), 2 * SECOND);
            assert_eq!(control.asked(), expected, "{script}");
        }
    }
}
