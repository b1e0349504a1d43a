//! The loss of each sequence of a dataset under a frozen model, for `rounds.score` and `eval.perplexity`.

use std::time::Instant;

use tch::Kind;
use tlm::data::array::Array;
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
    while scores.done < data.count {
        scores.rest(context, scores.done * data.length)?;
        let (start, before) = (Instant::now(), scores.done);
        step(&mut scores, model, data)?;
        let speed = ((scores.done - before) * data.length) as f64 / start.elapsed().as_secs_f64();
        let tokens = scores.done * data.length;
        context.progress(tokens, Some(data.count * data.length), "tokens");
        context.metric("loss", scores.sum / tokens as f64);
        context.metric("tokens_per_s", speed.round());
    }
    let sum = scores.sum;
    Ok(SequenceLosses { each: scores.finish()?, sum })
}

/// Scores the next sequences.
fn step(scores: &mut Scores, model: &Llama, data: &Sequences) -> Result<(), StageError> {
    let end = (scores.done + scores.micro_batch).min(data.count);
    let indices: Vec<u64> = (scores.done..end).collect();
    let losses = each_loss(model, data, &indices)?;
    for (index, loss) in indices.iter().zip(losses) {
        if !loss.is_finite() {
            return Err(StageError::input(format!(
                "the loss of sequence {index} is {loss}: the model has diverged"
            ))
            .help("train it with a smaller `lr`"));
        }
        scores.push(loss)?;
    }
    Ok(())
}

/// Returns the summed loss of each of some sequences.
pub(crate) fn each_loss(
    model: &Llama,
    data: &Sequences,
    indices: &[u64],
) -> Result<Vec<f64>, StageError> {
    let rows = data.batch(indices, model.device())?;
    model
        .nll(&rows)
        .and_then(|nll| nll.f_view([indices.len() as i64, -1]))
        .and_then(|nll| nll.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double))
        .and_then(Vec::<f64>::try_from)
        .map_err(fault)
}
