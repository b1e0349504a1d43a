//! A worker process: one action at a time in, events out.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::stage::{Action, Event};

/// How often a silent worker is checked for being there.
const TICK: Duration = Duration::from_millis(200);

/// A line that a worker wrote.
#[derive(Debug)]
pub(super) enum Line {
    /// On standard output.
    Event(Event),
    /// Anything else: what libraries print.
    Text(String),
}

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    handle: Handle,
    lines: Receiver<Line>,
}

/// The means to stop a worker from another thread.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    /// The worker leads a process group of its own: Ctrl-C goes to the scheduler alone, and a kill takes along what
    /// the worker started.
    group: Pid,
    stdin: Arc<Mutex<Option<ChildStdin>>>,
}

impl Handle {
    /// Asks the worker to save its state and end: it does when its input ends.
    pub(super) fn stop(&self) {
        drop(lock(&self.stdin).take());
    }

    /// Ends the worker now.
    pub(super) fn kill(&self) {
        // An error means that it has ended.
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

impl Worker {
    /// Starts a worker program.
    pub(super) fn start(program: &Path, args: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (sender, lines) = channel();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let parts = stdout.zip(stderr).ok_or(io::ErrorKind::BrokenPipe)?;
        forward(parts.0, sender.clone(), |text| match serde_json::from_str(&text) {
            Ok(event) => Line::Event(event),
            Err(_) => Line::Text(text),
        });
        forward(parts.1, sender, Line::Text);
        let group = Pid::from_child(&child);
        Ok(Self { child, handle: Handle { group, stdin: Arc::new(Mutex::new(stdin)) }, lines })
    }

    /// Returns the means to stop it.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Gives it an action. That it is gone shows in the lines, so it is no error here.
    pub(super) fn send(&self, action: &Action) {
        let mut line = serde_json::to_string(action).expect("actions are plain data");
        line.push('\n');
        if let Some(stdin) = lock(&self.handle.stdin).as_mut() {
            let _ = stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush());
        }
    }

    /// Returns the next line; none when the worker ended.
    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            match self.lines.recv_timeout(TICK) {
                Ok(line) => return Some(line),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.is_gone() => {
                    // What it started holds its pipes open.
                    self.handle.kill();
                    return self.lines.recv_timeout(TICK).ok();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn is_gone(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits until it is gone and says how it ended.
    pub(super) fn epitaph(&mut self) -> String {
        self.handle.stop();
        match self.child.wait() {
            Ok(status) => describe(status),
            Err(error) => format!("it can't be waited for: {error}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.handle.stop();
        self.handle.kill();
        let _ = self.child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed (signal 9), perhaps because memory ran out".to_owned(),
        (None, Some(11)) => "segmentation fault (signal 11)".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn forward(
    from: impl Read + Send + 'static,
    to: Sender<Line>,
    line: impl Fn(String) -> Line + Send + 'static,
) {
    thread::spawn(move || {
        for bytes in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if to.send(line(text)).is_err() {
                return;
            }
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}
