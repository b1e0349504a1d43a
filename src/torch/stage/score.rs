//! `rounds.score`: the loss of every unit of a dataset under a frozen model.

use std::path::Path;

use serde::Deserialize;
use tlm::base::Value;
use tlm::data::LossesWriter;
use tlm::data::losses::Unit;
use tlm::stage::{Context, StageError};

use crate::nn::llama::Llama;
use crate::nn::sequences::Sequences;
use crate::stage::losses::{document_losses, sequence_losses};
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
    let mean = match params.unit {
        Unit::Sequence => score_batches(context, &model, &data, Unit::Sequence, 1)?,
        Unit::Batch => score_batches(context, &model, &data, Unit::Batch, params.batch.max(1))?,
        Unit::Document => score_documents(context, &model, &data)?,
    };
    context.output("out.mean", Value::Float(mean))
}

fn score_batches(
    context: &mut Context,
    model: &Llama,
    data: &Sequences,
    unit: Unit,
    size: u64,
) -> Result<f64, StageError> {
    let largest = size.min(data.count).saturating_mul(data.length);
    if u32::try_from(largest).is_err() {
        return Err(StageError::input(format!("a unit has {largest} tokens, more than 2^32"))
            .help("use a smaller `batch`"));
    }
    let losses = sequence_losses(context, model, data)?;
    let folder = context.out_dir("out")?;
    let mut writer = LossesWriter::create(&folder, unit, size, data.length)?;
    for start in (0..data.count).step_by(size as usize) {
        let count = size.min(data.count - start);
        let nll = losses.each.range(start as usize, count as usize).sum();
        writer.push(nll, (count * data.length) as u32)?;
    }
    Ok(writer.finish()?)
}

/// A document's losses are added in the order of the sequences. All are kept while they are added, 12 bytes for each
/// document, as sequences of a view come in any order.
fn score_documents(
    context: &mut Context,
    model: &Llama,
    data: &Sequences,
) -> Result<f64, StageError> {
    let documents = data.dataset().documents()?;
    for document in 0..documents.len() {
        let tokens = documents.range(document).len();
        if u32::try_from(tokens).is_err() {
            let message = format!("document {document} has {tokens} tokens, more than 2^32");
            return Err(StageError::input(message).help("score sequences"));
        }
    }
    let losses = document_losses(context, model, data, &documents)?;
    let (mut nll, mut tokens) = (vec![0.0; documents.len()], vec![0_u32; documents.len()]);
    let parts =
        (0..data.count as usize).flat_map(|index| data.dataset().documents_of(index, &documents));
    for ((document, count), loss) in parts.zip(losses.iter()) {
        nll[document] += loss;
        tokens[document] += count as u32;
    }
    write(&context.out_dir("out")?, &nll, &tokens, data.length)
}

fn write(folder: &Path, nll: &[f64], tokens: &[u32], seq: u64) -> Result<f64, StageError> {
    let mut writer = LossesWriter::create(folder, Unit::Document, 1, seq)?;
    nll.iter().zip(tokens).try_for_each(|(nll, tokens)| writer.push(*nll, *tokens))?;
    Ok(writer.finish()?)
}
