//! `rounds.resample`: Gumbel top-k. The units with the largest `loss / temperature + Gumbel noise` are a draw without
//! replacement in proportion to `exp(loss / temperature)`. Noise is a function of seed and unit id alone.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use serde::Deserialize;

use crate::base::Value;
use crate::data::losses::Unit;
use crate::data::mix::{Stream, gumbel, mix};
use crate::data::{DataError, Dataset, Losses};
use crate::stage::{Context, StageError};

/// Units between two reports of progress.
const REPORT: usize = 1 << 16;

#[derive(Deserialize)]
struct Params {
    rate: f64,
    by: By,
    temperature: f64,
    seed: i64,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum By {
    Softmax,
    Uniform,
}

/// Runs the stage.
///
/// # Errors
/// When losses and dataset don't fit together, or a loss is not finite.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let data = Dataset::open(context.input("data"))?;
    let losses = Losses::open(context.input("losses"))?;
    let per_unit = match losses.meta().unit {
        Unit::Sequence => 1,
        Unit::Batch => losses.meta().batch as usize,
    };
    let units = data.len().div_ceil(per_unit);
    if units != losses.len() {
        let message =
            format!("the losses are of {} units, but the dataset has {units}", losses.len());
        return Err(StageError::input(message).help("score the same dataset that you resample"));
    }
    let seed = params.seed as u64;
    let id = |unit: usize| data.sequence_id(unit * per_unit);
    let count = (params.rate * units as f64).round() as usize;
    let mut drawn = top(units, count, |unit| {
        if unit.is_multiple_of(REPORT) {
            context.progress(unit as u64, Some(units as u64), "units");
            if context.interrupted() {
                return Err(StageError::Interrupted);
            }
        }
        Ok(key(&params, &losses, unit, id(unit))?)
    })?;
    context.progress(units as u64, Some(units as u64), "units");
    drawn.sort_by_key(|&unit| (mix(seed, Stream::Order, id(unit)), id(unit)));
    let sequences: Vec<u64> = drawn
        .iter()
        .flat_map(|&unit| unit * per_unit..((unit + 1) * per_unit).min(data.len()))
        .map(|index| data.sequence_id(index))
        .collect();
    data.write_view(&context.out_dir("out")?, &sequences)?;
    context.output("out.tokens", Value::Int((sequences.len() * data.seq()) as i64))?;
    context.output("out.sequences", Value::Int(sequences.len() as i64))?;
    Ok(())
}

fn key(params: &Params, losses: &Losses, unit: usize, id: u64) -> Result<f64, DataError> {
    let noise = gumbel(mix(params.seed as u64, Stream::Gumbel, id));
    match params.by {
        By::Uniform => Ok(noise),
        By::Softmax if params.temperature == 0.0 => losses.loss(unit),
        By::Softmax => Ok(losses.loss(unit)? / params.temperature + noise),
    }
}

/// A unit by its key; ties go to the smaller unit.
#[derive(PartialEq)]
struct Ranked {
    key: f64,
    unit: usize,
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(other.unit.cmp(&self.unit))
    }
}

/// Returns the `count` units with the largest keys; memory is in proportion to `count`.
fn top<E>(
    units: usize,
    count: usize,
    mut key: impl FnMut(usize) -> Result<f64, E>,
) -> Result<Vec<usize>, E> {
    let mut heap = BinaryHeap::with_capacity(count.min(units) + 1);
    for unit in 0..units {
        heap.push(Reverse(Ranked { key: key(unit)?, unit }));
        if heap.len() > count {
            heap.pop();
        }
    }
    Ok(heap.into_iter().map(|Reverse(ranked)| ranked.unit).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inclusion_follows_sequential_softmax_draws() {
        let losses = [0.0f64, 0.5, 1.0, 2.0];
        let weights = losses.map(f64::exp);
        let total: f64 = weights.iter().sum();
        let trials = 40_000;
        let mut hits = [0; 4];
        for seed in 0..trials {
            let key = |unit: usize| {
                Ok::<_, ()>(losses[unit] + gumbel(mix(seed, Stream::Gumbel, unit as u64)))
            };
            for unit in top(4, 2, key).unwrap() {
                hits[unit] += 1;
            }
        }
        for unit in 0..4 {
            // Drawn first, or second after another one.
            let second: f64 = (0..4)
                .filter(|&first| first != unit)
                .map(|first| weights[first] / total * weights[unit] / (total - weights[first]))
                .sum();
            let expected = weights[unit] / total + second;
            let got = f64::from(hits[unit]) / trials as f64;
            assert!((got - expected).abs() < 0.01, "unit {unit}: {got} against {expected}");
        }
    }

    /// Draws from ids; the draw has the ids in rising order.
    fn draw(ids: &[u64], count: usize) -> Vec<u64> {
        // Losses on a coarse scale, so that many are equal.
        let loss = |id: u64| (id % 7) as f64 / 2.0;
        let key = |at: usize| Ok::<_, ()>(loss(ids[at]) + gumbel(mix(3, Stream::Gumbel, ids[at])));
        let mut drawn: Vec<_> =
            top(ids.len(), count, key).unwrap().into_iter().map(|at| ids[at]).collect();
        drawn.sort_unstable();
        drawn
    }

    proptest::proptest! {
        #[test]
        fn a_draw_depends_on_no_order_and_parts_of_it_merge(
            ids in proptest::collection::btree_set(0..500u64, 0..120),
            order: u64,
            count in 0..40usize,
            cut in 0.0..1.0f64,
        ) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let whole = draw(&ids, count);
            let mut mixed = ids.clone();
            mixed.sort_by_key(|id| mix(order, Stream::Order, *id));
            assert_eq!(draw(&mixed, count), whole);
            let (left, right) = mixed.split_at((cut * ids.len() as f64) as usize);
            assert_eq!(draw(&[draw(left, count), draw(right, count)].concat(), count), whole);
        }
    }

    #[test]
    fn ties_and_ends() {
        let same = |_| Ok::<_, ()>(1.0);
        let mut two = top(5, 2, same).unwrap();
        two.sort_unstable();
        assert_eq!(two, [0, 1]);
        assert!(top(5, 0, same).unwrap().is_empty());
        assert_eq!(top(5, 5, same).unwrap().len(), 5);
    }
}
