//! `eval.rouge`: a model writes on, and its words are compared with a reference.

use serde::Deserialize;
use tch::Tensor;
use tlm::base::Value;
use tlm::data::Tokenizer;
use tlm::data::rouge::{SEPARATOR, read_items, rouge};
use tlm::stage::{Context, StageError};

use crate::nn::decode::{Choice, Decoder};
use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::stage::load;
use crate::stage::scores::Scores;

#[derive(Deserialize)]
struct Params {
    tokens: i64,
    shots: u64,
    dtype: String,
}

/// Tells the mean scores.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "model", &params.dtype)?.frozen().map_err(fault)?;
    let tokenizer = Tokenizer::open(context.input("model"))?;
    let limit = model.config.context;
    if params.tokens >= limit {
        return Err(StageError::input(format!(
            "`tokens` is {}, but the model's context is {limit}, and needs room for the text before",
            params.tokens
        ))
        .help("write fewer `tokens`"));
    }
    let items = read_items(context.input("task"), params.shots as usize)?;
    // Both scores of an item, one after the other.
    let mut scores = Scores::start(context, 1)?;
    let mut decoder = Decoder::new(&model, 1, limit).map_err(fault)?;
    while let Some(item) = items.get(scores.done as usize / 2) {
        scores.rest(context, scores.done / 2)?;
        let mut ids = tokenizer.encode_marked(&item.query)?;
        if ids.is_empty() {
            ids.extend(tokenizer.start_of_text());
        }
        let surplus = ids.len().saturating_sub((limit - params.tokens) as usize);
        ids.drain(..surplus);
        if ids.is_empty() || ids.iter().any(|&id| i64::from(id) >= model.config.vocab) {
            return Err(StageError::input(format!("the model can't read `{}`", item.query))
                .help("write a text, and give a model whose tokenizer is its own"));
        }
        // An interrupted text is written again from its start.
        let Some(written) = write(context, &model, &mut decoder, &ids, params.tokens)? else {
            continue;
        };
        let written = tokenizer.decode(&written)?;
        let written = written.split(SEPARATOR).next().unwrap_or_default();
        for score in rouge(written, &item.reference) {
            scores.push(score)?;
        }
        context.progress(scores.done / 2, Some(items.len() as u64), "texts");
    }
    let scores = scores.finish()?;
    for (name, first) in [("rouge1", 0), ("rouge_l", 1)] {
        let sum: f64 = scores.iter().skip(first).step_by(2).sum();
        context.output(name, Value::Float(sum / items.len() as f64))?;
    }
    Ok(())
}

/// Returns the likeliest tokens that come after some, up to one that ends a text; none when interrupted.
fn write(
    context: &Context,
    model: &Llama,
    decoder: &mut Decoder,
    ids: &[u32],
    tokens: i64,
) -> Result<Option<Vec<u32>>, StageError> {
    decoder.clear();
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let mut next = Tensor::f_from_slice(&ids)
        .and_then(|ids| ids.f_unsqueeze(0)?.f_to_device(model.device()))
        .map_err(fault)?;
    let mut written = Vec::new();
    for _ in 0..tokens {
        if context.interrupted() {
            return Ok(None);
        }
        next =
            decoder.read(&next).and_then(|logits| Choice::GREEDY.draw(&logits)).map_err(fault)?;
        let id = next.f_int64_value(&[0, 0]).map_err(fault)?;
        if model.config.eos.contains(&id) {
            break;
        }
        written.push(id as u32);
    }
    Ok(Some(written))
}
