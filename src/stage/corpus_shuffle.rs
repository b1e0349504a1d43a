//! `corpus.shuffle`: the documents in another order, without a list of them in memory.

use serde::Deserialize;

use crate::data::mix::shuffled;
use crate::data::{CorpusWriter, Statistics};
use crate::stage::reading::{corpus, tell};
use crate::stage::{Context, StageError};

/// After so many bytes in use their memory is let go of.
const RELEASE: u64 = 64 << 20;
/// Bytes that the system maps around each that is asked for.
const AROUND: u64 = 64 << 10;

#[derive(Deserialize)]
struct Params {
    seed: i64,
}

/// Runs the stage.
///
/// # Errors
/// When a document can't be read or written.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let corpus = corpus(context)?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let documents = corpus.documents();
    let mut since = 0;
    for position in 0..documents {
        let index = shuffled(position as u64, documents as u64, params.seed as u64) as usize;
        writer.push(corpus.document(index)?)?;
        since += corpus.document_size(index) + AROUND;
        if since > RELEASE || position + 1 == documents {
            since = 0;
            corpus.release(0..documents);
            context.progress(position as u64 + 1, Some(documents as u64), "documents");
        }
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
    }
    tell(context, "out", writer, 0, Statistics::default())?;
    Ok(())
}
