//! The worker's loop, with small stages of the test's own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tlm::base::{Digest, Value};
use tlm::stage::action::PROTOCOL;
use tlm::stage::{Action, Context, Event, FailureKind, Registry, StageError, worker};

const REGISTRY: Registry = &[
    ("test.double", |context| {
        #[derive(serde::Deserialize)]
        struct Params {
            number: i64,
        }
        let params: Params = context.params()?;
        context.output("out", Value::Int(2 * params.number))
    }),
    ("test.fail", |_| Err(StageError::input("`a.txt` is empty").help("write something"))),
    ("test.panic", |_| panic!("a bug")),
    ("test.wait", wait),
    ("test.alone", alone),
];

/// Fails when another one works in the same state folder.
fn alone(context: &mut Context) -> Result<(), StageError> {
    let busy = context.state_dir().join("busy");
    File::create_new(&busy).map_err(|e| StageError::io("create", &busy, &e))?;
    std::thread::sleep(Duration::from_millis(5));
    fs::remove_file(&busy).map_err(|e| StageError::io("remove", &busy, &e))
}

fn wait(context: &mut Context) -> Result<(), StageError> {
    while !context.interrupted() {
        std::thread::yield_now();
    }
    Err(StageError::Interrupted)
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic inside").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn action(stage: &str, state: &Path) -> Action {
    Action {
        protocol: PROTOCOL,
        key: Digest::of(b"key"),
        stage: stage.to_owned(),
        params: BTreeMap::from([("number".to_owned(), Value::Int(21))]),
        inputs: BTreeMap::new(),
        out: "out".into(),
        state: state.to_owned(),
        seed: 1,
        threads: 1,
        device: "cpu".to_owned(),
        micro_batch: None,
        recompute: false,
        shell: None,
    }
}

/// Returns an action as the scheduler sends it.
fn line(stage: &str, state: &Path) -> String {
    serde_json::to_string(&action(stage, state)).expect("plain data")
}

/// Runs the lines and returns the events; the last one has to fail.
fn serve(lines: &[String], stop: &Arc<AtomicBool>) -> Vec<Event> {
    let sink = Sink::default();
    let open_end = Cursor::new(lines.join("\n") + "\n").chain(Blocked(Arc::clone(stop)));
    worker::serve(REGISTRY, BufReader::new(open_end), &sink, stop);
    let bytes = sink.0.lock().expect("no panic inside").clone();
    events(&bytes)
}

/// Returns the events in a worker's output, but for what the actions took.
fn events(bytes: &[u8]) -> Vec<Event> {
    let text = std::str::from_utf8(bytes).expect("text");
    let events = text.lines().map(|line| serde_json::from_str(line).expect("an event"));
    events.filter(|event| !matches!(event, Event::Used { .. })).collect()
}

/// Ends once the worker is asked to stop, as a scheduler would close the pipe.
struct Blocked(Arc<AtomicBool>);

impl Read for Blocked {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        while !self.0.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        Ok(0)
    }
}

/// Checks the events of these stages run in one worker; a line that is no stage's name is sent as it is.
#[track_caller]
fn check(stages: &[&str], expected: &[&str]) {
    let state = tempfile::tempdir().expect("a folder");
    let sent = |name: &&str| match name.starts_with("test.") {
        true => line(name, state.path()),
        false => (*name).to_owned(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let lines: Vec<_> = stages.iter().map(sent).collect();
    let events = serve(&lines, &stop);
    stop.store(true, Ordering::Relaxed);
    let shown: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Output { name, value } => format!("{name} = {value:?}"),
            Event::Failed(failure) => format!("{:?}: {}", failure.kind, failure.message),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(shown, expected);
}

#[test]
fn a_failing_action_is_the_last_one() {
    check(&["test.fail", "test.double"], &["Input: `a.txt` is empty"]);
    check(&["test.panic", "test.double"], &["Internal: internal error: a bug"]);
    check(&["test.none"], &["Internal: this worker has no stage `test.none`"]);
    check(
        &["{}"],
        &["Internal: can't read the action: missing field `protocol` at line 1 column 2"],
    );
}

#[test]
fn a_good_worker_takes_the_next_action() {
    check(
        &["test.double", "test.double", "test.fail"],
        &["out = Int(42)", "Done", "out = Int(42)", "Done", "Input: `a.txt` is empty"],
    );
}

#[test]
fn the_end_of_the_input_stops_a_running_stage() {
    let stop = Arc::new(AtomicBool::new(false));
    let sink = Sink::default();
    let state = tempfile::tempdir().expect("a folder");
    let line = line("test.wait", state.path()) + "\n";
    worker::serve(REGISTRY, BufReader::new(Cursor::new(line)), &sink, &stop);
    let bytes = sink.0.lock().expect("no panic inside").clone();
    assert_eq!(events(&bytes), [Event::Interrupted]);
}

#[test]
fn workers_use_a_state_folder_one_after_the_other() {
    let state = tempfile::tempdir().expect("a folder");
    let mut lines = vec![line("test.alone", state.path()); 5];
    lines.push(line("test.fail", state.path()));
    let ends = || {
        let stop = Arc::new(AtomicBool::new(false));
        let events = serve(&lines, &stop);
        stop.store(true, Ordering::Relaxed);
        events.into_iter().filter(|event| *event == Event::Done).count()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(ends)).collect();
        for worker in workers {
            assert_eq!(worker.join().expect("no panic"), 5);
        }
    });
    assert_eq!(fs::read_dir(state.path()).expect("the folder").count(), 0, "something is left");
}

#[test]
fn a_worker_that_waits_for_another_says_so_and_stops_when_asked() {
    let state = tempfile::tempdir().expect("a folder");
    let lock = File::create(state.path().join("lock")).expect("created");
    lock.lock().expect("locked");
    let lines = ["test.double", "test.fail"].map(|stage| line(stage, state.path()));
    assert_eq!(serve(&lines, &Arc::new(AtomicBool::new(true))), [Event::Interrupted]);

    let stop = Arc::new(AtomicBool::new(false));
    let events = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            lock.unlock().expect("unlocked");
        });
        serve(&lines, &stop)
    });
    stop.store(true, Ordering::Relaxed);
    let [Event::Log { line }, Event::Output { .. }, Event::Done, Event::Failed(_)] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert!(line.contains("still works on this step"), "{line}");
}

#[test]
fn another_protocol_is_refused() {
    let other = Action { protocol: PROTOCOL + 1, ..action("test.double", Path::new("state")) };
    let stop = Arc::new(AtomicBool::new(false));
    let events = serve(&[serde_json::to_string(&other).expect("plain data")], &stop);
    stop.store(true, Ordering::Relaxed);
    match &events[..] {
        [Event::Failed(failure)] => {
            assert_eq!(failure.kind, FailureKind::Internal);
            assert!(failure.help.as_ref().is_some_and(|help| help.contains("same sources")));
        }
        other => panic!("{other:?}"),
    }
}
