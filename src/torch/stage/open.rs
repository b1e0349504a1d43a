//! `model.open`: a GGUF file or a Hugging Face folder, as a checkpoint in f32.

use std::path::Path;

use tlm::base::Value;
use tlm::data;
use tlm::data::tokenizer::files::Vocabulary;
use tlm::data::tokenizer::open::open_tokenizer;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::gguf::Gguf;
use crate::nn::runtime;
use crate::nn::weights::{Safetensors, Weights};
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
    let tokens = context.out_dir("out.tokenizer")?;
    if source.is_dir() {
        let config = Config::read(&source)?;
        let weights = Safetensors::open(&source)?;
        check_head(&config, &weights, &source)?;
        open_tokenizer(&source, None, &tokens)?;
        write(context, &config, &weights, &tokens)
    } else if data::Gguf::is_gguf(&source) {
        let file = Gguf::open(&source)?;
        open_tokenizer(&source, None, &tokens)?;
        write(context, &file.config, &file, &tokens)
    } else {
        Err(no_model(&format!("`{}` is no GGUF file", source.display())))
    }
}

fn no_model(what: &str) -> StageError {
    StageError::input(format!("{what}, and no folder with a model")).help(
        "give one GGUF file, or the folder itself that has `config.json`, `model.safetensors` and `tokenizer.json`",
    )
}

fn check_head(config: &Config, weights: &Safetensors, folder: &Path) -> Result<(), StageError> {
    if config.tied || weights.has("lm_head.weight") {
        return Ok(());
    }
    Err(StageError::input(format!("tensor `lm_head.weight` of `{}` is missing", folder.display()))
        .help("if the output embedding is the input's, set `tie_word_embeddings` to true in `config.json`"))
}

fn write(
    context: &mut Context,
    config: &Config,
    weights: &dyn Weights,
    tokens: &Path,
) -> Result<(), StageError> {
    write_checkpoint(context, "out", config, tokens, |name, shape| weights.load(name, shape))?;
    let size = Vocabulary::open(tokens)?.size();
    context.output("out.tokenizer.size", Value::Int(size as i64))
}
