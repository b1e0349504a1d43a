//! The loss of each sequence of a dataset under a frozen model, for `rounds.score` and `eval.perplexity`, or of what documents
//! have of each.

use std::time::Instant;

use tch::{Kind, Tensor};
use tlm::data::array::Array;
use tlm::data::dataset::Documents;
use tlm::stage::{Context, StageError};

use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::nn::sequences::Sequences;
use crate::stage::scores::Scores;
use crate::stage::{check_not_empty, micro_batch};

/// Summed losses, in nats.
pub(crate) struct SequenceLosses {
    /// Of each sequence.
    pub(crate) each: Array<f64>,
    /// Of all sequences, added in order.
    pub(crate) sum: f64,
}

/// Computes the loss of every sequence.
pub(crate) fn sequence_losses(
    context: &mut Context,
    model: &Llama,
    data: &Sequences,
) -> Result<SequenceLosses, StageError> {
    check_not_empty(data)?;
    let mut scores = Scores::start(context, micro_batch(context, data, model))?;
    let sums = |indices: &[u64]| {
        Ok(indices.iter().copied().zip(each_loss(model, data, indices)?).collect())
    };
    let done = scores.done;
    compute(context, data, &mut scores, done, sums)?;
    let sum = scores.sum;
    Ok(SequenceLosses { each: scores.finish()?, sum })
}

/// Computes the loss of what documents have of every sequence, in the order of `Dataset::documents_of`.
pub(crate) fn document_losses(
    context: &mut Context,
    model: &Llama,
    data: &Sequences,
    documents: &Documents,
) -> Result<Array<f64>, StageError> {
    check_not_empty(data)?;
    let mut scores = Scores::start(context, micro_batch(context, data, model))?;
    let parts = |index: u64| data.dataset().documents_of(index as usize, documents);
    // A score is of a part of a sequence, and whole sequences are saved.
    let (mut done, mut seen) = (0, 0);
    while seen < scores.done {
        seen += parts(done).count() as u64;
        done += 1;
    }
    let sums = |indices: &[u64]| {
        let losses = token_losses(model, data, indices)?
            .f_reshape([-1])
            .and_then(|losses| losses.f_to_kind(Kind::Double))
            .and_then(Vec::<f64>::try_from)
            .map_err(fault)?;
        let mut rest = &losses[..];
        let parts = indices.iter().flat_map(|index| parts(*index).map(|part| (*index, part.1)));
        let sums = parts.map(|(index, tokens)| {
            let (own, others) = rest.split_at(tokens);
            rest = others;
            (index, own.iter().sum())
        });
        Ok(sums.collect())
    };
    compute(context, data, &mut scores, done, sums)?;
    scores.finish()
}

/// Scores sequences from `done` on. `sums` makes scores of some sequences, each with the sequence that it is of.
fn compute(
    context: &mut Context,
    data: &Sequences,
    scores: &mut Scores,
    mut done: u64,
    sums: impl Fn(&[u64]) -> Result<Vec<(u64, f64)>, StageError>,
) -> Result<(), StageError> {
    while done < data.count {
        scores.rest(context, done * data.length)?;
        let start = Instant::now();
        let end = (done + scores.micro_batch).min(data.count);
        let indices: Vec<u64> = (done..end).collect();
        for (index, loss) in sums(&indices)? {
            if !loss.is_finite() {
                return Err(StageError::input(format!(
                    "the loss of sequence {index} is {loss}: the model has diverged"
                ))
                .help("train it with a smaller `lr`"));
            }
            scores.push(loss)?;
        }
        let speed = ((end - done) * data.length) as f64 / start.elapsed().as_secs_f64();
        done = end;
        let tokens = done * data.length;
        context.progress(tokens, Some(data.count * data.length), "tokens");
        context.metric("loss", scores.sum / tokens as f64);
        context.metric("tokens_per_s", speed.round());
    }
    Ok(())
}

/// Returns the summed loss of each of some sequences.
pub(crate) fn each_loss(
    model: &Llama,
    data: &Sequences,
    indices: &[u64],
) -> Result<Vec<f64>, StageError> {
    token_losses(model, data, indices)?
        .f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double)
        .and_then(Vec::<f64>::try_from)
        .map_err(fault)
}

/// Returns the loss of each token of some sequences, `[sequences, length]`.
fn token_losses(model: &Llama, data: &Sequences, indices: &[u64]) -> Result<Tensor, StageError> {
    let rows = data.batch(indices, model.device())?;
    let losses = model.nll(&rows).and_then(|nll| nll.f_view([indices.len() as i64, -1]));
    losses.map_err(fault)
}
