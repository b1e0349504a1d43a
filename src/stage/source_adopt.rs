//! `source.adopt`: an artifact that was made elsewhere.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use walkdir::WalkDir;

use crate::stage::{Context, StageError, inspect};
use crate::store::object::digest;

#[derive(Deserialize)]
struct Params {
    r#as: String,
    digest: Option<String>,
}

/// Copies the file or folder, sharing its blocks where the file system can, and tells the fields of its type.
///
/// # Errors
/// When it is not what its type says, or can't be read.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let [source] = context.inputs("source") else {
        let count = context.inputs("source").len();
        return Err(StageError::input(format!("`adopt` names {count} files"))
            .help("name one file, or the folder that holds them"));
    };
    let (source, out) = (source.clone(), context.out("out"));
    inspect::tell("out", &params.r#as, &source, context)?;
    copy(&source, &out, context)?;
    if let Some(wanted) = params.digest {
        let (found, _) = digest(&out).map_err(|error| StageError::io("read", &out, &error))?;
        if found.to_string() != wanted {
            return Err(StageError::input(format!("`{}` has digest {found}", source.display()))
                .help(format!("the recipe wants {wanted}: restore the file, or take its digest")));
        }
    }
    if params.r#as == "Checkpoint" {
        inspect::tokenizer_of(&out, "out.tokenizer", context)?;
    }
    Ok(())
}

/// Copies a file or folder, sharing its blocks where the file system can.
///
/// # Errors
/// When it can't be read or written, or the stage is stopped.
pub(super) fn copy(source: &Path, out: &Path, context: &mut Context) -> Result<(), StageError> {
    let mut done = 0;
    for entry in WalkDir::new(source) {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let entry =
            entry.map_err(|error| StageError::environment(format!("can't read: {error}")))?;
        let from = entry.path();
        let to = match from.strip_prefix(source) {
            Ok(inner) if inner.as_os_str().is_empty() => out.to_owned(),
            Ok(inner) => out.join(inner),
            Err(_) => continue,
        };
        if entry.file_type().is_dir() {
            fs::create_dir(&to).map_err(|error| StageError::io("create", &to, &error))?;
            continue;
        }
        let copied = reflink_copy::reflink_or_copy(from, &to);
        copied.map_err(|error| StageError::io("copy", from, &error))?;
        done += entry.metadata().map_or(0, |metadata| metadata.len());
        context.progress(done, None, "bytes");
    }
    Ok(())
}
