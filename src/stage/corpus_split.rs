//! `corpus.split`: an exact number of documents, drawn at random, goes into `valid`.

use serde::Deserialize;

use crate::data::mix::{Stream, mix};
use crate::data::{Corpus, CorpusWriter};
use crate::stage::reading::tell;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    valid: f64,
    seed: i64,
}

/// Runs the stage.
///
/// # Errors
/// When the corpus has too few documents, or a file operation fails.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let corpus = Corpus::open(context.input("corpus"))?;
    let valid = choose(corpus.documents(), params.valid, params.seed as u64)?;
    let mut train = CorpusWriter::create(&context.out_dir("train")?)?;
    let mut held = CorpusWriter::create(&context.out_dir("valid")?)?;
    for (index, &is_valid) in valid.iter().enumerate() {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let writer = if is_valid { &mut held } else { &mut train };
        writer.push(corpus.document(index)?)?;
        context.progress(index as u64 + 1, Some(valid.len() as u64), "documents");
    }
    for (name, writer) in [("train", train), ("valid", held)] {
        tell(context, name, writer, 0)?;
    }
    Ok(())
}

/// Returns for each document whether it goes into `valid`.
fn choose(documents: usize, ratio: f64, seed: u64) -> Result<Vec<bool>, StageError> {
    let inside = ratio > 0.0 && ratio < 1.0;
    if inside && documents < 2 {
        return Err(StageError::input(format!("can't split {documents} document in two"))
            .help("give `corpus.text` a `delimiter:` or more files"));
    }
    let exact = (ratio * documents as f64).round() as usize;
    let count = if inside { exact.clamp(1, documents - 1) } else { exact.min(documents) };
    let mut order: Vec<usize> = (0..documents).collect();
    order.sort_by_key(|&index| (mix(seed, Stream::Split, index as u64), index));
    let mut valid = vec![false; documents];
    order[..count].iter().for_each(|&index| valid[index] = true);
    Ok(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_both_sides_get_one() {
        for (documents, ratio, expected) in
            [(100, 0.02, 2), (10, 0.01, 1), (10, 0.99, 9), (10, 0.0, 0), (10, 1.0, 10)]
        {
            let valid = choose(documents, ratio, 7).unwrap();
            assert_eq!(valid.iter().filter(|&&valid| valid).count(), expected);
        }
        assert!(choose(1, 0.5, 0).is_err());
        assert_ne!(choose(100, 0.5, 1).unwrap(), choose(100, 0.5, 2).unwrap());
    }
}
