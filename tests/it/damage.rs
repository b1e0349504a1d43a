//! Damage to objects and to what is made of them: it is found, told by file and byte range, set aside, and mended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tlm::base::{Digest, Value};
use tlm::store::{Begin, Findings, Output, Record, Store, StoreError};

const MIB: usize = 1 << 20;

/// The files of the object that tests damage; the long one has four pieces.
fn files() -> [(&'static str, Vec<u8>); 3] {
    let long = (0..3 * MIB + 17).map(|at| ((at * at) >> 9) as u8).collect();
    [
        ("config.json", b"{}".to_vec()),
        ("long.bin", long),
        ("part/words.txt", b"some words".to_vec()),
    ]
}

fn key() -> Digest {
    Value::Str("made".to_owned()).digest("test")
}

/// Makes the object and returns where it lies.
fn publish(store: &Store) -> PathBuf {
    let Ok(Begin::Miss(lease)) = store.begin(key(), "test", |_| true) else {
        panic!("it is there")
    };
    for (name, content) in files() {
        let path = lease.out_dir().join("out").join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("created");
        fs::write(path, content).expect("written");
    }
    let record = Record {
        recipe: key(),
        content: key(),
        stage: "test.stage".to_owned(),
        label: "made".to_owned(),
        point: Vec::new(),
        outputs: BTreeMap::new(),
        manifest: Value::Null,
        seconds: 1.0,
        finished_unix: 0,
        origin: BTreeMap::new(),
    };
    let made = store.publish(lease, &["out".to_owned()], record).expect("published");
    match &made.outputs["out"] {
        Output::Object { digest, .. } => store.object_path(*digest),
        other @ Output::Scalar(_) => panic!("not an object: {other:?}"),
    }
}

/// Changes one byte of a file that is read-only, and sets its time stamp back.
pub(crate) fn flip(path: &Path, at: u64) {
    let metadata = fs::metadata(path).expect("there");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("made writable");
    let file = File::options().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
    file.set_modified(metadata.modified().expect("known")).expect("set back");
    fs::set_permissions(path, metadata.permissions()).expect("made read-only");
}

fn verify(store: &Store) -> Findings {
    store.verify(&store.recorded_objects(), &|_| {}).expect("verified")
}

#[test]
fn damage_to_an_object_is_told_by_file_and_byte_range_and_set_aside() {
    type Spoil = fn(&Path);
    let cases: [(Spoil, &[(&str, &str)]); 11] = [
        (
            |at| flip(&at.join("config.json"), 1),
            &[("config.json", "another content in bytes 0..2")],
        ),
        (
            |at| flip(&at.join("long.bin"), MIB as u64),
            &[("long.bin", "another content in bytes 1048576..2097152")],
        ),
        (
            |at| [0, 3 * MIB + 16].iter().for_each(|byte| flip(&at.join("long.bin"), *byte as u64)),
            &[("long.bin", "another content in bytes 0..1048576, 3145728..3145745")],
        ),
        (
            |at| {
                File::options().append(true).open(at.join("long.bin")).unwrap().set_len(5).unwrap();
            },
            &[("long.bin", "5 bytes long instead of 3145745")],
        ),
        (
            |at| fs::remove_file(at.join("part/words.txt")).unwrap(),
            &[("part/words.txt", "missing")],
        ),
        (|at| fs::remove_dir_all(at.join("part")).unwrap(), &[("part", "missing")]),
        (|at| fs::write(at.join("part/more"), "x").unwrap(), &[("part/more", "extra")]),
        (
            |at| {
                fs::remove_file(at.join("config.json")).unwrap();
                fs::create_dir(at.join("config.json")).unwrap();
            },
            &[("config.json", "not a file")],
        ),
        (
            |at| fs::rename(at.join("config.json"), at.join("Config.json")).unwrap(),
            &[("Config.json", "extra"), ("config.json", "missing")],
        ),
        (
            |at| {
                fs::remove_file(at.join("part/words.txt")).unwrap();
                std::os::unix::fs::symlink("../config.json", at.join("part/words.txt")).unwrap();
            },
            &[("part/words.txt", "not a file")],
        ),
        (|at| fs::remove_dir_all(at).unwrap(), &[("", "missing")]),
    ];
    for (spoil, expected) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path()).expect("opens");
        let object = publish(&store);
        assert!(verify(&store).is_clean());
        spoil(&object);
        let findings = verify(&store);
        let [damage] = &findings.damaged[..] else { panic!("{findings:?}") };
        let told: Vec<_> = damage
            .differences
            .iter()
            .map(|found| (found.path.strip_prefix(&object).expect("inside"), &*found.what))
            .collect();
        let expected: Vec<_> =
            expected.iter().map(|(path, what)| (Path::new(path), *what)).collect();
        assert_eq!(told, expected);
        let moved = store.repair(&findings).expect("repaired");
        let was_there = expected[0] != (Path::new(""), "missing");
        assert_eq!(moved.len(), usize::from(was_there), "{expected:?}");
        assert!(moved.iter().all(|path| path.exists()) && !object.exists(), "{expected:?}");
        assert_eq!(store.lookup(key()), None, "{expected:?}");
        assert_eq!(publish(&store), object, "{expected:?}");
        assert!(verify(&store).is_clean(), "{expected:?}");
    }
}

/// Each check goes through a store that is opened anew, as another process would.
#[test]
fn an_object_is_checked_before_it_is_used_in_the_process_that_made_it_and_in_others() {
    for reopen in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(dir.path()).expect("opens");
        let object = publish(&store);
        store.check(&object).expect("whole");
        store.check(&dir.path().join("index")).expect("no object");
        if reopen {
            store.keep_checked();
            store = Store::open(dir.path()).expect("opens");
            store.check(&object).expect("whole");
        }
        assert!(!store.has_damage());
        flip(&object.join("long.bin"), 2 * MIB as u64 + 5);
        let error = store.check(&object).expect_err("damaged");
        let told = "long.bin` is damaged: another content in bytes 2097152..3145728";
        assert!(error.to_string().ends_with(told), "{error}");
        assert!(error.help().contains("quarantine") && store.has_damage(), "{}", error.help());
        assert!(!object.exists());
        let again = store.check(&object).expect_err("gone");
        assert!(matches!(again, StoreError::Damaged { kept: None, .. }), "{again:?}");
    }
}

#[test]
fn without_its_tree_damage_is_told_of_the_whole_object_and_a_wrong_tree_is_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("opens");
    let object = publish(&store);
    let tree =
        dir.path().join("trees").join(object.strip_prefix(dir.path().join("objects")).unwrap());
    flip(&tree, 60);
    let findings = verify(&store);
    assert_eq!((&findings.derived[..], findings.damaged.len()), (&[tree.clone()][..], 0));
    store.repair(&findings).expect("repaired");
    assert!(!tree.exists() && verify(&store).is_clean());
    assert!(tree.exists(), "made again");
    fs::remove_file(tree).expect("removed");
    flip(&object.join("config.json"), 0);
    let differences = &verify(&store).damaged[0].differences;
    assert_eq!((&differences[0].path, &*differences[0].what), (&object, "another content"));
}

/// A step that runs again and gives the same must not leave a damaged object in its place.
#[test]
fn publishing_what_is_there_already_replaces_a_damaged_object() {
    let dir = tempfile::tempdir().expect("a folder");
    let object = publish(&Store::open(dir.path()).expect("opens"));
    flip(&object.join("part/words.txt"), 0);
    fs::remove_file(dir.path().join("index")).expect("removed");
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(publish(&store), object);
    assert!(verify(&store).is_clean());
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).expect("there").count(), 1);
}

#[test]
fn damaged_frames_and_what_is_made_of_the_index_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("opens");
    let first = record(dir.path(), &store, 0);
    let second = record(dir.path(), &store, 1);
    for number in 2..2000 {
        record(dir.path(), &store, number);
    }
    drop(Store::open(dir.path()).expect("opens, and makes the table"));
    let table = dir.path().join("index.table");
    assert!(table.exists() && verify(&store).is_clean());
    flip(&table, fs::metadata(&table).expect("there").len() - 1);
    assert_eq!(verify(&store).derived[..], [&*table]);
    store.repair(&verify(&store)).expect("repaired");
    drop(Store::open(dir.path()).expect("opens, and makes the table"));
    assert!(table.exists() && verify(&store).is_clean());
    // A table of the log before it was damaged has what the log no longer has.
    flip(&dir.path().join("index"), first + 100);
    let findings = verify(&store);
    assert_eq!((findings.gaps.len(), findings.gaps[0].clone()), (1, first..second));
    assert_eq!(findings.derived, [table]);
    let end = fs::metadata(dir.path().join("index")).expect("there").len();
    fs::write(
        dir.path().join("index"),
        &fs::read(dir.path().join("index")).unwrap()[..end as usize - 3],
    )
    .expect("cut");
    let torn = verify(&store).torn.expect("told");
    assert_eq!(torn.end, end - 3);
    let sources = dir.path().join("sources");
    fs::write(&sources, "tlmfiles half").expect("written");
    assert!(verify(&store).derived.contains(&sources));
}

/// Records something and returns where the index ended before.
fn record(folder: &Path, store: &Store, number: u32) -> u64 {
    let before = fs::metadata(folder.join("index")).map_or(0, |found| found.len());
    let key = |what: &str| Value::Str(format!("{what} {number}")).digest("test");
    let record = Record {
        recipe: key("recipe"),
        content: key("content"),
        stage: "test.stage".to_owned(),
        label: "made".to_owned(),
        point: Vec::new(),
        outputs: BTreeMap::from([("size".to_owned(), Output::Scalar(Value::Int(3)))]),
        manifest: Value::Null,
        seconds: 1.0,
        finished_unix: 0,
        origin: BTreeMap::new(),
    };
    store.record(&record).expect("recorded");
    before
}
