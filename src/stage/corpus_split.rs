//! `corpus.split` and `corpus.part`: where a document goes follows from its text and the seed alone, so it stays there however
//! the corpus grows, and equal documents go together.

use serde::Deserialize;

use crate::base::Digest;
use crate::data::mix::{Stream, mix};
use crate::data::{Corpus, CorpusWriter, Statistics};
use crate::stage::documents::each;
use crate::stage::reading::{corpus, tell};
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct SplitParams {
    valid: f64,
    seed: i64,
}

/// How many documents are to be expected on a side for it to be empty never by chance (once in e^20 times).
const SURELY_SOME: f64 = 20.0;

/// Runs `corpus.split`.
///
/// # Errors
/// When the corpus has no two different documents, or was split in the same way before, or a file operation fails.
pub fn split(context: &mut Context) -> Result<(), StageError> {
    let params: SplitParams = context.params()?;
    let corpus = corpus(context)?;
    // Parts of one corpus that differ in size must not be parts of each other: what was split may be split again.
    let seed = mix(params.seed as u64, Stream::Split, params.valid.to_bits());
    let key = |text: &str| place(text, seed, Stream::Split);
    let mut sides = Sides::write(context, &corpus, key, limit(params.valid))?;
    if params.valid > 0.0 && params.valid < 1.0 {
        // Each side gets at least one: the one that is nearest to it.
        let nearest = match (sides.train.documents(), sides.valid.documents()) {
            (_, 0) => Some(u128::from(sides.least) + 1),
            (0, _) => Some(u128::from(sides.most)),
            _ => None,
        };
        if corpus.documents() < 2 || nearest.is_some() && sides.least == sides.most {
            let count = corpus.documents();
            let what =
                if count < 2 { format!("{count} document") } else { "equal documents".into() };
            return Err(StageError::input(format!("can't split {what} in two"))
                .help("give `corpus.text` a `delimiter:` or more files"));
        }
        let expected = corpus.documents() as f64 * params.valid.min(1.0 - params.valid);
        if nearest.is_some() && expected > SURELY_SOME {
            return Err(StageError::input(
                "all documents fall on one side: those of the other were split off before, with the same `valid` and `seed`",
            )
            .help("give another `seed`"));
        }
        if let Some(limit) = nearest {
            // What is still in its buffers goes before the files are written anew.
            drop(sides);
            sides = Sides::write(context, &corpus, key, limit)?;
        }
    }
    tell(context, "train", sides.train, 0, Statistics::default())?;
    tell(context, "valid", sides.valid, 0, Statistics::default())?;
    Ok(())
}

/// Returns below which place documents are in `valid`.
fn limit(valid: f64) -> u128 {
    (valid * 2f64.powi(64)) as u128
}

/// Returns the place of a document among all numbers.
fn place(text: &str, seed: u64, stream: Stream) -> u64 {
    mix(seed, stream, Digest::of(text.as_bytes()).seed())
}

/// The two sides of a split, and the least and largest place of a document.
struct Sides {
    train: CorpusWriter,
    valid: CorpusWriter,
    least: u64,
    most: u64,
}

impl Sides {
    fn write(
        context: &mut Context,
        corpus: &Corpus,
        key: impl Fn(&str) -> u64 + Sync,
        limit: u128,
    ) -> Result<Self, StageError> {
        let writer = |name| Ok::<_, StageError>(CorpusWriter::create(&context.out_dir(name)?)?);
        let (train, valid) = (writer("train")?, writer("valid")?);
        let mut sides = Self { train, valid, least: u64::MAX, most: 0 };
        each(context, corpus, key, |_, _, text, key| {
            sides.least = sides.least.min(key);
            sides.most = sides.most.max(key);
            let is_valid = u128::from(key) < limit;
            Ok(if is_valid { &mut sides.valid } else { &mut sides.train }.push(text)?)
        })?;
        Ok(sides)
    }
}

#[derive(Deserialize)]
struct PartParams {
    parts: u64,
    part: u64,
    seed: i64,
}

/// Runs `corpus.part`.
///
/// # Errors
/// When there is no such part, it is empty, or a file operation fails.
pub fn part(context: &mut Context) -> Result<(), StageError> {
    let params: PartParams = context.params()?;
    let PartParams { parts, part, seed } = params;
    if part > parts {
        return Err(StageError::input(format!("there is no part {part} of {parts}"))
            .help("`part` counts from 1"));
    }
    let corpus = corpus(context)?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let seed = mix(seed as u64, Stream::Part, parts);
    let of = |text: &str| (u128::from(place(text, seed, Stream::Part)) * u128::from(parts)) >> 64;
    each(context, &corpus, of, |_, _, text, found| {
        if found == u128::from(part - 1) {
            writer.push(text)?;
        }
        Ok(())
    })?;
    if tell(context, "out", writer, 0, Statistics::default())? == 0 {
        let message = format!("no document of {} falls into part {part}", corpus.documents());
        return Err(StageError::input(message).help("make fewer parts"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_spread_evenly_and_other_seeds_spread_them_otherwise() {
        let texts: Vec<String> = (0..10_000).map(|at| format!("document {at}")).collect();
        let valid = |seed| -> Vec<bool> {
            let place = |text: &String| u128::from(place(text, seed, Stream::Split));
            texts.iter().map(|text| place(text) < limit(0.02)).collect()
        };
        let count = valid(7).iter().filter(|is| **is).count();
        // Within four standard deviations of 200.
        assert!((144..256).contains(&count), "{count}");
        assert_ne!(valid(7), valid(8));
        assert_eq!((limit(0.0), limit(1.0)), (0, 1 << 64));
    }
}
