//! Drawing without replacement: the units with the largest keys.
//!
//! Keys are functions of units and not kept: all threads read the units a few times. First a histogram tells in which narrow
//! range of keys the last one lies that is drawn; then what is above it is drawn, and of what is in it the largest. So memory
//! is in proportion to what is drawn, and the result does not depend on threads.

use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};
use serde::Deserialize;

use crate::data::mix::{Stream, gumbel, mix};
use crate::stage::scored::Scored;
use crate::stage::{Context, StageError};

/// Units that a thread reads at once.
const BLOCK: usize = 1 << 18;
/// Units whose keys are kept at once, however few are drawn.
const FEW: usize = 1 << 20;
/// Ranges of keys in a histogram: 8 MiB of counts for each thread.
const BINS: u32 = 20;
/// Of how many bits there are ranges of Gumbel noise: 32 KiB of numbers.
const NOISE: u32 = 12;
/// Buckets of a [`Pile`], a power of two: few enough for a cache to hold where each ends.
const BUCKETS: usize = 256;

/// How to draw.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    Softmax,
    Uniform,
    Top,
}

/// What makes keys of losses.
#[derive(Clone, Copy)]
pub(super) struct Law {
    pub(super) by: By,
    pub(super) temperature: f64,
    pub(super) seed: u64,
}

/// The units that may be drawn: those with a loss from `low` to `high`, in nats per token.
#[derive(Clone, Copy)]
pub(super) struct Band {
    low: f64,
    high: f64,
}

impl Band {
    /// All units, whatever their loss.
    pub(super) const ALL: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };

    fn has(&self, scored: &Scored, unit: usize) -> bool {
        let is_all = self.low == f64::NEG_INFINITY && self.high == f64::INFINITY;
        let within = |loss| self.low <= loss && loss <= self.high;
        is_all || scored.losses.loss(unit).is_some_and(within)
    }
}

/// The keys of units, as numbers in the order of `f64::total_cmp`. Units without tokens and outside the band have none.
struct Keys<'a> {
    scored: &'a Scored,
    law: Law,
    band: Band,
    /// Where ranges of random bits begin as Gumbel numbers, so that few of these have to be computed; empty for few units.
    noise: Vec<f64>,
}

impl<'a> Keys<'a> {
    /// Returns the keys of so many units.
    fn new(scored: &'a Scored, law: Law, band: Band, units: usize) -> Self {
        let starts = (0..1 << NOISE).map(|range| gumbel(range << (64 - NOISE)));
        let starts = starts.chain([gumbel(u64::MAX)]);
        let noise = if units >> NOISE == 0 { Vec::new() } else { starts.collect() };
        Self { scored, law, band, noise }
    }

    /// Returns the key without noise; none of a unit without a key.
    fn score(&self, unit: usize) -> Option<f64> {
        if !self.band.has(self.scored, unit) {
            return None;
        }
        let losses = &self.scored.losses;
        match self.law.by {
            By::Uniform => (losses.tokens(unit) > 0).then_some(0.0),
            By::Softmax if self.law.temperature > 0.0 => {
                losses.loss(unit).map(|loss| loss / self.law.temperature)
            }
            By::Softmax | By::Top => losses.loss(unit),
        }
    }

    fn is_noisy(&self) -> bool {
        match self.law.by {
            By::Uniform => true,
            By::Softmax => self.law.temperature > 0.0,
            By::Top => false,
        }
    }

    fn bits(&self, unit: usize) -> u64 {
        mix(self.law.seed, Stream::Gumbel, self.scored.id(unit))
    }

    /// Returns a unit's key; the unit if it is not finite.
    fn exact(&self, unit: usize) -> Result<Option<u64>, usize> {
        let Some(score) = self.score(unit) else { return Ok(None) };
        let key = if self.is_noisy() { score + gumbel(self.bits(unit)) } else { score };
        if key.is_finite() { Ok(Some(ordered(key))) } else { Err(unit) }
    }

    /// Returns two numbers between which a unit's key is.
    fn rough(&self, unit: usize) -> Option<(u64, u64)> {
        let score = self.score(unit)?;
        if score.is_finite() && !self.is_noisy() {
            return Some((ordered(score), ordered(score)));
        }
        if !score.is_finite() || self.noise.is_empty() {
            return Some((0, u64::MAX));
        }
        let at = (self.bits(unit) >> (64 - NOISE)) as usize;
        // A little wider, as logarithms are only nearly monotonous.
        let (least, most) = (self.noise[at] - 1e-9, self.noise[at + 1] + 1e-9);
        Some((ordered(score + least), ordered(score + most)))
    }
}

/// Reads units with all threads.
pub(super) struct Reader<'a> {
    context: &'a mut Context,
    pool: ThreadPool,
    scored: &'a Scored,
    /// Units read so far, and those that there will be, about.
    read: u64,
    total: u64,
    block: usize,
    few: usize,
    bins: u32,
}

impl<'a> Reader<'a> {
    /// Returns one that reads all units about so many times.
    pub(super) fn new(
        context: &'a mut Context,
        scored: &'a Scored,
        times: u64,
    ) -> Result<Self, StageError> {
        let (pool, total) = (context.pool()?, times * scored.len() as u64);
        Ok(Self { context, pool, scored, read: 0, total, block: BLOCK, few: FEW, bins: BINS })
    }

    /// Lets each thread add blocks of units to a state of its own, which are returned. After each round `join` gets all states,
    /// in the order of their units. Blocks are the same for any number of threads.
    ///
    /// # Errors
    /// When `add` returns a unit: its loss or key is not finite.
    pub(super) fn pass<S: Default + Send>(
        &mut self,
        units: Range<usize>,
        add: impl Fn(Range<usize>, &mut S) -> Result<(), usize> + Sync,
        mut join: impl FnMut(&mut [S]),
    ) -> Result<Vec<S>, StageError> {
        let threads = self.pool.current_num_threads();
        let mut states: Vec<S> = Vec::new();
        states.resize_with(threads, S::default);
        for start in units.clone().step_by(self.block * threads) {
            if self.context.interrupted() {
                return Err(StageError::Interrupted);
            }
            let block = |at: usize| at..units.end.min(at + self.block);
            let blocks: Vec<_> =
                (start..units.end).step_by(self.block).take(threads).map(block).collect();
            let end = blocks.last().map_or(start, |last| last.end);
            let round = states.par_iter_mut().zip(blocks);
            let faults: Vec<Option<usize>> =
                self.pool.install(|| round.map(|(state, block)| add(block, state).err()).collect());
            if let Some(unit) = faults.into_iter().flatten().next() {
                return Err(self.scored.not_finite(unit));
            }
            join(&mut states);
            self.scored.losses.release(start..end);
            self.read += (end - start) as u64;
            self.context.progress(self.read, Some(self.total.max(self.read)), "units");
        }
        Ok(states)
    }

    /// Returns how many of some units have tokens, and how many these are.
    pub(super) fn count(&mut self, units: Range<usize>) -> Result<(usize, u64), StageError> {
        let losses = &self.scored.losses;
        let add = |block: Range<usize>, (count, tokens): &mut (usize, u64)| {
            for unit in block {
                *count += usize::from(losses.tokens(unit) > 0);
                *tokens += u64::from(losses.tokens(unit));
            }
            Ok(())
        };
        let counts = self.pass(units, add, |_| {})?;
        Ok(counts.iter().fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1)))
    }

    /// Returns the units whose losses have ranks in `ranks`, of `count` units that have tokens; ranks rise with losses, from zero.
    pub(super) fn band(
        &mut self,
        units: &Range<usize>,
        ranks: Range<usize>,
        count: usize,
    ) -> Result<Band, StageError> {
        let law = Law { by: By::Top, temperature: 0.0, seed: 0 };
        let keys = Keys::new(self.scored, law, Band::ALL, units.len());
        let mut band = Band::ALL;
        let mut at = |rank: usize| self.nth_largest(units.clone(), count - rank, &keys);
        if ranks.start > 0 {
            band.low = at(ranks.start)?;
        }
        if ranks.end < count {
            band.high = at(ranks.end - 1)?;
        }
        Ok(band)
    }

    /// Tells `take` of the `count` units of a band with the largest keys, of equal ones the first; all if there are fewer. With
    /// each comes what `mark` makes of it, on all threads.
    pub(super) fn draw<M: Send>(
        &mut self,
        units: Range<usize>,
        count: usize,
        (law, band): (Law, Band),
        mark: impl Fn(usize) -> M + Sync,
        mut take: impl FnMut(M, usize),
    ) -> Result<(), StageError> {
        let keys = Keys::new(self.scored, law, band, units.len());
        // As many keys may be kept as are no more than a part of what is drawn.
        let few = self.few.max(count / 16);
        let mut cut = Cut::of(units.len(), count);
        while cut.inside > few && cut.inside > cut.need && cut.low < cut.high {
            cut = self.narrow(units.clone(), &keys, cut)?;
        }
        let all = cut.inside <= cut.need;
        let add = |block: Range<usize>, own: &mut Found<M>| {
            for unit in block {
                let Some((least, most)) = keys.rough(unit) else { continue };
                if most < cut.low {
                    continue;
                }
                let key = if least > cut.high { Some(least) } else { keys.exact(unit)? };
                let Some(key) = key else { continue };
                if key > cut.high || all && key >= cut.low {
                    own.above.push((mark(unit), unit));
                } else if key >= cut.low {
                    own.edge.push((key, unit));
                }
            }
            Ok(())
        };
        let mut edge = Vec::new();
        self.pass(units, add, |states: &mut [Found<M>]| {
            for own in states {
                own.above.drain(..).for_each(|(mark, unit)| take(mark, unit));
                edge.append(&mut own.edge);
            }
            if cut.low == cut.high {
                edge.truncate(cut.need);
            }
        })?;
        edge.sort_unstable_by_key(|&(key, unit)| (std::cmp::Reverse(key), unit));
        edge.into_iter().take(cut.need).for_each(|(_, unit)| take(mark(unit), unit));
        Ok(())
    }

    /// Returns the key that is the `count`-th from above.
    fn nth_largest(
        &mut self,
        units: Range<usize>,
        count: usize,
        keys: &Keys<'_>,
    ) -> Result<f64, StageError> {
        let mut cut = Cut::of(units.len(), count);
        while cut.inside > self.few && cut.low < cut.high {
            cut = self.narrow(units.clone(), keys, cut)?;
        }
        if cut.low == cut.high {
            return Ok(number(cut.low));
        }
        let add = |block: Range<usize>, own: &mut Vec<u64>| {
            for unit in block {
                let key = keys.exact(unit)?;
                own.extend(key.filter(|key| (cut.low..=cut.high).contains(key)));
            }
            Ok(())
        };
        let mut inside = self.pass(units, add, |_| {})?.concat();
        inside.sort_unstable();
        Ok(number(inside[inside.len() - cut.need]))
    }

    /// Returns a narrower range of keys with the last one that is drawn.
    fn narrow(
        &mut self,
        units: Range<usize>,
        keys: &Keys<'_>,
        cut: Cut,
    ) -> Result<Cut, StageError> {
        let width = 64 - (cut.high - cut.low).leading_zeros();
        let shift = width.saturating_sub(self.bins);
        let bins = 1 << self.bins;
        let bin = |key: u64| ((key - cut.low) >> shift) as usize;
        let add = |block: Range<usize>, counts: &mut Vec<u64>| {
            counts.resize(bins, 0);
            for unit in block {
                let Some((least, most)) = keys.rough(unit) else { continue };
                if most < cut.low || least > cut.high {
                    continue;
                }
                let is_known = least >= cut.low && most <= cut.high && bin(least) == bin(most);
                let key = if is_known { Some(least) } else { keys.exact(unit)? };
                if let Some(key) = key.filter(|key| (cut.low..=cut.high).contains(key)) {
                    counts[bin(key)] += 1;
                }
            }
            Ok(())
        };
        let counts = self.pass(units, add, |_| {})?;
        let mut need = cut.need;
        for bin in (0..bins).rev() {
            let inside = counts.iter().filter_map(|own| own.get(bin)).sum::<u64>() as usize;
            if inside >= need {
                let low = cut.low + ((bin as u64) << shift);
                let high = cut.high.min(low + ((1 << shift) - 1));
                return Ok(Cut { low, high, need, inside });
            }
            need -= inside;
        }
        // There are not that many.
        let inside = cut.need - need;
        Ok(Cut { need: inside, inside, ..cut })
    }
}

/// A range of keys: those above `high` are drawn, and the `need` largest of the `inside` ones from `low` to `high`.
#[derive(Clone, Copy)]
struct Cut {
    low: u64,
    high: u64,
    need: usize,
    inside: usize,
}

impl Cut {
    /// Nothing is known yet of the keys of so many units, of which `need` are drawn.
    fn of(units: usize, need: usize) -> Self {
        Self { low: 0, high: u64::MAX, need, inside: units }
    }
}

/// Units whose keys are above a range, with their marks, and those within it, with their keys.
struct Found<M> {
    above: Vec<(M, usize)>,
    edge: Vec<(u64, usize)>,
}

impl<M> Default for Found<M> {
    fn default() -> Self {
        Self { above: Vec::new(), edge: Vec::new() }
    }
}

/// Returns a number in the order of `f64::total_cmp`.
fn ordered(key: f64) -> u64 {
    let bits = key.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The inverse of [`ordered`].
fn number(ordered: u64) -> f64 {
    f64::from_bits(if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered })
}

/// Drawn units, put into random order: that of a hash of seed and id.
pub(super) struct Pile<'a> {
    scored: &'a Scored,
    seed: u64,
    /// By the first bits of the hash.
    buckets: Vec<Vec<usize>>,
    len: usize,
}

impl<'a> Pile<'a> {
    /// Returns an empty one with room for so many.
    pub(super) fn new(scored: &'a Scored, seed: u64, count: usize) -> Self {
        let mean = count.div_ceil(BUCKETS);
        // More than that are rare.
        let room = mean + 4 * mean.isqrt();
        let buckets = (0..BUCKETS).map(|_| Vec::with_capacity(room)).collect();
        Self { scored, seed, buckets, len: 0 }
    }

    /// Adds a unit by its hash.
    pub(super) fn push(&mut self, hash: u64, unit: usize) {
        self.buckets[(hash >> (64 - BUCKETS.trailing_zeros())) as usize].push(unit);
        self.len += 1;
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns them in order.
    pub(super) fn in_order(mut self, pool: &ThreadPool) -> impl Iterator<Item = usize> {
        let mut buckets = std::mem::take(&mut self.buckets);
        let sort = |bucket: &mut Vec<usize>| {
            let mut hashed: Vec<_> =
                bucket.iter().map(|unit| (hash(self.scored, self.seed, *unit), *unit)).collect();
            hashed.sort_unstable();
            bucket.iter_mut().zip(hashed).for_each(|(place, (_, unit))| *place = unit);
        };
        pool.install(|| buckets.par_iter_mut().for_each(sort));
        buckets.into_iter().flatten()
    }
}

/// Returns what says where a drawn unit stands.
pub(super) fn hash(scored: &Scored, seed: u64, unit: usize) -> u64 {
    mix(seed, Stream::Order, scored.id(unit))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::data::losses::Unit;
    use crate::data::mix::splitmix;
    use crate::data::{DatasetWriter, LossesWriter};
    use crate::stage::context::tests::context;

    /// Losses of units in a folder, of sequences of one token.
    struct Folder {
        dir: tempfile::TempDir,
    }

    impl Folder {
        fn new(losses: &[f64]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let [data, scores] = ["data", "losses"].map(|name| dir.path().join(name));
            [&data, &scores].iter().for_each(|path| fs::create_dir(path).unwrap());
            let mut writer = DatasetWriter::create(&data, 1, 10).unwrap();
            writer.push(&vec![1; losses.len() + 1]).unwrap();
            writer.finish().unwrap();
            let mut writer = LossesWriter::create(&scores, Unit::Sequence, 1, 1).unwrap();
            losses.iter().for_each(|loss| writer.push(*loss, 1).unwrap());
            writer.finish().unwrap();
            Self { dir }
        }

        fn scored(&self) -> Scored {
            let [data, losses] = ["data", "losses"].map(|name| self.dir.path().join(name));
            Scored::of(&data, &losses).unwrap()
        }
    }

    /// Draws with a reader of blocks of `block` units that keeps `few` keys; returns units in rising order.
    fn drawn(
        scored: &Scored,
        count: usize,
        law: Law,
        threads: u32,
        sizes: [usize; 2],
    ) -> Vec<usize> {
        let mut context = context("rounds.resample", threads);
        let mut reader = Reader::new(&mut context, scored, 3).unwrap();
        ([reader.block, reader.few], reader.bins) = (sizes, 6);
        let mut units = Vec::new();
        let take = |(), unit| units.push(unit);
        reader.draw(0..scored.len(), count, (law, Band::ALL), |_| (), take).unwrap();
        units.sort_unstable();
        units
    }

    const LAWS: [Law; 3] = [
        Law { by: By::Top, temperature: 1.0, seed: 3 },
        Law { by: By::Uniform, temperature: 1.0, seed: 3 },
        Law { by: By::Softmax, temperature: 0.5, seed: 3 },
    ];

    #[test]
    fn what_is_drawn_are_the_largest_keys_whatever_threads_blocks_and_what_is_kept() {
        let coarse = |unit: u64| (splitmix(unit) % 7) as f64 - 3.0;
        let fine = |unit: u64| splitmix(unit) as f64 / 1e19;
        let same = |_| 2.5;
        let laws: [&dyn Fn(u64) -> f64; 3] = [&coarse, &fine, &same];
        for loss in laws {
            let losses: Vec<f64> = (0..5000).map(loss).collect();
            let folder = Folder::new(&losses);
            let scored = folder.scored();
            for law in LAWS {
                let mut ranked: Vec<usize> = (0..losses.len()).collect();
                let keys = Keys::new(&scored, law, Band::ALL, losses.len());
                let key = |unit: usize| keys.exact(unit).unwrap().unwrap();
                for unit in 0..losses.len() {
                    let (least, most) = keys.rough(unit).unwrap();
                    assert!((least..=most).contains(&key(unit)), "{unit}");
                }
                ranked.sort_by_key(|unit| (std::cmp::Reverse(key(*unit)), *unit));
                for count in [0, 1, 17, 2500, 4999, 5000] {
                    let mut expected = ranked[..count].to_vec();
                    expected.sort_unstable();
                    for (threads, sizes) in [(1, [BLOCK, FEW]), (3, [64, 16]), (2, [999, 1])] {
                        let got = drawn(&scored, count, law, threads, sizes);
                        assert!(got == expected, "{count} by {threads} threads and {sizes:?}");
                    }
                }
                assert_eq!(drawn(&scored, 6000, law, 2, [64, 16]).len(), 5000);
            }
        }
    }

    #[test]
    fn bands_have_the_units_of_their_ranks() {
        let losses: Vec<f64> = (0..1000).map(|unit| splitmix(unit) as f64 / 1e19 - 0.5).collect();
        let folder = Folder::new(&losses);
        let scored = folder.scored();
        let mut sorted = losses.clone();
        sorted.sort_by(f64::total_cmp);
        for few in [1, 30, FEW] {
            for ranks in [0..1000, 0..1, 200..800, 999..1000, 500..501] {
                let mut context = context("rounds.resample", 2);
                let mut reader = Reader::new(&mut context, &scored, 3).unwrap();
                ([reader.block, reader.few], reader.bins) = ([64, few], 6);
                let band = reader.band(&(0..1000), ranks.clone(), 1000).unwrap();
                let within: Vec<f64> = sorted
                    .iter()
                    .copied()
                    .filter(|loss| (band.low..=band.high).contains(loss))
                    .collect();
                assert_eq!(within, sorted[ranks.clone()], "{ranks:?}");
            }
        }
    }

    #[test]
    fn inclusion_follows_sequential_softmax_draws() {
        let losses = [0.0f64, 0.5, 1.0, 2.0];
        let folder = Folder::new(&losses);
        let scored = folder.scored();
        let weights = losses.map(f64::exp);
        let total: f64 = weights.iter().sum();
        let (trials, mut hits) = (10_000, [0; 4]);
        let mut context = context("rounds.resample", 1);
        let mut reader = Reader::new(&mut context, &scored, 3).unwrap();
        for seed in 0..trials {
            let law = Law { by: By::Softmax, temperature: 1.0, seed };
            let take = |(), unit: usize| hits[unit] += 1;
            reader.draw(0..4, 2, (law, Band::ALL), |_| (), take).unwrap();
        }
        for unit in 0..4 {
            // Drawn first, or second after another one.
            let second: f64 = (0..4)
                .filter(|&first| first != unit)
                .map(|first| weights[first] / total * weights[unit] / (total - weights[first]))
                .sum();
            let expected = weights[unit] / total + second;
            let got = f64::from(hits[unit]) / trials as f64;
            assert!((got - expected).abs() < 0.02, "unit {unit}: {got} against {expected}");
        }
    }

    #[test]
    fn losses_may_be_shifted_and_draws_of_two_halves_merge() {
        let losses: Vec<f64> = (0..600).map(|unit| (splitmix(unit) % 64) as f64 / 8.0).collect();
        let law = Law { by: By::Softmax, temperature: 1.0, seed: 5 };
        let folders = [0.0, 1024.0]
            .map(|shift| Folder::new(&losses.iter().map(|loss| loss + shift).collect::<Vec<_>>()));
        let [near, far] = folders.each_ref().map(Folder::scored);
        let all = drawn(&near, 100, law, 1, [BLOCK, FEW]);
        assert_eq!(drawn(&far, 100, law, 2, [64, 16]), all);
        let mut context = context("rounds.resample", 1);
        let mut reader = Reader::new(&mut context, &near, 3).unwrap();
        let mut halves = Vec::new();
        for half in [0..250, 250..600] {
            let take = |(), unit| halves.push(unit);
            reader.draw(half, 100, (law, Band::ALL), |_| (), take).unwrap();
        }
        let keys = Keys::new(&near, law, Band::ALL, 600);
        halves.sort_by_key(|unit| std::cmp::Reverse(keys.exact(*unit)));
        halves.truncate(100);
        halves.sort_unstable();
        assert_eq!(halves, all);
    }

    #[test]
    fn a_pile_is_in_the_order_of_its_hashes() {
        let folder = Folder::new(&[1.0; 9000]);
        let scored = folder.scored();
        let mut pile = Pile::new(&scored, 9, 9000);
        let mut expected = BTreeMap::new();
        for unit in 0..9000 {
            let hash = hash(&scored, 9, unit);
            expected.insert(hash, unit);
            pile.push(hash, unit);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        assert!(pile.in_order(&pool).eq(expected.into_values()));
    }
}
