//! How often the tokens of a vocabulary occur, and what smaller vocabularies would cover (paper figures 2 and 3).

use std::path::Path;

use crate::data::DataError;
use crate::data::tokenizer::counts::read_counts;
use crate::data::tokenizer::files::Files;
use crate::data::tokenizer::prune::coverages;

/// Points of a curve over ranks: each is this much farther than the one before.
const RANK_STEP: f64 = 1.02;

/// What a `Counts` artifact tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frequencies {
    /// `counts[part=2]`
    pub name: String,
    /// Rank, from 1, and how often the token of that rank occurs.
    pub ranks: Vec<(f64, f64)>,
    /// Size of a vocabulary, and which part of the counted tokens it covers, from 0 to 1; empty where the tokenizer can't be
    /// pruned.
    pub coverage: Vec<(f64, f64)>,
}

/// Reads a `Counts` artifact and the tokenizer that it was counted with, if that is known.
///
/// # Errors
/// When the counts can't be read.
pub fn read_frequencies(
    name: String,
    counts: &Path,
    tokenizer: Option<&Path>,
) -> Result<Frequencies, DataError> {
    let counts = read_counts(counts)?;
    let covered = |folder: &Path| coverages(&Files::read(folder)?, &counts);
    let coverage = tokenizer.map(covered).transpose().ok().flatten().unwrap_or_default();
    let coverage = coverage.into_iter().map(|(size, part)| (size as f64, part)).collect();
    Ok(Frequencies { name, ranks: ranks(counts.clone()), coverage })
}

/// Returns some of the ranks, evenly spread on a logarithmic axis, with their counts; tokens that don't occur have none.
fn ranks(mut counts: Vec<u64>) -> Vec<(f64, f64)> {
    counts.retain(|&count| count > 0);
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut found = Vec::new();
    let mut rank = 1;
    while let Some(&count) = counts.get(rank - 1) {
        found.push((rank as f64, count as f64));
        let next = ((rank as f64 * RANK_STEP) as usize).max(rank + 1);
        rank = if rank < counts.len() { next.min(counts.len()) } else { next };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fall_and_end_with_the_rarest_token() {
        let counts = (0..5000).map(|id| if id < 10 { 0 } else { id % 1000 + 1 }).collect();
        let ranks = ranks(counts);
        assert_eq!(ranks[0], (1.0, 1000.0));
        assert_eq!(ranks.last(), Some(&(4990.0, 1.0)));
        assert!(ranks.len() < 400 && ranks.is_sorted_by(|a, b| a.0 < b.0 && a.1 >= b.1));
    }
}
