//! System calls that fail, or are the last: whatever goes wrong where, nothing false is kept, and the same command goes on to
//! what a run without faults gives.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::run::space::{ALL, Ended, Space, finish};

/// What runs here.
const RUN: [&str; 3] = ["run", "r.tlm", "words"];

/// The steps of that plan.
const STEPS: [&str; 4] = ["base", "counts", "split", "text"];

/// What is done to system calls, and how a run may end then; 137 is by SIGKILL, which may also hit a worker alone.
struct Fault {
    calls: &'static str,
    injected: &'static str,
    codes: &'static [i32],
}

const FAULTS: [Fault; 7] = [
    Fault { calls: "fsync", injected: "error=EIO", codes: &[0, 4] },
    Fault { calls: "pwrite64", injected: "error=ENOSPC", codes: &[0, 4] },
    // Also the lines between scheduler and worker, and what a stage writes.
    Fault { calls: "write", injected: "error=ENOSPC", codes: &[0, 1, 4] },
    Fault { calls: "openat", injected: "error=EMFILE", codes: &[0, 1, 3, 4, 127] },
    Fault { calls: "fsync", injected: "signal=KILL", codes: &[0, 1, 137] },
    Fault { calls: "rename,renameat,renameat2", injected: "signal=KILL", codes: &[0, 1, 137] },
    Fault { calls: "unlink,unlinkat,rmdir", injected: "signal=KILL", codes: &[0, 1, 137] },
];

/// Runs `tlm` while system calls are tampered with; returns how it ended and how many calls were hit, and nothing where the
/// system does not allow that.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn tampered(space: &Space, calls: &str, injected: &str, args: &[&str]) -> Option<(Ended, usize)> {
    let trace = space.path("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace);
    command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{injected}")]);
    command.arg(env!("CARGO_BIN_EXE_tlm")).args(args);
    space.at_home(&mut command);
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("skipped: strace is missing or may not trace");
        return None;
    }
    let ended = finish(&mut command);
    let trace = fs::read_to_string(trace).expect("a trace");
    // A call that kills is not marked.
    let hits = trace.matches("(INJECTED)").count() + usize::from(ended.code != Some(0));
    Some((ended, hits))
}

/// What a run without faults makes.
fn clean() -> BTreeSet<String> {
    let space = Space::new();
    space.run(&["words"]).check(0, &STEPS);
    space.objects()
}

/// Checks that the same command goes on to what a clean run makes.
#[track_caller]
fn check_recovery(space: &Space, clean: &BTreeSet<String>, told: &str) {
    let again = space.tlm(&RUN);
    assert_eq!(again.code, Some(0), "{told}: {again:?}");
    let fresh = space.tlm(&["plan", "r.tlm", "words"]);
    assert!(fresh.out.starts_with("4 steps, all fresh"), "{told}: {fresh:?}");
    assert_eq!(&space.objects(), clean, "{told}");
    let verified = space.tlm(&["verify"]);
    assert_eq!(verified.code, Some(0), "{told}: {verified:?}");
    assert_eq!(space.stored("staging"), BTreeSet::new(), "{told}");
}

/// Lets the n-th call of each thread fail, for these n, until there is none; returns how many there were.
fn check(fault: &Fault, clean: &BTreeSet<String>, numbers: impl Iterator<Item = usize>) -> usize {
    let mut tried = 0;
    for number in numbers {
        let space = Space::new();
        let injected = format!("{}:when={number}", fault.injected);
        let Some((ended, hits)) = tampered(&space, fault.calls, &injected, &RUN) else {
            return tried;
        };
        let told = format!("{} {injected}", fault.calls);
        if hits == 0 {
            return tried;
        }
        let code = ended.code.unwrap_or(137);
        assert!(fault.codes.contains(&code), "{told}: {ended:?}");
        assert!(!ended.err.contains("internal error"), "{told}: {ended:?}");
        // Standard error may be what can't be written.
        if code == 4 && fault.calls != "write" {
            assert!(ended.err.contains("can't "), "{told}: {ended:?}");
        }
        check_recovery(&space, clean, &told);
        tried += 1;
    }
    tried
}

#[test]
fn a_call_that_fails_or_kills_costs_nothing_that_the_same_command_does_not_mend() {
    let clean = clean();
    for fault in &FAULTS {
        check(fault, &clean, [1, 3].into_iter());
    }
}

#[test]
#[ignore = "takes minutes; `make test-faults`"]
fn each_call_that_fails_or_kills_costs_nothing_that_the_same_command_does_not_mend() {
    let clean = clean();
    for fault in &FAULTS {
        let tried = check(fault, &clean, 1..);
        eprintln!("{} {}: {tried} places", fault.calls, fault.injected);
    }
}

/// A call that a signal interrupts is made again. The first of those that load the program itself are spared.
#[test]
fn calls_that_are_interrupted_again_and_again_change_nothing() {
    let clean = clean();
    for (calls, from) in [("write,pwrite64,fsync,flock,wait4", 1), ("read,pread64", 10)] {
        let space = Space::new();
        let injected = format!("error=EINTR:when={from}+2");
        let Some((ended, hits)) = tampered(&space, calls, &injected, &RUN) else { return };
        assert_eq!((ended.code, hits > 20), (Some(0), true), "{hits}: {ended:?}");
        assert_eq!(space.objects(), clean);
        space.check_store();
    }
}

/// Kills a collector at the n-th renaming or removal, for these n, until there is none.
fn check_collector(clean: &BTreeSet<String>, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        let space = Space::new();
        space.run(&["words"]).check(0, &STEPS);
        space.tlm(&["pin", "base"]);
        let injected = format!("signal=KILL:when={number}");
        let calls = "rename,renameat,renameat2,unlink,unlinkat,rmdir";
        let args = ["gc", "--keep-days", "0", "--delete"];
        let Some((_, hits)) = tampered(&space, calls, &injected, &args) else { return };
        let told = format!("the collector's {number}th call");
        let verified = space.tlm(&["verify"]);
        assert_eq!(verified.code, Some(0), "{told}: {verified:?}");
        assert!(space.tlm(&["pin"]).out.contains("base (tokenizer.open)"), "{told}");
        let again = space.tlm(&args);
        assert_eq!(again.code, Some(0), "{told}: {again:?}");
        assert_eq!(space.tlm(&["ls"]).out.lines().count(), 2, "{told}");
        assert!(space.stored("trash").is_empty(), "{told}");
        check_recovery(&space, clean, &told);
        if hits == 0 {
            return;
        }
    }
}

#[test]
fn a_collector_that_is_killed_leaves_a_store_that_is_whole() {
    check_collector(&clean(), [1, 2, 7].into_iter());
}

#[test]
#[ignore = "takes a minute; `make test-faults`"]
fn a_collector_that_is_killed_anywhere_leaves_a_store_that_is_whole() {
    check_collector(&clean(), 1..);
}

/// Kills a run that takes all from another store, or lets its copies fail, at the n-th call.
#[test]
fn taking_from_another_store_can_be_cut_anywhere() {
    let other = Space::new();
    other.run(&[]).check(0, &ALL);
    let from = other.path(".tlm").display().to_string();
    let args = [&RUN[..2], &["--from", &from]].concat();
    for (calls, injected, code) in [
        ("rename,renameat,renameat2", "signal=KILL", 137),
        ("fsync", "signal=KILL", 137),
        ("copy_file_range,sendfile", "error=ENOSPC", 4),
    ] {
        for number in [1, 2, 4] {
            let space = Space::new();
            let Some((ended, _)) =
                tampered(&space, calls, &format!("{injected}:when={number}"), &args)
            else {
                return;
            };
            let told = format!("{calls} {injected} {number}: {ended:?}");
            assert_eq!(ended.code.unwrap_or(137), code, "{told}");
            let again = space.tlm(&args);
            assert_eq!(again.code, Some(0), "{told}: {again:?}");
            assert!(space.objects().is_subset(&other.objects()), "{told}");
            let verified = space.tlm(&["verify"]);
            assert_eq!(verified.code, Some(0), "{told}: {verified:?}");
            assert_eq!(space.stored("staging"), BTreeSet::new(), "{told}");
        }
    }
}

/// Runs the plan within limits of the shell.
fn limited(space: &Space, limit: &str) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit} && exec \"$TLM\" run r.tlm words")]);
    command.env("TLM", env!("CARGO_BIN_EXE_tlm"));
    space.at_home(&mut command);
    finish(&mut command)
}

/// Files of a few blocks of 512 bytes end a process that writes more with a signal.
#[test]
fn limits_on_descriptors_and_sizes_of_files_are_told_and_leave_nothing_half_made() {
    let clean = clean();
    let descriptors = [4, 6, 8, 10, 12, 16, 20, 24].map(|count| format!("-n {count}"));
    let blocks = [0, 1, 4, 8, 12].map(|count| format!("-f {count}"));
    let mut codes = BTreeSet::new();
    for limit in descriptors.iter().chain(&blocks) {
        let space = Space::new();
        let ended = limited(&space, limit);
        codes.insert(ended.code);
        assert_ne!(ended.code, Some(70), "{limit}: {ended:?}");
        check_recovery(&space, &clean, limit);
    }
    assert!(codes.contains(&Some(0)) && codes.contains(&Some(4)), "{codes:?}");
    let few = limited(&Space::new(), "-n 12");
    assert!(few.err.contains("Too many open files") && few.err.contains("`ulimit -n"), "{few:?}");
}
