//! A worker's main loop, in both programs: actions in, events out.

use std::any::Any;
use std::io::{self, BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use crate::stage::Registry;
use crate::stage::action::{Action, Event, Failure, FailureKind, PROTOCOL};
use crate::stage::context::{Context, StageError};

/// Works on actions until the input ends. An end of input or SIGINT asks the action at work to stop.
///
/// # Errors
/// When the signal handler can't be set.
pub fn serve(
    registry: Registry,
    input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
    let output = Shared(Arc::new(Mutex::new(output)));
    let (send, receive) = mpsc::channel();
    let ended = Arc::clone(&stop);
    thread::spawn(move || {
        for line in input.lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
            if send.send(line).is_err() {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    while let Ok(line) = receive.recv() {
        let mut last = output.clone();
        let event = work(registry, &line, &stop, output.clone());
        let mut text = serde_json::to_string(&event).expect("events are plain data");
        text.push('\n');
        // A closed pipe means that nobody waits for the answer.
        if last.write_all(text.as_bytes()).and_then(|()| last.flush()).is_err() {
            break;
        }
    }
    Ok(())
}

/// Returns how one action ends.
fn work(
    registry: Registry,
    line: &str,
    stop: &Arc<AtomicBool>,
    events: impl Write + Send + 'static,
) -> Event {
    let action: Action = match serde_json::from_str(line) {
        Ok(action) => action,
        Err(error) => return internal(format!("can't read the action: {error}")),
    };
    if action.protocol != PROTOCOL {
        return internal(format!(
            "the worker speaks protocol {PROTOCOL}, the action {}; build both programs again",
            action.protocol
        ));
    }
    let Some((_, body)) = registry.iter().find(|(name, _)| *name == action.stage) else {
        return internal(format!("this worker has no stage `{}`", action.stage));
    };
    let mut context = Context::new(action, Arc::clone(stop), Box::new(events));
    match catch_unwind(AssertUnwindSafe(|| body(&mut context))) {
        Ok(Ok(())) => Event::Done,
        Ok(Err(StageError::Interrupted)) => Event::Interrupted,
        Ok(Err(StageError::Failed(failure))) => Event::Failed(failure),
        Err(panic) => internal(format!("panicked: {}", text_of(&*panic))),
    }
}

fn internal(message: String) -> Event {
    Event::Failed(Failure { kind: FailureKind::Internal, message, help: None })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(|text| &**text)).unwrap_or("no message")
}

/// The output, shared by the loop and the actions' contexts.
struct Shared<W>(Arc<Mutex<W>>);

impl<W> Clone for Shared<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write> Write for Shared<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
