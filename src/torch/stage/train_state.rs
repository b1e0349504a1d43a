//! A training run's resume state: parameters, optimiser and position in one safetensors file, and the log beside it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tlm::base::Digest;
use tlm::stage::{Context, StageError};

use crate::nn::runtime::{f32_bytes, fault};
use crate::nn::weights::{Safetensors, Weights, Writer};
use crate::stage::journal::{Journal, Mark};
use crate::stage::state::{Origin, replace, seal, unseal};

/// Where a run stands, besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) origin: Origin,
    /// Steps done.
    pub(crate) step: u64,
    /// Updates done: steps less those that were left out.
    pub(crate) updates: u64,
    /// Validations done.
    pub(crate) validations: u64,
    /// Losses of the last steps, newest last.
    pub(crate) losses: Vec<f64>,
    /// Gradient norms of the same steps.
    pub(crate) norms: Vec<f64>,
    /// Digests of the models kept so far, in order.
    pub(crate) kept: Vec<Digest>,
}

/// What the file says besides its tensors.
#[derive(Serialize, Deserialize)]
struct Header {
    position: Position,
    log: Mark,
    /// Digests of the tensors.
    digests: Vec<Digest>,
}

/// A state that is whole and fits the action.
pub(crate) struct Saved {
    pub(crate) position: Position,
    pub(crate) log: Journal,
    tensors: Safetensors,
}

const FILE: &str = "state.safetensors";

/// What a state holds, by name.
pub(crate) type Tensors = Vec<(&'static str, Tensor)>;

/// Saves a state. Whatever happens meanwhile, the folder holds the old one or the new one.
pub(crate) fn save(
    folder: &Path,
    tensors: &Tensors,
    position: &Position,
    log: Mark,
) -> Result<(), StageError> {
    let names = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.size())).collect();
    let digest = |(_, tensor): &(_, Tensor)| f32_bytes(tensor).map(|bytes| Digest::of(&bytes));
    let digests = tensors.iter().map(digest).collect::<Result<_, _>>().map_err(fault)?;
    let header = Header { position: position.clone(), log, digests };
    let fresh = folder.join("state.new");
    let mut writer = Writer::create(&fresh, names, ("header", &seal(&header)))?;
    tensors.iter().try_for_each(|(name, tensor)| writer.push(name, tensor))?;
    writer.finish()?;
    replace(folder, &fresh, &folder.join(FILE))
}

/// Returns where the state folder has a model that was kept, counted from 1.
pub(crate) fn kept_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("kept-{number}.safetensors"))
}

/// Returns the saved state; none where there is none. Fails with the reason where there is one that can't be used.
pub(crate) fn find(context: &Context, wanted: &Tensors) -> Result<Option<Saved>, String> {
    let folder = context.state_dir();
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let damaged = || "it is damaged".to_owned();
    let tensors = Safetensors::open_file(&path).map_err(|_| damaged())?;
    let header: Header = unseal(tensors.metadata("header").ok_or_else(damaged)?)?;
    header.position.origin.check(context)?;
    let same = |((name, tensor), digest): (&(&str, Tensor), &Digest)| {
        tensors.shape(name) == Some(tensor.size()) && tensors.digest(name) == Some(*digest)
    };
    if header.digests.len() != wanted.len() || !wanted.iter().zip(&header.digests).all(same) {
        return Err(damaged());
    }
    for (number, digest) in (1..).zip(&header.position.kept) {
        if Digest::of_file(&kept_file(folder, number)).ok() != Some(*digest) {
            return Err(format!("model {number} of those it kept is damaged or missing"));
        }
    }
    let log = Journal::reopen(folder.join("log.jsonl"), &header.log)
        .ok_or("its log is damaged or missing")?;
    Ok(Some(Saved { position: header.position, log, tensors }))
}

impl Saved {
    /// Puts the tensors into those of a fresh run.
    pub(crate) fn restore(&self, into: &Tensors) -> Result<(), StageError> {
        for (name, target) in into {
            let value = self.tensors.load(name, &target.size())?;
            tch::no_grad(|| target.shallow_clone().f_copy_(&value)).map_err(fault)?;
        }
        Ok(())
    }
}
