//! Tensor stages, one a file.

mod inherit;
mod init;
mod open;
mod perplexity;
mod score;
mod state;
mod tokenizer;
mod train;

#[cfg(test)]
mod tests;

use tlm::stage::{Context, Registry, StageError};

use crate::nn::config::Config;
use crate::nn::llama::Llama;
use crate::nn::runtime;
use crate::nn::sequences::Sequences;
use crate::nn::weights::Safetensors;

/// The stages of `tlm-torch`, as declared in `stdlib/*.tlm`.
pub(crate) const REGISTRY: Registry = &[
    ("eval.perplexity", perplexity::run),
    ("model.inherit", inherit::run),
    ("model.init", init::run),
    ("model.open", open::run),
    ("rounds.score", score::run),
    ("train.run", train::run),
];

/// Loads the checkpoint of input `name`.
fn load(context: &Context, name: &str, dtype: &str) -> Result<Llama, StageError> {
    let device = runtime::prepare(context.action())?;
    let folder = context.input(name);
    let config = Config::read(folder)?;
    Llama::load(config, &Safetensors::open(folder)?, device, runtime::kind(dtype))
}

/// Opens the dataset of input `data`, whose ids the model must know.
fn open_data(context: &Context, model: &Llama) -> Result<Sequences, StageError> {
    let data = Sequences::open(context.input("data"))?;
    if data.vocab > model.config.vocab {
        return Err(StageError::input(format!(
            "the dataset has ids up to {}, but the model's vocabulary has {}",
            data.vocab, model.config.vocab
        ))
        .help("pack the dataset with the model's own tokenizer"));
    }
    Ok(data)
}

/// Returns how many sequences go through the model at once.
fn micro_batch(context: &Context, data: &Sequences, model: &Llama) -> u64 {
    // About two thousand tokens fill two cores and stay in their caches; a GPU wants more.
    let tokens = if model.device() == tch::Device::Cpu { 2048 } else { 32768 };
    let default = (tokens / data.length).max(1);
    context.action().micro_batch.map_or(default, |given| u64::from(given.max(1)))
}
