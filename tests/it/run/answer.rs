//! A run with nothing to do is answered without planning, until something changes that it depends on.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::run::space::{ALL, Ended, Space};

/// How long the store has to be left alone before what was seen of it is relied on.
const SETTLED: Duration = Duration::from_millis(2200);

/// Runs; returns whether nothing was planned: a plan remembers which objects are there.
fn answered(space: &Space, args: &[&str]) -> (bool, Ended) {
    let seen = space.path(".tlm/index.seen");
    let _ = fs::remove_file(&seen);
    let ended = space.tlm(&[&["run", "r.tlm"], args].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    (!seen.exists(), ended)
}

#[test]
fn what_was_told_is_told_again_until_something_changes() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    sleep(SETTLED);
    let (first, planned) = answered(&space, &[]);
    let (second, told) = answered(&space, &[]);
    assert!(!first && second, "{planned:?} {told:?}");
    assert_eq!((&planned.out, &planned.err), (&told.out, &told.err));
    assert!(told.err.contains("nothing to do: all 7 steps fresh"), "{told:?}");
    assert!(told.out.contains("| size |"), "{told:?}");

    type Change = fn(&Space) -> &'static [&'static str];
    let changes: &[(&str, bool, Change)] = &[
        ("a touched file", true, |s| {
            s.write("texts/a.txt", s.read("texts/a.txt"));
            &[]
        }),
        ("other words", false, |_| &["words"]),
        ("a comment", false, |s| {
            s.edit("let text", "# New.\nlet text");
            &[]
        }),
        ("no report", false, |s| {
            fs::remove_file(s.path(".tlm/r.html")).expect("removed");
            &[]
        }),
        ("another report", false, |s| {
            s.write(".tlm/r.html", "<p>mine");
            &[]
        }),
        ("a forgotten run", false, |s| {
            fs::remove_dir_all(s.path(".tlm/runs")).expect("removed");
            &[]
        }),
        ("a damaged answer", false, |s| {
            for answer in s.stored("answers") {
                let path = s.path(".tlm/answers").join(answer);
                let mut bytes = fs::read(&path).expect("readable");
                *bytes.last_mut().expect("not empty") ^= 1;
                fs::write(path, bytes).expect("written");
            }
            &[]
        }),
    ];
    for (what, expected, change) in changes {
        let args = change(&space);
        let (is_answered, ended) = answered(&space, args);
        assert_eq!(is_answered, *expected, "{what}: {ended:?}");
        assert!(ended.err.contains("nothing to do"), "{what}: {ended:?}");
        assert!(answered(&space, args).0, "{what} again");
        assert!(space.read(".tlm/r.html").contains("tlm-mark"), "{what}");
    }
}

#[test]
fn nothing_is_answered_where_something_has_to_be_made() {
    type Change = fn(&Space) -> (&'static [&'static str], &'static str);
    let changes: &[(&str, Change)] = &[
        ("one file more", |s| {
            s.write("texts/c.txt", "a third text\n\nof two");
            (&[], "finished text in")
        }),
        ("another param", |_| (&["-s", "keep=265"], "finished tok in")),
        ("an import that changed", |s| {
            s.write("sizes.tlm", "param seq : Count = 8\n");
            (&[], "finished ds in")
        }),
        ("objects gone", |s| {
            fs::remove_dir_all(s.path(".tlm/objects")).expect("removed");
            (&[], "finished dev in")
        }),
    ];
    let space = Space::new();
    space.write("sizes.tlm", "param seq : Count = 32\n");
    space.edit("use std.", "use \"sizes.tlm\" as sizes\nuse std.");
    space.edit("seq: 32", "seq: sizes.seq");
    space.run(&[]).check(0, &ALL);
    for (what, change) in changes {
        sleep(SETTLED);
        answered(&space, &[]);
        assert!(answered(&space, &[]).0, "{what}");
        let (args, made) = change(&space);
        let (is_answered, ended) = answered(&space, args);
        assert!(!is_answered && ended.err.contains(made), "{what}: {ended:?}");
        // What another run added is looked at anew.
        assert!(!answered(&space, &[]).0, "after {what}");
    }
}
