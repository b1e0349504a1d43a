//! Encoding and counting against `encode_batch_fast` of `tokenizers` on the same threads (`DESIGN` bar: ten times its speed, and
//! the same ids), of the crate and of Python's package. All start without knowing a word, as a step does; opening the tokenizer is
//! not timed. Each is timed in three rounds, by turns, of which the fastest counts.
//!
//! `TLM_BENCH_TOKENIZERS`, folders, and `TLM_BENCH_TEXTS`, files, are colon-separated; without them it is the donor's tokenizer and the
//! text of the quickstart. `TLM_BENCH_PYTHON` is a Python with the package `tokenizers`; without it that is not measured.

use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rayon::ThreadPoolBuilder;
use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use tlm::base::World;
use tlm::data::tokenizer::Part;
use tlm::data::tokenizer::gguf::tokenizer_from_gguf;
use tlm::data::{Gguf, Tokenizer};

#[path = "../tests/it/donor.rs"]
mod donor;

/// Documents are cut at the first line end after so many bytes.
const DOCUMENT_BYTES: usize = 4000;
/// Documents that the others get at once.
const BATCH: usize = 1024;
const ROUNDS: usize = 3;

fn main() {
    let world = World::of_process().expect("an environment");
    let listed = |name| world.var(name).map(|list| list.split(':').map(PathBuf::from).collect());
    let space = tempfile::tempdir().expect("a folder");
    let tokenizers = listed("TLM_BENCH_TOKENIZERS").unwrap_or_else(|| {
        let gguf = Gguf::open(donor::donor()).expect("a GGUF file");
        tokenizer_from_gguf(&gguf, space.path()).expect("a tokenizer");
        vec![space.path().to_owned()]
    });
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/data");
    let texts = listed("TLM_BENCH_TEXTS").unwrap_or_else(|| {
        ["english.txt.zst", "chinese.txt.zst"].map(|name| quickstart.join(name)).to_vec()
    });
    let python = world.var("TLM_BENCH_PYTHON").map(PathBuf::from);
    if python.is_none() {
        let _ = writeln!(stdout(), "TLM_BENCH_PYTHON is not set: only the crate is compared with");
    }
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    for text in &texts {
        let documents = documents(&read(text));
        for tokenizer in &tokenizers {
            for threads in [1, all] {
                let _ = writeln!(stdout(), "{} · {}", tokenizer.display(), text.display());
                compare(tokenizer, &documents, threads, python.as_deref());
            }
        }
    }
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).expect("readable");
    let is_packed = path.extension().is_some_and(|extension| extension == "zst");
    let bytes = if is_packed { zstd::decode_all(&*bytes).expect("zstd") } else { bytes };
    String::from_utf8(bytes).expect("UTF-8")
}

fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if documents.last().is_some_and(|last| last.len() >= DOCUMENT_BYTES) {
            documents.push(String::new());
        }
        documents.last_mut().expect("at least one").push_str(line);
    }
    documents
}

/// What a round measures, in seconds.
#[derive(Clone, Copy)]
struct Round {
    by_crate: f64,
    encode: f64,
    count: f64,
}

fn compare(folder: &Path, documents: &[String], threads: usize, python: Option<&Path>) {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let megabytes = documents.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let rounds = [(); ROUNDS].map(|()| pool.install(|| round(folder, documents)));
    let (hash, ids) = rounds[0].1;
    let fastest = |time: fn(&Round) -> f64| {
        rounds.iter().map(|(round, _)| time(round)).fold(f64::INFINITY, f64::min)
    };
    let (encode, count) = (fastest(|round| round.encode), fastest(|round| round.count));
    let _ = writeln!(
        stdout(),
        "  {threads} threads, {ids} ids: encode {:.1} MB/s, count {:.1} MB/s",
        megabytes / encode,
        megabytes / count
    );
    let tell = |name: &str, peer: f64| {
        let _ = writeln!(
            stdout(),
            "    {:.1} and {:.1} times {name}, {:.2} MB/s",
            peer / encode,
            peer / count,
            megabytes / peer
        );
    };
    tell("the crate", fastest(|round| round.by_crate));
    if let Some(python) = python {
        let (seconds, other) = by_python(python, folder, documents, threads);
        assert_eq!(other, hash, "other ids than those of Python's package");
        tell("Python's package", seconds);
    }
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Returns the times of one round, and a hash of all ids and their number.
fn round(folder: &Path, documents: &[String]) -> (Round, (u64, usize)) {
    let mut peer =
        tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).expect("a tokenizer");
    peer.with_truncation(None).expect("a setting").with_padding(None);
    let (mut by_crate, mut expected) = (0.0, Vec::new());
    for batch in documents.chunks(BATCH) {
        let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
        let mut encodings = Vec::new();
        by_crate += timed(|| encodings = peer.encode_batch_fast(batch, false).expect("ids"));
        expected.extend(encodings.iter().map(|encoding| encoding.get_ids().to_vec()));
    }

    let tokenizer = Tokenizer::open(folder).expect("a tokenizer");
    let mut encoded = Vec::new();
    let encode = timed(|| {
        let ids = |text: &String| tokenizer.encode(text).expect("ids");
        encoded = documents.par_iter().map(ids).collect();
    });
    let counter = tokenizer.counter();
    let count = timed(|| {
        let add = |text: &String| counter.add(Part { text, is_first: true }).expect("ids");
        documents.par_iter().for_each(add);
    });

    assert!(encoded == expected, "other ids than the crate's");
    let ids = encoded.iter().map(Vec::len).sum();
    assert_eq!(counter.finish().iter().sum::<u64>(), ids as u64, "all ids are counted");
    let hash = encoded
        .iter()
        .flatten()
        .fold(0, |hash: u64, &id| (hash * 31 + u64::from(id)) % 1_000_000_007);
    (Round { by_crate, encode, count }, (hash, ids))
}

/// Returns the fastest time of Python's package, and the hash of its ids.
fn by_python(python: &Path, folder: &Path, documents: &[String], threads: usize) -> (f64, u64) {
    let texts = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&texts, documents.join("\0")).expect("writable");
    let output = Command::new(python)
        .args(["-c", PYTHON])
        .args([folder.join("tokenizer.json").as_path(), texts.path()])
        .args([BATCH, ROUNDS].map(|number| number.to_string()))
        .env("RAYON_NUM_THREADS", threads.to_string())
        .env("TOKENIZERS_PARALLELISM", "true")
        .output()
        .expect("a Python that starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let parsed = said
        .split_once(' ')
        .and_then(|(seconds, hash)| Some((seconds.parse().ok()?, hash.trim().parse().ok()?)));
    parsed.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// What users run: batches, of which the ids are read.
const PYTHON: &str = r#"
import sys, time
from tokenizers import Tokenizer

file, texts, batch, rounds = *sys.argv[1:3], *map(int, sys.argv[3:])
texts = open(texts, encoding="utf-8", newline="").read().split("\0")
fastest = float("inf")
for _ in range(rounds):
    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids, start = [], time.perf_counter()
    for at in range(0, len(texts), batch):
        encodings = tokenizer.encode_batch_fast(texts[at : at + batch], add_special_tokens=False)
        ids += [encoding.ids for encoding in encodings]
    fastest = min(fastest, time.perf_counter() - start)
number = 0
for id in (id for some in ids for id in some):
    number = (number * 31 + id) % 1000000007
print(fastest, number)
"#;
