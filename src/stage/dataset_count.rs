//! `dataset.count`: how often each token id occurs in a dataset, as fast as memory gives the ids.

use std::ops::Range;

use rayon::prelude::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::base::Value;
use crate::data::dataset::Dtype;
use crate::data::tokenizer::counts::write_counts;
use crate::data::{DataError, Dataset};
use crate::stage::{Context, StageError};

/// Tokens that a thread counts at once: more than enough for starting it not to matter, and little memory.
const PART: usize = 8 << 20;
/// All ids of two bytes.
const IDS: usize = 1 << 16;

/// Runs the stage.
///
/// # Errors
/// When the dataset can't be read, or an id is outside the vocabulary.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let data = Dataset::open(context.input("data"))?;
    let counts = match data.is_view() {
        false => count(context, data.meta().tokens as usize, &data, &|range, counts| {
            add(&data, range.clone(), counts);
            data.release(range);
        })?,
        true => count(context, data.len(), &data, &|range, counts| {
            for index in range {
                // What a sequence trains; its first token is only read.
                let start = data.sequence_id(index) as usize * data.seq() + 1;
                add(&data, start..start + data.seq(), counts);
            }
        })?,
    };
    let tokens: u64 = counts.iter().sum();
    write_counts(&context.out_dir("out")?, &counts)?;
    context.output("out.tokens", Value::Int(tokens as i64))?;
    Ok(())
}

/// Counts all things of a dataset, parts of them on each thread.
fn count(
    context: &mut Context,
    things: usize,
    data: &Dataset,
    add: &(impl Fn(Range<usize>, &mut Histogram) + Sync),
) -> Result<Vec<u64>, StageError> {
    let pool = context.pool()?;
    let part = PART.div_ceil(if data.is_view() { data.seq() } else { 1 });
    let mut own: Vec<Histogram> = Vec::new();
    own.resize_with(pool.current_num_threads(), || Histogram::new(data));
    for start in (0..things).step_by(part * own.len()) {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let parts = (start..things).step_by(part).map(|at| at..things.min(at + part));
        let parts: Vec<_> = parts.take(own.len()).collect();
        let end = parts.last().map_or(start, |last| last.end);
        pool.install(|| {
            parts.into_par_iter().zip(&mut own).for_each(|(part, counts)| add(part, counts));
        });
        context.progress(
            end as u64,
            Some(things as u64),
            if data.is_view() { "sequences" } else { "tokens" },
        );
    }
    let vocab = data.vocab();
    let mut sum = vec![0; vocab];
    for histogram in own {
        sum.iter_mut().zip(&histogram.counts).for_each(|(sum, count)| *sum += count);
        if histogram.beyond || histogram.counts.iter().skip(vocab).any(|count| *count > 0) {
            return Err(stray(data).into());
        }
    }
    Ok(sum)
}

/// How often each id was seen.
struct Histogram {
    /// Of ids of two bytes for all there may be, so that none has to be looked at by itself.
    counts: Vec<u64>,
    /// Whether an id of four bytes was outside the vocabulary.
    beyond: bool,
}

impl Histogram {
    fn new(data: &Dataset) -> Self {
        let ids = if data.meta().dtype == Dtype::U16 { IDS } else { data.vocab() };
        Self { counts: vec![0; ids], beyond: false }
    }
}

fn add(data: &Dataset, tokens: Range<usize>, histogram: &mut Histogram) {
    match data.meta().dtype {
        Dtype::U16 => {
            let counts: &mut [u64; IDS] =
                histogram.counts.as_mut_slice().try_into().expect("a count for each id");
            let (ids, _) = data.bytes()[2 * tokens.start..2 * tokens.end].as_chunks::<2>();
            for id in ids {
                counts[u16::from_le_bytes(*id) as usize] += 1;
            }
        }
        Dtype::U32 => {
            let (ids, _) = data.bytes()[4 * tokens.start..4 * tokens.end].as_chunks::<4>();
            for id in ids {
                match histogram.counts.get_mut(u32::from_le_bytes(*id) as usize) {
                    Some(count) => *count += 1,
                    None => histogram.beyond = true,
                }
            }
        }
    }
}

/// Returns the error of the first id outside the vocabulary.
fn stray(data: &Dataset) -> DataError {
    let tokens = data.meta().tokens as usize;
    let mut ids = Vec::new();
    let parts = (0..tokens).step_by(PART).map(|at| at..tokens.min(at + PART));
    for part in parts {
        ids.clear();
        if let Err(error) = data.tokens(part, &mut ids) {
            return error;
        }
    }
    unreachable!("an id outside the vocabulary was counted")
}
