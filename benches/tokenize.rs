//! Encoding and counting against `encode_batch_fast` of `tokenizers` on the same threads (`DESIGN` bar: ten times its speed, and
//! the same ids). All start without knowing a word, as a step does; opening the tokenizer is not timed.
//!
//! `TLM_BENCH_TOKENIZERS`, folders, and `TLM_BENCH_TEXTS`, files, are colon-separated; without them it is the donor's tokenizer and the
//! text of the quickstart.

use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
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
/// Documents that the crate gets at once.
const BATCH: usize = 1024;

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
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    for text in &texts {
        let documents = documents(&read(text));
        for tokenizer in &tokenizers {
            for threads in [1, all] {
                let _ = writeln!(stdout(), "{} · {}", tokenizer.display(), text.display());
                compare(tokenizer, &documents, threads);
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

fn compare(folder: &Path, documents: &[String], threads: usize) {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let bytes: usize = documents.iter().map(String::len).sum();
    let timed = |work: &mut (dyn FnMut() + Send)| {
        let start = Instant::now();
        pool.install(work);
        start.elapsed().as_secs_f64()
    };

    let file = folder.join("tokenizer.json");
    let mut crate_s = tokenizers::Tokenizer::from_file(file).expect("a tokenizer");
    crate_s.with_truncation(None).expect("a setting").with_padding(None);
    let (mut peer, mut expected) = (0.0, Vec::new());
    for batch in documents.chunks(BATCH) {
        let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
        let mut encodings = Vec::new();
        peer += timed(&mut || {
            encodings = crate_s.encode_batch_fast(batch.clone(), false).expect("ids");
        });
        expected.extend(encodings.iter().map(|encoding| encoding.get_ids().to_vec()));
    }

    let open = || Tokenizer::open(folder).expect("a tokenizer");
    let (tokenizer, mut encoded) = (open(), Vec::new());
    let encode = timed(&mut || {
        let ids = |text: &String| tokenizer.encode(text).expect("ids");
        encoded = documents.par_iter().map(ids).collect::<Vec<_>>();
    });
    let tokenizer = open();
    let counter = tokenizer.counter();
    let count = timed(&mut || {
        let add = |text: &String| counter.add(Part { text, is_first: true }).expect("ids");
        documents.par_iter().for_each(add);
    });

    assert!(encoded == expected, "other ids than the crate's");
    let ids = encoded.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(counter.finish().iter().sum::<u64>(), ids, "all ids are counted");
    let speed = |seconds: f64| bytes as f64 / 1e6 / seconds;
    let _ = writeln!(
        stdout(),
        "  {threads} threads, {ids} ids: encode {:.1} MB/s, {:.1} times; count {:.1} MB/s, {:.1} times; crate {:.2} MB/s",
        speed(encode),
        peer / encode,
        speed(count),
        peer / count,
        speed(peer),
    );
}
