//! Runs that are stopped: by Ctrl-C, once and twice, and by SIGKILL at any moment. What was finished is kept, and the same
//! command goes on from there.

use std::collections::BTreeSet;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::space::{
    ALL, Run, Space, eventually, finish, name, processes_of, signal, start, wait,
};

/// A recipe with a step for the tensor worker beside those of [`ALL`], and that worker: it waits for the end of its input,
/// then does what `at_end` says.
fn with_waiting_step(at_end: &str) -> Space {
    let space = Space::new();
    space.edit("plan default = [ds, dev]", "let donor = model.open(\"x\")\n\nplan default = donor");
    space.edit("dataset}", "dataset, model}");
    space.write("x", "x");
    space.script(
        "worker",
        &format!("read -r action\necho > \"$0.reads\"\ncat > /dev/null\n{at_end}"),
    );
    space
}

fn started(space: &Space) -> Child {
    let child = start(&mut space.run_command(&["--torch", "worker"]));
    eventually("the step to start", || space.path("worker.reads").exists().then_some(()));
    child
}

const SAVED: &str = "echo '{\"event\":\"interrupted\"}'";

#[test]
fn the_first_signal_lets_a_step_save_its_state() {
    for name in ["INT", "TERM"] {
        let space = with_waiting_step(SAVED);
        let child = started(&space);
        signal(child.id(), name);
        let run = Run::of(wait(child));
        run.check(130, &[]);
        assert_eq!(run.steps("interrupted"), ["donor"], "{run}");
        assert_eq!(run.summary()["interrupted"], true, "{run}");
        run.says(&["stopped donor; its state is kept", "to go on: tlm run r.tlm --torch worker"]);
        space.check_store();
        assert_eq!(processes_of(&space.path("")), [0; 0]);
    }
}

#[test]
fn a_signal_to_all_processes_is_an_interruption_whoever_gets_it_first() {
    let space = with_waiting_step("");
    let body = format!("saved() {{ {SAVED}; exit; }}\ntrap saved TERM\nread -r action\n");
    space.script("worker", &format!("{body}echo > \"$0.reads\"\nsleep 1000 & wait"));
    let child = started(&space);
    let workers = processes_of(&space.path("")).into_iter().filter(|id| *id != child.id());
    workers.for_each(|id| signal(id, "TERM"));
    signal(child.id(), "TERM");
    let run = Run::of(wait(child));
    run.check(130, &[]);
    assert_eq!((run.steps("interrupted"), run.steps("failed").len()), (vec!["donor"], 0), "{run}");
}

#[test]
fn the_second_signal_ends_a_step_that_does_not_listen() {
    let space = with_waiting_step("sleep 1000");
    let child = started(&space);
    signal(child.id(), "INT");
    thread::sleep(Duration::from_millis(200));
    assert!(!processes_of(&space.path("")).is_empty(), "one signal waits for the step");
    signal(child.id(), "INT");
    let run = Run::of(wait(child));
    run.check(130, &[]);
    space.check_store();
    eventually("the end of the worker", || processes_of(&space.path("")).is_empty().then_some(()));
}

#[test]
fn a_second_tlm_waits_for_the_step_and_takes_over_when_the_first_is_killed() {
    let space = with_waiting_step(SAVED);
    let first = started(&space);
    let id = first.id();
    let second = start(&mut space.run_command(&["--torch", "other"]));
    space.script("other", "read -r action\nexit 5");
    thread::sleep(Duration::from_millis(300));
    signal(first.id(), "KILL");
    wait(first);
    let run = Run::of(wait(second));
    run.check(1, &[]);
    assert_eq!(run.steps("waiting"), ["donor"], "{run}");
    let holder = format!("(process {id} on ");
    run.says(&[
        "donor is being made by another tlm ",
        &holder,
        ": tlm run --json r.tlm --torch worker); waiting",
    ]);
    run.says(&["the worker died: exit code 5"]);
    let told = run.all("waiting").next().expect("it waited");
    assert!(told["holder"].as_str().is_some_and(|told| holder.contains(&told[..13])), "{told}");
    eventually("the end of the orphan", || processes_of(&space.path("")).is_empty().then_some(()));
    space.check_store();
}

#[test]
fn the_second_signal_ends_a_run_that_publishes() {
    let space = Space::new();
    space.tlm(&["plan", "r.tlm"]);
    // Publishing waits for whoever writes the index.
    let index = std::fs::File::create(space.path(".tlm/index")).expect("created");
    index.lock().expect("locked");
    let child = start(&mut space.run_command(&[]));
    eventually("an object", || space.path(".tlm/objects").exists().then_some(()));
    signal(child.id(), "INT");
    thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    signal(child.id(), "INT");
    assert_eq!(Run::of(wait(child)).code, Some(130));
    assert!(began.elapsed() < Duration::from_secs(10), "it waited");
    drop(index);
    space.run(&[]).check(0, &ALL);
    space.check_store();
}

/// A worker that says more than a pipe holds.
const CHATTER: &str = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); \
     echo '{\"event\":\"log\",\"line\":\"so much to tell, and so many words to tell it\"}'; done\n";

#[test]
fn a_reader_that_does_not_read_stops_neither_limits_nor_signals() {
    let space = with_waiting_step("");
    space.script("worker", &format!("{CHATTER}echo > \"$0.reads\"\nsleep 1000"));
    space.edit("model.open(\"x\")", "model.open(\"x\") run { limit: 500ms }");
    let child = started(&space);
    let workers =
        || processes_of(&space.path("")).into_iter().filter(|id| *id != child.id()).count();
    eventually("the end of the worker", || (workers() == 0).then_some(()));
    let run = Run::of(wait(child));
    run.check(1, &[]);
    run.says(&["it took longer than its `limit`"]);

    let space = with_waiting_step("");
    space.script("worker", &format!("{CHATTER}echo > \"$0.reads\"\nsleep 1000"));
    let mut child = started(&space);
    signal(child.id(), "INT");
    thread::sleep(Duration::from_millis(200));
    signal(child.id(), "INT");
    let ended = eventually("the end", || child.try_wait().expect("it can be waited for"));
    assert_eq!(ended.code(), Some(130));
    eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));
}

/// Returns what `tlm lock` writes down of a finished run: the artifacts of all steps.
fn artifacts(space: &Space) -> String {
    let locked = space.tlm(&["lock", "r.tlm"]);
    assert_eq!(locked.code, Some(0), "{locked:?}");
    assert!(locked.out.contains("7 steps, 7 with outputs"), "{locked:?}");
    space.read("r.tlm.lock")
}

/// Returns moments spread over a run, the same at each test.
fn moments(count: u64, whole: Duration) -> impl Iterator<Item = Duration> {
    let golden = |i: u64| (i as f64 * 0.618_034).fract();
    (0..count).map(move |i| whole.mul_f64(golden(i)))
}

#[test]
fn a_run_killed_at_any_moment_is_continued_to_the_same_artifacts() {
    let clean = Space::new();
    let began = Instant::now();
    clean.run(&[]).check(0, &ALL);
    let whole = began.elapsed();
    let expected = artifacts(&clean);
    for (round, moment) in moments(24, whole).enumerate() {
        let space = Space::new();
        let mut child = start(&mut space.run_command(&[]));
        thread::sleep(moment);
        match round % 2 {
            0 => signal(child.id(), "KILL"),
            _ => kill_a_worker(&space, child.id()),
        }
        let cut = wait_for_lines(&mut child);
        let rest = Run::of(finish(&mut space.run_command(&[])));
        assert_eq!(rest.code, Some(0), "killed after {moment:?}: {rest}");
        // What was told as finished does not run again.
        let again =
            rest.steps("finished").into_iter().filter(|step| cut.contains(&(*step).to_owned()));
        assert_eq!(again.count(), 0, "killed after {moment:?}: {cut:?}, then {rest}");
        assert_eq!(artifacts(&space), expected, "killed after {moment:?}");
        eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));
        space.run(&[]).check(0, &[]);
        space.check_store();
        assert_eq!(space.stored("state"), BTreeSet::new());
    }
}

/// Kills a worker of a running tlm, if it has one.
fn kill_a_worker(space: &Space, scheduler: u32) {
    let workers = processes_of(&space.path("")).into_iter().filter(|id| *id != scheduler);
    workers.for_each(|id| signal(id, "KILL"));
}

/// Waits for a killed program and returns the steps it told as finished; its last line may be cut.
fn wait_for_lines(child: &mut Child) -> Vec<String> {
    let mut out = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    std::io::Read::read_to_string(&mut stdout, &mut out).expect("text");
    child.wait().expect("it ends");
    let events = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let finished = events.filter(|event| event["event"] == "finished");
    finished.map(|event| name(&event).to_owned()).collect()
}
