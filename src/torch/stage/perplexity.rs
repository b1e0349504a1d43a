//! `eval.perplexity`: how surprising a dataset is to a model.

use serde::Deserialize;
use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::stage::losses::sequence_losses;
use crate::stage::{Attention, Measured, open_data};

#[derive(Deserialize)]
struct Params {
    #[serde(flatten)]
    measured: Measured,
    attention: Attention,
}

/// Tells perplexity, mean loss and number of tokens.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = params.measured.load(context)?;
    let data = open_data(context, &model, params.attention)?;
    let tokens = data.count * data.length;
    let mean = sequence_losses(context, &model, &data)?.sum / tokens as f64;
    let perplexity = mean.exp();
    if !perplexity.is_finite() {
        return Err(StageError::input(format!(
            "the model has diverged: its mean loss is {mean}, and no number is as large as its exponential"
        ))
        .help("train it with a smaller `lr`"));
    }
    context.output("perplexity", Value::Float(perplexity))?;
    context.output("loss", Value::Float(mean))?;
    context.output("tokens", Value::Int(tokens as i64))
}
