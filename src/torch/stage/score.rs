//! `rounds.score`: the loss of every unit of a dataset under a frozen model.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use tch::Kind;
use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::nn::sequences::Sequences;
use crate::stage::{load, micro_batch, open_data};

#[derive(Deserialize)]
struct Params {
    unit: Unit,
    batch: u64,
    dtype: String,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Sequence,
    Batch,
}

/// Writes sum of losses and number of tokens of each unit.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "model", &params.dtype)?;
    let data = open_data(context, &model)?;
    let sums = sequence_losses(context, &model, &data)?;
    let size = if params.unit == Unit::Batch { params.batch.max(1) } else { 1 };
    let units: Vec<(f64, u32)> = sums
        .chunks(size as usize)
        .map(|unit| (unit.iter().sum(), (unit.len() as u64 * data.length) as u32))
        .collect();
    let folder = context.out_dir("out")?;
    let write = |name: &str, bytes: Vec<u8>| write(&folder.join(name), &bytes);
    write("nll.f64", units.iter().flat_map(|(nll, _)| nll.to_le_bytes()).collect())?;
    write("tokens.u32", units.iter().flat_map(|(_, tokens)| tokens.to_le_bytes()).collect())?;
    let meta = json!({
        "unit": if params.unit == Unit::Batch { "batch" } else { "sequence" },
        "batch": size,
        "units": units.len(),
        "seq": data.length,
    });
    write("meta.json", format!("{meta}\n").into_bytes())?;
    let tokens = data.count * data.length;
    let mean = sums.iter().sum::<f64>() / tokens as f64;
    context.output("out.mean", Value::Float(mean));
    Ok(())
}

/// Returns the summed loss of each sequence, in nats.
pub(crate) fn sequence_losses(
    context: &mut Context,
    model: &Llama,
    data: &Sequences,
) -> Result<Vec<f64>, StageError> {
    if data.count == 0 {
        return Err(StageError::input("the dataset has no whole sequence")
            .help("give more text, or pack it with a smaller `seq`"));
    }
    let at_once = micro_batch(context, data, model);
    let mut sums: Vec<f64> = Vec::with_capacity(data.count as usize);
    while (sums.len() as u64) < data.count {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let start = sums.len() as u64;
        let indices: Vec<u64> = (start..(start + at_once).min(data.count)).collect();
        let (inputs, targets) = data.batch(&indices, model.device())?;
        let batch = model
            .nll(&inputs, &targets)
            .and_then(|nll| nll.f_view([indices.len() as i64, -1]))
            .and_then(|nll| nll.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double))
            .and_then(Vec::<f64>::try_from)
            .map_err(fault)?;
        if let Some(bad) = batch.iter().position(|sum| !sum.is_finite()) {
            let index = start + bad as u64;
            return Err(StageError::input(format!(
                "the loss of sequence {index} is {}: the model is broken",
                batch[bad]
            ))
            .help("train it with a smaller `lr`"));
        }
        sums.extend(batch);
        let done = sums.len() as u64;
        context.progress(done * data.length, Some(data.count * data.length), "tokens");
        context.metric("loss", sums.iter().sum::<f64>() / (done * data.length) as f64);
    }
    Ok(sums)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    fs::write(path, bytes).map_err(|e| StageError::io("write", path, &e))
}
