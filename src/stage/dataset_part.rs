//! `dataset.part`: one of several random parts, as a view.

use serde::Deserialize;

use crate::base::Value;
use crate::data::Dataset;
use crate::data::mix::shuffled;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    parts: u64,
    part: u64,
    seed: i64,
}

/// Runs the stage.
///
/// # Errors
/// When there is no such part, or it is empty.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { parts, part, seed } = context.params()?;
    if part > parts {
        return Err(StageError::input(format!("there is no part {part} of {parts}"))
            .help("`part` counts from 1"));
    }
    let data = Dataset::open(context.input("data"))?;
    let count = data.len() as u64;
    let cut = |part: u64| (u128::from(count) * u128::from(part) / u128::from(parts)) as u64;
    // The order in which training takes the sequences with this seed, so that it trains on the parts one after the other.
    let place = |position| shuffled(position, count, seed as u64) as usize;
    let ids: Vec<u64> =
        (cut(part - 1)..cut(part)).map(|position| data.sequence_id(place(position))).collect();
    if ids.is_empty() {
        let message = format!("part {part} of {parts} has none of the {count} sequences");
        return Err(StageError::input(message).help("make fewer parts"));
    }
    data.write_view(&context.out_dir("out")?, &ids)?;
    context.output("out.tokens", Value::Int((ids.len() * data.seq()) as i64))?;
    context.output("out.sequences", Value::Int(ids.len() as i64))?;
    Ok(())
}
