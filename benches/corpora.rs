//! Reading JSON lines and removing equal documents against a Python script that does the same, and counting the ids of a dataset
//! against adding up the numbers of its mapped file, which is how fast memory gives them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufWriter, Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, available_parallelism};
use std::time::Instant;

use tlm::base::{Digest, Value};
use tlm::data::DatasetWriter;
use tlm::data::mapped::Mapped;
use tlm::data::mix::splitmix;
use tlm::stage::action::PROTOCOL;
use tlm::stage::{Action, Context, REGISTRY};

/// Documents of the corpus, of about 1 kB each.
const DOCUMENTS: u64 = 300_000;
/// Ids of a dataset.
const TOKENS: u64 = 1 << 28;

/// What the Python script does with each line, and with all documents; it prints the seconds of each.
const SCRIPT: &str = r#"
import hashlib, json, sys, time
began = time.perf_counter()
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
read = time.perf_counter()
seen, kept = set(), open(sys.argv[1] + ".kept", "w", encoding="utf-8")
for text in texts:
    digest = hashlib.sha1(" ".join(text.split()).lower().encode()).digest()
    if digest not in seen:
        seen.add(digest)
        kept.write(text)
kept.close()
print(read - began, time.perf_counter() - read)
"#;

fn main() {
    let threads = available_parallelism().map_or(1, usize::from);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let size = write_lines(&path("lines.jsonl"));
    for threads in [1, threads] {
        let text = |name: &str| (name.to_owned(), Value::Str("text".to_owned()));
        let params = [text("field"), ("malformed".to_owned(), Value::Str("fail".to_owned()))];
        let read =
            run("corpus.jsonl", &params, ("files", path("lines.jsonl")), &path("read"), threads);
        let fold = [("fold".to_owned(), Value::Bool(true))];
        let once = run("corpus.dedup", &fold, ("corpus", path("read/out")), &path("once"), threads);
        say(&format!("corpus.jsonl, {threads} threads"), size, read);
        say(&format!("corpus.dedup, {threads} threads"), size, once);
    }
    let told = Command::new("python3").args(["-c", SCRIPT]).arg(path("lines.jsonl")).output();
    let told = String::from_utf8(told.expect("python3").stdout).expect("text");
    for (name, seconds) in
        ["python, json.loads", "python, sha1"].iter().zip(told.split_whitespace())
    {
        say(name, size, seconds.parse().expect("seconds"));
    }
    for (vocab, name) in [(50_000, "tokens.u16"), (100_000, "tokens.u32")] {
        let data = path(name);
        write_dataset(&data, vocab);
        let size = fs::metadata(data.join(name)).expect("there").len();
        for threads in [1, threads] {
            let seconds = add_up(&data.join(name), threads);
            say(&format!("adding up {name}, {threads} threads"), size, seconds);
            let out = path("counts");
            let seconds = run("dataset.count", &[], ("data", data.clone()), &out, threads);
            say(&format!("dataset.count of {name}, {threads} threads"), size, seconds);
        }
        fs::remove_dir_all(data).expect("removed");
    }
}

fn say(what: &str, bytes: u64, seconds: f64) {
    let speed = bytes as f64 / seconds / 1e9;
    let _ = writeln!(stdout(), "{what:40} {seconds:7.3} s  {speed:6.2} GB/s");
}

/// Runs a stage in this process; returns the seconds of the fastest of three times.
fn run(
    stage: &str,
    params: &[(String, Value)],
    (input, path): (&str, PathBuf),
    out: &Path,
    threads: usize,
) -> f64 {
    let (_, body) = REGISTRY.iter().find(|(name, _)| *name == stage).expect("a stage");
    let once = || {
        let _ = fs::remove_dir_all(out);
        fs::create_dir(out).expect("created");
        let action = Action {
            protocol: PROTOCOL,
            key: Digest::of(b"key"),
            stage: stage.to_owned(),
            params: params.iter().cloned().collect(),
            inputs: BTreeMap::from([(input.to_owned(), vec![path.clone()])]),
            out: out.to_owned(),
            state: out.to_owned(),
            seed: 1,
            threads: threads as u32,
            device: "cpu".to_owned(),
            micro_batch: None,
            recompute: false,
            shell: None,
        };
        let sink = Box::new(std::io::sink());
        let began = Instant::now();
        body(&mut Context::new(action, Arc::new(AtomicBool::new(false)), sink)).expect("it runs");
        began.elapsed().as_secs_f64()
    };
    (0..3).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// Writes documents of which every tenth was there before, and returns their size.
fn write_lines(path: &Path) -> u64 {
    let mut out = BufWriter::new(File::create(path).expect("created"));
    for at in 0..DOCUMENTS {
        let document = if at % 10 == 9 { at / 2 } else { at };
        let word = |i: u64| format!("w{}ü", splitmix(document * 150 + i) % 5000);
        let text = (0..150).map(word).collect::<Vec<_>>().join(" ");
        let line = serde_json::json!({"id": at, "text": text, "meta": {"source": "generated"}});
        writeln!(out, "{line}").expect("written");
    }
    out.flush().expect("written");
    fs::metadata(path).expect("there").len()
}

/// Writes ids of which small ones are frequent, as in text.
fn write_dataset(folder: &Path, vocab: u64) {
    fs::create_dir(folder).expect("created");
    let mut writer = DatasetWriter::create(folder, 1024, vocab).expect("created");
    let id = |at: u64| {
        let uniform = (splitmix(at) >> 11) as f64 / (1_u64 << 53) as f64;
        ((vocab as f64).powf(uniform) - 1.0) as u32
    };
    for start in (0..TOKENS).step_by(1 << 16) {
        writer.push(&(start..start + (1 << 16)).map(id).collect::<Vec<_>>()).expect("written");
    }
    writer.finish().expect("written");
}

/// Returns the seconds it takes to map a file and add up its numbers, the fastest of three times.
fn add_up(path: &Path, threads: usize) -> f64 {
    let once = || {
        let began = Instant::now();
        let map = Mapped::open(path).expect("there");
        let add = |part: &[u8]| {
            let words = part.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            words.fold(0, u64::wrapping_add)
        };
        thread::scope(|scope| {
            let parts = map.bytes().chunks(map.bytes().len().div_ceil(threads));
            parts.for_each(|part| drop(scope.spawn(move || black_box(add(part)))));
        });
        began.elapsed().as_secs_f64()
    };
    (0..3).map(|_| once()).fold(f64::INFINITY, f64::min)
}
