//! What each stage makes of what is known of its inputs, and the floating-point operations it takes (`docs/cost.md`).
//!
//! The rules are here and not beside the stages: a plan is made without the code of tensor stages, and some stages have none yet.

use std::rc::Rc;

use crate::base::Value;
use crate::graph::cost::{Call, Facts, Known, Shape, Unknown};

/// Returns what is known of a step's outputs, and its floating-point operations: none for stages without tensors.
pub(super) fn rule(call: &Call<'_>) -> (Facts, Known<f64>) {
    let later = Facts::all(Unknown::Until(call.id));
    let free = |facts: Facts| (facts, Ok(0.0));
    let stage = call.step().stage();
    match &*stage.name {
        "dataset.pack" => free(Facts { seq: call.number("seq"), ..later }),
        "dataset.part" => {
            free(Facts { seq: call.facts("data").seq, sequences: part(call), ..later })
        }
        "dataset.remap" => free(Facts { seq: call.facts("data").seq, ..later }),
        "eval.perplexity" => (later, scoring(call)),
        "eval.speed" => (later, writing(call)),
        // Nothing counts the tokens of a task.
        "eval.choice" | "eval.last_word" | "eval.rouge" => (later, Err(Unknown::Never)),
        "model.cut" | "model.inherit" => free(Facts { shape: cut(call), ..later }),
        "model.gqa" => free(Facts { shape: grouped(call), ..later }),
        "model.importance" => (later, measuring(call)),
        "model.init" => free(Facts { shape: made(call), ..later }),
        "model.learn_masks" => (Facts { shape: cut(call), ..later }, training(call, "donor")),
        "model.open" | "source.adopt" => free(Facts { shape: call.local_model(), ..later }),
        "model.gguf" | "model.spread" => free(later),
        "rounds.resample" => {
            free(Facts { seq: call.facts("data").seq, sequences: drawn(call), ..later })
        }
        "rounds.score" => (Facts { unit: unit(call), ..later }, scoring(call)),
        // By coverage, the size is known only later.
        "tokenizer.prune" if matches!(call.value("keep"), Ok(Value::Null)) => free(later),
        "tokenizer.prune" => free(Facts { vocab: call.number("keep"), ..later }),
        "tokenizer.retrain" => free(Facts { vocab: call.number("size"), ..later }),
        "train.keep" | "train.run" => {
            (Facts { shape: call.facts("init").shape, ..later }, training(call, "init"))
        }
        "train.kept" => free(Facts { shape: call.facts("snapshots").shape, ..later }),
        _ if stage.tensor || stage.shell().is_some() => (later, Err(Unknown::Never)),
        _ => free(later),
    }
}

/// A tokenizer's size and the recipe make a shape.
fn made(call: &Call<'_>) -> Known<Rc<Shape>> {
    let vocab = call.facts("tokenizer").vocab?;
    call.shape(Shape::of_recipe(&call.value("shape")?, vocab))
}

/// A model keeps what the recipe does not change, and its vocabulary unless it gets another tokenizer.
fn cut(call: &Call<'_>) -> Known<Rc<Shape>> {
    let donor = call.facts("donor").shape?;
    let vocab = match call.has("tokenizer") && !call.is_own("tokenizer", "donor") {
        true => call.facts("tokenizer").vocab?,
        false => donor.vocab,
    };
    let kept = match call.value("keep_layers") {
        Ok(Value::List(layers)) => layers.len() as f64,
        _ => donor.depth,
    };
    call.shape(Shape { vocab, depth: kept, ..*donor }.cut(&call.value("shape")?))
}

fn grouped(call: &Call<'_>) -> Known<Rc<Shape>> {
    let model = call.facts("model").shape?;
    call.shape(Some(Shape { kv_heads: call.number("kv_heads")?, ..*model }))
}

/// Parts of equal size, where there are any.
fn part(call: &Call<'_>) -> Known<f64> {
    let size = call.facts("data").sequences? / call.number("parts")?;
    if size.fract() == 0.0 { Ok(size) } else { Err(Unknown::Until(call.id)) }
}

/// Draws whole units, of each part as many. Whether a last, smaller unit is among them is known only later, and how long
/// documents are.
fn drawn(call: &Call<'_>) -> Known<f64> {
    let later = Unknown::Until(call.id);
    let unit = call.facts("losses").unit?.ok_or(later)?;
    let (all, parts) = (call.facts("data").sequences?, call.number("parts")?);
    let size = (all / unit).ceil() / parts;
    let drawn = (call.number("rate")? * size).round();
    match () {
        () if size.fract() != 0.0 => Err(later),
        () if drawn == size => Ok(all),
        () if all % unit == 0.0 || drawn == 0.0 => Ok(parts * drawn * unit),
        () => Err(later),
    }
}

/// Returns how many sequences a loss is of; none if it is of a document.
fn unit(call: &Call<'_>) -> Known<Option<f64>> {
    match call.value("unit")? {
        Value::Str(unit) if unit == "document" => Ok(None),
        Value::Str(unit) if unit == "sequence" => Ok(Some(1.0)),
        _ => Ok(Some(call.number("batch")?.max(1.0))),
    }
}

/// Whole batches of tokens, forward and backward.
fn training(call: &Call<'_>, model: &str) -> Known<f64> {
    let (tokens, batch) = (call.number("tokens")?, call.number("batch")?);
    if tokens == 0.0 {
        return Ok(0.0);
    }
    let tokens = (tokens / batch).ceil() * batch;
    let seq = call.facts("data").seq?;
    let mut operations = call.facts(model).shape?.training(tokens, seq);
    if call.has("teacher") {
        operations += call.facts("teacher").shape?.forward(tokens, seq);
    }
    if call.has("valid") {
        let (valid, times) = (call.facts("valid"), call.number("validations")?);
        let seq = valid.seq?;
        let tokens = valid.sequences? * seq * times.min(tokens / batch);
        operations += call.facts(model).shape?.forward(tokens, seq);
    }
    Ok(operations)
}

/// A forward pass over all of a dataset, without the layers that are left out.
fn scoring(call: &Call<'_>) -> Known<f64> {
    let (model, data) = (call.facts("model").shape?, call.facts("data"));
    let skip = call.number_or("skip", 0.0)?;
    let left = Shape { depth: (model.depth - skip).max(0.0), ..*model };
    let seq = data.seq?;
    Ok(left.forward(data.sequences? * seq, seq))
}

/// Gradients need a backward pass, activations do not.
fn measuring(call: &Call<'_>) -> Known<f64> {
    let (donor, seq) = (call.facts("donor").shape?, call.facts("data").seq?);
    let tokens = call.number("tokens")?;
    let forward = donor.forward(tokens, seq);
    let units = match call.value("criterion")? {
        Value::Str(criterion) if criterion == "activation" => forward,
        _ => donor.training(tokens, seq),
    };
    let without = Shape { depth: donor.depth - 1.0, ..*donor }.forward(tokens, seq);
    let skips = matches!(call.value("layers"), Ok(Value::Str(how)) if how == "skip");
    Ok(units + if skips { donor.depth * without + forward } else { 0.0 })
}

/// Every token but the last one that is written goes through the model once, and attends to those before it.
fn writing(call: &Call<'_>) -> Known<f64> {
    let read = call.number("prefix")? + call.number("new")? - 1.0;
    Ok(call.facts("model").shape?.forward(call.number("batch")? * read, read))
}
