//! A training run's resume state: parameters, optimiser and position, in one file that is replaced atomically.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tlm::stage::StageError;

use crate::nn::adamw::AdamW;
use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::nn::weights::{Safetensors, Weights, Writer, map_file};

/// Where a run stands, besides its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Steps done.
    pub(crate) step: u64,
    /// Length of the log that belongs to these steps.
    pub(crate) log_bytes: u64,
    /// Losses of the last steps, newest last.
    pub(crate) losses: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Metadata,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    position: String,
}

const TENSORS: [&str; 3] = ["mean", "param", "square"];

/// Saves a state. Whatever happens meanwhile, the folder holds the old one or the new one.
pub(crate) fn save(
    folder: &Path,
    model: &Llama,
    optimiser: &AdamW,
    position: &Position,
) -> Result<(), StageError> {
    let shape = vec![model.layout.total];
    let tensors = TENSORS.map(|name| (name.to_owned(), shape.clone())).to_vec();
    let text = serde_json::to_string(position).expect("plain data");
    let fresh = folder.join("state.new");
    let mut writer = Writer::create(&fresh, tensors, ("position", &text))?;
    for (name, tensor) in TENSORS.iter().zip([&optimiser.mean, &model.flat, &optimiser.square]) {
        writer.push(name, tensor)?;
    }
    writer.finish()?;
    let path = file(folder);
    fs::rename(&fresh, &path).map_err(|e| StageError::io("rename", &path, &e))?;
    // The rename itself has to reach the disk.
    let sync = fs::File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|e| StageError::io("sync", folder, &e))
}

/// Puts a saved state into a fresh run; returns none where there is no usable one.
pub(crate) fn restore(
    folder: &Path,
    model: &Llama,
    optimiser: &mut AdamW,
) -> Result<Option<Position>, StageError> {
    let path = file(folder);
    if !path.exists() {
        return Ok(None);
    }
    let Some(position) = position(&path)? else {
        return Ok(None);
    };
    let stored = Safetensors::open_file(&path)?;
    let targets = [&optimiser.mean, &model.flat, &optimiser.square];
    for (name, target) in TENSORS.iter().zip(targets) {
        let value = stored.load(name, &[model.layout.total])?;
        copy(target, &value)?;
    }
    optimiser.steps = position.step;
    Ok(Some(position))
}

fn copy(target: &Tensor, value: &Tensor) -> Result<(), StageError> {
    tch::no_grad(|| target.shallow_clone().f_copy_(value)).map(|_| ()).map_err(fault)
}

fn position(path: &Path) -> Result<Option<Position>, StageError> {
    let bytes = map_file(path)?;
    let header = bytes.get(..8).map(|eight| u64::from_le_bytes(eight.try_into().expect("eight")));
    let text = header.and_then(|length| bytes.get(8..8 + usize::try_from(length).ok()?));
    let header = text.and_then(|text| serde_json::from_slice::<Header>(text).ok());
    Ok(header.and_then(|header| serde_json::from_str(&header.metadata.position).ok()))
}

fn file(folder: &Path) -> PathBuf {
    folder.join("state.safetensors")
}
