//! Documents of a corpus in parallel, results in order: what all stages share that go through a corpus once.

use std::ops::Range;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use crate::data::tokenizer::Part;
use crate::data::{Corpus, DataError, Tokenizer};
use crate::stage::{Context, StageError};

/// Text that is worked on at once: enough for all threads, little memory.
const BLOCK_BYTES: u64 = 8 << 20;
/// Documents that are worked on at once, however short.
const BLOCK_DOCUMENTS: usize = 1 << 16;

/// Computes something of each document, in parallel, and hands it on in order: index, text, and what was computed. Neither
/// memory nor results depend on the number of threads or the size of the corpus.
///
/// # Errors
/// When a document can't be read, or the first of `take`.
pub(super) fn each<T: Send>(
    context: &mut Context,
    corpus: &Corpus,
    compute: impl Fn(&str) -> T + Sync,
    mut take: impl FnMut(&mut Context, usize, &str, T) -> Result<(), StageError>,
) -> Result<(), StageError> {
    let pool = context.pool()?;
    let (mut next, mut done) = (0, 0);
    while next < corpus.documents() {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let (start, before) = (next, done);
        while next < corpus.documents()
            && (next == start || done - before < BLOCK_BYTES && next - start < BLOCK_DOCUMENTS)
        {
            done += corpus.document_size(next);
            next += 1;
        }
        let one = |index| corpus.document(index).map(|text| (text, compute(text)));
        let block: Result<Vec<_>, DataError> =
            pool.install(|| (start..next).into_par_iter().map(one).collect());
        for (index, (text, computed)) in (start..next).zip(block?) {
            take(context, index, text, computed)?;
        }
        corpus.release(start..next);
        context.progress(done, Some(corpus.size()), "bytes");
    }
    Ok(())
}

/// Text that a thread works on at once.
const RUN_BYTES: usize = 256 << 10;
/// Runs for each thread that are worked on at once.
const RUNS: usize = 8;

/// Documents that follow each other, or a part of a long one.
struct Run {
    documents: Range<usize>,
    bytes: Range<usize>,
}

impl Run {
    /// Returns what follows a place in a corpus.
    fn after(corpus: &Corpus, tokenizer: &Tokenizer, document: usize, at: usize) -> Self {
        let range = corpus.range(document);
        if at > range.start || range.len() > RUN_BYTES {
            let end = at + tokenizer.part_end(&corpus.bytes()[at..range.end]);
            return Self { documents: document..document + 1, bytes: at..end };
        }
        let fits = |&next: &usize| {
            next < corpus.documents()
                && next - document < BLOCK_DOCUMENTS
                && corpus.range(next).end - at <= RUN_BYTES
        };
        let last = (document..).take_while(fits).last().unwrap_or(document);
        Self { documents: document..last + 1, bytes: at..corpus.range(last).end }
    }

    fn compute<T: Default>(
        &self,
        corpus: &Corpus,
        work: impl Fn(&mut T, Part<'_>, bool) -> Result<(), DataError>,
    ) -> Result<T, DataError> {
        let mut computed = T::default();
        for document in self.documents.clone() {
            let whole = corpus.range(document);
            let range = whole.start.max(self.bytes.start)..whole.end.min(self.bytes.end);
            let (is_first, is_last) = (range.start == whole.start, range.end == whole.end);
            let part = Part { text: corpus.text(document, range)?, is_first };
            work(&mut computed, part, is_last)?;
        }
        Ok(computed)
    }
}

/// Computes something of documents, long ones in parts that a tokenizer can encode by themselves, in parallel, and hands it on in
/// order. `work` is called with each part of a document, and whether it is the last one. Neither results nor, where the tokenizer can
/// part documents, memory depend on the number of threads or the size of the corpus.
///
/// # Errors
/// When a document can't be read, or the first of `work` and `take`.
pub(super) fn each_part<T: Default + Send>(
    context: &mut Context,
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    work: impl Fn(&mut T, Part<'_>, bool) -> Result<(), DataError> + Sync,
    mut take: impl FnMut(T) -> Result<(), DataError>,
) -> Result<(), StageError> {
    let pool = context.pool()?;
    let (mut document, mut at) = (0, 0);
    while document < corpus.documents() {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let (first, start) = (document, at);
        let mut runs = Vec::new();
        while document < corpus.documents() && runs.len() < RUNS * pool.current_num_threads() {
            let run = Run::after(corpus, tokenizer, document, at);
            at = run.bytes.end;
            document =
                run.documents.end - usize::from(at < corpus.range(run.documents.end - 1).end);
            runs.push(run);
        }
        let compute = |run: Run| run.compute(corpus, &work);
        let block: Result<Vec<T>, DataError> =
            pool.install(|| runs.into_par_iter().map(compute).collect());
        block?.into_iter().try_for_each(&mut take)?;
        corpus.release_text(start..at);
        corpus.release(first..document);
        context.progress(at as u64, Some(corpus.size()), "bytes");
    }
    Ok(())
}
