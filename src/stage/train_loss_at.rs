//! `train.loss_at`: the training loss at a place of the training.

use serde::Deserialize;

use crate::base::Value;
use crate::data::train_log::read_log;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    tokens: u64,
    window: f64,
}

/// Runs the stage.
///
/// # Errors
/// When the log is empty or ends before that place.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { tokens, window } = context.params()?;
    let points = read_log(context.input("log"))?;
    let Some(last) = points.last() else {
        return Err(StageError::input("the log has no steps: nothing was trained")
            .help("give the training `tokens`"));
    };
    let Some(at) = points.iter().position(|point| point.tokens >= tokens as f64) else {
        let message = format!("the training ended after {} tokens, before {tokens}", last.tokens);
        return Err(StageError::input(message).help("ask for a place within the training"));
    };
    let size = ((points.len() as f64 * window).round() as usize).max(1);
    let seen = &points[(at + 1).saturating_sub(size)..=at];
    let loss = seen.iter().map(|point| point.loss).sum::<f64>() / seen.len() as f64;
    context.output("loss", Value::Float(loss))
}
