//! `dataset.pack`: encodes a corpus and packs it end to end.

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use serde::Deserialize;

use crate::base::Value;
use crate::data::{Corpus, DataError, DatasetWriter, Tokenizer};
use crate::stage::{Context, StageError};

/// Text encoded at once: enough for all threads, little memory.
const BLOCK_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
struct Params {
    seq: u64,
}

/// Runs the stage.
///
/// # Errors
/// When an input can't be read, or the text is too short for one sequence.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let corpus = Corpus::open(context.input("corpus"))?;
    let tokenizer = Tokenizer::open(context.input("tokenizer"))?;
    let end_of_text = tokenizer.end_of_text()?;
    let out = context.out_dir("out")?;
    let mut writer = DatasetWriter::create(&out, params.seq, tokenizer.size())?;
    encode_all(context, &corpus, &tokenizer, |ids| {
        ids.push(end_of_text);
        writer.push(ids)
    })?;
    let meta = writer.finish()?;
    if meta.sequences == 0 {
        let message = format!(
            "{} tokens are too few for one sequence of {} and the token after it",
            meta.tokens, params.seq
        );
        return Err(StageError::input(message).help("use more text or a smaller `seq`"));
    }
    context.output("out.tokens", Value::Int((meta.sequences * meta.seq) as i64))?;
    context.output("out.sequences", Value::Int(meta.sequences as i64))?;
    Ok(())
}

/// Encodes all documents in parallel and hands them to `take` in order.
pub(crate) fn encode_all(
    context: &mut Context,
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    mut take: impl FnMut(&mut Vec<u32>) -> Result<(), DataError>,
) -> Result<(), StageError> {
    let pool = context.pool()?;
    let (mut next, mut done) = (0, 0);
    while next < corpus.documents() {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let (start, before) = (next, done);
        while next < corpus.documents() && (next == start || done - before < BLOCK_BYTES) {
            done += corpus.document_size(next);
            next += 1;
        }
        let encode = |index| tokenizer.encode(corpus.document(index)?);
        let block: Result<Vec<_>, DataError> =
            pool.install(|| (start..next).into_par_iter().map(encode).collect());
        block?.iter_mut().try_for_each(&mut take)?;
        context.progress(done, Some(corpus.size()), "bytes");
    }
    Ok(())
}
