//! `tokenizer.coverage`: which part of the counted tokens a smaller vocabulary covers.

use serde::Deserialize;

use crate::base::Value;
use crate::data::tokenizer::counts::read_counts;
use crate::data::tokenizer::files::Files;
use crate::data::tokenizer::prune::coverage;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    keep: usize,
}

/// Runs the stage.
///
/// # Errors
/// When the tokenizer can't be pruned to that size.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let files = Files::read(context.input("tokenizer"))?;
    let counts = read_counts(context.input("counts"))?;
    let covered = coverage(&files, &counts, params.keep, |kept| {
        context.progress(kept, Some(params.keep as u64), "tokens");
        !context.interrupted()
    })?;
    let covered = covered.ok_or(StageError::Interrupted)?;
    context.output("coverage", Value::Float(covered))?;
    Ok(())
}
