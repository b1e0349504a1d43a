//! What `tlm sample` asks for: a model writes on, piece by piece, as lines of the log. No stage of the language.

use serde::Deserialize;
use tch::Tensor;
use tlm::data::Tokenizer;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::decode::{Choice, Decoder};
use crate::nn::runtime::fault;
use crate::stage::load;

#[derive(Deserialize)]
struct Params {
    prompt: String,
    tokens: i64,
    temperature: f64,
    top_k: i64,
    top_p: f64,
    seed: i64,
}

/// Tells the text that comes after the prompt, as it is written.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "model", "f32")?.frozen().map_err(fault)?;
    tch::manual_seed(params.seed);
    let tokenizer = Tokenizer::open(context.input("model"))?;
    let mut ids = tokenizer.encode_marked(&params.prompt)?;
    if ids.is_empty() {
        ids.extend(tokenizer.start_of_text());
    }
    let read = ids.len();
    let room = model.config.context - read as i64;
    let unknown = ids.iter().any(|&id| i64::from(id) >= model.config.vocab);
    if read == 0 || room < 1 || unknown {
        return Err(no_start(read, &model.config, unknown));
    }
    let choice =
        Choice { temperature: params.temperature, top_k: params.top_k, top_p: params.top_p };
    let mut decoder = Decoder::new(&model, 1, model.config.context).map_err(fault)?;
    let mut told = tokenizer.decode(&ids)?.len();
    let numbers: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let mut next = Tensor::f_from_slice(&numbers)
        .and_then(|ids| ids.f_unsqueeze(0)?.f_to_device(model.device()))
        .map_err(fault)?;
    for _ in 0..params.tokens.min(room) {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        next = decoder.read(&next).and_then(|logits| choice.draw(&logits)).map_err(fault)?;
        let id = next.f_int64_value(&[0, 0]).map_err(fault)?;
        if model.config.eos.contains(&id) {
            break;
        }
        ids.push(id as u32);
        let text = tokenizer.decode(&ids)?;
        // A character may take several tokens; what is no whole one yet decodes to this.
        if text.len() > told && !text.ends_with('\u{fffd}') && text.is_char_boundary(told) {
            context.log(&text[told..]);
            told = text.len();
        }
    }
    Ok(())
}

fn no_start(read: usize, config: &Config, unknown: bool) -> StageError {
    if unknown {
        return StageError::input("the model has no embedding for a token of the prompt")
            .help("give a model whose tokenizer is its own");
    }
    if read == 0 {
        return StageError::input(
            "the prompt is empty, and the tokenizer has no token to begin with",
        )
        .help("write a prompt");
    }
    StageError::input(format!(
        "the prompt has {read} tokens, and the model's context is {}",
        config.context
    ))
    .help("write a shorter prompt")
}
