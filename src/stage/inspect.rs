//! What an artifact that no stage of ours made says of itself: its fields, read off its files.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use walkdir::WalkDir;

use crate::base::Value;
use crate::data::snapshots::Snapshots;
use crate::data::tokenizer::counts::sum_of_counts;
use crate::data::tokenizer::files::Vocabulary;
use crate::data::tokenizer::open::open_tokenizer;
use crate::data::train_log::read_log;
use crate::data::{Corpus, Dataset, Losses, TensorFile};
use crate::stage::{Context, StageError};

/// Tells the fields of the artifact `name` of type `kind` at `path`. A type of the recipe's own has none that could be read.
///
/// # Errors
/// When it is not what its type says.
pub(super) fn tell(
    name: &str,
    kind: &str,
    path: &Path,
    context: &mut Context,
) -> Result<(), StageError> {
    let whole = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let fields = match kind {
        "Corpus" => {
            let corpus = Corpus::open(path)?;
            let (documents, size) = (corpus.documents() as u64, corpus.size());
            vec![("documents", whole(documents)), ("size", whole(size)), ("rejected", whole(0))]
        }
        "Tokenizer" => vec![("size", whole(Vocabulary::open(path)?.size()))],
        "Counts" => vec![("tokens", whole(sum_of_counts(path)?))],
        "Dataset" => {
            let meta = Dataset::open(path)?.meta().clone();
            let tokens = meta.sequences.saturating_mul(meta.seq);
            vec![("tokens", whole(tokens)), ("sequences", whole(meta.sequences))]
        }
        "Losses" => vec![("mean", Value::Float(Losses::open(path)?.mean()?))],
        "TrainLog" => read_log(path).map(|_| Vec::new())?,
        "Snapshots" => Snapshots::open(path).map(|_| Vec::new())?,
        "Checkpoint" => vec![("params", whole(params(path)?))],
        _ => Vec::new(),
    };
    fields
        .into_iter()
        .try_for_each(|(field, value)| context.output(&format!("{name}.{field}"), value))
}

/// Makes the tokenizer in a model folder an artifact of its own.
///
/// # Errors
/// When the folder has none.
pub(super) fn tokenizer_of(
    model: &Path,
    name: &str,
    context: &mut Context,
) -> Result<(), StageError> {
    let out = context.out_dir(name)?;
    open_tokenizer(model, None, &out)?;
    tell(name, "Tokenizer", &out, context)
}

/// Returns how many numbers the weights of a Hugging Face model folder have.
fn params(folder: &Path) -> Result<u64, StageError> {
    let shards = shards(folder);
    if shards.is_empty() {
        return Err(StageError::input(format!(
            "`{}` has no `model.safetensors`",
            folder.display()
        ))
        .help(
            "a Checkpoint is a folder with `config.json`, `model.safetensors`, `tokenizer.json`",
        ));
    }
    let mut params = 0;
    for shard in shards {
        let file = TensorFile::open_safetensors(&shard)?;
        let sizes = file.tensors().values().map(|tensor| tensor.shape.iter().product::<u64>());
        params += sizes.sum::<u64>();
    }
    Ok(params)
}

fn shards(folder: &Path) -> Vec<PathBuf> {
    let pattern = Pattern::new("model*.safetensors").expect("a pattern");
    let files = WalkDir::new(folder).max_depth(1).sort_by_file_name().into_iter().flatten();
    let named = files.filter(|file| {
        file.file_name()
            .to_str()
            .is_some_and(|name| pattern.matches_with(name, MatchOptions::new()))
    });
    named.map(walkdir::DirEntry::into_path).collect()
}
