//! Last words: texts from JSON Lines whose last word is to be guessed, by the rules of lm-evaluation-harness for LAMBADA.

use std::path::Path;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Map, Value};

use crate::data::error::DataError;
use crate::data::request::{Request, request};
use crate::data::task::{self, Wrong};
use crate::data::tokenizer::Tokenizer;

/// A text in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// What stands before the last space.
    pub context: String,
    /// The last space and the word behind it.
    pub word: String,
}

/// How well words were guessed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// exp of minus the mean log-likelihood.
    pub mean: f64,
    /// Its standard error by that of the mean log-likelihood of a sample (the delta method); 0 for one text.
    pub stderr: f64,
}

/// Reads the texts of a file.
///
/// # Errors
/// When the file can't be read, a line has no text that ends with a word, or there is none: with the line's number.
pub fn read_passages(path: &Path) -> Result<Vec<Passage>, DataError> {
    let all = task::read(path, parse)?;
    task::shown(path, all, 0).map(|(_, all)| all)
}

fn parse(line: &[u8]) -> Result<Passage, Wrong> {
    const FORM: &str = "write a line as {\"text\": \"...\"}";
    let fields: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| (format!("not a JSON object: {error}"), FORM))?;
    let text = fields.get("text").and_then(Value::as_str);
    let text = text.ok_or(("`text` is no text".to_owned(), FORM))?;
    // Without a space, the whole text is the word.
    let (context, word) = text.rsplit_once(' ').unwrap_or(("", text));
    if word.is_empty() {
        return Err(("`text` does not end with a word".to_owned(), "take away what follows it"));
    }
    Ok(Passage { context: context.to_owned(), word: format!(" {word}") })
}

/// Returns what is asked of a model: the last word of each text. `limit` is the longest text it reads.
///
/// # Errors
/// As of multiple choice.
pub fn requests(
    path: &Path,
    passages: &[Passage],
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<Vec<Request>, DataError> {
    let ask = |one: &Passage| request(path, &one.context, &one.word, tokenizer, limit);
    passages.par_iter().map(ask).collect()
}

/// Returns the perplexity of words with these log-likelihoods, in nats.
pub fn perplexity(log_likelihoods: &[f64]) -> Perplexity {
    let count = log_likelihoods.len() as f64;
    let mean = log_likelihoods.iter().sum::<f64>() / count;
    let squares: f64 = log_likelihoods.iter().map(|value| (value - mean).powi(2)).sum();
    let stderr =
        if log_likelihoods.len() < 2 { 0.0 } else { (squares / (count - 1.0) / count).sqrt() };
    let perplexity = (-mean).exp();
    Perplexity { mean: perplexity, stderr: perplexity * stderr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_space_is_where_a_text_parts() {
        let check = |text: &str, context: &str, word: &str| {
            let line = serde_json::json!({ "text": text }).to_string();
            let expected = Passage { context: context.to_owned(), word: word.to_owned() };
            assert_eq!(parse(line.as_bytes()), Ok(expected));
        };
        check("a b c", "a b", " c");
        check("a  b", "a ", " b");
        check("a b\nc", "a", " b\nc");
        check("word", "", " word");
    }

    #[test]
    fn lines_without_a_last_word_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("task.jsonl");
        let fails = |text: &str, expected: &str| {
            std::fs::write(&path, text).unwrap();
            let Err(DataError::Invalid { message, help: Some(_), .. }) = read_passages(&path)
            else {
                panic!("{text}")
            };
            assert!(message.contains(expected), "{message}");
        };
        fails("{\"text\": \"a b\"}\n{", "line 2: not a JSON object");
        fails("{\"text\": 1}", "line 1: `text` is no text");
        fails("{\"query\": \"a b\"}", "line 1: `text` is no text");
        fails("{\"text\": \"a b \"}", "line 1: `text` does not end with a word");
        fails("{\"text\": \"\"}", "line 1: `text` does not end with a word");
        fails("", "has 0 questions");
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean() {
        let one = perplexity(&[-2.0]);
        assert!((one.mean - 2.0_f64.exp()).abs() < 1e-12 && one.stderr == 0.0);
        let two = perplexity(&[-1.0, -3.0]);
        assert!((two.mean - 2.0_f64.exp()).abs() < 1e-12 && (two.stderr - two.mean).abs() < 1e-12);
    }
}
