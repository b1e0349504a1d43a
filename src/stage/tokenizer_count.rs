//! `tokenizer.count`: how often each token id occurs in a corpus.

use crate::base::Value;
use crate::data::tokenizer::counts::write_counts;
use crate::data::{Corpus, Tokenizer};
use crate::stage::{Context, StageError, dataset_pack};

/// Runs the stage.
///
/// # Errors
/// When an input can't be read.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let corpus = Corpus::open(context.input("corpus"))?;
    let tokenizer = Tokenizer::open(context.input("tokenizer"))?;
    let out = context.out_dir("out")?;
    let mut counts = vec![0u64; tokenizer.size() as usize];
    dataset_pack::encode_all(context, &corpus, &tokenizer, |ids| {
        ids.iter().for_each(|&id| counts[id as usize] += 1);
        Ok(())
    })?;
    write_counts(&out, &counts)?;
    context.output("out.tokens", Value::Int(counts.iter().sum::<u64>() as i64))?;
    Ok(())
}
