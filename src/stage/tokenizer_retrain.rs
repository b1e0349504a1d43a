//! `tokenizer.retrain`: a new vocabulary for a tokenizer, learned from a corpus.

use std::thread;
use std::time::Duration;

use serde::Deserialize;

use crate::base::Value;
use crate::data::tokenizer::files::write_tokenizer;
use crate::data::tokenizer::retrain::{Retrain, Words};
use crate::stage::reading::corpus;
use crate::stage::{Context, StageError, documents};

/// How often the stage looks whether it should stop.
const WAIT: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
struct Params {
    size: usize,
}

/// Runs the stage.
///
/// # Errors
/// When an input can't be read, or the corpus and the size don't go together.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let corpus = corpus(context)?;
    let tokenizer = Retrain::open(context.input("tokenizer"))?;
    let mut words = Words::new();
    documents::each(
        context,
        &corpus,
        |text| tokenizer.words(text),
        |_, _, _, own| {
            own?.into_iter().for_each(|(word, count)| *words.entry(word).or_default() += count);
            Ok(())
        },
    )?;
    context.log(format!("learning {} tokens from {} distinct words", params.size, words.len()));
    // How far the trainer is it does not tell.
    let size = params.size as u64;
    context.progress(0, Some(size), "tokens");
    let pool = context.pool()?;
    // The trainer can't be stopped. A worker that is asked to stop ends, and with it this thread.
    let training = thread::spawn(move || pool.install(|| tokenizer.train(words, params.size)));
    loop {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        if training.is_finished() {
            break;
        }
        thread::sleep(WAIT);
    }
    let (json, config) =
        training.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let out = context.out_dir("out")?;
    write_tokenizer(&out, &json, &config)?;
    context.progress(size, Some(size), "tokens");
    context.output("out.size", Value::Int(size as i64))?;
    Ok(())
}
