//! `rounds.score`: the loss of every unit of a dataset under a frozen model.

use serde::Deserialize;
use tlm::base::Value;
use tlm::data::LossesWriter;
use tlm::data::losses::Unit;
use tlm::stage::{Context, StageError};

use crate::stage::losses::sequence_losses;
use crate::stage::{Attention, load, open_data};

#[derive(Deserialize)]
struct Params {
    unit: Unit,
    batch: u64,
    dtype: String,
    attention: Attention,
}

/// Writes sum of losses and number of tokens of each unit.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "model", &params.dtype)?;
    let data = open_data(context, &model, params.attention)?;
    let size = if params.unit == Unit::Batch { params.batch.max(1) } else { 1 };
    let largest = size.min(data.count).saturating_mul(data.length);
    if u32::try_from(largest).is_err() {
        return Err(StageError::input(format!("a unit has {largest} tokens, more than 2^32"))
            .help("use a smaller `batch`"));
    }
    let losses = sequence_losses(context, &model, &data)?;
    let folder = context.out_dir("out")?;
    let mut writer = LossesWriter::create(&folder, params.unit, size, data.length)?;
    for start in (0..data.count).step_by(size as usize) {
        let count = size.min(data.count - start);
        let nll = losses.each.range(start as usize, count as usize).sum();
        writer.push(nll, (count * data.length) as u32)?;
    }
    context.output("out.mean", Value::Float(writer.finish()?))
}
