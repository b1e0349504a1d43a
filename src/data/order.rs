//! In which order training takes the sequences of a dataset.

use std::ops::Range;

use crate::data::mix::{shuffled, splitmix};

/// Passes over all sequences, each shuffled anew; or over one part of them after the other.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    sequences: u64,
    seed: u64,
    parts: u64,
    /// Positions of the whole training.
    positions: u64,
}

impl Order {
    /// Returns the order of a training of so many positions.
    pub fn new(sequences: u64, seed: i64, parts: u64, positions: u64) -> Self {
        Self { sequences, seed: splitmix(seed.cast_unsigned()), parts, positions }
    }

    /// Returns the sequence at a position, counted from zero.
    ///
    /// # Panics
    /// When there are no sequences, or the part that is due there has none.
    pub fn at(&self, position: u64) -> u64 {
        if self.parts == 1 {
            return self.first_pass(position);
        }
        let part = scaled(position, self.parts, self.positions);
        let begin = ceiling(part, self.positions, self.parts);
        let Range { start, end } = self.part(part);
        let seed = splitmix(self.seed ^ part);
        self.first_pass(start + shuffled(position - begin, end - start, seed))
    }

    /// Returns the sequences of a part, counted from zero; all parts together have each sequence once. A training of one pass
    /// that knows of no parts takes one part after the other too.
    ///
    /// # Panics
    /// When there are no sequences.
    pub fn sequences_of(&self, part: u64) -> impl Iterator<Item = u64> {
        self.part(part).map(|position| self.first_pass(position))
    }

    /// The positions of a part in the first pass.
    fn part(&self, part: u64) -> Range<u64> {
        let cut = |part| scaled(self.sequences, part, self.parts);
        cut(part)..cut(part + 1)
    }

    fn first_pass(&self, position: u64) -> u64 {
        shuffled(position, self.sequences, self.seed)
    }
}

/// Returns `value * by / of`, rounded down.
///
/// # Panics
/// When `of` is 0.
pub fn scaled(value: u64, by: u64, of: u64) -> u64 {
    (u128::from(value) * u128::from(by) / u128::from(of)) as u64
}

fn ceiling(value: u64, by: u64, of: u64) -> u64 {
    (u128::from(value) * u128::from(by)).div_ceil(u128::from(of)) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn training_sees_one_part_after_the_other_as_often_as_it_has_time() {
        let (sequences, parts) = (37, 5);
        for positions in [20, 37, 200, 1000] {
            let order = Order::new(sequences, 3, parts, positions);
            let mut seen = vec![Vec::new(); 5];
            for position in 0..positions {
                seen[(position * parts / positions) as usize].push(order.at(position));
            }
            for (part, seen) in seen.iter().enumerate() {
                let own: BTreeSet<u64> = order.sequences_of(part as u64).collect();
                let different: BTreeSet<u64> = seen.iter().copied().collect();
                assert!(different.is_subset(&own), "part {part} of {positions}");
                assert_eq!(
                    different.len(),
                    seen.len().min(own.len()),
                    "part {part} of {positions}"
                );
            }
        }
    }

    #[test]
    fn one_pass_without_parts_goes_through_the_parts_too() {
        let (whole, parted) = (Order::new(40, 7, 1, 40), Order::new(40, 7, 4, 40));
        let passed: Vec<u64> = (0..40).map(|position| whole.at(position)).collect();
        let parts: Vec<u64> = (0..4).flat_map(|part| parted.sequences_of(part)).collect();
        assert_eq!(passed, parts);
        assert_eq!(passed.iter().collect::<BTreeSet<_>>().len(), 40);
        assert_ne!((0..40).map(|position| parted.at(position)).collect::<Vec<_>>(), passed);
    }
}
