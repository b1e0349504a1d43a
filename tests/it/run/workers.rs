//! Workers that stop, die or talk at the wrong moment.

use crate::run::failures::{TORCH, with_worker};
use crate::run::space::Space;

/// A recipe with two steps for one tensor worker, one after the other.
fn with_two_steps(body: &str) -> Space {
    let space = with_worker(body);
    space.edit(
        "\n\nplan default = donor",
        "\nlet other = model.open(\"texts/b.txt\")\n\nplan default = [donor, other]",
    );
    space
}

#[test]
fn a_worker_that_another_program_stops_fails_its_step() {
    let stopped = "echo '{\"event\":\"interrupted\"}'";
    let space = with_two_steps(stopped);
    let run = space.run(&TORCH);
    run.check(1, &[]);
    assert_eq!(run.steps("failed"), ["donor", "other"], "{run}");
    run.says(&["the worker was told to stop by another program", "run the same command again"]);

    let space = with_worker(&format!(
        "[ -e \"$0.tried\" ] && done_now && exit\necho > \"$0.tried\"\n{stopped}"
    ));
    space.edit("a.txt\")", "a.txt\") run { retries: 1 }");
    let run = space.run(&TORCH);
    run.check(0, &["donor"]);
    let again: Vec<_> = run.all("retrying").map(|event| &event["kind"]).collect();
    assert_eq!(again, ["crashed"], "{run}");
    space.check_store();
}

#[test]
fn a_worker_that_dies_while_it_waits_costs_no_step() {
    for death in ["exit", "read -r action\nexit 3", "read -r action\nkill -9 $$"] {
        let space = with_two_steps(&format!("done_now\n{death}"));
        let run = space.run(&TORCH);
        run.check(0, &["donor", "other"]);
        assert_eq!(run.all("retrying").count(), 0, "{run}");
        space.check_store();
    }
}

#[test]
fn what_a_failing_worker_says_last_is_in_its_log() {
    let failed =
        "{\"event\":\"failed\",\"kind\":\"input\",\"message\":\"no such thing\",\"help\":null}";
    let space = with_worker(&format!("echo '{failed}'\nsleep 0.3\necho 'stack backtrace' >&2"));
    let run = space.run(&TORCH);
    run.check(1, &[]);
    run.says(&["failed: no such thing", "│ stack backtrace"]);
    let log = space.tlm(&["log", "donor"]);
    assert_eq!(log.code, Some(0), "{log:?}");
    assert!(log.out.starts_with("step donor (model.open) at 20"), "{log:?}");
    assert!(log.out.ends_with("stack backtrace\nfailed: no such thing\n"), "{log:?}");
    // One that neither ends nor says anything is not waited for.
    let space = with_worker(&format!("echo '{failed}'\nsleep 1000"));
    space.run(&TORCH).check(1, &[]);
}

#[test]
fn what_fails_as_its_time_is_over_is_told_as_it_is() {
    let space = with_worker(
        "cat > /dev/null\necho '{\"event\":\"failed\",\"kind\":\"environment\",\"message\":\"no room\",\"help\":null}'",
    );
    space.edit("a.txt\")", "a.txt\") run { limit: 200ms, retries: 1 }");
    let run = space.run(&TORCH);
    run.check(4, &[]);
    assert_eq!(run.all("started").count(), 2, "{run}");
}

#[test]
fn a_tensor_worker_without_its_libraries_names_the_remedy() {
    let space =
        with_worker("echo 'error while loading shared libraries: libtorch_cpu.so' >&2\nexit 127");
    let run = space.run(&TORCH);
    run.check(4, &[]);
    run.says(&["the tensor worker can't start", "make libtorch", "│ error while loading"]);
}

#[test]
fn an_output_that_is_no_file_is_told_as_a_bug_of_the_stage() {
    let space = with_worker(
        "ln() { command ln -s x \"$1\"; }\nmkdir() { command mkdir \"$@\"; ln \"$1/link\"; }\ndone_now",
    );
    let run = space.run(&TORCH);
    run.check(70, &[]);
    run.says(&["link` is neither file nor folder", "please report this stage"]);
    space.check_store();
}
