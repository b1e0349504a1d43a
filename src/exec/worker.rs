//! A worker process: one action at a time in, events out.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use crate::base::processes;
use crate::stage::{Action, Event, FailureKind};

/// How often a silent worker is checked for being there.
const TICK: Duration = Duration::from_millis(200);
/// How often a worker that was killed is looked at.
const MOMENT: Duration = Duration::from_millis(1);
/// How long a guard gets to end all.
const GUARD_PATIENCE: Duration = Duration::from_millis(500);
/// How long a worker that failed gets to say the rest, such as a panic's backtrace.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    /// None once the system may give its id to others.
    leader: Arc<Mutex<Option<Leader>>>,
    stdin: Arc<Mutex<Option<Arc<ChildStdin>>>>,
}

/// The worker or its guard. It leads a process group of its own: Ctrl-C goes to the scheduler alone, and a kill takes along
/// what the worker started.
#[derive(Debug)]
struct Leader {
    id: Pid,
    /// Whether it is a guard, which also ends what left the group.
    is_guard: bool,
    /// When it was asked to end all.
    asked: Option<Instant>,
}

impl Handle {
    /// Asks the worker to save its state and end: it does when its input ends.
    pub(super) fn stop(&self) {
        drop(lock(&self.stdin).take());
    }

    /// Ends the worker and what it started now. To be called again until it is gone: a guard that does not listen is ended
    /// like any other.
    pub(super) fn kill(&self) {
        let mut leader = lock(&self.leader);
        let Some(leader) = &mut *leader else { return };
        // Errors mean that it has ended.
        match leader.asked {
            None if leader.is_guard => {
                leader.asked = Some(Instant::now());
                let _ = kill_process(leader.id, Signal::USR1);
            }
            Some(at) if at.elapsed() < GUARD_PATIENCE => {}
            _ => drop(kill_process_group(leader.id, Signal::KILL)),
        }
    }

    /// Ends what is left of the group of a worker that ended.
    fn sweep(&self) {
        if let Some(leader) = &*lock(&self.leader) {
            let _ = kill_process_group(leader.id, Signal::KILL);
        }
    }

    fn id(&self) -> Option<Pid> {
        lock(&self.leader).as_ref().map(|leader| leader.id)
    }

    /// Returns the processor time that the worker and all it started took so far.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let Some(id) = self.id() else { return 0.0 };
        let id = id.as_raw_nonzero().get() as u32;
        let all = processes::descendants(id).into_iter().chain([id]);
        all.filter_map(processes::cpu_seconds).sum()
    }
}

impl Worker {
    /// Starts a worker program.
    pub(super) fn start(program: &Path, args: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(program);
        // OpenMP's threads wait in a loop otherwise, on cores that others need.
        command.args(args).env("OMP_WAIT_POLICY", "passive");
        Self::spawn(&mut command, false)
    }

    /// Starts `tlm worker` under a guard, as commands of recipes may leave programs running.
    pub(super) fn start_guarded(tlm: &Path) -> io::Result<Self> {
        Self::spawn(Command::new(tlm).arg("guard"), true)
    }

    fn spawn(command: &mut Command, is_guard: bool) -> io::Result<Self> {
        command.process_group(0);
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
        let leader = Leader { id: Pid::from_child(&child), is_guard, asked: None };
        let leader = Arc::new(Mutex::new(Some(leader)));
        let stdin = Arc::new(Mutex::new(stdin.map(Arc::new)));
        Ok(Self { child, handle: Handle { leader, stdin }, lines })
    }

    /// Returns the means to stop it.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Gives it an action.
    ///
    /// # Errors
    /// When that can't be written. That the worker is gone shows in the lines, so it is no error here.
    pub(super) fn send(&self, action: &Action) -> io::Result<()> {
        let mut line = serde_json::to_string(action).expect("actions are plain data");
        line.push('\n');
        // A worker that does not read makes this wait, and must not keep others from letting go of its input.
        let stdin = lock(&self.handle.stdin).clone();
        match stdin.map_or(Ok(()), |stdin| (&*stdin).write_all(line.as_bytes())) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
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
                    self.handle.sweep();
                    return self.lines.recv_timeout(TICK).ok();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Returns whether it can take another action. What it said since the last one belongs to no step.
    pub(super) fn is_ready(&self) -> bool {
        self.lines.try_iter().for_each(drop);
        !self.is_gone()
    }

    /// Asks it to end and returns what it says until then, but does not wait for long.
    pub(super) fn last_words(&self) -> Vec<String> {
        self.handle.stop();
        let mut words = Vec::new();
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until {
            match self.lines.recv_timeout(TICK) {
                Ok(Line::Text(text)) => words.push(text),
                Ok(Line::Event(_)) => {}
                Err(RecvTimeoutError::Timeout) if !self.is_gone() => {}
                Err(_) => break,
            }
        }
        words
    }

    /// Waits for its end, and ends what it started.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.handle.stop();
        if let Some(id) = self.id() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = retry_on_intr(|| waitid(WaitId::Pid(id), options));
            self.handle.sweep();
            lock(&self.handle.leader).take();
        }
        self.child.wait()
    }

    /// Returns whether it ended. It is only looked at, so that its id stays its own.
    fn is_gone(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        self.id().is_none_or(|id| !matches!(waitid(WaitId::Pid(id), options), Ok(None)))
    }

    /// Returns its id while that is its own.
    fn id(&self) -> Option<Pid> {
        self.handle.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.handle.kill();
        while !self.is_gone() {
            thread::sleep(MOMENT);
            self.handle.kill();
        }
        let _ = self.wait();
    }
}

/// Returns how a worker died, and in words for people.
pub(super) fn describe(status: ExitStatus) -> (FailureKind, String) {
    let how = match (status.code(), status.signal()) {
        (None, Some(9)) => {
            let how = "killed (signal 9), perhaps because memory ran out";
            return (FailureKind::Killed, how.to_owned());
        }
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(11)) => "segmentation fault (signal 11)".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    };
    (FailureKind::Crashed, how)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::{Digest, Value};
    use crate::stage::action::PROTOCOL;

    fn shell(script: &str) -> Worker {
        Worker::start(Path::new("sh"), &["-c", script]).unwrap()
    }

    #[test]
    fn what_a_waiting_worker_says_belongs_to_no_step() {
        let mut worker = shell("echo late >&2; read -r action; echo early >&2; cat");
        thread::sleep(Duration::from_millis(300));
        assert!(worker.is_ready());
        worker.send(&action(0)).unwrap();
        assert!(matches!(worker.next(), Some(Line::Text(text)) if text == "early"));
        worker.handle.kill();
        assert_eq!(worker.wait().unwrap().signal(), Some(9));
        assert!(!worker.is_ready());
    }

    #[test]
    fn a_worker_that_does_not_read_can_be_stopped() {
        let worker = shell("exec sleep 1000");
        let handle = worker.handle();
        let sending = thread::spawn(move || worker.send(&action(1 << 20)));
        thread::sleep(Duration::from_millis(100));
        assert!(!sending.is_finished(), "a pipe holds less than this action");
        // Must not wait for what is being sent.
        handle.stop();
        handle.kill();
        sending.join().unwrap().unwrap();
    }

    fn action(bytes: usize) -> Action {
        Action {
            protocol: PROTOCOL,
            key: Digest::of(b"key"),
            stage: "test".to_owned(),
            params: BTreeMap::from([("text".to_owned(), Value::Str("x".repeat(bytes)))]),
            inputs: BTreeMap::new(),
            out: "out".into(),
            state: "state".into(),
            seed: 0,
            threads: 1,
            device: "cpu".to_owned(),
            micro_batch: None,
            recompute: false,
            shell: None,
        }
    }
}
