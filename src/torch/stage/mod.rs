//! Tensor stages, one a file.

mod choice;
mod cut;
mod gguf;
mod gqa;
mod importance;
mod inherit;
mod init;
mod journal;
mod keep;
mod last_word;
mod learn_masks;
mod likelihoods;
mod losses;
mod open;
mod perplexity;
mod rouge;
mod sample;
mod score;
mod scores;
mod speed;
mod spikes;
mod spread;
mod state;
mod sums;
mod train;
mod train_state;
mod validation;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tch::Tensor;
use tlm::base::Value;
use tlm::data::tokenizer::files::copy_tokenizer;
use tlm::stage::{Context, Registry, StageError};

use crate::nn::config::Config;
use crate::nn::llama::Llama;
use crate::nn::runtime::{self, fault};
use crate::nn::sequences::Sequences;
use crate::nn::weights::{Safetensors, Writer};

/// The stages of `tlm-torch`, as declared in `stdlib/*.tlm`, and `sample`, which `tlm sample` asks for.
pub(crate) const REGISTRY: Registry = &[
    ("eval.choice", choice::run),
    ("eval.last_word", last_word::run),
    ("eval.perplexity", perplexity::run),
    ("eval.rouge", rouge::run),
    ("eval.speed", speed::run),
    ("model.cut", cut::run),
    ("model.gguf", gguf::run),
    ("model.gqa", gqa::run),
    ("model.importance", importance::run),
    ("model.inherit", inherit::run),
    ("model.init", init::run),
    ("model.learn_masks", learn_masks::run),
    ("model.open", open::run),
    ("model.spread", spread::run),
    ("rounds.score", score::run),
    ("sample", sample::run),
    ("train.keep", keep::run),
    ("train.run", train::run),
];

/// The longest that work may stay unsaved.
const UNSAVED: Duration = Duration::from_secs(60);

/// Loads the checkpoint of input `name`.
fn load(context: &Context, name: &str, dtype: &str) -> Result<Llama, StageError> {
    let device = runtime::prepare(context.action())?;
    let folder = context.input(name);
    let config = Config::read(folder)?;
    let mut model = Llama::load(config, &Safetensors::open(folder)?, device, runtime::kind(dtype))?;
    model.recompute = context.action().recompute;
    Ok(model)
}

/// The parameters of stages that measure a model, perhaps without some of its layers.
#[derive(Deserialize)]
struct Measured {
    skip: u64,
    skip_from: u64,
    dtype: String,
}

impl Measured {
    /// Loads the checkpoint of input `model`.
    fn load(&self, context: &Context) -> Result<Llama, StageError> {
        let mut model = load(context, "model", &self.dtype)?;
        let (first, count, depth) = (self.skip_from, self.skip, model.config.depth as u64);
        if count > 0 && first.saturating_add(count) > depth {
            return Err(StageError::input(format!(
                "`skip_from` is {first} and `skip` {count}, but the model has {depth} layers"
            ))
            .help(format!("choose them so that together they are at most {depth}")));
        }
        if count > 0 {
            model.skip(first as usize, count as usize);
        }
        Ok(model)
    }
}

/// What a token sees of its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Attention {
    /// All that came before it.
    Sequence,
    /// Of that only its own document.
    Document,
}

/// Opens the dataset of input `data`, which the model must be able to read.
fn open_data(
    context: &Context,
    model: &Llama,
    attention: Attention,
) -> Result<Sequences, StageError> {
    open_dataset(context.input("data"), model, attention)
}

/// Opens a dataset, which the model must be able to read.
fn open_dataset(path: &Path, model: &Llama, attention: Attention) -> Result<Sequences, StageError> {
    let data = Sequences::open(path)?;
    if data.vocab > model.config.vocab {
        return Err(StageError::input(format!(
            "the dataset `{}` has ids up to {}, but the model's vocabulary has {}",
            path.display(),
            data.vocab - 1,
            model.config.vocab
        ))
        .help("pack the dataset with the model's own tokenizer"));
    }
    let limit = model.config.context;
    if data.length > limit as u64 {
        return Err(StageError::input(format!(
            "the dataset's sequences have {} tokens, but the model's context is {limit}",
            data.length
        ))
        .help(format!("pack the dataset with a `seq` of at most {limit}")));
    }
    match attention {
        Attention::Sequence => Ok(data),
        Attention::Document => data.by_document(),
    }
}

fn check_not_empty(data: &Sequences) -> Result<(), StageError> {
    if data.count > 0 {
        return Ok(());
    }
    Err(StageError::input("the selection is empty: raise `rate`")
        .help("give `rounds.resample` a `rate` that draws at least one unit"))
}

/// Writes the checkpoint `name`: each tensor as `make` makes it, by name and shape; its tokenizer comes from `tokens`.
///
/// # Errors
/// When a number is not finite: such a model is never published.
fn write_checkpoint(
    context: &mut Context,
    name: &str,
    config: &Config,
    tokens: &Path,
    mut make: impl FnMut(&str, &[i64]) -> Result<Tensor, StageError>,
) -> Result<(), StageError> {
    let out = context.out_dir(name)?;
    config.write(&out)?;
    let path = out.join("model.safetensors");
    let mut writer = Writer::create(&path, config.tensors(), ("format", "pt"))?;
    let (mut done, total) = (0, config.params());
    for (tensor_name, shape) in config.tensors() {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let tensor = make(&tensor_name, &shape)?;
        if !runtime::all_finite(&tensor).map_err(fault)? {
            return Err(StageError::input(format!(
                "tensor `{tensor_name}` has numbers that are not finite"
            ))
            .help("use a model that has not diverged; if this one was fetched, fetch it again"));
        }
        writer.push(&tensor_name, &tensor)?;
        done += tensor.numel() as u64;
        context.progress(done, Some(total as u64), "params");
    }
    writer.finish()?;
    copy_tokenizer(tokens, &out)?;
    context.output(&format!("{name}.params"), Value::Int(total))
}

/// Returns how many sequences go through the model at once.
fn micro_batch(context: &Context, data: &Sequences, model: &Llama) -> u64 {
    let default = (tokens_at_once(model) / data.length).max(1);
    context.action().micro_batch.map_or(default, |given| u64::from(given.max(1)))
}

/// Returns how many tokens go through the model at once.
fn tokens_at_once(model: &Llama) -> u64 {
    // About two thousand fill two cores and stay in their caches; a GPU wants more, and `cpu` reads its weights anew for each.
    if model.device() != tch::Device::Cpu {
        32768
    } else if model.net().is_some() {
        4096
    } else {
        2048
    }
}
