//! Signals other than a request to stop, and outputs that go away.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::run::failures::{TORCH, with_worker};
use crate::run::space::{
    ALL, Ended, Run, Space, eventually, finish, processes_of, signal, start, wait,
};

/// Runs a line of the shell's language; `$TLM` in it is the program.
fn shell(space: &Space, line: &str) -> Ended {
    let mut command = Command::new("sh");
    space.at_home(&mut command);
    finish(command.args(["-c", line]).env("TLM", env!("CARGO_BIN_EXE_tlm")))
}

#[test]
fn a_reader_that_goes_away_is_told_and_stops_nothing() {
    for line in ["$TLM run --json r.tlm | head -1", "$TLM run r.tlm | true"] {
        let space = Space::new();
        shell(&space, line);
        space.run(&[]).check(0, &[]);
        space.check_store();
    }
}

#[test]
fn outputs_that_are_closed_from_the_start_stop_nothing() {
    for line in ["$TLM run r.tlm >&-", "$TLM run r.tlm 2>&-", "$TLM run --json r.tlm >&- 2>&- <&-"]
    {
        let space = Space::new();
        shell(&space, line);
        let run = space.run(&[]);
        run.check(0, &[]);
        assert_eq!(run.steps("reused"), ALL, "{line}: {run}");
        space.check_store();
    }
}

/// A step that waits for the file `go`.
const WAITS: &str = "echo > began\nwhile ! [ -e go ]; do sleep 0.02; done\ndone_now";

#[test]
fn a_hangup_stops_a_run_but_not_under_nohup() {
    let space = with_worker(WAITS);
    // The tests themselves may run under `nohup`.
    let mut command = Command::new("env");
    space.at_home(&mut command);
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_tlm"), "run", "--json", "r.tlm"]);
    let child = start(command.args(TORCH));
    eventually("the step to start", || space.path("began").exists().then_some(()));
    signal(child.id(), "HUP");
    thread::sleep(Duration::from_millis(100));
    signal(child.id(), "HUP");
    Run::of(wait(child)).check(130, &[]);
    eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));

    let space = with_worker(WAITS);
    let mut command = Command::new("sh");
    space.at_home(&mut command);
    let line =
        format!("trap '' HUP; exec {} run --json r.tlm --torch worker", env!("CARGO_BIN_EXE_tlm"));
    let child = start(command.args(["-c", &line]));
    eventually("the step to start", || space.path("began").exists().then_some(()));
    signal(child.id(), "HUP");
    space.write("go", "");
    Run::of(wait(child)).check(0, &["donor"]);
}

/// Returns whether a process is suspended.
fn is_suspended(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('T'))
}

#[test]
fn a_suspended_run_suspends_its_workers_and_its_limits() {
    let space = with_worker(WAITS);
    space.edit("a.txt\")", "a.txt\") run { limit: 2s, stall: 2s }");
    let child = start(&mut space.run_command(&TORCH));
    eventually("the step to start", || space.path("began").exists().then_some(()));
    signal(child.id(), "TSTP");
    let all_suspended = || {
        let ids = processes_of(&space.path(""));
        ids.len() > 1 && ids.into_iter().all(is_suspended)
    };
    eventually("all to be suspended", || all_suspended().then_some(()));
    space.write("go", "");
    thread::sleep(Duration::from_millis(2500));
    assert!(all_suspended());
    signal(child.id(), "CONT");
    let run = Run::of(wait(child));
    run.check(0, &["donor"]);
    assert_eq!(run.all("started").count(), 1, "{run}");
}
