//! Level 6: stages. One file per stage without tensors, the trait and the protocol for all.
//!
//! A stage is a function over a [`Context`]: typed parameters, input paths, an output folder, a seed, a progress
//! sink and a checkpoint folder. It never sees the store. `src/torch/stage/` holds the tensor stages.

pub mod action;
mod children;
pub mod context;
pub mod corpus_dedup;
pub mod corpus_dedup_near;
pub mod corpus_filter;
pub mod corpus_jsonl;
pub mod corpus_mix;
pub mod corpus_parquet;
pub mod corpus_shuffle;
pub mod corpus_split;
pub mod corpus_text;
pub mod dataset_count;
pub mod dataset_internevo;
pub mod dataset_pack;
pub mod dataset_part;
pub mod dataset_remap;
mod documents;
mod download;
mod draw;
pub mod guard;
mod inspect;
mod printed;
mod reading;
pub mod registry;
mod repository;
pub mod rounds_drift;
pub mod rounds_part_loss;
pub mod rounds_resample;
mod scored;
pub mod shell;
pub mod source_adopt;
pub mod source_fetch;
pub mod source_unpack;
pub mod tokenizer_count;
pub mod tokenizer_coverage;
pub mod tokenizer_inspect;
pub mod tokenizer_open;
pub mod tokenizer_prune;
pub mod tokenizer_retrain;
pub mod train_kept;
pub mod train_loss_at;
pub mod worker;

pub use action::{Action, Event, Failure, FailureKind};
pub use context::{Context, StageError};
pub use registry::REGISTRY;

/// A stage's body.
pub type Body = fn(&mut Context) -> Result<(), StageError>;

/// Stages by name, as declared in `stdlib/*.tlm`.
pub type Registry = &'static [(&'static str, Body)];
