//! `tokenizer.open`: a `tokenizer.json`, a folder with one, or a GGUF file's metadata.

use std::path::Path;

use crate::base::Value;
use crate::data::tokenizer::tokenizer_from_gguf;
use crate::data::tokenizer_files::{copy_tokenizer, read_tokenizer_json, write_tokenizer};
use crate::data::{Gguf, Tokenizer};
use crate::stage::{Context, StageError};

/// Runs the stage.
///
/// # Errors
/// When the source can't be read or understood.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let [source] = context.inputs("source") else {
        return Err(StageError::input("`source` names several files, expected one"));
    };
    let source = source.clone();
    let out = context.out_dir("out")?;
    open(&source, &out)?;
    let tokenizer = Tokenizer::open(&out)?;
    context.output("out.size", Value::Int(tokenizer.size() as i64))?;
    Ok(())
}

fn open(source: &Path, out: &Path) -> Result<(), StageError> {
    if source.is_dir() {
        return Ok(copy_tokenizer(source, out)?);
    }
    if Gguf::is_gguf(source) {
        return Ok(tokenizer_from_gguf(&Gguf::open(source)?, out)?);
    }
    // A `tokenizer.json` under any name; its configuration is taken from beside it.
    let json = crate::data::dataset::read_json(source)?;
    let folder = source.parent().unwrap_or(Path::new("."));
    write_tokenizer(out, &json, &crate::data::tokenizer_files::read_tokenizer_config(folder)?)?;
    read_tokenizer_json(out)?;
    Ok(())
}
