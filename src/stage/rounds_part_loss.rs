//! `rounds.part_loss`: the mean loss of a part of the units.

use serde::Deserialize;

use crate::base::Value;
use crate::data::Losses;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    parts: u64,
    part: u64,
}

/// Runs the stage.
///
/// # Errors
/// When there is no such part, it has no tokens, or a loss is not finite.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { parts, part } = context.params()?;
    if part > parts {
        return Err(StageError::input(format!("there is no part {part} of {parts}"))
            .help("`part` counts from 1"));
    }
    let losses = Losses::open(context.input("losses"))?;
    let (sum, tokens) = losses.sum(losses.part(part - 1, parts))?;
    if tokens == 0 {
        let units = losses.len();
        let message = format!("part {part} of {parts} has no tokens: there are {units} units");
        return Err(StageError::input(message).help("make fewer parts"));
    }
    context.output("loss", Value::Float(sum / tokens as f64))?;
    context.output("tokens", Value::Int(tokens as i64))
}
