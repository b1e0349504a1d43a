//! `tlm guard`: the process between a worker and a command of a recipe.
//!
//! It ends what the command started, in whatever process group, once the command or the worker has ended: what loses its
//! parent becomes the guard's child, and a worker that is killed closes the guard's standard input. A byte on that asks the
//! command to stop.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};

use crate::base::{processes, text};

/// How long a command that was asked to stop may take.
const GRACE: Duration = Duration::from_secs(10);
/// How often what is to end is looked for: it may start more meanwhile.
const POLL: Duration = Duration::from_millis(10);

/// What the guard is to do.
enum Order {
    /// Let the command save what it has.
    Stop,
    /// End all now.
    Kill,
}

/// Runs a command with `sh -c` until it and all it started have ended; returns its exit code, or 128 and the signal that
/// ended it.
///
/// # Errors
/// When the command can't be started.
pub fn run(command: &str) -> io::Result<u8> {
    set_child_subreaper(Some(getpid()))?;
    let child = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).spawn()?;
    let own = Pid::from_child(&child);
    let (orders, received) = channel();
    let from_worker = orders.clone();
    let stopping = Arc::new(AtomicBool::new(false));
    let is_stopping = Arc::clone(&stopping);
    thread::spawn(move || read_orders(&from_worker));
    thread::spawn(move || obey(&received, &stopping));
    let mut code = 0;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((id, status))) if id == own => {
                code = exit_code(status);
                // One that stops may leave the saving to its children.
                if !is_stopping.load(Ordering::Relaxed) && !is_alone() {
                    tell_of_rest();
                    let _ = orders.send(Order::Kill);
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            // No child is left.
            Err(_) => return Ok(code),
        }
    }
}

/// Reads what the worker wants, until it is gone.
fn read_orders(orders: &Sender<Order>) {
    let mut byte = [0];
    while let Ok(1) = io::stdin().read(&mut byte) {
        if orders.send(Order::Stop).is_err() {
            return;
        }
    }
    let _ = orders.send(Order::Kill);
}

/// Waits for an order, then ends all, in the end by force.
fn obey(orders: &Receiver<Order>, stopping: &AtomicBool) {
    if let Ok(Order::Stop) = orders.recv() {
        stopping.store(true, Ordering::Relaxed);
        signal_all(Signal::TERM);
        let _ = orders.recv_timeout(GRACE);
    }
    // The process ends once no child is left.
    loop {
        signal_all(Signal::KILL);
        thread::sleep(POLL);
    }
}

fn signal_all(signal: Signal) {
    for id in rest() {
        if let Some(id) = Pid::from_raw(id as i32) {
            // An error means that it has ended.
            let _ = kill_process(id, signal);
        }
    }
}

fn rest() -> Vec<u32> {
    processes::descendants(std::process::id())
}

fn is_alone() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn tell_of_rest() {
    let count = text::plural(rest().len(), "program");
    // The log is the worker's; without it nobody hears this.
    let _ = writeln!(io::stderr(), "tlm: the command left {count} running; ended");
}

fn exit_code(status: WaitStatus) -> u8 {
    let status = ExitStatus::from_raw(status.as_raw());
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
