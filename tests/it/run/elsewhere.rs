//! Results taken from another store instead of being made.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use crate::damage::flip;
use crate::run::space::{ALL, Space};

/// Runs the recipe elsewhere; returns that space and its store's path.
fn elsewhere() -> (Space, String) {
    let other = Space::new();
    other.run(&[]).check(0, &ALL);
    let store = other.path(".tlm").display().to_string();
    (other, store)
}

/// Every file of a folder with its size and time.
fn files(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.expect("readable"));
    let fact = |entry: walkdir::DirEntry| {
        let found = entry.metadata().expect("readable");
        let name = entry.path().display().to_string();
        (name, (found.len(), found.modified().expect("a time")))
    };
    files.map(fact).collect()
}

#[test]
fn what_another_store_has_is_taken_and_only_what_is_needed() {
    let (other, from) = elsewhere();
    let before = files(&other.path(".tlm"));
    let space = Space::new();
    let planned = space.tlm(&["plan", "r.tlm", "--from", &from]);
    assert_eq!(planned.code, Some(0), "{planned:?}");
    assert_eq!(
        planned.out,
        format!("7 steps, all fresh\n3 results to take from {from}\n"),
        "what goals and reports name"
    );
    assert!(!space.path(".tlm/objects").exists(), "a plan takes nothing");
    let run = space.run(&["--from", &from]);
    run.check(0, &[]);
    run.says(&["took ds from ", "took dev from ", "took tok from "]);
    assert!(space.tlm(&["ls"]).out.ends_with("\n3 records\n"));
    assert!(space.tlm(&["show", "ds"]).out.contains("taken_from"));
    space.check_store();
    // From then on they are the own store's.
    space.run(&[]).check(0, &[]);
    assert_eq!(files(&other.path(".tlm")), before, "nothing is written there");
}

#[test]
fn what_has_to_run_uses_what_was_taken() {
    let (other, from) = elsewhere();
    let space = Space::new();
    let run = space.run(&["-s", "keep=265", "--from", &from]);
    run.check(0, &["dev", "ds", "tok"]);
    let clean = Space::new();
    clean.run(&["-s", "keep=265"]).check(0, &ALL);
    assert!(space.objects().is_subset(&clean.objects()));
    // The environment names stores too, and one that is the own store is no other.
    let own = space.path(".tlm").display().to_string();
    let mut command = space.command(&["plan", "r.tlm"]);
    command.env("TLM_FROM", format!("{own}:{from}"));
    let planned = crate::run::space::finish(&mut command);
    assert!(planned.out.ends_with(&format!("3 results to take from {from}\n")), "{planned:?}");
    drop(other);
}

#[test]
fn a_store_that_can_only_be_read_is_enough() {
    let (other, from) = elsewhere();
    let set_writable = |is: bool| {
        for entry in walkdir::WalkDir::new(&from).into_iter().map(|entry| entry.expect("readable"))
        {
            let mode = if entry.file_type().is_dir() { 0o555 } else { 0o444 };
            let mode = if is { mode | 0o200 } else { mode };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).expect("ours");
        }
    };
    set_writable(false);
    let space = Space::new();
    space.run(&["--from", &from]).check(0, &[]);
    set_writable(true);
    drop(other);
}

#[test]
fn what_is_damaged_or_gone_elsewhere_is_told_and_made_here() {
    let harms: [fn(&Path); 2] =
        [|file| flip(file, 3), |file| fs::remove_file(file).expect("there")];
    for harm in harms {
        let (other, from) = elsewhere();
        let shown = other.tlm(&["show", "ds"]).out;
        let object = shown.lines().find_map(|line| line.trim().strip_prefix("out: "));
        let object = object.expect("an output").rsplit_once(", ").expect("a size").0;
        let entries =
            walkdir::WalkDir::new(object).into_iter().map(|entry| entry.expect("readable"));
        let mut files = entries.filter(|entry| entry.file_type().is_file());
        harm(files.next().expect("a file").path());
        let space = Space::new();
        let run = space.run(&["--from", &from]);
        run.check(0, &["ds"]);
        run.says(&["warning: can't take ds over: ", object, "it is made here", "took split from"]);
        space.check_store();
        let clean = Space::new();
        clean.run(&[]).check(0, &ALL);
        assert!(space.objects().is_subset(&clean.objects()));
    }
}

#[test]
fn what_is_no_store_or_of_another_format_is_refused_by_name() {
    let (other, from) = elsewhere();
    let space = Space::new();
    let folder = other.path("").display().to_string();
    let refused = space.tlm(&["run", "r.tlm", "--from", &folder]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("is no store\n"), "{refused:?}");
    fs::write(other.path(".tlm/format"), "99\n").expect("written");
    let refused = space.tlm(&["run", "r.tlm", "--from", &from]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains(&format!("store `{from}` has format 99")), "{refused:?}");
}
