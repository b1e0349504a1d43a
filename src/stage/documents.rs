//! Documents of a corpus in parallel, results in order: what all stages share that go through a corpus once.

use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use crate::data::{Corpus, DataError};
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
