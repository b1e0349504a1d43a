//! `train.loss_at`: the training loss at a place of the training.

use serde::Deserialize;

use crate::base::Value;
use crate::data::train_log::read_log;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    tokens: u64,
    window: f64,
    on: On,
}

/// The loss on what.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum On {
    Data,
    Valid,
}

/// Runs the stage.
///
/// # Errors
/// When the log is empty, ends before that place, or has no validation up to there.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { tokens, window, on } = context.params()?;
    let log = read_log(context.input("log"))?;
    let points = log.data;
    let Some(last) = points.last() else {
        return Err(StageError::input("the log has no steps: nothing was trained")
            .help("give the training `tokens`"));
    };
    let Some(at) = points.iter().position(|point| point.tokens >= tokens as f64) else {
        let message = format!("the training ended after {} tokens, before {tokens}", last.tokens);
        return Err(StageError::input(message).help("ask for a place within the training"));
    };
    if let On::Valid = on {
        let measured = log.valid.iter().rfind(|point| point.tokens <= points[at].tokens);
        let Some(point) = measured else {
            let message = format!("the log has no validation up to {tokens} tokens");
            return Err(StageError::input(message)
                .help("give the training `valid`, and more `validations`"));
        };
        return context.output("loss", Value::Float(point.loss));
    }
    let size = ((points.len() as f64 * window).round() as usize).max(1);
    let seen = &points[(at + 1).saturating_sub(size)..=at];
    let loss = seen.iter().map(|point| point.loss).sum::<f64>() / seen.len() as f64;
    context.output("loss", Value::Float(loss))
}
