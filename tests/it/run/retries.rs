//! Steps that are tried again, stall, or take the rest of the run down with them.

use crate::run::failures::{TORCH, with_worker};
use crate::run::space::{Space, eventually, processes_of};

/// A command that fails in some way the first time, and what the run says of that.
#[track_caller]
fn check_retried(failing: &str, run: &str, kind: &str, parts: &[&str]) {
    let space = Space::with(&format!(
        "stage make(raw: File) -> File version 1 shell \"\"\"\n\
         if ! [ -e tried ]; then echo > tried; {failing}; fi\n\
         cp {{raw}} {{out}}\"\"\"\n\
         let made = make(\"texts/a.txt\") run {{ {run} }}\n\
         plan default = made\n"
    ));
    let ran = space.run(&[]);
    ran.check(0, &["made"]);
    let kinds: Vec<_> = ran.all("retrying").map(|event| event["kind"].clone()).collect();
    assert_eq!((kinds, ran.all("started").count()), (vec![kind.into()], 2), "{ran}");
    ran.says(parts);
    space.check_store();
}

#[test]
fn each_class_of_failure_is_tried_again_with_more_of_what_it_lacked() {
    check_retried("exit 75", "retries: 1", "environment", &["ended with exit code 75"]);
    check_retried("kill -11 $$", "retries: 1", "crashed", &["ended with signal 11"]);
    check_retried(
        "kill -9 $$",
        "retries: 1, mem: 8 MiB",
        "killed",
        &["made is tried again, mem 16.0 MiB: ", "perhaps because memory ran out"],
    );
    check_retried(
        "sleep 1000",
        "retries: 1, limit: 500ms",
        "timed_out",
        &["made is tried again, limit 1.0s: it took longer"],
    );
    check_retried("sleep 1000", "retries: 1, stall: 500ms", "stalled", &["for 0.5s (`stall`)"]);
}

#[test]
fn a_step_that_stalls_is_told_with_its_remedy() {
    let space = with_worker("echo working >&2\nsleep 1000");
    space.edit("a.txt\")", "a.txt\") run { stall: 500ms }");
    let run = space.run(&TORCH);
    run.check(1, &[]);
    run.says(&[
        "it said nothing and used no processor time for 0.5s",
        "raise `stall`",
        "│ working",
    ]);
    eventually("the end of the worker", || processes_of(&space.path("")).is_empty().then_some(()));
}

#[test]
fn a_step_that_works_or_talks_does_not_stall() {
    for work in [
        "end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do :; done",
        "for i in 1 2 3 4 5 6; do echo $i >&2; sleep 0.4; done",
    ] {
        let space = with_worker(&format!("{work}\ndone_now"));
        space.edit("a.txt\")", "a.txt\") run { stall: 1500ms }");
        space.run(&TORCH).check(0, &["donor"]);
    }
}

/// Two chains of two steps beside one that fails once the first of the slow chain runs.
const CHAINS: &str = r#"
stage slow(raw: File) -> File version 1 shell "echo > running; sleep {seconds}; cp {raw} {out}"
stage copy(raw: File) -> File version 1 shell "cp {raw} {out}"
stage fail(raw: File) -> File version 1 shell "while ! [ -e running ]; do sleep 0.01; done; echo > {out}; exit 3"

let long  = slow("texts/a.txt") run { cpus: 1 }
let after = copy(long)
let bad   = fail("texts/b.txt") run { cpus: 1 }
let never = copy(bad)

plan default = [after, never]
"#;

#[test]
fn one_failing_branch_does_not_stop_the_others_unless_that_is_wanted() {
    let space = Space::with(&CHAINS.replace("{seconds}", "0.5"));
    let run = space.run(&[]);
    run.check(1, &["after", "long"]);
    assert_eq!((run.steps("failed"), run.steps("skipped")), (vec!["bad"], vec!["never"]), "{run}");

    let space = Space::with(&CHAINS.replace("{seconds}", "1000"));
    let run = space.run(&["--fail-fast"]);
    run.check(1, &[]);
    assert_eq!(
        (run.steps("failed"), run.steps("interrupted")),
        (vec!["bad"], vec!["long"]),
        "{run}"
    );
    assert_eq!(run.summary()["interrupted"], false, "{run}");
    run.says(&["0 steps ran in ", ", 1 failed, 1 skipped, 1 stopped, 1 not started"]);
    assert_eq!(processes_of(&space.path("")), [0; 0]);
    space.check_store();
}

#[test]
fn a_step_is_told_how_many_threads_it_may_use() {
    let space = Space::with(
        r#"stage threads(raw: File) -> { threads: Count } version 1 shell """
  echo $OMP_NUM_THREADS > {threads}; echo $MKL_NUM_THREADS $OPENBLAS_NUM_THREADS $RAYON_NUM_THREADS
"""
let one = threads("texts/a.txt") run { cpus: 1 }
plan default = one.threads
"#,
    );
    let run = space.run(&[]);
    run.check(0, &["one"]);
    let finished = run.all("finished").next().expect("it ran");
    assert_eq!(finished["scalars"]["threads"], 1, "{run}");
    assert!(space.tlm(&["log", "one"]).out.ends_with("1 1 1\n"));
}

/// Each waits for the other, so both run at once.
#[test]
fn steps_side_by_side_share_the_cores() {
    let space = Space::with(
        r#"stage meet(raw: File; own: Str, other: Str) -> { threads: Count } version 1 shell """
  echo > {own}; while ! [ -e {other} ]; do sleep 0.02; done; echo $OMP_NUM_THREADS > {threads}
"""
let a = meet("texts/a.txt", own: "../../../a", other: "../../../b")
let b = meet("texts/a.txt", own: "../../../b", other: "../../../a")
plan default = [a.threads, b.threads]
"#,
    );
    let run = space.run(&[]);
    run.check(0, &["a", "b"]);
    let threads: Vec<_> =
        run.all("finished").map(|event| event["scalars"]["threads"].as_u64()).collect();
    let cores = std::thread::available_parallelism().expect("known").get() as u64;
    let told: u64 = threads.iter().map(|threads| threads.expect("a number")).sum();
    assert!((2..=cores.max(2)).contains(&told), "{threads:?} of {cores}");
}
