//! Asking a run to stop, and the clock that stands still while it is suspended.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::base::processes;

/// How long a run has to end in order once it is to stop now: enough to end workers and to say so, but not to hash and
/// write what a step made, nor to wait for a reader of the output.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// A shared request to stop: once to let steps save their state, twice to stop now.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicUsize,
    clock: Mutex<Clock>,
}

/// Time without that in which the run was suspended.
#[derive(Debug)]
struct Clock {
    began: Instant,
    suspended: Duration,
    /// When it was suspended, if it is now.
    since: Option<Instant>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { began: Instant::now(), suspended: Duration::ZERO, since: None }
    }
}

impl Stop {
    /// Returns a request that SIGINT (Ctrl-C), SIGTERM and SIGHUP raise. Soon after the second one the process ends with
    /// `code`, whatever it does: the store holds through that. SIGTSTP (Ctrl-Z) suspends the workers too.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn on_signals(code: u8) -> io::Result<Self> {
        let stop = Self::default();
        let raised = stop.clone();
        let mut wanted = vec![SIGINT, SIGTERM, SIGTSTP];
        // `nohup` means that it is to go on.
        if !is_ignored(SIGHUP) {
            wanted.push(SIGHUP);
        }
        let mut signals = Signals::new(wanted)?;
        thread::spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGTSTP => raised.suspend(),
                    _ => raised.raise(),
                }
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
        self.0.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether running steps should save their state and end.
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) > 0
    }

    /// Returns whether everything should end at once.
    pub fn is_urgent(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) > 1
    }

    /// Waits until it is asked for, but no longer than this.
    pub(super) fn wait(&self, longest: Duration) {
        let began = Instant::now();
        while !self.is_asked() && began.elapsed() < longest {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns how long the run goes, without the time in which it was suspended.
    pub(super) fn clock(&self) -> Duration {
        let clock = self.lock();
        clock.since.map_or_else(|| clock.began.elapsed(), |since| since - clock.began)
            - clock.suspended
    }

    /// Suspends the workers and this process until it is told to go on.
    fn suspend(&self) {
        self.lock().since = Some(Instant::now());
        let workers = processes::descendants(std::process::id());
        signal_all(&workers, Signal::STOP);
        // An error means that it can't be suspended, so it goes on.
        let _ = low_level::emulate_default_handler(SIGTSTP);
        signal_all(&workers, Signal::CONT);
        let mut clock = self.lock();
        let suspended = clock.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        clock.suspended += suspended;
    }

    fn lock(&self) -> MutexGuard<'_, Clock> {
        self.0.clock.lock().expect("no holder panics")
    }
}

fn signal_all(ids: &[u32], signal: Signal) {
    for id in ids.iter().filter_map(|id| Pid::from_raw(*id as i32)) {
        // An error means that it has ended.
        let _ = kill_process(id, signal);
    }
}

/// Returns whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
