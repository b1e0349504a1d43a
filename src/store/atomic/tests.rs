//! Crash states: every operation of the store runs with a journal of what it does to files; of each prefix of the journal
//! all that a file system may have kept is laid out in a folder of its own, and opened.
//!
//! A file system keeps what was synced: a file's bytes by syncing the file, a folder's entries by syncing the folder. Of the
//! rest it may keep any part, in any order: a name without its file's bytes, half of these, zeros instead of them. A rename
//! happens as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::journal::{self, Op};
use crate::base::{Digest, Value};
use crate::store::{Begin, Output, Policy, Record, Store};

// ---- what a file system may keep

type Inode = usize;

/// The folder that the journal is of.
const ROOT: Inode = 0;

/// A change of one folder or file.
#[derive(Debug)]
enum Change {
    Link { folder: Inode, name: String, child: Inode, is_folder: bool },
    Move { from: (Inode, String), to: (Inode, String), child: Inode },
    Unlink { folder: Inode, name: String },
    Write { file: Inode, at: u64, bytes: Vec<u8> },
    Cut { file: Inode, end: u64 },
}

/// A change, when it happened, and from when on it is sure to be kept; times are numbers of operations.
#[derive(Debug)]
struct Event {
    change: Change,
    at: usize,
    kept_from: usize,
}

/// What became of a change that was not sure to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Kept,
    /// Of a write: the first half of its bytes.
    Torn,
    /// Of a write: as many zeros.
    Zeros,
}

/// Files with their contents, and folders with none, by paths from the root.
type Layout = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Turns a journal into changes of inodes; those before a time are kept for sure.
fn events(root: &Path, ops: &[Op], sure: usize) -> Vec<Event> {
    let mut inodes = BTreeMap::from([(root.to_owned(), ROOT)]);
    let mut events: Vec<Event> = Vec::new();
    let mut next = ROOT + 1;
    for (at, op) in ops.iter().enumerate() {
        let place = |inodes: &BTreeMap<PathBuf, Inode>, path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (inodes[path.parent().unwrap()], name)
        };
        let change = match op {
            Op::Folder(path) | Op::File(path) => {
                let (folder, name) = place(&inodes, path);
                inodes.insert(path.clone(), next);
                next += 1;
                let is_folder = matches!(op, Op::Folder(_));
                Change::Link { folder, name, child: next - 1, is_folder }
            }
            Op::Rename(from, to) => {
                let child = inodes[from];
                let (from_place, to_place) = (place(&inodes, from), place(&inodes, to));
                let moved: Vec<_> =
                    inodes.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    let inode = inodes.remove(&path).unwrap();
                    let inner = path.strip_prefix(from).unwrap();
                    let target = if inner == Path::new("") { to.clone() } else { to.join(inner) };
                    inodes.insert(target, inode);
                }
                Change::Move { from: from_place, to: to_place, child }
            }
            Op::Remove(path) => {
                let (folder, name) = place(&inodes, path);
                inodes.remove(path);
                Change::Unlink { folder, name }
            }
            Op::Write { path, at, bytes } => {
                Change::Write { file: inodes[path], at: *at, bytes: bytes.clone() }
            }
            Op::Cut { path, end } => Change::Cut { file: inodes[path], end: *end },
            Op::Sync(path) => {
                let synced = inodes[path];
                let open = events.iter_mut().filter(|event| event.kept_from == usize::MAX);
                open.filter(|event| event.change.of() == synced)
                    .for_each(|event| event.kept_from = at + 1);
                continue;
            }
        };
        let kept_from = if at < sure { at } else { usize::MAX };
        events.push(Event { change, at, kept_from });
    }
    events
}

impl Change {
    /// Returns what has to be synced for the change to be kept.
    fn of(&self) -> Inode {
        match self {
            Self::Link { folder, .. } | Self::Unlink { folder, .. } => *folder,
            Self::Move { to: (folder, _), .. } => *folder,
            Self::Write { file, .. } | Self::Cut { file, .. } => *file,
        }
    }
}

/// Returns what may become of changes: all cases of a few, and of many each prefix, each one alone, and all but each one, or
/// each two if it is thorough. Each write that is kept is also tried torn and as zeros.
fn fates(open: &[&Event], is_thorough: bool) -> Vec<Vec<Fate>> {
    let count = open.len();
    let of = |is_kept: &dyn Fn(usize) -> bool| -> Vec<Fate> {
        (0..count).map(|at| if is_kept(at) { Fate::Kept } else { Fate::Lost }).collect()
    };
    let mut cases: Vec<_> = match count {
        0..=4 => (0..1 << count).map(|bits| of(&|at| bits >> at & 1 == 1)).collect(),
        _ => (0..=count).map(|end| of(&|at| at < end)).collect(),
    };
    for one in 0..count {
        cases.push(of(&|at| at == one));
        let others = if is_thorough { one..count } else { one..one + 1 };
        cases.extend(others.map(|other| of(&|at| at != one && at != other)));
    }
    let is_write = |at: &usize| matches!(open[*at].change, Change::Write { .. });
    for write in (0..count).filter(is_write) {
        for fate in [Fate::Torn, Fate::Zeros] {
            for mut case in
                [of(&|_| true), of(&|at| at <= write), of(&|at| at == write || !is_write(&at))]
            {
                case[write] = fate;
                cases.push(case);
            }
        }
    }
    cases
}

/// Returns what is on disk when of the events before a time those in doubt have these fates.
fn layout(events: &[Event], time: usize, fates: &[Fate]) -> Layout {
    let mut folders: BTreeMap<Inode, BTreeMap<String, Inode>> = BTreeMap::new();
    let mut files: BTreeMap<Inode, Vec<u8>> = BTreeMap::new();
    let mut fates = fates.iter();
    for event in events.iter().filter(|event| event.at < time) {
        let is_sure = event.kept_from <= time;
        let fate = if is_sure { Fate::Kept } else { *fates.next().unwrap() };
        if fate == Fate::Lost {
            continue;
        }
        match &event.change {
            Change::Link { folder, name, child, .. } => {
                folders.entry(*folder).or_default().insert(name.clone(), *child);
            }
            Change::Move { from, to, child } => {
                let entries = folders.entry(from.0).or_default();
                if entries.get(&from.1) == Some(child) {
                    entries.remove(&from.1);
                }
                folders.entry(to.0).or_default().insert(to.1.clone(), *child);
            }
            Change::Unlink { folder, name } => {
                folders.entry(*folder).or_default().remove(name);
            }
            Change::Write { file, at, bytes } => {
                let content = files.entry(*file).or_default();
                let kept = if fate == Fate::Torn { &bytes[..bytes.len() / 2] } else { bytes };
                let range = *at as usize..*at as usize + kept.len();
                content.resize(content.len().max(range.end), 0);
                content[range.clone()].copy_from_slice(kept);
                if fate == Fate::Zeros {
                    content[range].fill(0);
                }
            }
            Change::Cut { file, end } => files.entry(*file).or_default().resize(*end as usize, 0),
        }
    }
    let made = events.iter().filter_map(|event| match event.change {
        Change::Link { child, is_folder: true, .. } => Some(child),
        _ => None,
    });
    let is_folder: BTreeSet<Inode> = made.chain([ROOT]).collect();
    let mut layout = Layout::new();
    let mut next = vec![(PathBuf::new(), ROOT)];
    while let Some((path, inode)) = next.pop() {
        if !is_folder.contains(&inode) {
            layout.insert(path, Some(files.get(&inode).cloned().unwrap_or_default()));
            continue;
        }
        let entries = folders.get(&inode).into_iter().flatten();
        next.extend(entries.map(|(name, child)| (path.join(name), *child)));
        layout.insert(path, None);
    }
    layout
}

// ---- what the store does, and what has to hold

/// An operation on the store in a folder.
struct Case {
    name: &'static str,
    /// What happened long before.
    before: fn(&Path),
    operation: fn(&Path),
    /// What holds whatever happens.
    always: &'static [&'static str],
    /// What holds once the operation is done.
    done: &'static [&'static str],
    /// Whether an object may be recorded and not be there: it was damaged.
    may_miss: bool,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn open(folder: &Path) -> Store {
    Store::open(&folder.join("store")).unwrap()
}

fn key(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn record(name: &str) -> Record {
    Record {
        recipe: key(name),
        content: key(&format!("{name} content")),
        stage: "s".to_owned(),
        label: name.to_owned(),
        point: Vec::new(),
        outputs: BTreeMap::from([("size".to_owned(), Output::Scalar(Value::Int(1)))]),
        manifest: Value::Str(name.to_owned()),
        seconds: 1.0,
        finished_unix: 0,
        origin: BTreeMap::new(),
    }
}

/// Writes a file as a worker does, which syncs nothing.
fn write(path: &Path, text: &str) {
    let folder = path.parent().unwrap();
    journal::note_missing(folder);
    fs::create_dir_all(folder).unwrap();
    if !path.exists() {
        journal::note(Op::File(path.to_owned()));
    }
    let write = Op::Write { path: path.to_owned(), at: 0, bytes: text.as_bytes().to_vec() };
    journal::note(write);
    fs::write(path, text).unwrap();
}

/// Makes a file and a folder.
fn publish(folder: &Path, name: &str) {
    let store = open(folder);
    let Begin::Miss(lease) = store.begin(key(name), "a test", |_| true).unwrap() else { return };
    write(&lease.out_dir().join("file"), &format!("the file of {name}"));
    write(&lease.out_dir().join("folder/one"), "one");
    write(&lease.out_dir().join("folder/in/two"), name);
    write(&lease.state_dir().join("state"), "half done");
    let outputs = ["file", "folder"].map(str::to_owned);
    store.publish(lease, &outputs, record(name)).unwrap();
}

fn publish_a_and_b(folder: &Path) {
    publish(folder, "a");
    publish(folder, "b");
}

/// Changes a byte of the file that step `b` made.
fn damage_b(folder: &Path) {
    let store = open(folder);
    let Output::Object { digest, .. } = store.lookup(key("b")).unwrap().outputs["file"] else {
        panic!()
    };
    write(&store.object_path(digest), "the file of B");
}

fn nothing(_: &Path) {}

/// Everything is of the year 2100, so all that was is old.
fn collect(folder: &Path) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(130 * 365 * 24);
    open(folder).collect(&Policy { keep: Duration::ZERO, max_bytes: None, now }).unwrap();
}

const CASES: &[Case] = &[
    Case {
        name: "a store is made",
        before: nothing,
        operation: |folder| drop(open(folder)),
        always: &[],
        done: &[],
        may_miss: false,
    },
    Case {
        name: "the first step is published",
        before: |folder| drop(open(folder)),
        operation: |folder| publish(folder, "a"),
        always: &[],
        done: &["made a"],
        may_miss: false,
    },
    Case {
        name: "another step is published",
        before: |folder| publish(folder, "a"),
        operation: |folder| publish(folder, "b"),
        always: &["made a"],
        done: &["made b"],
        may_miss: false,
    },
    Case {
        name: "a step is published into a store whose folders were deleted",
        before: |folder| {
            open(folder).record(&record("a")).unwrap();
            super::remove(&folder.join("store/objects")).unwrap();
        },
        operation: |folder| publish(folder, "b"),
        always: &["made a"],
        done: &["made b"],
        may_miss: false,
    },
    Case {
        name: "a step is published that makes what is damaged",
        before: |folder| {
            publish_a_and_b(folder);
            damage_b(folder);
            super::remove(&folder.join("store/index")).unwrap();
        },
        operation: |folder| publish(folder, "b"),
        always: &[],
        done: &["made b"],
        may_miss: false,
    },
    Case {
        name: "a record is appended",
        before: |folder| publish(folder, "a"),
        operation: |folder| open(folder).record(&record("b")).unwrap(),
        always: &["made a"],
        done: &["made b"],
        may_miss: false,
    },
    Case {
        name: "the index is folded into a table",
        before: |folder| {
            publish_a_and_b(folder);
            let long = Record { manifest: Value::Str("x".repeat(300_000)), ..record("c") };
            open(folder).record(&long).unwrap();
        },
        operation: |folder| open(folder).keep_sources(),
        always: &["made a", "made b", "made c"],
        done: &[],
        may_miss: false,
    },
    Case {
        name: "memos are kept",
        before: publish_a_and_b,
        operation: |folder| {
            write(&folder.join("source"), "text");
            let store = open(folder);
            store.source_digest(&folder.join("source")).unwrap();
            store.keep_sources();
            store.verify(&store.recorded_objects(), &|_| {}).unwrap();
            store.keep_checked();
        },
        always: &["made a", "made b"],
        done: &[],
        may_miss: false,
    },
    Case {
        name: "a pin is set",
        before: |folder| publish(folder, "a"),
        operation: |folder| open(folder).pin("one", key("a")).unwrap(),
        always: &["made a"],
        done: &["pinned one"],
        may_miss: false,
    },
    Case {
        name: "a pin is taken away",
        before: |folder| {
            let store = open(folder);
            ["one", "two"].iter().for_each(|name| store.pin(name, key("a")).unwrap());
        },
        operation: |folder| assert!(open(folder).unpin("one").unwrap()),
        always: &["pinned two"],
        done: &["not pinned one"],
        may_miss: false,
    },
    Case {
        name: "a run begins",
        before: |folder| publish(folder, "a"),
        operation: |folder| {
            drop(open(folder).begin_run([key("a")].into_iter(), SystemTime::UNIX_EPOCH).unwrap());
        },
        always: &["made a"],
        done: &["one run"],
        may_miss: false,
    },
    Case {
        name: "a damaged object is set aside",
        before: |folder| {
            publish_a_and_b(folder);
            damage_b(folder);
        },
        operation: |folder| {
            let store = open(folder);
            let Output::Object { digest, .. } = store.lookup(key("b")).unwrap().outputs["file"]
            else {
                panic!()
            };
            store.check(&store.object_path(digest)).unwrap_err();
        },
        always: &["made a"],
        done: &["not made b"],
        may_miss: true,
    },
    Case {
        name: "garbage is collected",
        before: |folder| {
            publish_a_and_b(folder);
            open(folder).pin("one", key("a")).unwrap();
        },
        operation: collect,
        always: &["made a", "pinned one"],
        done: &["not made b"],
        may_miss: false,
    },
    Case {
        name: "a step is given up, and what it left is swept",
        before: |folder| publish(folder, "a"),
        operation: |folder| {
            let store = open(folder);
            let Begin::Miss(lease) = store.begin(key("b"), "a test", |_| true).unwrap() else {
                panic!()
            };
            write(&lease.out_dir().join("file"), "half");
            drop(lease);
            store.sweep();
        },
        always: &["made a"],
        done: &[],
        may_miss: false,
    },
];

/// Returns what holds of a store that was opened after a crash; nothing may be recorded that is not there and whole.
#[track_caller]
fn facts(folder: &Path, may_miss: bool, told: &str) -> BTreeSet<String> {
    let store = open(folder);
    let findings = store.verify(&store.recorded_objects(), &|_| {}).unwrap();
    let bad = findings.damaged.iter().filter(|damage| {
        !may_miss
            || damage.differences[0].what != "missing"
                && !damage.differences[0].what.contains("another content")
    });
    assert_eq!(bad.collect::<Vec<_>>(), [] as [&crate::store::Damage; 0], "{told}");
    assert!(findings.gaps.is_empty(), "{told}: {findings:?}");
    let is_made = |name: &&str| store.lookup(key(name)).is_some();
    let no = |is: bool| if is { "" } else { "not " };
    let made = NAMES.iter().map(|name| format!("{}made {name}", no(is_made(name))));
    let pins = store.pins().unwrap();
    let pinned = ["one", "two"].map(|name| format!("{}pinned {name}", no(pins.contains_key(name))));
    let runs = store.runs().unwrap().iter().filter(|run| run.keys == [key("a")]).count();
    made.chain(pinned).chain((runs == 1).then(|| "one run".to_owned())).collect()
}

/// Makes what a file system kept.
fn lay_out(layout: &Layout, folder: &Path) {
    for (path, content) in layout {
        match content {
            None => fs::create_dir_all(folder.join(path)).unwrap(),
            Some(bytes) => fs::write(folder.join(path), bytes).unwrap(),
        }
    }
}

fn temporary() -> tempfile::TempDir {
    // Nothing here has to reach a disk.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Runs the operation, and checks what a crash before, within and after it may leave.
fn check(case: &Case, is_thorough: bool) {
    let space = temporary();
    journal::keep(space.path());
    (case.before)(space.path());
    let sure = journal::of(space.path()).len();
    (case.operation)(space.path());
    let ops = journal::of(space.path());
    let events = events(space.path(), &ops, sure);
    let mut seen = BTreeSet::new();
    for time in sure..=ops.len() {
        let is_done = time == ops.len();
        let past = events.iter().filter(|event| event.at < time);
        let open: Vec<_> = past.filter(|event| event.kept_from > time).collect();
        for fates in fates(&open, is_thorough) {
            let layout = layout(&events, time, &fates);
            if !seen.insert((layout.clone(), is_done)) {
                continue;
            }
            let folder = temporary();
            lay_out(&layout, folder.path());
            let told = format!(
                "{}: after {time} of {}, {fates:?}\n{:#?}\n{:#?}",
                case.name,
                ops.len(),
                &ops[sure..time],
                open
            );
            let facts = facts(folder.path(), case.may_miss, &told);
            let wanted = case.always.iter().chain(case.done.iter().filter(|_| is_done));
            let broken: Vec<_> = wanted.filter(|fact| !facts.contains(**fact)).collect();
            assert_eq!(broken, [&""; 0], "{told}");
            if is_thorough || seen.len() % 8 == 1 {
                recovers(folder.path(), &told);
            }
        }
    }
    assert!(seen.len() > 2, "{}: nothing was noted", case.name);
}

/// The same commands go on: everything can be made, and nothing that was left is in the way.
#[track_caller]
fn recovers(folder: &Path, told: &str) {
    open(folder).sweep();
    NAMES.iter().for_each(|name| publish(folder, name));
    let store = open(folder);
    for record in store.records() {
        for (digest, _) in record.objects() {
            // As a run does with its inputs.
            let _ = store.check(&store.object_path(digest));
        }
    }
    NAMES.iter().for_each(|name| publish(folder, name));
    let facts = facts(folder, false, told);
    let made = NAMES.iter().filter(|name| facts.contains(&format!("made {name}"))).count();
    assert_eq!(made, 3, "{told}");
}

#[test]
fn after_a_crash_at_any_point_of_any_operation_the_store_keeps_its_promises() {
    CASES.iter().for_each(|case| check(case, false));
}

#[test]
#[ignore = "takes a minute; `make test-faults`"]
fn after_a_crash_at_any_point_with_any_two_changes_lost_the_store_keeps_its_promises() {
    CASES.iter().for_each(|case| check(case, true));
}
