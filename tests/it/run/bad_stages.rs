//! Stages of a recipe's own that do what they should not. Each case is a row of the table in `docs/running.md`.

use crate::run::space::{Run, Space, eventually, processes_of, signal, start, wait};

/// A recipe with one step whose command is this, and one that reads what it makes.
fn with_command(command: &str, run: &str) -> Space {
    // A command has to name its outputs; this one does before it does what it does.
    Space::with(&format!(
        "stage make(raw: File) -> {{ made: File, count: Count }} version 1 shell \"\"\"\n\
         made={{made}} count={{count}}\n{command}\"\"\"\n\
         stage copy(raw: File) -> File version 1 shell \"cp {{raw}} {{out}}\"\n\
         let first = copy(\"texts/a.txt\")\n\
         let bad = make(first) {run}\n\
         let last = copy(bad.made)\n\
         plan default = last\n"
    ))
}

/// What a command does that does all it should.
const GOOD: &str = "cp {raw} {made}; echo 7 > {count}";

/// Checks a run whose bad step ends well all the same.
#[track_caller]
fn check_good(command: &str, logged: &[&str]) -> Space {
    let space = with_command(command, "");
    space.run(&[]).check(0, &["bad", "first", "last"]);
    let log = space.tlm(&["log", "bad"]);
    for part in logged {
        assert!(log.out.contains(part), "no `{part}` in {log:?}");
    }
    check_end(&space);
    space
}

/// Checks a run whose bad step fails; the one behind it is skipped.
#[track_caller]
fn check_failing(command: &str, run: &str, code: i32, parts: &[&str]) -> Space {
    let space = with_command(command, run);
    let ran = space.run(&[]);
    assert_eq!(
        (ran.code, ran.steps("failed"), ran.steps("skipped")),
        (Some(code), vec!["bad"], vec!["last"]),
        "{ran}"
    );
    ran.says(parts);
    check_end(&space);
    space
}

/// Checks that nothing half made and no process is left.
#[track_caller]
fn check_end(space: &Space) {
    space.check_store();
    eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));
}

#[test]
fn one_without_output_fails() {
    check_failing("true", "", 1, &["did not write its output `count`"]);
    check_failing("echo 7 > {count}", "", 1, &["did not write its output `made`"]);
    check_failing("cp {raw} {made}", "", 1, &["did not write its output `count`"]);
}

#[test]
fn files_beside_the_outputs_are_not_kept() {
    let beside = format!("{GOOD}; mkdir $made.more; echo x > $made.more/x; echo y > $made.other");
    check_good(&beside, &["tlm: 2 files beside the outputs not kept: made.more, made.other"]);
}

#[test]
fn an_input_that_it_changes_is_set_aside_and_made_again() {
    for (change, run) in [
        ("echo more >> {raw}", ""),
        ("chmod +w {raw}; sed -i 1s/./X/ {raw}", ""),
        ("rm -f {raw}", ""),
        ("rm -f {raw}; ln -s /etc/passwd {raw}", ""),
        ("echo more >> {raw}", "run { retries: 2 }"),
    ] {
        let command = format!("sleep 0.05; {GOOD}; {change}");
        let space = with_command(&command, run);
        let ran = space.run(&[]);
        assert_eq!((ran.code, ran.steps("failed")), (Some(1), vec!["bad"]), "{change}: {ran}");
        assert_eq!(
            (ran.steps("finished"), ran.all("retrying").count()),
            (vec!["first"], 0),
            "{ran}"
        );
        ran.says(&["its input `raw` was changed while it ran", "let the command work on a copy"]);
        // With the command mended, what it damaged is made again.
        space.edit(&format!("; {change}"), "");
        space.run(&[]).check(0, &["bad", "first", "last"]);
        check_end(&space);
    }
}

#[test]
fn a_file_of_the_users_that_it_changes_is_told() {
    let space = with_command(&format!("{GOOD}; echo more >> texts/b.txt"), "");
    space.edit("make(first)", "make(\"texts/b.txt\")");
    let run = space.run(&[]);
    run.check(1, &[]);
    run.says(&["texts/b.txt` changed while the step ran", "run the same command again"]);
    check_end(&space);
}

#[test]
fn numbers_that_are_none_fail_the_step() {
    for number in ["NaN", "Infinity", "null", "1e999", "", "[1]"] {
        let command = format!("cp {{raw}} {{made}}; echo '{number}' > {{count}}");
        check_failing(&command, "", 1, &["for `count`", "write one number"]);
    }
}

#[test]
fn what_it_leaves_running_is_ended() {
    for child in [
        "sleep 1000 &",
        "setsid sleep 1000 > /dev/null 2>&1 &",
        "(sh -c 'sleep 1000 & sleep 1000') &",
    ] {
        check_good(&format!("{child} {GOOD}"), &["tlm: the command left ", " running; ended"]);
        check_failing(&format!("{child} exit 3"), "", 1, &["the command ended with exit code 3"]);
    }
}

#[test]
fn what_it_left_running_before_its_worker_was_killed_is_ended() {
    let space = with_command("echo > began; setsid sleep 1000 & sleep 1000", "");
    let child = start(&mut space.run_command(&[]));
    eventually("the command to start", || space.path("began").exists().then_some(()));
    let workers = processes_of(&space.path("")).into_iter().filter(|id| {
        let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.ends_with("tlm\0worker\0")
    });
    // The run, and both its workers: the one that is idle, if there is one, and that of the command.
    let ids: Vec<_> = workers.chain([child.id()]).collect();
    ids.iter().for_each(|id| signal(*id, "KILL"));
    wait(child);
    eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));
}

#[test]
#[ignore = "slow: a gigabyte takes ten seconds; `make test-slow`"]
fn a_flood_of_text_leaves_a_log_of_bounded_size() {
    let megabytes = 1000;
    let flood =
        format!("yes 'a line that says nothing' | head -c {megabytes}000000; {GOOD}; echo the end");
    let space = check_good(&flood, &[" MiB left out ...\n", "\nthe end\n"]);
    let logs = space.stored("logs");
    let sizes = logs
        .iter()
        .map(|log| space.path(&format!(".tlm/logs/{log}")).metadata().expect("there").len());
    assert!(sizes.sum::<u64>() < 10_000_000, "{logs:?}");
}

#[test]
fn a_line_without_end_is_cut_into_lines() {
    let space =
        check_good(&format!("head -c 100000 /dev/zero | tr '[:cntrl:]' x; {GOOD}"), &["xxx"]);
    let log = space.tlm(&["log", "bad"]).out;
    assert!(log.lines().count() > 2 && log.matches('x').count() == 100_000, "{}", log.len());
}

#[test]
#[ignore = "slow: it waits out ten seconds of grace; `make test-slow`"]
fn one_that_ignores_sigterm_is_killed() {
    let deaf = "trap '' TERM; echo > began; while :; do sleep 0.1; done";
    let limited = "run { limit: 1s }";
    check_failing(deaf, limited, 1, &["it took longer than its `limit`", "raise `limit`"]);

    let space = with_command(deaf, "");
    let child = start(&mut space.run_command(&[]));
    eventually("the command to start", || space.path("began").exists().then_some(()));
    signal(child.id(), "TERM");
    let run = Run::of(wait(child));
    run.check(130, &["first"]);
    assert_eq!(run.steps("interrupted"), ["bad"], "{run}");
    check_end(&space);
}

#[test]
fn the_children_of_one_that_stops_may_save_what_they_have() {
    let saves = "sh -c 'trap \"sleep 0.3; echo saved > $TLM_STATE/saved; exit\" TERM; echo > began; while :; do sleep 0.05; done' & wait; :";
    let space = with_command(saves, "");
    let child = start(&mut space.run_command(&[]));
    eventually("the command to start", || space.path("began").exists().then_some(()));
    signal(child.id(), "INT");
    Run::of(wait(child)).check(130, &["first"]);
    let states = space.stored("state");
    let saved = states.iter().filter(|key| space.path(&format!(".tlm/state/{key}/saved")).exists());
    assert_eq!(saved.count(), 1, "{states:?}");
    check_end(&space);
}
