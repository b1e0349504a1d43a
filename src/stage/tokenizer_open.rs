//! `tokenizer.open`: a tokenizer in any form that is known here, as `tokenizer.json` and its configuration.

use std::path::{Path, PathBuf};

use crate::base::Value;
use crate::data::Tokenizer;
use crate::data::tokenizer::open::open_tokenizer;
use crate::stage::{Context, StageError};

/// Runs the stage.
///
/// # Errors
/// When the source can't be read or understood.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let (source, config) = choose(context.inputs("source"))?;
    let out = context.out_dir("out")?;
    context.progress(0, None, "tokens");
    open_tokenizer(&source, config.as_deref(), &out)?;
    if context.interrupted() {
        return Err(StageError::Interrupted);
    }
    let size = Tokenizer::open(&out)?.size();
    context.progress(size, Some(size), "tokens");
    context.output("out.size", Value::Int(size as i64))?;
    Ok(())
}

/// Returns the source and the configuration among the inputs. What only lies beside them is not read: no key knows it.
fn choose(inputs: &[PathBuf]) -> Result<(PathBuf, Option<PathBuf>), StageError> {
    let is_config =
        |path: &Path| path.file_name().is_some_and(|name| name == "tokenizer_config.json");
    match inputs {
        [source] => Ok((source.clone(), None)),
        [source, config] if is_config(config) => Ok((source.clone(), Some(config.clone()))),
        [config, source] if is_config(config) => Ok((source.clone(), Some(config.clone()))),
        _ => Err(StageError::input(format!("`source` names {} files", inputs.len()))
            .help("name one file, a folder, or `tokenizer.json` and `tokenizer_config.json`")),
    }
}
