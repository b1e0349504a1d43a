//! `tlm guard`: the parent of a worker that runs commands of recipes.
//!
//! A worker ends what a command leaves running, in whatever process group or session. Should the worker be killed, its guard
//! does so, even if the scheduler is killed too. SIGUSR1 asks the guard to end all at once; other signals are the worker's.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::stage::children;

/// How often what is to end is looked for: it may start more meanwhile.
const POLL: Duration = Duration::from_millis(2);

/// Starts `tlm worker` on the standard streams, and ends when it and all it started have ended: with its exit code, or by the
/// signal that ended it.
///
/// # Errors
/// When the worker can't be started.
pub fn run() -> io::Result<u8> {
    children::adopt()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::default())?;
    }
    let mut orders = Signals::new([SIGUSR1])?;
    // The program that runs now, even if another has come to its place.
    let worker = Command::new("/proc/self/exe").arg0("tlm").arg("worker").spawn()?;
    let worker = Pid::from_child(&worker);
    thread::spawn(move || {
        if orders.forever().next().is_some() {
            end_all();
        }
    });
    let status = wait_for(worker)?;
    while children::are_left() {
        children::signal(Signal::KILL);
        thread::sleep(POLL);
    }
    Ok(end_as(status))
}

/// Waits for a child; others that end before it are gone.
fn wait_for(child: Pid) -> io::Result<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((id, status))) if id == child => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends all, again and again, until this process has none left and ends.
fn end_all() {
    loop {
        children::signal(Signal::KILL);
        thread::sleep(POLL);
    }
}

/// Returns the exit code of a process, or ends by the signal that ended it.
fn end_as(status: WaitStatus) -> u8 {
    let status = ExitStatus::from_raw(status.as_raw());
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        let _ = kill_process(getpid(), signal);
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
