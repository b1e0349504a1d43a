//! `dataset.count`: how often each token id occurs in a dataset, as fast as memory gives the ids.

use std::ops::Range;

use rayon::prelude::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::base::Value;
use crate::data::dataset::Dtype;
use crate::data::tokenizer::counts::write_counts;
use crate::data::{DataError, Dataset};
use crate::stage::{Context, StageError};

/// Tokens that a thread counts at once: more than enough for starting it not to matter, little memory, and counts of 32 bits.
const PART: usize = 8 << 20;
/// Tokens that the system maps around those of a sequence, about 64 KiB of them.
const AROUND: usize = 32 << 10;
/// All ids of two bytes.
const IDS: usize = 1 << 16;

/// Runs the stage.
///
/// # Errors
/// When the dataset can't be read, or an id is outside the vocabulary.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let data = Dataset::open(context.input("data"))?;
    let counts = count(context, &data, PART)?;
    let tokens: u64 = counts.iter().sum();
    write_counts(&context.out_dir("out")?, &counts)?;
    context.output("out.tokens", Value::Int(tokens as i64))?;
    Ok(())
}

/// Counts the ids of a dataset, about `part` of them at once on each thread.
fn count(context: &mut Context, data: &Dataset, part: usize) -> Result<Vec<u64>, StageError> {
    let pool = context.pool()?;
    // A view is counted by sequences.
    let (things, part, unit) = match data.is_view() {
        true => (data.len(), part.div_ceil(data.seq() + AROUND), "sequences"),
        false => (data.meta().tokens as usize, part, "tokens"),
    };
    let mut own: Vec<Histogram> = Vec::new();
    own.resize_with(pool.current_num_threads(), || Histogram::new(data));
    for start in (0..things).step_by(part * own.len()) {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let parts = (start..things).step_by(part).map(|at| at..things.min(at + part));
        let parts: Vec<_> = parts.take(own.len()).collect();
        let end = parts.last().map_or(start, |last| last.end);
        let add = |(part, own): (Range<usize>, &mut Histogram)| own.add_part(data, part);
        pool.install(|| parts.into_par_iter().zip(&mut own).for_each(add));
        // A view's sequences may lie anywhere.
        data.release(0..data.meta().tokens as usize);
        context.progress(end as u64, Some(things as u64), unit);
    }
    let vocab = data.vocab();
    let mut sum = vec![0; vocab];
    for histogram in own {
        sum.iter_mut().zip(&histogram.sums).for_each(|(sum, count)| *sum += count);
        if histogram.beyond || histogram.sums.iter().skip(vocab).any(|count| *count > 0) {
            return Err(stray(data).into());
        }
    }
    Ok(sum)
}

/// How often each id was seen.
struct Histogram {
    /// In the part that is counted, for few bytes of memory to be in use. Of ids of two bytes for all there may be, so that none
    /// has to be looked at by itself.
    counts: Vec<u32>,
    /// In all parts.
    sums: Vec<u64>,
    /// Whether an id of four bytes was outside the vocabulary.
    beyond: bool,
}

impl Histogram {
    fn new(data: &Dataset) -> Self {
        let ids = if data.meta().dtype == Dtype::U16 { IDS } else { data.vocab() };
        Self { counts: vec![0; ids], sums: vec![0; ids], beyond: false }
    }

    /// Counts tokens of a dataset, or sequences of a view: of each what it trains, so not its first token.
    fn add_part(&mut self, data: &Dataset, part: Range<usize>) {
        match data.is_view() {
            false => self.add(data, part),
            true => part.for_each(|index| {
                let start = data.sequence_id(index) as usize * data.seq() + 1;
                self.add(data, start..start + data.seq());
            }),
        }
        for (sum, count) in self.sums.iter_mut().zip(&mut self.counts) {
            *sum += u64::from(std::mem::take(count));
        }
    }

    fn add(&mut self, data: &Dataset, tokens: Range<usize>) {
        match data.meta().dtype {
            Dtype::U16 => {
                let counts: &mut [u32; IDS] =
                    self.counts.as_mut_slice().try_into().expect("a count for each id");
                let mut one = |id: u16| counts[usize::from(id)] += 1;
                let bytes = &data.bytes()[2 * tokens.start..2 * tokens.end];
                let (fours, rest) = bytes.as_chunks::<8>();
                for four in fours {
                    let four = u64::from_le_bytes(*four);
                    [0, 16, 32, 48].into_iter().for_each(|shift| one((four >> shift) as u16));
                }
                rest.as_chunks::<2>().0.iter().for_each(|id| one(u16::from_le_bytes(*id)));
            }
            Dtype::U32 => {
                let (ids, _) = data.bytes()[4 * tokens.start..4 * tokens.end].as_chunks::<4>();
                for id in ids {
                    match self.counts.get_mut(u32::from_le_bytes(*id) as usize) {
                        Some(count) => *count += 1,
                        None => self.beyond = true,
                    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DatasetWriter;
    use crate::data::mix::splitmix;
    use crate::stage::context::tests::context;

    #[test]
    fn counts_do_not_depend_on_threads_or_parts() {
        for vocab in [300, 70_000] {
            let folder = tempfile::tempdir().unwrap();
            let (base, view) = (folder.path().join("base"), folder.path().join("view"));
            [&base, &view].iter().for_each(|path| std::fs::create_dir(path).unwrap());
            let ids: Vec<u32> =
                (0..1003_u64).map(|at| (splitmix(at) % vocab.min(at + 1)) as u32).collect();
            let mut writer = DatasetWriter::create(&base, 7, vocab).unwrap();
            writer.push(&ids).unwrap();
            writer.finish().unwrap();
            let data = Dataset::open(&base).unwrap();
            let chosen = [5, 90, 3, 3, 142];
            data.write_view(&view, chosen).unwrap();
            let trained = chosen.iter().flat_map(|at| &ids[*at as usize * 7 + 1..][..7]);
            let views = Dataset::open(&view).unwrap();
            let count = |ids: &mut dyn Iterator<Item = &u32>| {
                let mut counts = vec![0; vocab as usize];
                ids.for_each(|id| counts[*id as usize] += 1);
                counts
            };
            let expected =
                [(&data, count(&mut ids.iter())), (&views, count(&mut trained.into_iter()))];
            for (data, expected) in expected {
                for (threads, part) in
                    [(1, PART), (1, 10), (2, 10), (3, 1), (3, 334), (2, 2 * AROUND)]
                {
                    let counts =
                        super::count(&mut context("dataset.count", threads), data, part).unwrap();
                    assert!(counts == expected, "{vocab}, {threads} threads, {part} at once");
                }
            }
        }
    }
}
