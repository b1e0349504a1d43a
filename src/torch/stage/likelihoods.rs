//! How likely answers are, for `eval.choice` and `eval.last_word`.

use std::fs::File;
use std::io::{BufWriter, Write};

use serde_json::Value;
use tch::{Kind, TchError, Tensor};
use tlm::data::Tokenizer;
use tlm::data::request::Request;
use tlm::stage::{Context, StageError};

use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::stage::scores::Scores;
use crate::stage::tokens_at_once;

/// Opens the tokenizer of a model, which must have an embedding for each of its ids.
pub(crate) fn own_tokenizer(context: &Context, model: &Llama) -> Result<Tokenizer, StageError> {
    let tokenizer = Tokenizer::open(context.input("model"))?;
    if tokenizer.size() <= model.config.vocab as u64 {
        return Ok(tokenizer);
    }
    let (ids, rows) = (tokenizer.size(), model.config.vocab);
    Err(StageError::input(format!(
        "the model's tokenizer has {ids} ids, but the model has embeddings for {rows}"
    ))
    .help("give a model whose tokenizer is its own"))
}

/// Returns the scores of each answer, `score` giving those of some: the log-likelihood first, in nats. Long answers come first,
/// so that those of one batch have about one length, and what does not fit into memory shows at once.
pub(crate) fn scored<const N: usize>(
    context: &mut Context,
    model: &Llama,
    requests: &[Request],
    score: impl Fn(&Llama, &[&Request]) -> Result<Vec<[f64; N]>, TchError>,
) -> Result<Vec<[f64; N]>, StageError> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(requests[index].tokens.len()), index));
    let micro_batch = context.action().micro_batch.map_or(0, |given| u64::from(given.max(1)));
    let mut scores = Scores::start(context, micro_batch)?;
    while let Some(rest) = order.get(scores.done as usize / N..).filter(|rest| !rest.is_empty()) {
        scores.rest(context, scores.done / N as u64)?;
        let longest = requests[rest[0]].tokens.len() as u64 - 1;
        let count = match scores.micro_batch {
            0 => (tokens_at_once(model) / longest.max(1)).max(1),
            given => given,
        };
        let batch: Vec<&Request> =
            rest.iter().take(count as usize).map(|&index| &requests[index]).collect();
        let mut sum = 0.0;
        for values in score(model, &batch).map_err(fault)? {
            if !values[0].is_finite() {
                return Err(StageError::input(format!(
                    "the log-likelihood of an answer is {}: the model has diverged",
                    values[0]
                ))
                .help("train it with a smaller `lr`"));
            }
            sum += values[0];
            values.into_iter().try_for_each(|value| scores.push(value))?;
        }
        context.progress(scores.done / N as u64, Some(requests.len() as u64), "answers");
        context.metric("loss", -sum / batch.len() as f64);
    }
    let scores: Vec<f64> = scores.finish()?.iter().collect();
    let mut values = vec![[0.0; N]; requests.len()];
    order.iter().zip(scores.as_chunks::<N>().0).for_each(|(&index, own)| values[index] = *own);
    Ok(values)
}

/// Writes the output `answers`, a line of JSON for each.
pub(crate) fn write_answers(context: &Context, lines: &[Value]) -> Result<(), StageError> {
    let path = context.out("answers");
    let io = |e| StageError::io("write", &path, &e);
    let mut file = BufWriter::new(File::create(&path).map_err(io)?);
    lines.iter().try_for_each(|line| writeln!(file, "{line}")).map_err(io)?;
    file.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)
}

/// What a model makes of the tokens of some answers, end to end.
pub(crate) struct Asked<'m> {
    model: &'m Llama,
    /// Hidden states before each token, a row each.
    hidden: Tensor,
    targets: Tensor,
    /// How many tokens each answer has.
    lengths: Vec<usize>,
}

/// Reads answers, the longest request first. What fills up a shorter one comes after it, where causal attention does not look.
pub(crate) fn asked<'m>(model: &'m Llama, batch: &[&Request]) -> Result<Asked<'m>, TchError> {
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
    let hidden = model.hidden_at(&ids, &tensor(&places)?)?;
    let lengths = batch.iter().map(|request| request.answer).collect();
    Ok(Asked { model, hidden, targets: tensor(&targets)?, lengths })
}

impl Asked<'_> {
    /// Returns the log-likelihood of each answer.
    pub(crate) fn sums(&self) -> Result<Vec<f64>, TchError> {
        let nll = self.model.nll_after(&self.hidden, &self.targets)?;
        let nll = Vec::<f64>::try_from(nll.f_to_kind(Kind::Double)?)?;
        Ok(self.each(&nll, |own| -own.iter().sum::<f64>()))
    }

    /// Returns whether the model, taking always the likeliest token, would write each answer.
    pub(crate) fn are_greedy(&self) -> Result<Vec<bool>, TchError> {
        let likeliest = self.model.are_likeliest(&self.hidden, &self.targets)?;
        Ok(self.each(&likeliest, |own| own.iter().all(|&one| one)))
    }

    fn each<T, R>(&self, tokens: &[T], of: impl Fn(&[T]) -> R) -> Vec<R> {
        let mut rest = tokens;
        let each = self.lengths.iter().map(|&length| {
            let (own, others) = rest.split_at(length);
            rest = others;
            of(own)
        });
        each.collect()
    }
}
