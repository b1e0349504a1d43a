//! `eval.choice`: multiple choice by the likelihood of each answer, as lm-evaluation-harness does.

use serde::Deserialize;
use serde_json::json;
use tlm::base::Value;
use tlm::data::choice::{Format, Question, accuracy, likeliest, read_questions, requests};
use tlm::stage::{Context, StageError};

use crate::nn::runtime::fault;
use crate::stage::Measured;
use crate::stage::likelihoods::{asked, own_tokenizer, scored, write_answers};

#[derive(Deserialize)]
struct Params {
    shots: u64,
    prompt: String,
    delimiter: String,
    separator: String,
    #[serde(flatten)]
    measured: Measured,
}

/// Tells how many answers are right, and writes the likelihoods.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = params.measured.load(context)?.frozen().map_err(fault)?;
    let task = context.input("task").to_path_buf();
    let format = Format {
        prompt: params.prompt,
        delimiter: params.delimiter,
        separator: params.separator,
        shots: params.shots as usize,
    };
    let questions = read_questions(&task, &format)?;
    let tokenizer = own_tokenizer(context, &model)?;
    let limit = model.config.context as usize;
    let requests = requests(&task, &questions, &format.delimiter, &tokenizer, limit)?;
    let likelihoods = scored(context, &model, &requests, |model, batch| {
        Ok(asked(model, batch)?.sums()?.into_iter().map(|sum| [sum]).collect())
    })?;
    publish(context, &questions, likelihoods.as_flattened())
}

fn publish(
    context: &mut Context,
    questions: &[Question],
    likelihoods: &[f64],
) -> Result<(), StageError> {
    let mut lines = Vec::with_capacity(questions.len());
    let sizes: [fn(&str) -> usize; 3] = [|_| 1, |text| text.chars().count(), str::len];
    let mut right = [const { Vec::new() }; 3];
    let mut rest = likelihoods;
    for question in questions {
        let (own, others) = rest.split_at(question.choices.len());
        rest = others;
        let picked = sizes.map(|size| likeliest(question, own, size));
        right.iter_mut().zip(picked).for_each(|(right, at)| right.push(at == question.gold));
        let [by_answer, by_character, by_byte] = picked;
        lines.push(json!({
            "gold": question.gold,
            "log_likelihoods": own,
            "picked": by_answer,
            "picked_norm": by_character,
            "picked_bytes": by_byte,
        }));
    }
    write_answers(context, &lines)?;
    for (name, right) in ["acc", "acc_norm", "acc_bytes"].iter().zip(right) {
        let accuracy = accuracy(&right);
        context.output(name, Value::Float(accuracy.mean))?;
        context.output(&format!("{name}_stderr"), Value::Float(accuracy.stderr))?;
    }
    context.output("questions", Value::Int(questions.len() as i64))
}
