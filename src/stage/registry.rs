//! The stages without tensors, by name, as `stdlib/*.tlm` declares them.

use crate::data::DataError;
use crate::stage::{
    Registry, StageError, corpus_dedup, corpus_dedup_near, corpus_filter, corpus_jsonl, corpus_mix,
    corpus_parquet, corpus_shuffle, corpus_split, corpus_text, dataset_count, dataset_internevo,
    dataset_pack, dataset_part, dataset_remap, rounds_drift, rounds_part_loss, rounds_resample,
    source_adopt, source_fetch, source_unpack, tokenizer_count, tokenizer_coverage,
    tokenizer_inspect, tokenizer_open, tokenizer_prune, tokenizer_retrain, train_kept,
    train_loss_at,
};

/// All stages that `tlm worker` runs.
pub const REGISTRY: Registry = &[
    ("corpus.dedup", corpus_dedup::run),
    ("corpus.dedup_near", corpus_dedup_near::run),
    ("corpus.filter", corpus_filter::run),
    ("corpus.jsonl", corpus_jsonl::run),
    ("corpus.mix", corpus_mix::run),
    ("corpus.parquet", corpus_parquet::run),
    ("corpus.part", corpus_split::part),
    ("corpus.shuffle", corpus_shuffle::run),
    ("corpus.split", corpus_split::split),
    ("corpus.text", corpus_text::run),
    ("dataset.count", dataset_count::run),
    ("dataset.internevo", dataset_internevo::run),
    ("dataset.pack", dataset_pack::run),
    ("dataset.part", dataset_part::run),
    ("dataset.remap", dataset_remap::run),
    ("rounds.drift", rounds_drift::run),
    ("rounds.part_loss", rounds_part_loss::run),
    ("rounds.resample", rounds_resample::run),
    ("source.adopt", source_adopt::run),
    ("source.fetch", source_fetch::run),
    ("source.unpack", source_unpack::run),
    ("tokenizer.count", tokenizer_count::run),
    ("tokenizer.coverage", tokenizer_coverage::run),
    ("tokenizer.inspect", tokenizer_inspect::run),
    ("tokenizer.open", tokenizer_open::run),
    ("tokenizer.prune", tokenizer_prune::run),
    ("tokenizer.retrain", tokenizer_retrain::run),
    ("train.kept", train_kept::run),
    ("train.loss_at", train_loss_at::run),
];

impl From<DataError> for StageError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Io { operation, path, source } => Self::io(operation, &path, &source),
            DataError::Invalid { help: None, .. } => Self::input(error),
            DataError::Invalid { help: Some(ref help), .. } => {
                let help = help.clone();
                Self::input(error).help(help)
            }
        }
    }
}
