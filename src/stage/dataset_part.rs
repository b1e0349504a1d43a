//! `dataset.part`: one of several random parts, as a view.

use serde::Deserialize;

use crate::base::Value;
use crate::data::Dataset;
use crate::data::order::Order;
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
    // As training takes them with this seed.
    let order = Order::new(count, seed, parts, count);
    let ids: Vec<u64> =
        order.sequences_of(part - 1).map(|index| data.sequence_id(index as usize)).collect();
    if ids.is_empty() {
        let message = format!("part {part} of {parts} has none of the {count} sequences");
        return Err(StageError::input(message).help("make fewer parts"));
    }
    data.write_view(&context.out_dir("out")?, ids.iter().copied())?;
    context.output("out.tokens", Value::Int((ids.len() * data.seq()) as i64))?;
    context.output("out.sequences", Value::Int(ids.len() as i64))?;
    Ok(())
}
