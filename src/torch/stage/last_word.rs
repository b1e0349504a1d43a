//! `eval.last_word`: whether a model guesses the last word of a text, as lm-evaluation-harness asks for LAMBADA.

use serde_json::json;
use tlm::base::Value;
use tlm::data::choice::accuracy;
use tlm::data::last_word::{perplexity, read_passages, requests};
use tlm::stage::{Context, StageError};

use crate::nn::runtime::fault;
use crate::stage::Measured;
use crate::stage::likelihoods::{asked, own_tokenizer, scored, write_answers};

/// Tells how many words are guessed right and how surprising they are, and writes the likelihoods.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Measured = context.params()?;
    let model = params.load(context)?.frozen().map_err(fault)?;
    let task = context.input("task").to_path_buf();
    let passages = read_passages(&task)?;
    let tokenizer = own_tokenizer(context, &model)?;
    let requests = requests(&task, &passages, &tokenizer, model.config.context as usize)?;
    let scores = scored(context, &model, &requests, |model, batch| {
        let asked = asked(model, batch)?;
        let greedy = asked.are_greedy()?.into_iter().map(|is| if is { 1.0 } else { 0.0 });
        Ok(asked.sums()?.into_iter().zip(greedy).map(|(sum, greedy)| [sum, greedy]).collect())
    })?;
    publish(context, &scores)
}

/// Writes of each text the log-likelihood of its last word, and whether that is what the model would write.
fn publish(context: &mut Context, scores: &[[f64; 2]]) -> Result<(), StageError> {
    let sums: Vec<f64> = scores.iter().map(|[sum, _]| *sum).collect();
    let right: Vec<bool> = scores.iter().map(|[_, greedy]| *greedy > 0.5).collect();
    let perplexity = perplexity(&sums);
    if !(perplexity.mean.is_finite() && perplexity.stderr.is_finite()) {
        return Err(StageError::input(
            "the model has diverged: its perplexity is larger than any number",
        )
        .help("train it with a smaller `lr`"));
    }
    let lines = sums.iter().zip(&right);
    let lines = lines.map(|(sum, right)| json!({"log_likelihood": sum, "right": right}));
    write_answers(context, &lines.collect::<Vec<_>>())?;
    let accuracy = accuracy(&right);
    context.output("acc", Value::Float(accuracy.mean))?;
    context.output("acc_stderr", Value::Float(accuracy.stderr))?;
    context.output("perplexity", Value::Float(perplexity.mean))?;
    context.output("perplexity_stderr", Value::Float(perplexity.stderr))?;
    context.output("questions", Value::Int(scores.len() as i64))
}
