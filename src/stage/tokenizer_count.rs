//! `tokenizer.count`: how often each token id occurs in a corpus.

use crate::base::Value;
use crate::data::Tokenizer;
use crate::data::tokenizer::Part;
use crate::data::tokenizer::counts::write_counts;
use crate::stage::documents::each_part;
use crate::stage::reading::corpus;
use crate::stage::{Context, StageError};

/// Runs the stage.
///
/// # Errors
/// When an input can't be read, or there is no text.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let corpus = corpus(context)?;
    let tokenizer = Tokenizer::open(context.input("tokenizer"))?;
    let out = context.out_dir("out")?;
    let counter = tokenizer.counter();
    let count = |(): &mut (), part: Part<'_>, _: bool| counter.add(part);
    each_part(context, &corpus, &tokenizer, count, |()| Ok(()))?;
    let counts = counter.finish();
    write_counts(&out, &counts)?;
    context.output("out.tokens", Value::Int(counts.iter().sum::<u64>() as i64))?;
    Ok(())
}
