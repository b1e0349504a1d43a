//! `eval.choice`: multiple choice by the likelihood of each answer, as lm-evaluation-harness does.

use std::fs::File;
use std::io::{BufWriter, Write};

use serde::Deserialize;
use serde_json::json;
use tlm::base::Value;
use tlm::data::choice::{Format, Question, accuracy, likeliest, read_questions, requests};
use tlm::stage::{Context, StageError};

use crate::nn::runtime::fault;
use crate::stage::likelihoods::{asked, own_tokenizer, scored};
use crate::stage::{load, skip};

#[derive(Deserialize)]
struct Params {
    shots: u64,
    prompt: String,
    delimiter: String,
    separator: String,
    skip: u64,
    skip_from: u64,
    dtype: String,
}

/// Tells how many answers are right, and writes the likelihoods.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let mut model = load(context, "model", &params.dtype)?;
    skip(&mut model, params.skip_from, params.skip)?;
    let model = model.frozen().map_err(fault)?;
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
    let path = context.out("answers");
    let io = |e| StageError::io("write", &path, &e);
    let mut file = BufWriter::new(File::create(&path).map_err(io)?);
    let sizes: [fn(&str) -> usize; 3] = [|_| 1, |text| text.chars().count(), str::len];
    let mut right = [const { Vec::new() }; 3];
    let mut rest = likelihoods;
    for question in questions {
        let (own, others) = rest.split_at(question.choices.len());
        rest = others;
        let picked = sizes.map(|size| likeliest(question, own, size));
        right.iter_mut().zip(picked).for_each(|(right, at)| right.push(at == question.gold));
        let [by_answer, by_character, by_byte] = picked;
        let line = json!({
            "gold": question.gold,
            "log_likelihoods": own,
            "picked": by_answer,
            "picked_norm": by_character,
            "picked_bytes": by_byte,
        });
        writeln!(file, "{line}").map_err(io)?;
    }
    file.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
    for (name, right) in ["acc", "acc_norm", "acc_bytes"].iter().zip(right) {
        let accuracy = accuracy(&right);
        context.output(name, Value::Float(accuracy.mean))?;
        context.output(&format!("{name}_stderr"), Value::Float(accuracy.stderr))?;
    }
    context.output("questions", Value::Int(questions.len() as i64))
}
