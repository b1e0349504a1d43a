//! Garbage collection on a store of its own: what stays, what goes, and in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tlm::base::{Digest, Value, World};
use tlm::store::{Begin, Garbage, Lease, Policy, Record, Store};

const DAY: Duration = Duration::from_hours(24);

fn key(name: &str) -> Digest {
    Value::Str(name.to_owned()).digest("test")
}

fn lease(store: &Store, name: &str) -> Lease {
    match store.begin(key(name), "a test", |_| true).expect("begins") {
        Begin::Miss(lease) => lease,
        other @ (Begin::Hit(_) | Begin::GivenUp) => panic!("unexpected: {other:?}"),
    }
}

/// Makes an object.
fn publish(store: &Store, name: &str, content: &str) {
    let lease = lease(store, name);
    fs::write(lease.out_dir().join("out"), content).expect("written");
    let record = Record {
        recipe: key(name),
        content: key(&format!("{name} content")),
        stage: "test.stage".to_owned(),
        label: name.to_owned(),
        point: Vec::new(),
        outputs: BTreeMap::new(),
        manifest: Value::Null,
        seconds: 60.0,
        finished_unix: 0,
        origin: BTreeMap::new(),
    };
    store.publish(lease, &["out".to_owned()], record).expect("published");
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * DAY
}

fn run(store: &Store, names: &[&str], days_ago: u32) {
    let keys = names.iter().map(|name| key(name));
    store.begin_run(keys, now() - days_ago * DAY).expect("noted");
}

fn policy(days: u32, max_bytes: Option<u64>) -> Policy {
    Policy { keep: days * DAY, max_bytes, now: now() }
}

fn names(garbage: &Garbage) -> Vec<&str> {
    garbage.records.iter().map(|record| &*record.label).collect()
}

/// Returns which steps are in the store, and checks that it is whole and has no other object.
#[track_caller]
fn held(folder: &Path) -> Vec<&'static str> {
    let store = Store::open(folder).expect("opens");
    let findings = store.verify(&store.recorded_objects(), &|_| {}).expect("verified");
    assert!(findings.is_clean(), "{findings:?}");
    let objects = walkdir::WalkDir::new(folder.join("objects")).min_depth(2);
    let objects: BTreeSet<Digest> = objects
        .into_iter()
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().parse().expect("named"))
        .collect();
    assert_eq!(objects, store.recorded_objects().into_keys().collect());
    let is_there = |name: &&str| store.lookup(key(name)).is_some();
    ["a", "b", "c", "d", "e"].into_iter().filter(is_there).collect()
}

#[test]
fn pins_recent_runs_and_a_quota_decide_what_stays() {
    type Case<'a> = (&'a str, u32, Option<u64>, &'a [&'a str], u64);
    let cases: [Case<'_>; 8] = [
        ("nothing is recent", 0, None, &["d", "b", "a", "c"], 50),
        ("one run is recent", 5, None, &["d", "b"], 150),
        ("both runs are recent", 15, None, &["d"], 250),
        ("all fits", 0, Some(650), &[], 650),
        ("the longest unused goes", 0, Some(649), &["d"], 250),
        ("all that is needed", 0, Some(150), &["d", "b"], 150),
        ("the quota is less than what recent runs need", 5, Some(10), &["d", "b"], 150),
        ("it is not reached by what may go", 15, Some(10), &["d"], 250),
    ];
    for (told, days, max_bytes, gone, kept_bytes) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path()).expect("opens");
        for (name, bytes) in [("a", 90), ("b", 100), ("c", 10), ("d", 400), ("e", 50)] {
            publish(&store, name, &name.repeat(bytes));
        }
        run(&store, &["a", "b"], 10);
        run(&store, &["a", "c"], 3);
        store.pin("mine", key("e")).expect("pinned");
        let policy = policy(days, max_bytes);
        let found = store.garbage(&policy).expect("found");
        assert_eq!((names(&found), found.kept_bytes), (gone.to_vec(), kept_bytes), "{told}");
        assert_eq!(
            (found.bytes() >= 650 - kept_bytes, found.seconds()),
            (true, 60.0 * gone.len() as f64)
        );
        assert_eq!(held(dir.path()).len(), 5, "{told}: nothing is changed");
        let removed = store.collect(&policy).expect("collected");
        assert_eq!(names(&removed), gone, "{told}");
        let stays = ["a", "b", "c", "d", "e"].into_iter().filter(|name| !gone.contains(name));
        assert_eq!(held(dir.path()), stays.collect::<Vec<_>>(), "{told}");
        assert!(store.collect(&policy).expect("collected").is_empty(), "{told}");
    }
}

#[test]
fn what_is_being_made_or_used_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, other) =
        (Store::open(dir.path()).expect("opens"), Store::open(dir.path()).expect("opens"));
    ["a", "b", "c"].iter().for_each(|name| publish(&store, name, name));
    // A run of long ago that still goes on.
    let mark = other.begin_run([key("a")].into_iter(), now() - 100 * DAY).expect("noted");
    let held_lease = lease(&other, "d");
    fs::write(held_lease.out_dir().join("out"), "d").expect("written");
    fs::write(held_lease.state_dir().join("state"), "d").expect("written");
    drop(lease(&store, "e").state_dir());
    let unfinished = dir.path().join("state").join(key("e").to_string());
    fs::create_dir_all(&unfinished).expect("created");
    fs::write(unfinished.join("state"), "of a step nobody needs").expect("written");
    let removed = store.collect(&policy(0, None)).expect("collected");
    assert_eq!(names(&removed).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["b", "c"]));
    assert!(!unfinished.exists());
    assert!(
        held_lease.out_dir().join("out").exists() && held_lease.state_dir().join("state").exists()
    );
    assert_eq!(held(dir.path()), ["a"]);
    drop((mark, held_lease));
    assert_eq!(names(&store.collect(&policy(0, None)).expect("collected")), ["a"]);
}

#[test]
fn what_killed_processes_and_repairs_left_goes_once_it_is_old() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("opens");
    publish(&store, "a", "a");
    store.pin("a", key("a")).expect("pinned");
    let left = [
        format!("quarantine/{}.0/file", key("damaged")),
        format!("logs/{}.log", key("failed")),
        format!("trash/{}", key("half removed")),
        ".tmpAbCdEf".to_owned(),
    ];
    for name in &left {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("created");
        fs::write(path, "left").expect("written");
    }
    let log = store.log_path(key("a"));
    fs::write(&log, "of a step that stays").expect("written");
    let remaining = |days_later: u32| {
        let now = World::of_process().expect("a world").now() + days_later * DAY;
        store.collect(&Policy { keep: 3 * DAY, max_bytes: None, now }).expect("collected");
        left.iter().filter(|name| dir.path().join(name).exists()).count()
    };
    assert_eq!([remaining(0), remaining(2), remaining(4)], [3, 2, 0]);
    assert!(log.exists());
    assert_eq!(held(dir.path()), ["a"]);
}

#[test]
fn an_index_with_damage_is_written_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("opens");
    ["a", "b", "c"].iter().for_each(|name| publish(&store, name, name));
    run(&store, &["a", "b", "c"], 0);
    let index = dir.path().join("index");
    let mut bytes = fs::read(&index).expect("read");
    bytes[40] ^= 1;
    fs::write(&index, bytes).expect("written");
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(store.damaged(), 1);
    let collected = store.collect(&policy(1, None)).expect("collected");
    // The object whose record is lost.
    assert_eq!((names(&collected), collected.objects.len()), (vec![], 1));
    assert_eq!(held(dir.path()), ["b", "c"]);
}

/// Counts a run out, also one that panics.
struct Ends<'a>(&'a AtomicUsize);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Several collectors, and threads that publish and look at what they published, all at once.
#[test]
fn collecting_while_others_publish_loses_nothing_that_a_run_needs() {
    let dir = tempfile::tempdir().expect("a folder");
    let all: Vec<_> = (0..4).flat_map(|one| (0..15).map(move |at| format!("{one} {at}"))).collect();
    drop(Store::open(dir.path()).expect("opens"));
    let going_on = AtomicUsize::new(4);
    let run = |names: &[String]| {
        let _ends = Ends(&going_on);
        let store = Store::open(dir.path()).expect("opens");
        let keys = names.iter().map(|name| key(name));
        let _mark = store.begin_run(keys, now()).expect("noted");
        for name in names {
            // All runs make the same objects.
            publish(&store, name, &name[2..]);
            store.lookup(key(name)).expect("there");
        }
    };
    let collect = || {
        let store = Store::open(dir.path()).expect("opens");
        while going_on.load(Ordering::Relaxed) > 0 {
            store.collect(&policy(1, None)).expect("collected");
        }
    };
    std::thread::scope(|scope| {
        for names in all.chunks(15) {
            let run = &run;
            scope.spawn(move || run(names));
        }
        (0..2).for_each(|_| drop(scope.spawn(collect)));
    });
    let store = Store::open(dir.path()).expect("opens");
    let lost: Vec<_> = all.iter().filter(|name| store.lookup(key(name)).is_none()).collect();
    assert_eq!(lost, [""; 0]);
    assert_eq!((store.records().len(), store.damaged()), (60, 0));
    held(dir.path());
}

#[test]
fn pins_have_names_of_files_and_are_listed_until_they_are_taken_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("opens");
    store.pin("r2[rate=50%]", key("a")).expect("pinned");
    store.pin("r2[rate=50%]", key("b")).expect("pinned anew");
    let pinned = BTreeMap::from([("r2[rate=50%]".to_owned(), key("b"))]);
    assert_eq!(store.pins().expect("read"), pinned);
    for name in ["", ".", "..", "a/b", ".tmp", "a\nb"] {
        let error = store.pin(name, key("a")).expect_err("refused");
        assert!(error.help().contains("--as NAME"), "{name:?}");
        assert!(!store.unpin(name).expect("asked"), "{name:?}");
    }
    assert_eq!(store.pins().expect("read"), pinned);
    // What can't be read must not make a step garbage.
    for root in ["pins/half", "runs/half"] {
        fs::create_dir_all(dir.path().join("runs")).expect("created");
        fs::write(dir.path().join(root), "12ab").expect("written");
        let error = store.collect(&policy(0, None)).expect_err("unknown");
        assert!(error.to_string().contains(&format!("{root}` is damaged")), "{error}");
        assert!(error.help().contains(&format!("{root}`, then pin")), "{}", error.help());
        fs::remove_file(dir.path().join(root)).expect("removed");
    }
    assert!(store.unpin("r2[rate=50%]").expect("unpinned"));
    assert_eq!(store.pins().expect("read"), BTreeMap::new());
}
