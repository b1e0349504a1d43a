//! `tlm run --trace`, and what a terminal shows.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::run::space::{ALL, Space, eventually, finish, signal, start, wait};

/// Reads a trace as its viewers do: the bracket at the end may be missing.
fn read(space: &Space) -> Vec<Value> {
    let text = space.read("trace.json");
    let text = text.trim_end();
    let whole = if text.ends_with(']') { text.to_owned() } else { format!("{text}]") };
    let Value::Array(events) = serde_json::from_str(&whole).expect("JSON") else {
        panic!("no list: {whole}")
    };
    events
}

/// Returns the slices of a kind.
fn slices<'e>(events: &'e [Value], category: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["ph"] == "X" && event["cat"] == category).collect()
}

#[test]
fn a_trace_has_a_slice_for_each_step_and_lanes_that_hold_one_at_a_time() {
    let space = Space::new();
    let run = space.run(&["--trace", "trace.json"]);
    run.check(0, &ALL);
    let events = read(&space);
    let slices = slices(&events, "step");
    let mut names: Vec<_> =
        slices.iter().map(|slice| slice["name"].as_str().expect("a name")).collect();
    names.sort_unstable();
    assert_eq!(names, ALL);
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    let mut by_start = slices.clone();
    by_start.sort_by_key(|slice| slice["ts"].as_u64());
    for slice in by_start {
        let number = |field: &str| slice[field].as_u64().expect("a number");
        let lane_free = ends.insert(number("tid"), number("ts") + number("dur"));
        assert!(lane_free.is_none_or(|end| end <= number("ts")), "{slice}");
        let args = &slice["args"];
        assert_eq!(args["ended"], "finished", "{slice}");
        assert!(args["waited_seconds"].as_f64().is_some_and(|waited| waited >= 0.0), "{slice}");
        assert!(args["cpu_seconds"].as_f64().is_some_and(|used| used >= 0.0), "{slice}");
        let told = run.all("finished").find(|event| event["step"]["name"] == slice["name"]);
        let told = &told.expect("it ran")["step"];
        assert_eq!((&args["stage"], &args["key"]), (&told["stage"], &told["key"]), "{slice}");
    }
    let lanes = events.iter().filter(|event| event["name"] == "thread_name").count();
    assert_eq!(lanes, ends.len());
    // Nothing to do is a trace too.
    space.run(&["--trace", "trace.json"]).check(0, &[]);
    assert!(read(&space).is_empty());
}

#[test]
fn a_trace_shows_failures_interruptions_and_whom_a_step_waited_for() {
    let space = Space::with(
        r#"stage slow(raw: File) -> File version 1 shell "echo > began; while ! [ -e go ]; do sleep 0.02; done; cp {raw} {out}"
stage fail(raw: File) -> File version 1 shell "echo > {out}; exit 3"
let a = slow("texts/a.txt") run { cpus: 1 }
let b = fail("texts/a.txt") run { cpus: 1 }
plan default = [a, b]
plan slow = a
"#,
    );
    let first = start(&mut space.run_command(&["slow"]));
    eventually("the step to start", || space.path("began").exists().then_some(()));
    let id = first.id();
    let second = start(&mut space.run_command(&["--trace", "trace.json"]));
    eventually("the step to fail", || {
        let logs = space.tlm(&["log", "b"]);
        logs.out.contains("failed: ").then_some(())
    });
    signal(id, "INT");
    wait(first);
    eventually("the step to start", || space.read("trace.json").contains("\"wait\"").then_some(()));
    space.write("go", "");
    assert_eq!(wait(second).code, Some(1));
    let events = read(&space);
    let ended = |category: &str| -> Vec<_> {
        let shown = |slice: &&Value| {
            format!("{} {}", slice["name"], slice["args"]["ended"]).replace('"', "")
        };
        slices(&events, category).iter().map(shown).collect()
    };
    assert_eq!(ended("step"), ["b failed", "a finished"]);
    assert_eq!(ended("wait"), ["a waited"]);
    let holder = &slices(&events, "wait")[0]["args"]["waits_for"];
    assert!(
        holder.as_str().is_some_and(|who| who.starts_with(&format!("process {id} on "))),
        "{holder}"
    );
}

#[test]
fn a_trace_tells_all_of_a_run_that_is_planned_again() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    let shown = space.tlm(&["show", "counts"]).out;
    let object = shown.lines().find_map(|line| line.trim().strip_prefix("out: "));
    let object = object.expect("an output").rsplit_once(", ").expect("a size").0;
    let entries = walkdir::WalkDir::new(object).into_iter().map(|entry| entry.expect("readable"));
    let mut files = entries.filter(|entry| entry.file_type().is_file());
    crate::damage::flip(files.next().expect("a file").path(), 3);
    let run = space.run(&["-s", "keep=265", "--trace", "trace.json"]);
    run.check(0, &["counts", "dev", "ds", "tok"]);
    let events = read(&space);
    let slice = |slice: &&Value| format!("{} {}", slice["name"], slice["args"]["ended"]);
    let told: Vec<_> = slices(&events, "step").iter().map(slice).collect();
    assert!(told.contains(&r#""counts" "finished""#.to_owned()), "{told:?}");
    let ends = |end: &&String| end.starts_with(r#""tok""#);
    assert_eq!(told.iter().filter(ends).count(), 1, "{told:?}");
    assert_eq!(events.iter().filter(|event| event["name"] == "thread_name").count(), 2);
}

#[test]
fn a_trace_that_can_t_be_written_is_told_before_anything_runs() {
    let space = Space::new();
    let run = space.run(&["--trace", "no/such/trace.json"]);
    run.check(4, &[]);
    run.says(&[
        "can't write the trace `no/such/trace.json`",
        "name another place with `--trace FILE`",
    ]);
    space.run(&["--trace", "/dev/full"]).says(&["can't write the trace `/dev/full`: No space"]);
    assert_eq!(space.run(&[]).steps("reused"), ALL, "the run went on");
}

/// Runs on a terminal of the system's `script`, where it has one, and returns what was drawn.
fn on_a_terminal(space: &Space, args: &str) -> Option<String> {
    let mut command = Command::new("sh");
    space.at_home(&mut command);
    let line =
        "command -v script > /dev/null || exit 99; exec script -qec \"$TLM $ARGS\" /dev/null";
    command.args(["-c", line]).env("TLM", env!("CARGO_BIN_EXE_tlm")).env("ARGS", args);
    let ended = finish(command.env("TERM", "xterm"));
    (ended.code != Some(99)).then(|| {
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    })
}

#[test]
fn a_terminal_shows_what_a_step_does_and_the_course_of_its_loss() {
    let space = crate::run::failures::with_worker(
        "for loss in 4 3 2 1; do\n\
           echo '{\"event\":\"metric\",\"name\":\"loss\",\"value\":'$loss'}'\n\
           echo '{\"event\":\"progress\",\"done\":'$((500-100*loss))',\"total\":500,\"unit\":\"tokens\"}'\n\
           sleep 0.3\n\
         done\ndone_now",
    );
    let Some(drawn) = on_a_terminal(&space, "run r.tlm --torch worker") else { return };
    for part in [
        "loss 1.000 █▆▃▁",
        "100 of 500 tokens",
        " tokens/s",
        " left",
        "total",
        "0/1 steps",
        "finished donor in ",
    ] {
        assert!(drawn.contains(part), "no `{part}` in:\n{drawn}");
    }
}
