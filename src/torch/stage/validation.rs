//! The loss on other data, measured on the way through a training.

use serde_json::json;
use tlm::stage::{Context, StageError};

use crate::nn::llama::Llama;
use crate::nn::sequences::Sequences;
use crate::stage::losses::each_loss;
use crate::stage::{Attention, check_not_empty, open_dataset};

/// Data to measure the loss on, and when.
pub(super) struct Validation {
    data: Sequences,
    /// How many times, after equal parts of the steps.
    times: u64,
    steps: u64,
}

impl Validation {
    /// Returns that of a training with the optional input `valid`.
    pub(super) fn of(
        context: &Context,
        model: &Llama,
        attention: Attention,
        times: u64,
        steps: u64,
    ) -> Result<Option<Self>, StageError> {
        let Some(path) = context.optional("valid") else { return Ok(None) };
        let data = open_dataset(path, model, attention)?;
        check_not_empty(&data)?;
        Ok(Some(Self { data, times: times.min(steps), steps }))
    }

    /// Returns whether the next one is due after so many steps.
    pub(super) fn is_due(&self, done: u64, step: u64) -> bool {
        done < self.times && step >= (self.steps * (done + 1)).div_ceil(self.times)
    }

    /// Returns the mean loss, in nats per token; none when interrupted. About `tokens` go through the model at once.
    pub(super) fn loss(
        &self,
        context: &mut Context,
        model: &Llama,
        tokens: u64,
    ) -> Result<Option<f64>, StageError> {
        let micro_batch = (tokens / self.data.length).max(1);
        let mut sum = 0.0;
        let mut done = 0;
        while done < self.data.count {
            if context.interrupted() {
                return Ok(None);
            }
            let end = (done + micro_batch).min(self.data.count);
            let indices: Vec<u64> = (done..end).collect();
            sum += each_loss(model, &self.data, &indices)?.iter().sum::<f64>();
            done = end;
            context.metric("validated", (done as f64 / self.data.count as f64 * 100.0).round());
        }
        Ok(Some(sum / (self.data.count * self.data.length) as f64))
    }
}

/// Returns the line of the log.
pub(super) fn line(step: u64, tokens: u64, loss: f64) -> String {
    format!("{}\n", json!({"step": step, "tokens": tokens, "valid_loss": loss}))
}
