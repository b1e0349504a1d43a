//! Asking a run to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// How long a run has to end in order once it is to stop now: enough to end workers and to say so, but not to hash and
/// write what a step made, nor to wait for a reader of the output.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// A shared request to stop: once to let steps save their state, twice to stop now.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Returns a request that SIGINT (Ctrl-C) and SIGTERM raise. Soon after the second one the process ends with `code`,
    /// whatever it does: the store holds through that.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn on_signals(code: u8) -> io::Result<Self> {
        let stop = Self::default();
        let raised = stop.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::spawn(move || {
            for _ in signals.forever() {
                raised.raise();
                if raised.is_urgent() {
                    thread::sleep(LAST_MOMENT);
                    low_level::exit(i32::from(code));
                }
            }
        });
        Ok(stop)
    }

    /// Asks once more.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether running steps should save their state and end.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Waits until it is asked for, but no longer than this.
    pub(super) fn wait(&self, longest: Duration) {
        let began = Instant::now();
        while !self.is_asked() && began.elapsed() < longest {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns whether everything should end at once.
    pub fn is_urgent(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}
