//! Opening a store of 100,000 records and looking all their keys up, the objects being there (`DESIGN` bar: a plan of as
//! many steps in 200 ms and 60 MB, all else included).

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tlm::base::{Digest, Value};
use tlm::store::{Output, Record, Store};

#[path = "../tests/it/frames.rs"]
mod frames;

const RECORDS: usize = 100_000;

static SPACE: OnceLock<TempDir> = OnceLock::new();

fn main() {
    divan::main();
    SPACE.get().into_iter().for_each(|space| drop(fs::remove_dir_all(space.path())));
}

#[divan::bench(sample_count = 20)]
fn open(bencher: divan::Bencher<'_, '_>) {
    let space = SPACE.get_or_init(space);
    bencher.bench(|| opened(space));
}

#[divan::bench(sample_count = 20)]
fn open_and_find_all(bencher: divan::Bencher<'_, '_>) {
    let space = SPACE.get_or_init(space);
    let keys = keys();
    bencher.bench(|| {
        let store = opened(space);
        let found = keys.iter().filter(|key| store.find(**key).is_some()).count();
        assert_eq!(found, RECORDS);
    });
}

#[divan::bench(sample_count = 5)]
fn open_and_read_all(bencher: divan::Bencher<'_, '_>) {
    let space = SPACE.get_or_init(space);
    let keys = keys();
    bencher.bench(|| {
        let store = opened(space);
        let read = keys.iter().filter_map(|key| store.read(store.find(*key)?)).count();
        assert_eq!(read, RECORDS);
    });
}

/// Makes the store, and its table and memo with a first plan.
fn space() -> TempDir {
    let space = tempfile::tempdir().expect("a folder");
    let store = opened(&space);
    for number in 0..RECORDS {
        let path = store.object_path(object(number));
        fs::create_dir_all(path.parent().expect("in a folder")).expect("created");
        fs::write(path, "made").expect("written");
    }
    frames::write(space.path(), (0..RECORDS).map(record));
    // What changed just now is looked at again.
    thread::sleep(Duration::from_secs(3));
    let store = opened(&space);
    assert!(keys().iter().all(|key| store.find(*key).is_some()));
    store.keep_sources();
    space
}

fn opened(space: &TempDir) -> Store {
    Store::open(space.path()).expect("opens")
}

fn keys() -> Vec<Digest> {
    (0..RECORDS).map(|number| record(number).recipe).collect()
}

fn object(number: usize) -> Digest {
    Digest::of(format!("object {number}").as_bytes())
}

fn record(number: usize) -> Record {
    let step = Value::map([
        ("output", Value::Str("out".to_owned())),
        ("step", Value::Digest(object(number))),
    ]);
    let inputs = Value::map(["data", "tokenizer"].map(|name| (name, step.clone())));
    Record {
        recipe: Digest::of(format!("recipe {number}").as_bytes()),
        content: Digest::of(format!("content {number}").as_bytes()),
        stage: "dataset.pack".to_owned(),
        label: "ds".to_owned(),
        point: vec![("seed".to_owned(), number.to_string())],
        outputs: BTreeMap::from([
            ("out".to_owned(), Output::Object { digest: object(number), bytes: 4 }),
            ("tokens".to_owned(), Output::Scalar(Value::Int(7))),
        ]),
        manifest: Value::map([
            ("inputs", inputs),
            ("stage", Value::Str("dataset.pack".to_owned())),
        ]),
        seconds: 1.0,
        finished_unix: 0,
        origin: BTreeMap::new(),
    }
}
