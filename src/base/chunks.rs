//! Work on many small items, shared among all cores.

use rayon::prelude::{ParallelIterator, ParallelSlice};

/// How many items one core takes at once: with fewer in all, other threads would cost more than they save.
const CHUNK: usize = 2000;

/// Returns what `work` makes of each part of the items, in their order.
pub fn in_chunks<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> R + Send + Sync) -> Vec<R> {
    match items.len() <= CHUNK {
        true => vec![work(items)],
        false => items.par_chunks(CHUNK).map(work).collect(),
    }
}
