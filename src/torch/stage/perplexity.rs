//! `eval.perplexity`: how surprising a dataset is to a model.

use std::f64::consts::LN_2;

use serde::Deserialize;
use tlm::base::Value;
use tlm::data::tokenizer::bytes::bytes_of_tokens;
use tlm::stage::{Context, StageError};

use crate::nn::sequences::Sequences;
use crate::stage::losses::sequence_losses;
use crate::stage::{Attention, Measured, open_data};

#[derive(Deserialize)]
struct Params {
    #[serde(flatten)]
    measured: Measured,
    attention: Attention,
}

/// Tells perplexity, mean loss, bits per byte and number of tokens.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = params.measured.load(context)?;
    let data = open_data(context, &model, params.attention)?;
    let tokens = data.count * data.length;
    let bytes = bytes(&data, &bytes_of_tokens(context.input("model"))?)?;
    let sum = sequence_losses(context, &model, &data)?.sum;
    let mean = sum / tokens as f64;
    let perplexity = mean.exp();
    if !perplexity.is_finite() {
        return Err(StageError::input(format!(
            "the model has diverged: its mean loss is {mean}, and no number is as large as its exponential"
        ))
        .help("train it with a smaller `lr`"));
    }
    context.output("perplexity", Value::Float(perplexity))?;
    context.output("loss", Value::Float(mean))?;
    context.output("bits_per_byte", Value::Float(sum / LN_2 / bytes as f64))?;
    context.output("tokens", Value::Int(tokens as i64))
}

/// Returns how many bytes of text a dataset's sequences train.
fn bytes(data: &Sequences, each: &[u32]) -> Result<u64, StageError> {
    let (mut ids, mut sum) = (Vec::new(), 0);
    for index in 0..data.count {
        ids.clear();
        data.dataset().sequence(index as usize, &mut ids)?;
        let known = ids[1..].iter().filter_map(|&id| each.get(id as usize));
        sum += known.map(|&bytes| u64::from(bytes)).sum::<u64>();
    }
    Ok(sum)
}
