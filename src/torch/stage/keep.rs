//! `train.keep`: training that keeps the model at several places on the way.

use std::fs;

use serde::Deserialize;
use tlm::base::Digest;
use tlm::data::snapshots::Snapshots;
use tlm::data::tokenizer::files::copy_tokenizer;
use tlm::stage::{Context, StageError};

use crate::stage::train::{Keeping, Params, Run, train};
use crate::stage::train_state::kept_file;

#[derive(Deserialize)]
struct All {
    #[serde(flatten)]
    params: Params,
    #[serde(flatten)]
    keeping: Keeping,
}

/// Trains, from the state folder's position if it has one.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let All { params, keeping } = context.params()?;
    train(context, &params, keeping)
}

impl Run {
    /// Keeps the model, if another part of the training is over, in the state folder until the end.
    pub(super) fn keep_if_due(&mut self, context: &Context) -> Result<(), StageError> {
        let number = self.position.kept.len() as u64 + 1;
        if number > self.snapshots || self.position.step < self.snapshot_step(number) {
            return Ok(());
        }
        let path = kept_file(context.state_dir(), number);
        self.model.save_weights(&path)?;
        let digest = Digest::of_file(&path).map_err(|e| StageError::io("read", &path, &e))?;
        self.position.kept.push(digest);
        Ok(())
    }

    /// Returns after which step a model is kept, counted from 1.
    fn snapshot_step(&self, number: u64) -> u64 {
        (self.course.steps * number).div_ceil(self.snapshots)
    }

    /// Publishes the models kept, and the optimiser's memory.
    pub(super) fn publish_kept(&self, context: &Context) -> Result<(), StageError> {
        self.publish_optimiser(context)?;
        let out = context.out_dir("snapshots")?;
        let numbers = 1..=self.snapshots;
        for number in numbers.clone() {
            let folder = Snapshots::folder(&out, number);
            fs::create_dir(&folder).map_err(|e| StageError::io("create", &folder, &e))?;
            self.model.config.write(&folder)?;
            copy_tokenizer(context.input("init"), &folder)?;
            let (kept, to) =
                (kept_file(context.state_dir(), number), folder.join("model.safetensors"));
            // The state stays whole until the step is done.
            fs::hard_link(&kept, &to)
                .or_else(|_| fs::copy(&kept, &to).map(|_| ()))
                .map_err(|e| StageError::io("write", &to, &e))?;
        }
        let tokens =
            numbers.map(|number| self.snapshot_step(number) * self.step_tokens()).collect();
        Ok(Snapshots { tokens, params: self.model.config.params() }.write(&out)?)
    }
}
