//! Hashing an artifact as the store does, digests of pieces included, against `b3sum` on as many threads (`DESIGN` bar: 0.9
//! of its speed). The file is in the page cache.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use divan::counter::BytesCount;
use tempfile::TempDir;
use tlm::store::object;

const BYTES: usize = 512 << 20;

static SPACE: OnceLock<TempDir> = OnceLock::new();

fn main() {
    divan::main();
    SPACE.get().into_iter().for_each(|space| drop(fs::remove_dir_all(space.path())));
}

fn file() -> PathBuf {
    let space = SPACE.get_or_init(|| {
        let space = tempfile::tempdir().expect("a folder");
        let words = (0..BYTES as u64 / 8).flat_map(|word| (word * 0x9e37_79b9).to_le_bytes());
        fs::write(space.path().join("artifact"), words.collect::<Vec<_>>()).expect("written");
        space
    });
    space.path().join("artifact")
}

#[divan::bench(sample_count = 20)]
fn tlm(bencher: divan::Bencher<'_, '_>) {
    let file = file();
    let hash = || object::digest(&file).expect("readable");
    bencher.counter(BytesCount::new(BYTES)).bench_local(hash);
}

#[divan::bench(sample_count = 20)]
fn b3sum(bencher: divan::Bencher<'_, '_>) {
    let file = file();
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
        let status = Command::new("b3sum").arg(&file).stdout(Stdio::null()).status();
        assert!(status.expect("it starts (`cargo install b3sum`)").success());
    });
}
