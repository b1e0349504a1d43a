//! All that this process started and that has not ended. It has to be a reaper, so that what loses its parent becomes its child.

use std::io;
use std::process;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::base::processes;

/// Makes this process the parent of all that descends from it and loses its own.
pub(super) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Takes note of those that have ended; returns whether others are left. No other thread may be waiting for one.
pub(super) fn are_left() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Sends a signal to all; returns how many they are.
pub(super) fn signal(signal: Signal) -> usize {
    let all = processes::descendants(process::id());
    for id in all.iter().filter_map(|id| Pid::from_raw(*id as i32)) {
        // An error means that it has ended.
        let _ = kill_process(id, signal);
    }
    all.len()
}
