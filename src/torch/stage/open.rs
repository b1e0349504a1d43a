//! `model.open`: a GGUF file or a Hugging Face folder, as a checkpoint in f32.

use std::path::{Path, PathBuf};

use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::gguf::Gguf;
use crate::nn::runtime;
use crate::nn::weights::{Safetensors, Weights, Writer};
use crate::stage::tokenizer::{self, TokenizerInfo};

/// Writes the checkpoint, tensor by tensor, and its tokenizer.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    runtime::prepare(context.action())?;
    let source = source(context)?;
    let tokens = context.out_dir("out.tokenizer")?;
    if source.is_dir() {
        let mut config = Config::read(&source)?;
        let weights = Safetensors::open(&source)?;
        // Some folders say "untied" but leave the head out, or store a tied one.
        config.tied |= !weights.has("lm_head.weight");
        copy_tokenizer(&source, &tokens)?;
        write(context, &config, &weights, &tokens)
    } else if tlm::data::Gguf::is_gguf(&source) {
        let file = Gguf::open(&source)?;
        tokenizer::from_gguf(&source, &tokens)?;
        write(context, &file.config, &file, &tokens)
    } else {
        Err(StageError::input(format!("`{}` is no model", source.display())).help(
            "give a GGUF file, or a folder with `config.json`, `model.safetensors` and `tokenizer.json`",
        ))
    }
}

fn write(
    context: &mut Context,
    config: &Config,
    weights: &dyn Weights,
    tokens: &Path,
) -> Result<(), StageError> {
    let out = context.out_dir("out")?;
    config.write(&out)?;
    let path = out.join("model.safetensors");
    let mut writer = Writer::create(&path, config.tensors(), ("format", "pt"))?;
    let mut done = 0;
    for (name, shape) in config.tensors() {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        writer.push(&name, &weights.load(&name, &shape)?)?;
        done += shape.iter().product::<i64>() as u64;
        context.progress(done, Some(config.params() as u64), "params");
    }
    writer.finish()?;
    tokenizer::copy(tokens, &out)?;
    let size = TokenizerInfo::read(tokens)?.size;
    context.output("out.tokenizer.size", Value::Int(size));
    context.output("out.params", Value::Int(config.params()));
    Ok(())
}

/// Returns the source: one file, or the folder that the given files lie in.
fn source(context: &Context) -> Result<PathBuf, StageError> {
    let paths = context.inputs("source");
    match paths {
        [one] if one.file_name().is_none_or(|name| name != "config.json") => Ok(one.clone()),
        files => {
            let config =
                files.iter().find(|path| path.file_name().is_some_and(|n| n == "config.json"));
            let folder = config.and_then(|path| path.parent());
            folder.map(Path::to_path_buf).ok_or_else(|| {
                StageError::input(format!("{} files, and no `config.json` among them", files.len()))
                    .help("give one GGUF file, or a Hugging Face folder")
            })
        }
    }
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), StageError> {
    let file = from.join("tokenizer.json");
    if !file.exists() {
        return Err(StageError::input(format!("`{}` is missing", file.display()))
            .help("save the model's fast tokenizer beside it"));
    }
    tokenizer::copy(from, to)
}
