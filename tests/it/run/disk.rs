//! A disk that is full, or read-only.

use std::process::Command;

use crate::run::space::{ALL, Ended, Space, finish};

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
/// Runs a script of the shell's language in a name space of its own, after the store is mounted by a line of it.
/// Returns nothing where the system does not allow that.
fn mounted(space: &Space, mount: &str, script: &str) -> Option<Ended> {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "--", "sh", "-euc"]);
    command.arg(format!("{mount}\necho mounted\n{script}")).env("TLM", env!("CARGO_BIN_EXE_tlm"));
    space.at_home(&mut command);
    let ended = finish(&mut command);
    if !ended.out.starts_with("mounted") {
        println!("skipped: no user name spaces with mounts here: {}", ended.err);
        return None;
    }
    Some(ended)
}

#[test]
fn a_full_disk_stops_the_run_and_the_same_command_goes_on_when_there_is_room() {
    let space = Space::new();
    // The longer the filler, the later in the run the disk is full.
    for filler_kib in [500, 480, 460, 440, 420, 400, 380, 360] {
        let space = &space;
        let script = format!(
            "\"$TLM\" plan r.tlm > plan.out 2>&1
             head -c {filler_kib}k /dev/zero > .tlm/filler || true
             code=0; \"$TLM\" run r.tlm > first.out 2> first.err || code=$?
             echo \"first $code\"
             rm .tlm/filler
             \"$TLM\" run r.tlm > second.out 2> second.err
             echo second 0
             \"$TLM\" verify
             ls .tlm/staging | wc -l
             rm -rf .tlm/*; cd ..; umount -l \"$OLDPWD/.tlm\"; rmdir \"$OLDPWD/.tlm\""
        );
        let mount = "mkdir .tlm\nmount -t tmpfs -o size=512k tmpfs .tlm";
        let Some(ended) = mounted(space, mount, &script) else { return };
        let told =
            || format!("{ended:?}\n{}\n{}", space.read("first.err"), space.read("second.err"));
        assert_eq!(ended.code, Some(0), "{}", told());
        let lines: Vec<_> = ended.out.lines().collect();
        assert_eq!(lines[2..].to_vec(), ["second 0", "7 records verified", "0"], "{}", told());
        let first = space.read("first.err");
        match lines[1] {
            "first 0" => {}
            "first 4" => {
                assert!(first.contains("No space left on device"), "{}", told());
                assert!(first.contains("free some space"), "{}", told());
            }
            other => panic!("{other}: {}", told()),
        }
    }
}

/// A full file system below one folder of the store: each is written by another part of the program.
#[test]
fn a_full_folder_of_the_store_is_told_and_the_same_command_goes_on_when_there_is_room() {
    for (folder, code) in
        [("logs", "0"), ("state", "4"), ("locks", "4"), ("objects", "4"), ("trees", "0")]
    {
        let space = Space::new();
        let mount = format!(
            "\"$TLM\" plan r.tlm > plan.out\nmkdir -p .tlm/{folder}\nmount -t tmpfs -o size=1m,nr_inodes=3 tmpfs .tlm/{folder}"
        );
        let fill = format!("head -c 2m /dev/zero > .tlm/{folder}/filler 2> /dev/null || true");
        let script = format!("{fill}\ncode=0; \"$TLM\" run r.tlm 2> err || code=$?\necho $code");
        let Some(ended) = mounted(&space, &mount, &script) else { return };
        let err = space.read("err");
        assert_eq!(ended.out.lines().last(), Some(code), "{folder}: {ended:?}\n{err}");
        let is_told = err.contains("No space left on device") && err.contains("help: ");
        assert!(code == "0" || is_told, "{folder}: {err}");
        // The file system is gone with the name space.
        let again = space.run(&[]);
        assert_eq!(again.code, Some(0), "{folder}: {again}");
        space.check_store();
    }
}

#[test]
fn a_store_that_can_only_be_read_answers_what_is_fresh() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    let mount = "mount --bind .tlm .tlm\nmount -o remount,bind,ro .tlm";
    // A report that would tell the same as before is not written, so nothing warns of that until the recipe changes.
    let script = "\"$TLM\" plan r.tlm\n\"$TLM\" run r.tlm 2> first
         echo \"warned $(grep -c warning first) times\"
         echo '# edited' >> r.tlm\n\"$TLM\" run r.tlm\n\"$TLM\" ls | tail -1\n\"$TLM\" verify
         for args in '-s keep=265' '--report .tlm/own.html'; do
           code=0; \"$TLM\" run r.tlm $args > out 2>&1 || code=$?
           echo \"$code\"; grep -e help out
         done";
    let Some(ended) = mounted(&space, mount, script) else { return };
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in
        ["7 steps, all fresh", "|  270 |", "7 records\n7 records verified", "warned 0 times"]
    {
        assert!(ended.out.contains(part), "no `{part}` in {ended:?}");
    }
    for part in ["nothing to do: all 7 steps fresh", "warning: can't write the report"] {
        assert!(ended.err.contains(part), "no `{part}` in {ended:?}");
    }
    let last: Vec<_> = ended.out.lines().rev().take(5).collect();
    assert!(
        last.contains(&"4") && last.iter().any(|line| line.contains("make the store writable")),
        "{ended:?}"
    );
}
