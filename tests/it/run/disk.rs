//! A disk that is full.

use std::process::Command;

use crate::run::space::{Ended, Space, finish};

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
/// Runs a script of the shell's language in a name space of its own, in which the store is a disk of some size in KiB.
/// Returns nothing where the system does not allow that.
fn on_small_disk(space: &Space, kib: u32, script: &str) -> Option<Ended> {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "--", "sh", "-euc"]);
    let mount =
        format!("mkdir .tlm\nmount -t tmpfs -o size={kib}k tmpfs .tlm\necho mounted\n{script}");
    command.arg(mount).env("TLM", env!("CARGO_BIN_EXE_tlm"));
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
            "head -c {filler_kib}k /dev/zero > .tlm/filler || true
             code=0; \"$TLM\" run r.tlm > first.out 2> first.err || code=$?
             echo \"first $code\"
             rm .tlm/filler
             \"$TLM\" run r.tlm > second.out 2> second.err
             echo second 0
             \"$TLM\" verify
             ls .tlm/staging | wc -l
             rm -rf .tlm/*; cd ..; umount -l \"$OLDPWD/.tlm\"; rmdir \"$OLDPWD/.tlm\""
        );
        let Some(ended) = on_small_disk(space, 512, &script) else { return };
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
