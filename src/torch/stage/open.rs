//! `model.open`: a GGUF file or a model folder, as a checkpoint in f32.

use std::path::Path;

use tlm::base::Value;
use tlm::data;
use tlm::data::tokenizer::files::Vocabulary;
use tlm::data::tokenizer::open::open_tokenizer;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::gguf::Gguf;
use crate::nn::internevo::InternEvo;
use crate::nn::runtime;
use crate::nn::weights::{Pickled, Safetensors, Source, no_weights};
use crate::stage::write_checkpoint;

/// Writes the checkpoint, tensor by tensor, and its tokenizer.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    runtime::prepare(context.action())?;
    // Only what is given is in the step's key, so nothing beside it may be read.
    let [source] = context.inputs("source") else {
        let count = context.inputs("source").len();
        return Err(no_model(&format!("`source` names {count} files")));
    };
    let source = source.clone();
    if source.is_dir() {
        let config = Config::read(&source)?;
        let weights = folder_weights(&source, &config)?;
        write(context, &config, &*weights, &source)
    } else if data::Gguf::is_gguf(&source) {
        let file = Gguf::open(&source)?;
        write(context, &file.config, &file, &source)
    } else {
        Err(no_model(&format!("`{}` is no GGUF file", source.display())))
    }
}

fn no_model(what: &str) -> StageError {
    StageError::input(format!("{what}, and no folder with a model")).help(
        "give one GGUF file, or the folder itself that has `config.json`, `model.safetensors` and `tokenizer.json`",
    )
}

/// Opens the weights of a folder: safetensors where there are several forms.
fn folder_weights(folder: &Path, config: &Config) -> Result<Box<dyn Source>, StageError> {
    if let Some(weights) = Safetensors::find(folder)? {
        return Ok(Box::new(weights));
    }
    if let Some(weights) = Pickled::find(folder)? {
        return Ok(Box::new(weights));
    }
    match InternEvo::find(folder, config)? {
        Some(weights) => Ok(Box::new(weights)),
        None => Err(no_weights(folder)),
    }
}

fn write(
    context: &mut Context,
    config: &Config,
    weights: &dyn Source,
    source: &Path,
) -> Result<(), StageError> {
    weights.check(config)?;
    let tokens = context.out_dir("out.tokenizer")?;
    open_tokenizer(source, None, &tokens)?;
    let size = Vocabulary::open(&tokens)?.size();
    if size as i64 > config.vocab {
        return Err(StageError::input(format!(
            "the tokenizer of `{}` has {size} ids, but the model has embeddings for {}",
            source.display(),
            config.vocab
        ))
        .help("it is the tokenizer of another model: put the model's own in its place"));
    }
    write_checkpoint(context, "out", config, &tokens, |name, shape| weights.load(name, shape))?;
    context.log(format!("copied all {} tensors", config.tensors().len()));
    context.output("out.tokenizer.size", Value::Int(size as i64))
}
