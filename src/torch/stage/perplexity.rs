//! `eval.perplexity`: how surprising a dataset is to a model.

use serde::Deserialize;
use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::stage::score::sequence_losses;
use crate::stage::{load, open_data};

#[derive(Deserialize)]
struct Params {
    dtype: String,
}

/// Tells perplexity, mean loss and number of tokens.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "model", &params.dtype)?;
    let data = open_data(context, &model)?;
    let sums = sequence_losses(context, &model, &data)?;
    let tokens = data.count * data.length;
    let mean = sums.iter().sum::<f64>() / tokens as f64;
    context.output("perplexity", Value::Float(mean.exp()));
    context.output("loss", Value::Float(mean));
    context.output("tokens", Value::Int(tokens as i64));
    Ok(())
}
