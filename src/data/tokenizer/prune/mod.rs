//! Pruning a vocabulary (paper section 1).
//!
//! Tokens are taken by how often they were counted, the smaller id first where they are equal. A token that stays without
//! those it is merged from could never be produced again: an orphan. So a token is taken together with all symbols that the
//! model goes through when it builds it, if all of them fit; otherwise the next one is tried.
//!
//! What is left of a BPE model are some of the old merges, in the old order, with every step of each kept token. BPE takes
//! the merge with the smallest rank first, so a kept token is built by the same steps, and **a text whose old tokens all
//! stayed has the same tokens as before**. The same holds for WordPiece, which takes the longest piece that fits, as long as
//! no word is unknown, and for Unigram, where the best of all segmentations is still the best of fewer.

mod bpe;
mod model;
mod rewrite;
#[cfg(test)]
mod tests;
mod unigram;
mod wordpiece;

use std::cmp::Reverse;
use std::path::Path;

use serde::Serialize;

use crate::data::error::DataError;
use crate::data::tokenizer::files::Files;
use crate::data::tokenizer::prune::model::{Model, Origin};
use crate::data::tokenizer::prune::rewrite::rewrite;

/// How much of a vocabulary stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Exactly as many tokens.
    Keep(usize),
    /// As few tokens as cover this part of the counted ones, from 0 to 1.
    Coverage(f64),
}

/// A tokenizer with fewer tokens.
#[derive(Debug)]
pub struct Pruned {
    /// Its files, as they are to be written.
    pub files: Files,
    /// The old id of each new one, rising.
    pub old_ids: Vec<u32>,
    /// What became of it.
    pub report: Report,
}

/// What pruning made of a vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Tokens that are left.
    pub tokens: usize,
    /// Tokens of the old tokenizer.
    pub old_tokens: usize,
    /// Which part of the counted tokens is left, from 0 to 1.
    pub coverage: f64,
    /// Tokens that were counted.
    pub counted: u64,
    /// Tokens that stay however rare they are.
    pub forced: usize,
    /// Tokens that no text leads to. There are only such as the old tokenizer had.
    pub orphans: usize,
}

/// Prunes a tokenizer. `go_on` hears how many tokens are
/// chosen and may stop it with false; then the result is none.
///
/// # Errors
/// When it is of a type without merges, scores or pieces of words, nothing was counted, there are fewer tokens than are to be
/// kept, or those that always stay are more.
pub fn prune(
    files: Files,
    counts: &[u64],
    target: Target,
    go_on: impl FnMut(u64) -> bool,
) -> Result<Option<Pruned>, DataError> {
    let mut model = Model::read(&files)?;
    let mut choice = Choice::new(&files.path, &mut model, counts)?;
    let forced = choice.size;
    if !choice.choose(&files.path, target, go_on)? {
        return Ok(None);
    }
    let (tokens, old_tokens) = (choice.size, choice.order.len());
    let (coverage, counted) = (choice.coverage(), choice.counted);
    let kept = choice.kept;
    let old_ids: Vec<u32> = ids(&kept).collect();
    let merges = model.kept_merges(&kept);
    let files = rewrite(files, &kept, &merges)?;
    let orphans = orphans(&files)?;
    let report = Report { tokens, old_tokens, coverage, counted, forced, orphans };
    Ok(Some(Pruned { files, old_ids, report }))
}

/// Returns which part of the counted tokens, from 0 to 1, a vocabulary of `keep` tokens covers; none if `go_on` stops it.
///
/// # Errors
/// As [`prune`].
pub fn coverage(
    files: &Files,
    counts: &[u64],
    keep: usize,
    go_on: impl FnMut(u64) -> bool,
) -> Result<Option<f64>, DataError> {
    let mut model = Model::read(files)?;
    let mut choice = Choice::new(&files.path, &mut model, counts)?;
    let is_chosen = choice.choose(&files.path, Target::Keep(keep), go_on)?;
    Ok(is_chosen.then(|| choice.coverage()))
}

/// Returns sizes of vocabularies, rising, and which part of the counted tokens each covers, from 0 to 1: from the tokens that
/// always stay up to full coverage.
///
/// # Errors
/// As [`prune`].
pub fn coverages(files: &Files, counts: &[u64]) -> Result<Vec<(usize, f64)>, DataError> {
    let mut model = Model::read(files)?;
    let mut choice = Choice::new(&files.path, &mut model, counts)?;
    let mut points = vec![(choice.size, choice.coverage())];
    for at in 0..choice.order.len() {
        if choice.covered == choice.counted {
            break;
        }
        choice.take(choice.order[at], usize::MAX);
        points.push((choice.size, choice.coverage()));
    }
    points.dedup();
    Ok(points)
}

/// Returns how many tokens of a tokenizer no text leads to: not special, and not what the model makes of their own text.
///
/// # Errors
/// When the tokenizer is of a type that can't be pruned either.
pub fn orphans(files: &Files) -> Result<usize, DataError> {
    let mut model = Model::read(files)?;
    let all: Vec<u32> = model.ids().collect();
    Ok(all.into_iter().filter(|&id| model.is_orphan(id)).count())
}

/// Tokens chosen so far.
struct Choice<'m, 'j> {
    model: &'m mut Model<'j>,
    counts: &'m [u64],
    /// All tokens, the most frequent ones first.
    order: Vec<u32>,
    kept: Vec<bool>,
    size: usize,
    covered: u64,
    counted: u64,
}

impl<'m, 'j> Choice<'m, 'j> {
    /// Starts with the tokens that always stay.
    fn new(path: &Path, model: &'m mut Model<'j>, counts: &'m [u64]) -> Result<Self, DataError> {
        if counts.len() != model.size() {
            let size = model.size();
            let message = format!("has {size} token ids, but {} were counted", counts.len());
            return Err(DataError::invalid(path, message).help("count with the same tokenizer"));
        }
        let counted = counts.iter().fold(0u64, |sum, &count| sum.saturating_add(count));
        if counted == 0 {
            return Err(DataError::invalid(path, "none of its tokens was counted")
                .help("count them in a text that has some"));
        }
        let mut order: Vec<u32> = model.ids().collect();
        order.sort_by_key(|&id| (Reverse(counts[id as usize]), id));
        let kept = vec![false; model.size()];
        let forced = model.forced();
        let mut choice = Self { model, counts, order, kept, size: 0, covered: 0, counted };
        for id in forced {
            // The model never sees added tokens: they are cut out of the text before.
            if !choice.model.is_added(id) {
                choice.take(id, usize::MAX);
            }
            choice.keep(id);
        }
        Ok(choice)
    }

    /// Chooses up to the target; returns whether it got that far.
    fn choose(
        &mut self,
        path: &Path,
        target: Target,
        go_on: impl FnMut(u64) -> bool,
    ) -> Result<bool, DataError> {
        match target {
            Target::Keep(keep) => {
                self.check(path, keep)?;
                Ok(self.fill(0, keep, go_on))
            }
            Target::Coverage(coverage) => Ok(self.cover(coverage, go_on)),
        }
    }

    fn check(&self, path: &Path, keep: usize) -> Result<(), DataError> {
        let (forced, all) = (self.size, self.order.len());
        let help = if keep < forced {
            format!("set `keep:` to {forced} or more")
        } else if keep > all {
            format!("set `keep:` to {all} or less")
        } else {
            return Ok(());
        };
        let message = if keep < forced {
            format!(
                "can't keep {keep} tokens: {forced} always stay (special tokens, bytes, characters)"
            )
        } else {
            format!("can't keep {keep} tokens: it has {all}")
        };
        Err(DataError::invalid(path, message).help(help))
    }

    /// Goes on from a place in the order until there are `keep` tokens.
    fn fill(&mut self, from: usize, keep: usize, mut go_on: impl FnMut(u64) -> bool) -> bool {
        for at in from..self.order.len() {
            if !go_on(self.size as u64) {
                return false;
            }
            if self.size >= keep {
                return true;
            }
            self.take(self.order[at], keep);
        }
        // Only tokens that the old tokenizer couldn't produce either are left.
        for at in 0..self.order.len() {
            if self.size >= keep {
                break;
            }
            self.keep(self.order[at]);
        }
        true
    }

    /// Chooses as few tokens as cover a part of the counted ones.
    fn cover(&mut self, coverage: f64, mut go_on: impl FnMut(u64) -> bool) -> bool {
        for at in 0..self.order.len() {
            if self.coverage() >= coverage {
                break;
            }
            if !go_on(self.size as u64) {
                return false;
            }
            let id = self.order[at];
            let taken = self.take(id, usize::MAX);
            if taken.len() > 1 && self.cover_with_fewer(at, &taken, coverage) {
                break;
            }
        }
        true
    }

    /// Replaces what was taken last by fewer tokens that come later in the order, if these cover enough.
    fn cover_with_fewer(&mut self, at: usize, taken: &[u32], coverage: f64) -> bool {
        // All later tokens are as rare as this one or rarer.
        let most = self.counts[self.order[at] as usize].saturating_mul(taken.len() as u64);
        if (self.covered.saturating_add(most) as f64) < coverage * self.counted as f64 {
            return false;
        }
        let before = (self.kept.clone(), self.size, self.covered);
        let least = self.size - taken.len();
        for keep in least + 1..before.1 {
            taken.iter().for_each(|&id| self.drop(id));
            self.fill(at, keep, |_| true);
            if self.coverage() >= coverage {
                return true;
            }
            (self.kept, self.size, self.covered) = before.clone();
        }
        false
    }

    /// Keeps a token and what it is built from, if the model builds it at all and all of it fits; returns what is new.
    fn take(&mut self, id: u32, keep: usize) -> Vec<u32> {
        let mut needed = Vec::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if needed.contains(&id) {
                continue;
            }
            needed.push(id);
            match self.model.origin(id) {
                Origin::Never => return Vec::new(),
                Origin::Whole => {}
                Origin::Merged(left, right) => open.extend([left, right]),
            }
        }
        needed.retain(|&id| !self.kept[id as usize]);
        if self.size + needed.len() > keep {
            return Vec::new();
        }
        needed.iter().for_each(|&id| self.keep(id));
        needed
    }

    fn keep(&mut self, id: u32) {
        if !std::mem::replace(&mut self.kept[id as usize], true) {
            self.size += 1;
            self.covered = self.covered.saturating_add(self.counts[id as usize]);
        }
    }

    fn drop(&mut self, id: u32) {
        self.kept[id as usize] = false;
        self.size -= 1;
        self.covered -= self.counts[id as usize];
    }

    fn coverage(&self) -> f64 {
        self.covered as f64 / self.counted as f64
    }
}

fn ids(kept: &[bool]) -> impl Iterator<Item = u32> + '_ {
    (0..).zip(kept).filter(|(_, kept)| **kept).map(|(id, _)| id)
}
