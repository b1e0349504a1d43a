//! The store: what is published stays, what is not never shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use tlm::base::{Digest, Value};
use tlm::store::{Begin, Damage, Lease, Output, Record, Store, StoreError, object};

use crate::frames;

fn key(name: &str) -> Digest {
    Value::Str(name.to_owned()).digest("test")
}

fn record(name: &str) -> Record {
    Record {
        recipe: key(name),
        content: key(&format!("{name} content")),
        stage: "test.stage".to_owned(),
        label: name.to_owned(),
        point: Vec::new(),
        outputs: BTreeMap::from([("size".to_owned(), Output::Scalar(Value::Int(3)))]),
        manifest: Value::map([("stage", Value::Str("test.stage".to_owned()))]),
        seconds: 0.5,
        finished_unix: 1_700_000_000,
        origin: BTreeMap::new(),
    }
}

#[track_caller]
fn lease(store: &Store, name: &str) -> Lease {
    // A test beside this one that starts a process shares the lock with it until that process is executed.
    match store.begin(key(name), "test", |_| true).expect("begins") {
        Begin::Miss(lease) => lease,
        other @ (Begin::Hit(_) | Begin::GivenUp) => panic!("unexpected: {other:?}"),
    }
}

fn publish(store: &Store, name: &str, text: &str) -> Record {
    let lease = lease(store, name);
    fs::create_dir(lease.out_dir().join("out")).expect("created");
    fs::write(lease.out_dir().join("out/text"), text).expect("written");
    store.publish(lease, &["out".to_owned()], record(name)).expect("published")
}

fn object_of(store: &Store, record: &Record) -> std::path::PathBuf {
    match &record.outputs["out"] {
        Output::Object { digest, .. } => store.object_path(*digest),
        other @ Output::Scalar(_) => panic!("not an object: {other:?}"),
    }
}

fn open(path: &Path) -> Store {
    Store::open(path).expect("opens")
}

#[test]
fn what_is_published_is_found_by_both_keys_and_after_reopening() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let made = publish(&store, "a", "hello");
    for store in [&store, &open(dir.path())] {
        assert_eq!(store.lookup(key("a")).as_ref(), Some(&made));
        assert_eq!(store.lookup(key("a content")).as_ref(), Some(&made));
        assert_eq!(store.lookup(key("b")), None);
        let found = store.find(key("a")).expect("found");
        assert_eq!(store.find(key("a content")), Some(found));
        assert_eq!((store.read(found).as_ref(), store.find(key("b"))), (Some(&made), None));
        assert_eq!(
            fs::read_to_string(object_of(store, &made).join("text")).expect("read"),
            "hello"
        );
        let findings = store.verify(&store.recorded_objects(), &|_| {}).expect("verified");
        assert!(findings.is_clean(), "{findings:?}");
        assert!(matches!(store.begin(key("a"), "test", |_| true), Ok(Begin::Hit(_))));
    }
}

#[test]
fn equal_outputs_are_one_object_and_objects_are_read_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let (a, b) = (publish(&store, "a", "same"), publish(&store, "b", "same"));
    assert_eq!(object_of(&store, &a), object_of(&store, &b));
    let mode = fs::metadata(object_of(&store, &a).join("text")).expect("there").permissions();
    assert!(mode.readonly());
}

#[test]
fn an_unpublished_lease_leaves_nothing_but_its_state() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let first = lease(&store, "a");
    fs::write(first.out_dir().join("half"), "x").expect("written");
    fs::write(first.state_dir().join("resume"), "y").expect("written");
    drop(first);
    assert_eq!(store.lookup(key("a")), None);
    let second = lease(&store, "a");
    assert_eq!(fs::read_dir(second.out_dir()).expect("there").count(), 0);
    assert_eq!(fs::read_to_string(second.state_dir().join("resume")).expect("kept"), "y");
}

#[test]
fn a_missing_output_is_named_and_nothing_is_recorded() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let result = store.publish(lease(&store, "a"), &["model".to_owned()], record("a"));
    assert!(matches!(result, Err(StoreError::MissingOutput { name }) if name == "model"));
    assert_eq!(store.lookup(key("a")), None);
}

#[test]
fn a_record_without_its_object_is_a_miss_and_all_damage_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let records = ["a", "b", "c", "d"].map(|name| publish(&store, name, name));
    store.record(&Record { recipe: key("again"), ..records[3].clone() }).expect("recorded");
    let [gone, changed, unreadable, _] = records.each_ref().map(|made| object_of(&store, made));
    fs::remove_dir_all(gone).expect("removed");
    assert_eq!(store.lookup(key("a")), None);
    fs::remove_file(changed.join("text")).expect("removed");
    fs::write(changed.join("text"), "changed").expect("written");
    std::os::unix::fs::symlink("text", unreadable.join("link")).expect("linked");
    let told = AtomicU64::new(0);
    let tell = |read| {
        told.fetch_add(read, Ordering::Relaxed);
    };
    let findings = store.verify(&store.recorded_objects(), &tell).expect("verified");
    let what = |record: &Record| {
        let is_it =
            |damage: &&Damage| store.object_path(damage.digest) == object_of(&store, record);
        let damage = findings.damaged.iter().find(is_it);
        damage.map_or("whole", |damage| &damage.differences[0].what)
    };
    let told_of = records.each_ref().map(what);
    assert_eq!(told_of, ["missing", "7 bytes long instead of 1", "extra", "whole"], "{findings:?}");
    assert_eq!(told.into_inner(), 7 + 1, "each object once");
}

#[test]
fn a_state_that_can_t_be_removed_does_not_undo_what_is_published() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let held = lease(&store, "a");
    fs::write(held.out_dir().join("out"), "x").expect("written");
    fs::remove_dir(held.state_dir()).expect("removed");
    fs::write(held.state_dir(), "no folder").expect("written");
    store.publish(held, &["out".to_owned()], record("a")).expect("published");
    assert!(open(dir.path()).lookup(key("a")).is_some());
}

#[test]
fn a_folder_with_other_files_is_refused_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("notes"), "mine").expect("written");
    fs::write(dir.path().join(".gitignore"), "mine").expect("written");
    let error = Store::open(dir.path()).expect_err("refused");
    assert!(error.to_string().ends_with("` is no store, and not empty"), "{error}");
    assert!(error.help().contains("empty or new folder"));
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 2);
    // One that is empty but for git is taken; what is there stays.
    fs::remove_file(dir.path().join("notes")).expect("removed");
    open(dir.path());
    assert_eq!(fs::read_to_string(dir.path().join(".gitignore")).expect("there"), "mine");
    assert!(dir.path().join("CACHEDIR.TAG").exists());
}

#[test]
fn a_path_that_workers_can_t_be_told_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"latin\xe9"));
    let error = Store::open(&path).expect_err("refused");
    assert!(error.to_string().ends_with("is not UTF-8"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_store_that_exists_is_opened_without_writing() {
    let dir = tempfile::tempdir().expect("a folder");
    publish(&open(dir.path()), "a", "one");
    ["staging", "state", "logs", "locks"].iter().for_each(|folder| {
        let _ = fs::remove_dir_all(dir.path().join(folder));
    });
    let names = || fs::read_dir(dir.path()).expect("there").count();
    let before = names();
    let store = open(dir.path());
    assert!(store.lookup(key("a")).is_some());
    assert_eq!(names(), before);
    publish(&store, "b", "two");
}

/// Cuts the index after every byte: the records before the cut are there, and the next writer goes on behind them.
#[test]
fn an_index_cut_anywhere_keeps_its_whole_records() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    publish(&store, "a", "one");
    let first = fs::metadata(dir.path().join("index")).expect("there").len() as usize;
    publish(&store, "b", "two");
    let whole = fs::read(dir.path().join("index")).expect("read");
    for cut in (0..whole.len()).step_by(7).chain([first - 1, first, first + 1]) {
        fs::write(dir.path().join("index"), &whole[..cut]).expect("written");
        let store = open(dir.path());
        assert_eq!(store.lookup(key("a")).is_some(), cut >= first, "cut at {cut}");
        assert_eq!(store.lookup(key("b")), None, "cut at {cut}");
        store.record(&record("c")).expect("appends");
        let store = open(dir.path());
        assert_eq!(store.lookup(key("a")).is_some(), cut >= first, "cut at {cut}");
        assert!(store.lookup(key("c")).is_some(), "cut at {cut}");
    }
}

#[test]
fn a_damaged_record_in_the_middle_is_left_out_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    publish(&store, "a", "one");
    publish(&store, "b", "two");
    let path = dir.path().join("index");
    let mut bytes = fs::read(&path).expect("read");
    bytes[40] ^= 1;
    fs::write(&path, bytes).expect("written");
    let store = open(dir.path());
    assert_eq!((store.damaged(), store.lookup(key("a"))), (1, None));
    assert!(store.lookup(key("b")).is_some());
}

#[test]
fn a_second_worker_on_the_same_key_waits_and_then_reuses() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (open(dir.path()), open(dir.path()));
    let held = lease(&one, "a");
    fs::write(held.out_dir().join("out"), "x").expect("written");
    std::thread::scope(|scope| {
        let (sender, waiting) = std::sync::mpsc::channel();
        let second = scope.spawn(move || {
            two.begin(key("a"), "two", move |_| {
                let _ = sender.send(());
                true
            })
        });
        waiting.recv().expect("the second one waits");
        one.publish(held, &["out".to_owned()], record("a")).expect("published");
        let begun = second.join().expect("no panic").expect("begins");
        assert!(matches!(begun, Begin::Hit(found) if found.label == "a"));
    });
}

#[test]
fn a_damaged_byte_costs_one_record_and_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let names = ["a", "b", "c"];
    let mut ends = vec![0];
    for name in names {
        publish(&open(dir.path()), name, name);
        ends.push(fs::metadata(dir.path().join("index")).expect("there").len() as usize);
    }
    let index = dir.path().join("index");
    let whole = fs::read(&index).expect("read");
    for at in (0..ends[2]).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x80;
        fs::write(&index, &bytes).expect("written");
        let store = open(dir.path());
        let hit = ends.iter().rposition(|end| *end <= at).expect("a record");
        for (number, name) in names.iter().enumerate() {
            assert_eq!(
                store.lookup(key(name)).is_some(),
                number != hit,
                "byte {at}, record {name}"
            );
        }
        assert_eq!(store.damaged(), 1, "byte {at}");
        publish(&store, "d", "d");
        assert!(open(dir.path()).lookup(key("c")).is_some(), "byte {at}: appending keeps the rest");
    }
}

#[test]
fn waiting_for_a_lease_can_be_given_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (open(dir.path()), open(dir.path()));
    let _held = lease(&one, "a");
    let mut asked = 0;
    let begun = two.begin(key("a"), "two", |_| {
        asked += 1;
        asked < 3
    });
    assert!(matches!(begun, Ok(Begin::GivenUp)) && asked == 3);
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(open(dir.path()));
    for (format, help) in [("99", "update tlm"), ("1", "delete `"), ("x", "update tlm")] {
        fs::write(dir.path().join("format"), format!("{format}\n")).expect("written");
        let error = Store::open(dir.path()).expect_err("refused");
        let told = format!("has format {format}, this tlm knows 2");
        assert!(error.to_string().contains(&told), "{error}");
        assert!(error.help().contains(help) && error.help().contains("--store"), "{format}");
    }
}

/// Runs one of the tests below that are ignored, in a process of its own: its current folder has the store.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--ignored", "--exact", test]).current_dir(folder);
    command
}

#[test]
fn processes_that_record_at_once_lose_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut children: Vec<_> = ["one", "two"]
        .map(|name| {
            fs::create_dir(dir.path().join(name)).expect("created");
            child("store::records_fifty", &dir.path().join(name))
                .stdout(Stdio::null())
                .spawn()
                .expect("starts")
        })
        .into();
    children.iter_mut().for_each(|child| assert!(child.wait().expect("ends").success()));
    let store = open(&dir.path().join("store"));
    assert_eq!((store.records().len(), store.damaged()), (100, 0));
    for number in 0..50 {
        for name in ["one", "two"] {
            assert!(store.find(key(&format!("{name} {number}"))).is_some(), "{name} {number}");
        }
    }
}

#[test]
#[ignore = "a child of the test above"]
fn records_fifty() {
    let folder = fs::canonicalize(".").expect("there");
    let store = open(Path::new("../store"));
    for number in 0..50 {
        let name = folder.file_name().expect("has one").to_string_lossy();
        store.record(&record(&format!("{name} {number}"))).expect("recorded");
    }
}

/// Memory is that of a table, not of the records: 60 MB here.
#[test]
fn a_hundred_thousand_records_are_found_in_little_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("store");
    let outputs = publish(&open(&root), "one", "object").outputs;
    let long = Value::Str("x".repeat(500));
    frames::write(
        &root,
        (0..100_000).map(|number| Record {
            outputs: outputs.clone(),
            manifest: long.clone(),
            ..record(&number.to_string())
        }),
    );
    assert!(fs::metadata(root.join("index")).expect("there").len() > 60_000_000);
    // The first one makes the table.
    for peak_mb in [80, 40] {
        let ended = child(&format!("store::finds_all_within_{peak_mb}_mb"), dir.path()).output();
        let ended = ended.expect("starts");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    }
}

#[test]
#[ignore = "a child of the test above"]
fn finds_all_within_80_mb() {
    finds_all(80);
}

#[test]
#[ignore = "a child of the test above"]
fn finds_all_within_40_mb() {
    finds_all(40);
}

fn finds_all(peak_mb: u64) {
    let store = open(Path::new("store"));
    for number in 0..100_000 {
        assert!(store.find(key(&number.to_string())).is_some(), "{number}");
    }
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak_kb < peak_mb * 1000, "{peak_kb} kB");
}

#[test]
fn digests_of_folders_see_names_kinds_and_contents_but_no_links() {
    let dir = tempfile::tempdir().expect("a folder");
    let make = |name: &str, entries: &[(&str, &str)]| {
        let root = dir.path().join(name);
        fs::create_dir(&root).expect("created");
        for (entry, text) in entries {
            fs::write(root.join(entry), text).expect("written");
        }
        object::digest(&root).expect("digests")
    };
    let base = make("1", &[("a", "x"), ("b", "yy")]);
    assert_eq!(base, make("2", &[("b", "yy"), ("a", "x")]));
    assert_eq!(base.1, 3);
    for (name, other) in [("3", [("a", "yy"), ("b", "x")]), ("4", [("a", "x"), ("c", "yy")])] {
        assert_ne!(base.0, make(name, &other).0);
    }
    std::os::unix::fs::symlink("a", dir.path().join("1/link")).expect("linked");
    assert!(object::digest(&dir.path().join("1")).is_err());
}
