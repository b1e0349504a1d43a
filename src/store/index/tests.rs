//! Damage: what an index serves is what was recorded, whatever happened to its files.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::base::Value;
use crate::store::Output;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn key(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// A record with an object, which is not among the objects.
fn record(name: &str) -> Record {
    let object = Output::Object { digest: key(&format!("{name} object")), bytes: 1 };
    Record {
        recipe: key(name),
        content: key(&format!("{name} content")),
        stage: "s".to_owned(),
        label: name.to_owned(),
        point: Vec::new(),
        outputs: BTreeMap::from([("out".to_owned(), object)]),
        manifest: Value::Str(name.to_owned()),
        seconds: 0.5,
        finished_unix: 0,
    }
}

/// Opens an index that makes no table.
fn open(folder: &Path) -> Index {
    Index::with_tail(folder, u64::MAX).unwrap()
}

/// Makes the table go up to the end of the log.
fn fold(folder: &Path) {
    Index::with_tail(folder, 0).unwrap();
}

fn log_of(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    names.iter().for_each(|name| index.append(&record(name)).unwrap());
    folder
}

/// Returns which names an index serves, and checks that it serves them right.
#[track_caller]
fn served(index: &mut Index, told: &str) -> Vec<&'static str> {
    let is_served = |name: &&str| {
        let keys = [record(name).recipe, record(name).content];
        let found = keys.map(|key| index.get(key));
        let is_right = |found: &Option<Record>| *found == Some(record(name));
        assert!(found.iter().all(|found| found.is_none() || is_right(found)), "{told}: {name}");
        assert_eq!(found[0], found[1], "{told}: {name}");
        found[0].is_some()
    };
    NAMES.into_iter().filter(is_served).collect()
}

/// Makes every object of the names.
fn make_objects(folder: &Path, names: &[&str]) {
    for name in names {
        let path = object_path(folder, key(&format!("{name} object")));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
}

fn flips(len: usize) -> impl Iterator<Item = (usize, u8)> {
    (0..len).flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)))
}

/// The files of a log of all names that was folded into a table, and what they hold.
struct Folded {
    folder: tempfile::TempDir,
    log: PathBuf,
    table: PathBuf,
    whole: Vec<u8>,
    folded: Vec<u8>,
}

fn folded() -> Folded {
    let folder = log_of(&NAMES);
    let (log, table) = (path(folder.path()), table_path(folder.path()));
    let whole = fs::read(&log).unwrap();
    fold(folder.path());
    let folded = fs::read(&table).unwrap();
    Folded { folder, log, table, whole, folded }
}

#[test]
fn every_damaged_bit_of_the_log_costs_one_record_with_and_without_table() {
    let Folded { folder, log, table, whole, folded } = folded();
    let ends = ends(&whole);
    // All frames are of one form: all bits of the middle one, and one bit of each byte of the others.
    let is_tried =
        |(at, bit): &(usize, u8)| (ends[0]..ends[1]).contains(at) || *bit == 1 << (at % 8);
    for (at, bit) in flips(whole.len()).filter(is_tried) {
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        fs::write(&log, &bytes).unwrap();
        let hit = ends.iter().position(|end| at < *end).unwrap();
        let others: Vec<_> = NAMES.into_iter().filter(|name| *name != NAMES[hit]).collect();
        for with_table in [true, false] {
            match with_table {
                true => fs::write(&table, &folded).unwrap(),
                false => fs::remove_file(&table).unwrap(),
            }
            let told = format!("byte {at}, bit {bit}, table {with_table}");
            let mut index = open(folder.path());
            assert_eq!(served(&mut index, &told), others, "{told}");
            // The last frame counts as torn.
            assert_eq!(index.read_all().1, usize::from(hit < 2), "{told}");
        }
    }
}

/// Returns where the frames of a whole log end.
fn ends(log: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut start = 0;
    while start < log.len() {
        let len = u32::from_le_bytes(log[start + 4..start + 8].try_into().unwrap()) as usize;
        start += log::HEADER + len;
        ends.push(start);
    }
    ends
}

#[test]
fn a_log_cut_anywhere_keeps_its_whole_records_with_and_without_table() {
    let Folded { folder, log, table, whole, folded } = folded();
    let ends = ends(&whole);
    for cut in 0..whole.len() {
        let kept: Vec<_> = NAMES.into_iter().zip(&ends).filter(|(_, end)| **end <= cut).collect();
        let mut kept: Vec<_> = kept.into_iter().map(|(name, _)| name).collect();
        for with_table in [true, false] {
            fs::write(&log, &whole[..cut]).unwrap();
            fs::write(&table, if with_table { &folded[..] } else { &[] }).unwrap();
            let told = format!("cut at {cut}, table {with_table}");
            let mut index = open(folder.path());
            assert_eq!(served(&mut index, &told), kept, "{told}");
            // The next writer cuts off what is torn and goes on.
            index.append(&record("c")).unwrap();
            kept.push("c");
            kept.dedup();
            assert_eq!(served(&mut index, &told), kept, "{told}, appended");
            assert_eq!(served(&mut open(folder.path()), &told), kept, "{told}, reopened");
            assert_eq!(open(folder.path()).read_all().1, 0, "{told}");
            kept.pop();
        }
    }
}

/// After a power cut a file may be as long as it was to be, with zeros in place of what was not written.
#[test]
fn a_log_whose_end_is_zeros_keeps_its_whole_records_with_and_without_table() {
    let Folded { folder, log, table, whole, folded } = folded();
    let ends = ends(&whole);
    for from in (0..=whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[from..].fill(0);
        bytes.extend([0; 100]);
        // A record may end with zeros.
        let is_kept = |(_, end): &(&str, &usize)| bytes[..**end] == whole[..**end];
        let kept: Vec<_> = NAMES.into_iter().zip(&ends).filter(is_kept).collect();
        let kept: Vec<_> = kept.into_iter().map(|(name, _)| name).collect();
        let appended: Vec<_> =
            NAMES.into_iter().filter(|name| kept.contains(name) || *name == "c").collect();
        for with_table in [true, false] {
            fs::write(&log, &bytes).unwrap();
            fs::write(&table, if with_table { &folded[..] } else { &[] }).unwrap();
            let told = format!("zeros from {from}, table {with_table}");
            let mut index = open(folder.path());
            assert_eq!(served(&mut index, &told), kept, "{told}");
            index.append(&record("c")).unwrap();
            assert_eq!(served(&mut open(folder.path()), &told), appended, "{told}, appended");
            assert_eq!(open(folder.path()).read_all().1, 0, "{told}");
        }
    }
}

/// A log that was put together of parts of others, by hand or by a file system, serves what its whole frames say.
#[test]
fn frames_that_come_twice_or_in_another_order_or_of_a_future_tlm_cost_nothing_else() {
    let Folded { folder, log, table, whole, folded } = folded();
    let mut start = 0;
    let frames: Vec<&[u8]> = ends(&whole)
        .into_iter()
        .map(|end| &whole[std::mem::replace(&mut start, end)..end])
        .collect();
    let future = Point::default().frame(b"what a later version records").unwrap().0;
    let [a, b, c] = frames[..] else { panic!() };
    for (told, frames, damaged) in [
        ("twice", &[a, b, b, c][..], 0),
        ("all twice", &[a, b, c, a, b, c], 0),
        ("backwards", &[c, b, a], 0),
        ("a future one first", &[&future, a, b, c], 1),
        ("a future one between", &[a, &future, b, &future, c], 2),
        ("a future one last", &[a, b, c, &future], 1),
    ] {
        for with_table in [true, false] {
            fs::write(&log, frames.concat()).unwrap();
            fs::write(&table, if with_table { &folded[..] } else { &[] }).unwrap();
            let told = format!("{told}, table {with_table}");
            let mut index = open(folder.path());
            assert_eq!(served(&mut index, &told), NAMES, "{told}");
            assert_eq!(index.read_all().1, damaged, "{told}");
            index.append(&record("a")).unwrap();
            fold(folder.path());
            assert_eq!(served(&mut open(folder.path()), &told), NAMES, "{told}, folded");
            assert_eq!(open(folder.path()).read_all().1, damaged, "{told}, folded");
        }
    }
}

#[test]
fn a_log_that_is_written_anew_keeps_what_stays_and_no_damage() {
    for (stay, damage) in [(&["a", "c"][..], false), (&["a", "b", "c"], true), (&[], false)] {
        let folder = log_of(&NAMES);
        fold(folder.path());
        let mut other = open(folder.path());
        assert_eq!(served(&mut other, "before"), NAMES);
        let mut stay = stay.to_vec();
        if damage {
            let mut bytes = fs::read(path(folder.path())).unwrap();
            bytes[log::HEADER + 100] ^= 1;
            fs::write(path(folder.path()), bytes).unwrap();
            stay.remove(0);
        }
        let mut index = open(folder.path());
        index.rewrite(|record| stay.contains(&&*record.label)).unwrap();
        for (told, index) in [("own", &mut index), ("anew", &mut open(folder.path()))] {
            assert_eq!(served(index, told), stay, "{told}");
            assert_eq!(index.read_all().1, 0, "{told}");
        }
        // One that had the old log open goes on with the new one.
        other.append(&record("b")).unwrap();
        stay.push("b");
        stay.sort_unstable();
        stay.dedup();
        assert_eq!(served(&mut other, "other"), stay);
        assert_eq!(served(&mut open(folder.path()), "anew"), stay);
    }
}

#[test]
fn a_table_damaged_or_cut_anywhere_is_not_used() {
    let folder = log_of(&NAMES);
    let table = table_path(folder.path());
    fold(folder.path());
    let whole = fs::read(&table).unwrap();
    assert!(Table::of(whole.clone()).is_some());
    for (at, bit) in flips(whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        assert!(Table::of(bytes).is_none(), "byte {at}, bit {bit}");
    }
    for cut in 0..whole.len() {
        assert!(Table::of(whole[..cut].to_vec()).is_none(), "cut at {cut}");
    }
    fs::write(&table, &whole[1..]).unwrap();
    assert_eq!(served(&mut open(folder.path()), "damaged"), NAMES);
    fold(folder.path());
    assert_eq!(fs::read(&table).unwrap(), whole, "made again");
}

#[test]
fn a_table_behind_its_log_is_gone_on_from_and_one_of_another_log_is_made_again() {
    let table_of = |names| {
        let folder = log_of(names);
        fold(folder.path());
        fs::read(table_path(folder.path())).unwrap()
    };
    let folder = log_of(&NAMES);
    for (told, table, covers) in [
        ("stale", table_of(&["a"]), true),
        ("as new", table_of(&NAMES), true),
        ("newer", table_of(&["a", "b", "c", "d"]), false),
        ("of another one as long", table_of(&["b", "a", "c"]), false),
        ("of another one with the same ends", table_of(&["a", "x", "c"]), false),
    ] {
        fs::write(table_path(folder.path()), table).unwrap();
        let mut index = open(folder.path());
        assert_eq!(index.table.point() != Point::default(), covers, "{told}");
        assert_eq!(served(&mut index, told), NAMES, "{told}");
        fold(folder.path());
        assert_eq!(fs::read(table_path(folder.path())).unwrap(), table_of(&NAMES), "{told}");
    }
}

#[test]
fn the_last_record_under_a_key_counts_wherever_it_lies() {
    let folder = log_of(&["a", "b"]);
    let again = Record { content: key("other"), label: "again".to_owned(), ..record("a") };
    for folded in [0, 1, 2] {
        if folded == 1 {
            fold(folder.path());
        }
        let mut index = open(folder.path());
        index.append(&again).unwrap();
        if folded == 2 {
            fold(folder.path());
            index = open(folder.path());
        }
        assert_eq!(index.get(key("a")), Some(again.clone()), "{folded}");
        assert_eq!(index.get(key("a content")), Some(record("a")), "{folded}");
    }
}

#[test]
fn a_log_that_is_replaced_while_it_is_open_is_read_from_its_start() {
    let (folder, other) = (log_of(&NAMES), log_of(&["b"]));
    fold(folder.path());
    let mut index = open(folder.path());
    assert_eq!(served(&mut index, "before"), NAMES);
    fs::copy(path(other.path()), path(folder.path())).unwrap();
    index.refresh().unwrap();
    assert_eq!(served(&mut index, "replaced"), ["b"]);
    fs::remove_file(path(folder.path())).unwrap();
    index.append(&record("c")).unwrap();
    assert_eq!(served(&mut index, "removed"), ["c"]);
    assert_eq!(served(&mut open(folder.path()), "reopened"), ["c"]);
}

#[test]
fn a_found_record_that_is_damaged_is_not_read_and_not_found_again() {
    let folder = log_of(&NAMES);
    make_objects(folder.path(), &NAMES);
    fold(folder.path());
    let mut bytes = fs::read(path(folder.path())).unwrap();
    bytes[log::HEADER + 100] ^= 1;
    fs::write(path(folder.path()), bytes).unwrap();
    let mut index = open(folder.path());
    let [a, b] = ["a", "b"].map(|name| index.find(key(name)).expect("the table has it"));
    assert_eq!(index.read_at(a), None);
    assert_eq!(index.find(key("a")), None);
    assert_eq!(index.read_at(b), Some(record("b")));
}

/// Returns which names are found, by a plan that remembers what it saw, so long after the folders changed.
fn found(folder: &Path, later_s: u64) -> Vec<&'static str> {
    let seen = folder.join("index.seen");
    if let Ok(file) = fs::File::options().write(true).open(&seen) {
        let now = fs::metadata(&seen).unwrap().modified().unwrap();
        file.set_modified(now + Duration::from_secs(later_s)).unwrap();
    }
    let mut index = open(folder);
    let found = NAMES.into_iter().filter(|name| index.find(key(name)).is_some()).collect();
    index.keep_presence().unwrap();
    found
}

#[test]
fn a_plan_finds_what_is_there_at_the_time() {
    let folder = log_of(&NAMES);
    let of = |name: &str| object_path(folder.path(), key(&format!("{name} object")));
    make_objects(folder.path(), &["a", "b"]);
    for folded in [false, true] {
        if folded {
            fold(folder.path());
        }
        for later_s in [0, 5, 0, 5] {
            assert_eq!(found(folder.path(), later_s), ["a", "b"], "{folded} {later_s}");
            fs::remove_file(of("a")).unwrap();
            make_objects(folder.path(), &["c"]);
            assert_eq!(found(folder.path(), later_s), ["b", "c"], "{folded} {later_s}");
            fs::remove_dir_all(of("c").parent().unwrap()).unwrap();
            make_objects(folder.path(), &["a"]);
        }
    }
}

/// Says of an object that it is gone, which comes back only where the memo is trusted.
#[test]
fn what_was_seen_counts_while_the_folder_is_as_it_was_and_had_settled() {
    let folder = log_of(&NAMES);
    make_objects(folder.path(), &NAMES);
    fold(folder.path());
    let mut index = open(folder.path());
    assert!(index.find(key("a")).is_some());
    let presence = index.presence.as_mut().unwrap();
    presence.plant_gone(index.table.objects(index.table.find(&key("a")).unwrap()).start);
    index.keep_presence().unwrap();
    let seen = fs::read(folder.path().join("index.seen")).unwrap();
    assert_eq!(found(folder.path(), 0), NAMES, "too young");
    fs::write(folder.path().join("index.seen"), &seen).unwrap();
    assert_eq!(found(folder.path(), 5), ["b", "c"], "settled");
    for (at, bit) in flips(seen.len()).step_by(997) {
        let mut bytes = seen.clone();
        bytes[at] ^= bit;
        fs::write(folder.path().join("index.seen"), bytes).unwrap();
        assert_eq!(found(folder.path(), 5), NAMES, "byte {at}");
    }
}
