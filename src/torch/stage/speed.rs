//! `eval.speed`: how fast a model writes (paper section 2.2).

use std::time::Instant;

use serde::Deserialize;
use tch::{Kind, TchError, Tensor};
use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::nn::decode::{Choice, Decoder};
use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::stage::load;

#[derive(Deserialize)]
struct Params {
    prefix: i64,
    new: i64,
    batch: i64,
    dtype: String,
}

/// Tokens that are written before the clock runs, so that it measures no first time.
const WARM_UP: i64 = 8;

/// Tells tokens per second.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "model", &params.dtype)?.frozen().map_err(fault)?;
    let (length, limit) = (params.prefix + params.new, model.config.context);
    if length > limit {
        return Err(StageError::input(format!(
            "`prefix` and `new` are {length} tokens together, but the model's context is {limit}"
        ))
        .help("write fewer tokens, or use a model with a longer context"));
    }
    write(context, &model, &Params { new: WARM_UP.min(params.new), ..params_of(&params) })?;
    let start = Instant::now();
    write(context, &model, &params)?;
    let speed = (params.batch * params.new) as f64 / start.elapsed().as_secs_f64();
    context.output("tokens_per_s", Value::Float(speed))
}

fn params_of(params: &Params) -> Params {
    Params { dtype: String::new(), ..*params }
}

/// Writes `new` tokens after a random prefix, always the likeliest one.
fn write(context: &mut Context, model: &Llama, params: &Params) -> Result<(), StageError> {
    let Params { prefix, new, batch, .. } = *params;
    let mut decoder = Decoder::new(model, batch, prefix + new).map_err(fault)?;
    let mut ids =
        Tensor::f_randint(model.config.vocab, [batch, prefix], (Kind::Int64, model.device()))
            .map_err(fault)?;
    for done in 1..=new {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        ids = decoder.read(&ids).and_then(|logits| Choice::GREEDY.draw(&logits)).map_err(fault)?;
        context.progress(done as u64, Some(new as u64), "tokens");
    }
    // A GPU still works when all is said; reading a number waits for it.
    ids.f_int64_value(&[0, 0]).map(|_| ()).map_err(|e: TchError| fault(e))
}
