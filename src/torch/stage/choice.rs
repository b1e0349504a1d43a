//! `eval.choice`: multiple choice by the likelihood of each answer, as lm-evaluation-harness does.

use std::fs::File;
use std::io::{BufWriter, Write};

use serde::Deserialize;
use serde_json::json;
use tch::{Kind, TchError, Tensor};
use tlm::base::Value;
use tlm::data::Tokenizer;
use tlm::data::choice::{Format, Question, Request, accuracy, likeliest, read_questions, requests};
use tlm::stage::{Context, StageError};

use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::stage::scores::Scores;
use crate::stage::{load, skip, tokens_at_once};

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
    let tokenizer = Tokenizer::open(context.input("model"))?;
    if tokenizer.size() > model.config.vocab as u64 {
        let (ids, rows) = (tokenizer.size(), model.config.vocab);
        return Err(StageError::input(format!(
            "the model's tokenizer has {ids} ids, but the model has embeddings for {rows}"
        ))
        .help("give a model whose tokenizer is its own"));
    }
    let limit = model.config.context as usize;
    let requests = requests(&task, &questions, &format.delimiter, &tokenizer, limit)?;
    let likelihoods = log_likelihoods(context, &model, &requests)?;
    publish(context, &questions, &likelihoods)
}

/// Returns the log-likelihood of each answer, in nats. Long ones come first, so that those of one batch have about one length,
/// and what does not fit into memory shows at once.
fn log_likelihoods(
    context: &mut Context,
    model: &Llama,
    requests: &[Request],
) -> Result<Vec<f64>, StageError> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(requests[index].tokens.len()), index));
    let micro_batch = context.action().micro_batch.map_or(0, |given| u64::from(given.max(1)));
    let mut scores = Scores::start(context, micro_batch)?;
    while let Some(rest) = order.get(scores.done as usize..).filter(|rest| !rest.is_empty()) {
        scores.rest(context, scores.done)?;
        let longest = requests[rest[0]].tokens.len() as u64 - 1;
        let count = match scores.micro_batch {
            0 => (tokens_at_once(model) / longest.max(1)).max(1),
            given => given,
        };
        let batch: Vec<&Request> =
            rest.iter().take(count as usize).map(|&index| &requests[index]).collect();
        for value in score(model, &batch).map_err(fault)? {
            if !value.is_finite() {
                return Err(StageError::input(format!(
                    "the log-likelihood of an answer is {value}: the model has diverged"
                ))
                .help("train it with a smaller `lr`"));
            }
            scores.push(value)?;
        }
        context.progress(scores.done, Some(requests.len() as u64), "answers");
        context.metric("loss", -scores.sum / scores.done as f64);
    }
    let scores = scores.finish()?;
    let mut values = vec![0.0; requests.len()];
    order.iter().zip(scores.iter()).for_each(|(&index, value)| values[index] = value);
    Ok(values)
}

/// Returns the log-likelihood of the answer of each request, the longest of which is the first. What fills up a shorter one
/// comes after it, where causal attention does not look.
fn score(model: &Llama, batch: &[&Request]) -> Result<Vec<f64>, TchError> {
    let length = batch[0].tokens.len() - 1;
    let (mut ids, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (row, request) in batch.iter().enumerate() {
        let tokens = &request.tokens;
        let read = tokens.len() - 1;
        ids.extend(tokens[..read].iter().map(|&id| i64::from(id)));
        ids.resize((row + 1) * length, 0);
        places.extend((read - request.answer..read).map(|at| (row * length + at) as i64));
        targets.extend(tokens[tokens.len() - request.answer..].iter().map(|&id| i64::from(id)));
    }
    let tensor = |numbers: &[i64]| Tensor::f_from_slice(numbers)?.f_to_device(model.device());
    let ids = tensor(&ids)?.f_view([batch.len() as i64, length as i64])?;
    let nll = model.nll_at(&ids, &tensor(&places)?, &tensor(&targets)?)?;
    let nll = Vec::<f64>::try_from(nll.f_to_kind(Kind::Double)?)?;
    let mut rest = nll.as_slice();
    let sums = batch.iter().map(|request| {
        let (own, others) = rest.split_at(request.answer);
        rest = others;
        -own.iter().sum::<f64>()
    });
    Ok(sums.collect())
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
