//! `tokenizer.inspect`: what a tokenizer makes of a text.

use crate::base::Value;
use crate::data::tokenizer::files::Files;
use crate::data::tokenizer::prune::orphans;
use crate::data::{DataError, Tokenizer};
use crate::stage::reading::corpus;
use crate::stage::{Context, StageError, documents};

/// Sums over documents.
#[derive(Default)]
struct Found {
    documents: u64,
    /// Documents that decoding gives back.
    whole: u64,
    tokens: u64,
    bytes: u64,
    words: u64,
}

/// Runs the stage.
///
/// # Errors
/// When an input can't be read, or there is no text.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let corpus = corpus(context)?;
    let files = Files::read(context.input("tokenizer"))?;
    let orphans = orphans(&files)?;
    let tokenizer = Tokenizer::of(files)?;
    let mut found = Found::default();
    let measure = |text: &str| -> Result<(usize, bool), DataError> {
        let ids = tokenizer.encode(text)?;
        Ok((ids.len(), tokenizer.decode(&ids)? == text))
    };
    documents::each(context, &corpus, measure, |_, _, text, measured| {
        let (tokens, is_whole) = measured?;
        found.documents += 1;
        found.whole += u64::from(is_whole);
        found.tokens += tokens as u64;
        found.bytes += text.len() as u64;
        found.words += text.split_whitespace().count() as u64;
        Ok(())
    })?;
    if found.tokens == 0 || found.words == 0 {
        return Err(StageError::input("the corpus has no words").help("use a corpus with text"));
    }
    let per = |part: u64, whole: u64| Value::Float(part as f64 / whole as f64);
    context.output("tokens", Value::Int(found.tokens as i64))?;
    context.output("bytes_per_token", per(found.bytes, found.tokens))?;
    context.output("tokens_per_word", per(found.tokens, found.words))?;
    context.output("round_trip", per(found.whole, found.documents))?;
    context.output("orphans", Value::Int(orphans as i64))?;
    Ok(())
}
