//! `corpus.dedup_near`: of documents with nearly the same words the first stays, found by MinHash and locality-sensitive
//! hashing (Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman, Ullman, "Mining of Massive
//! Datasets", chapter 3).
//!
//! A document's signature is, for each of `bands * rows` hash functions, the least hash of its n-grams. Two signatures agree
//! in a place with the probability of the documents' Jaccard similarity. Documents that agree in all rows of a band are
//! compared by the whole signature.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::ThreadPool;
use rayon::prelude::{
    IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator, ParallelSlice,
    ParallelSliceMut,
};
use serde::Deserialize;

use crate::data::array::{Array, ArrayWriter};
use crate::data::mix::{Stream, mix, splitmix};
use crate::data::{Corpus, CorpusWriter, DataError, Statistics};
use crate::stage::documents::each;
use crate::stage::reading::{corpus, tell};
use crate::stage::{Context, StageError};

/// Bytes of signatures that are read and compared at once.
const BLOCK_BYTES: usize = 4 << 20;
/// Entries of a block that a thread takes at once.
const STEP: usize = 64;
/// Numbers of a band that are read at once, an even number.
const READ: usize = 1 << 20;

#[derive(Deserialize)]
struct Params {
    similarity: f64,
    ngram: usize,
    bands: usize,
    rows: usize,
    seed: i64,
}

/// Runs the stage.
///
/// # Errors
/// When a document can't be read or written.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let corpus = corpus(context)?;
    let scratch = Scratch::new(context.state_dir())?;
    sign(context, &corpus, &params, &scratch.0)?;
    let removed = compare(context, &corpus, &params, &scratch.0)?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    each(
        context,
        &corpus,
        |_| (),
        |_, index, text, ()| {
            if !removed[index] {
                writer.push(text)?;
            }
            Ok(())
        },
    )?;
    let rejected = removed.iter().filter(|removed| **removed).count();
    let statistics = Statistics::of([("near_duplicates", rejected as u64)]);
    tell(context, "out", writer, rejected as u64, statistics)?;
    Ok(())
}

/// A folder for signatures, which is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(state: &Path) -> Result<Self, StageError> {
        let path = state.join("signatures");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(|error| StageError::io("create", &path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes the signatures of all documents, and per band a file with the document and the hash of its rows for each that has
/// words.
fn sign(
    context: &mut Context,
    corpus: &Corpus,
    params: &Params,
    folder: &Path,
) -> Result<(), StageError> {
    let functions = functions(params.bands * params.rows, params.seed as u64);
    let mut signatures = ArrayWriter::<u32>::create(folder.join("all"))?;
    let bands = (0..params.bands).map(|band| ArrayWriter::<u64>::create(band_path(folder, band)));
    let mut bands: Vec<_> = bands.collect::<Result<_, _>>()?;
    let compute = |text: &str| {
        let signature = signature(&ngrams(text, params.ngram), &functions);
        let key = |rows: &[u32]| rows.iter().fold(0, |key, hash| splitmix(key ^ u64::from(*hash)));
        let keys: Vec<u64> = signature.chunks(params.rows).map(key).collect();
        (signature, keys)
    };
    each(context, corpus, compute, |_, index, _, (signature, keys)| {
        signatures.extend(signature.iter().copied())?;
        // No words, nothing in common.
        if signature.iter().any(|hash| *hash != u32::MAX) {
            for (band, key) in bands.iter_mut().zip(keys) {
                band.extend([index as u64, key].into_iter())?;
            }
        }
        Ok(())
    })?;
    signatures.finish()?;
    bands.into_iter().try_for_each(ArrayWriter::finish)?;
    Ok(())
}

fn band_path(folder: &Path, band: usize) -> PathBuf {
    folder.join(format!("band{band}"))
}

/// Returns for each document whether one before it is similar.
fn compare(
    context: &mut Context,
    corpus: &Corpus,
    params: &Params,
    folder: &Path,
) -> Result<Vec<bool>, StageError> {
    let (path, count) = (folder.join("all"), params.bands * params.rows);
    let mut comparison = Comparison {
        pool: context.pool()?,
        file: File::open(&path).map_err(DataError::io("open", &path))?,
        path,
        size: size_of::<u32>() * count,
        block: (BLOCK_BYTES / (size_of::<u32>() * count)).max(1),
        wanted: (params.similarity * count as f64).ceil() as usize,
        removed: vec![false; corpus.documents()],
    };
    for band in 0..params.bands {
        let mut entries = entries(&band_path(folder, band))?;
        comparison.pool.install(|| entries.par_sort_unstable());
        comparison.band(context, &entries)?;
        context.progress(band as u64 + 1, Some(params.bands as u64), "bands");
    }
    Ok(comparison.removed)
}

/// The hash of a document's rows in a band, and the document.
type Entry = (u64, usize);

/// Compares signatures. They are read a block at a time: mapped, they would fill the memory, as any document may be asked for.
struct Comparison {
    pool: ThreadPool,
    path: PathBuf,
    file: File,
    /// Bytes of a signature.
    size: usize,
    /// Signatures that are read and compared at once.
    block: usize,
    /// In how many places similar signatures agree.
    wanted: usize,
    /// Whether a document before this one is similar.
    removed: Vec<bool>,
}

impl Comparison {
    /// Compares documents that agree in a band, given by its sorted entries.
    fn band(&mut self, context: &Context, entries: &[Entry]) -> Result<(), StageError> {
        for start in (0..entries.len()).step_by(self.block) {
            let block = &entries[start..entries.len().min(start + self.block)];
            let key = block[0].0;
            let before = &entries[entries[..start].partition_point(|entry| entry.0 < key)..start];
            let later = self.read(block, &self.needed(block, !before.is_empty()))?;
            self.remove(block, &later, block, &later);
            let goes_on = &block[..block.partition_point(|entry| entry.0 == key)];
            for earlier in before.chunks(self.block) {
                if goes_on.iter().all(|(_, document)| self.removed[*document]) {
                    break;
                }
                if context.interrupted() {
                    return Err(StageError::Interrupted);
                }
                let signatures = self.read(earlier, &vec![true; earlier.len()])?;
                self.remove(earlier, &signatures, goes_on, &later);
            }
            if context.interrupted() {
                return Err(StageError::Interrupted);
            }
        }
        Ok(())
    }

    /// Returns whether an entry agrees with another one that may have to be removed; the first bucket may go on from a block
    /// before.
    fn needed(&self, block: &[Entry], goes_on: bool) -> Vec<bool> {
        let mut needed = Vec::with_capacity(block.len());
        for bucket in block.chunk_by(|a, b| a.0 == b.0) {
            let first = usize::from(!goes_on || !needed.is_empty());
            let is_open = |(_, document): &Entry| !self.removed[*document];
            needed.resize(needed.len() + bucket.len(), bucket[first..].iter().any(is_open));
        }
        needed
    }

    /// Reads the signatures of entries, end to end; those that are not needed are zeros.
    fn read(&self, entries: &[Entry], needed: &[bool]) -> Result<Vec<u8>, DataError> {
        let mut signatures = vec![0; entries.len() * self.size];
        let read = |((out, (_, document)), needed): ((&mut [u8], &Entry), &bool)| match needed {
            true => self.file.read_exact_at(out, (document * self.size) as u64),
            false => Ok(()),
        };
        let places = signatures.par_chunks_mut(self.size).zip(entries).zip(needed);
        let done = self.pool.install(|| places.with_min_len(STEP).try_for_each(read));
        done.map_err(DataError::io("read", &self.path))?;
        Ok(signatures)
    }

    /// Removes those of later documents that are similar to one of these before them which agrees in the band.
    fn remove(
        &mut self,
        earlier: &[Entry],
        earlier_signatures: &[u8],
        later: &[Entry],
        later_signatures: &[u8],
    ) {
        let is_similar = |(entry, own): (&Entry, &[u8])| {
            let bucket = earlier.partition_point(|other| other.0 < entry.0)
                ..earlier.partition_point(|other| other < entry);
            let others = &earlier_signatures[bucket.start * self.size..bucket.end * self.size];
            others.chunks_exact(self.size).any(|other| equal(own, other) >= self.wanted)
        };
        let pairs = later.par_iter().zip(later_signatures.par_chunks(self.size));
        let open = pairs.with_min_len(STEP).filter(|((_, at), _)| !self.removed[*at]);
        let similar: Vec<usize> = self
            .pool
            .install(|| open.filter(|pair| is_similar(*pair)).map(|((_, at), _)| *at).collect());
        similar.into_iter().for_each(|document| self.removed[document] = true);
    }
}

/// Returns in how many places two signatures agree.
fn equal(a: &[u8], b: &[u8]) -> usize {
    let ((a, _), (b, _)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    a.iter().zip(b).map(|(a, b)| u32::from(a == b)).sum::<u32>() as usize
}

/// Returns the hashes of a band with the documents they are of.
fn entries(path: &Path) -> Result<Vec<Entry>, DataError> {
    let band = Array::<u64>::open(path)?;
    let mut entries = Vec::with_capacity(band.len() / 2);
    for start in (0..band.len()).step_by(READ) {
        let range = start..band.len().min(start + READ);
        entries
            .extend(range.clone().step_by(2).map(|at| (band.get(at + 1), band.get(at) as usize)));
        band.release(range);
    }
    Ok(entries)
}

/// A hash function of numbers that are well mixed already: the upper half of `a * x + b`.
type Function = (u64, u64);

fn functions(count: usize, seed: u64) -> Vec<Function> {
    let random = |id: usize| mix(seed, Stream::Hash, id as u64);
    (0..count).map(|at| (random(2 * at) | 1, random(2 * at + 1))).collect()
}

/// Returns the least hash by each function; the largest number where there is no n-gram.
fn signature(ngrams: &[u64], functions: &[Function]) -> Vec<u32> {
    // The upper half of the least product is the least upper half, so it is taken once.
    let mut least = vec![u64::MAX; functions.len()];
    for ngram in ngrams {
        for (least, (a, b)) in least.iter_mut().zip(functions) {
            *least = (*least).min(a.wrapping_mul(*ngram).wrapping_add(*b));
        }
    }
    least.into_iter().map(|least| (least >> 32) as u32).collect()
}

/// Returns hashes of all runs of `n` words; of fewer words all together make one.
fn ngrams(text: &str, n: usize) -> Vec<u64> {
    let words = words(text);
    let hash = |words: &[u64]| words.iter().fold(0, |hash, word| splitmix(hash ^ word));
    match words.len() {
        0 => Vec::new(),
        len => words.windows(n.min(len)).map(hash).collect(),
    }
}

/// Returns hashes of the words of a text: runs of letters and digits, in small letters. Where words are written without
/// blanks between them, each character is one.
fn words(text: &str) -> Vec<u64> {
    let mut words = Vec::new();
    let mut word = None;
    for c in text.chars() {
        if !c.is_alphanumeric() {
            words.extend(word.take());
            continue;
        }
        let alone = is_word(c);
        if alone {
            words.extend(word.take());
        }
        for c in c.to_lowercase() {
            word = Some(splitmix(word.unwrap_or_default() ^ u64::from(c)));
        }
        if alone {
            words.extend(word.take());
        }
    }
    words.extend(word);
    words
}

/// Returns whether a letter is of a script that is written without blanks between words: Thai, Lao, Myanmar, Khmer, kana,
/// Han.
fn is_word(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::data::array::write_array;
    use crate::stage::context::tests::context;

    #[test]
    fn words_are_runs_of_letters_and_characters_of_scripts_without_blanks() {
        let count = |text: &str| words(text).len();
        assert_eq!(count("It's 3 Über-words."), 5);
        assert_eq!(count("语言 ab语c"), 5);
        assert_eq!(count("... \n"), 0);
        assert_eq!(words("Ab, ÜB"), words("ab üb"));
        assert_ne!(words("ab"), words("ba"));
        assert_eq!(ngrams("a b c", 2).len(), 2);
        assert_eq!(ngrams("a b", 5).len(), 1);
    }

    #[test]
    fn signatures_agree_as_often_as_sets_overlap() {
        let functions = functions(1024, 7);
        for shared in [0_usize, 100, 250, 400, 500] {
            let set = |from: usize| -> Vec<u64> {
                (from..from + 500).map(|at| splitmix(at as u64)).collect()
            };
            let (a, b) = (set(0), set(500 - shared));
            let union: BTreeSet<_> = a.iter().chain(&b).collect();
            let jaccard = shared as f64 / union.len() as f64;
            let (a, b) = (signature(&a, &functions), signature(&b, &functions));
            let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / 1024.0;
            let deviation = (jaccard * (1.0 - jaccard) / 1024.0).sqrt();
            assert!((equal - jaccard).abs() <= 4.0 * deviation, "{equal} against {jaccard}");
        }
    }
    #[test]
    fn blocks_of_all_sizes_find_the_same_documents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all");
        // Few different numbers, so that many documents agree, in large and small buckets.
        let number = |at: u64| (splitmix(at) % 3) as u32;
        let signatures: Vec<u32> = (0..4 * 200).map(number).collect();
        write_array(path.clone(), signatures.iter().copied()).unwrap();
        let mut entries: Vec<Entry> =
            (0..200).map(|at| (splitmix(at as u64) % 90 / 40, at)).collect();
        entries.sort_unstable();
        let agree = |(a, b): (usize, usize)| {
            let rows = |at: usize| &signatures[4 * at..][..4];
            rows(a).iter().zip(rows(b)).filter(|(a, b)| a == b).count() >= 3
        };
        let key = |at: usize| splitmix(at as u64) % 90 / 40;
        let similar = |later: usize| {
            (0..later).any(|earlier| key(earlier) == key(later) && agree((earlier, later)))
        };
        let expected: Vec<bool> = (0..200).map(similar).collect();
        for (threads, block) in [(1, 1), (1, 7), (2, 64), (3, 100), (2, 1000)] {
            let context = context("corpus.dedup_near", threads);
            let mut comparison = Comparison {
                pool: context.pool().unwrap(),
                path: path.clone(),
                file: File::open(&path).unwrap(),
                size: 16,
                block,
                wanted: 3,
                removed: vec![false; 200],
            };
            comparison.band(&context, &entries).unwrap();
            assert!(comparison.removed == expected, "{block} at once");
        }
    }
}
