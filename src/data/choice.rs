//! Multiple choice: questions from JSON Lines and what is asked of a model, by the rules of lm-evaluation-harness
//! (`ConfigurableTask`).

use std::path::Path;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Map, Value};

use crate::data::error::DataError;
use crate::data::request::{Request, request};
use crate::data::task::{self, Wrong};
use crate::data::tokenizer::Tokenizer;

/// How a question becomes text.
#[derive(Clone, Debug)]
pub struct Format {
    /// What stands before an answer; `{name}` is a field of the question's line.
    pub prompt: String,
    /// What stands between prompt and answer.
    pub delimiter: String,
    /// What stands after each question that is shown with its answer.
    pub separator: String,
    /// How many of the first questions are shown before each of the others.
    pub shots: usize,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The text before an answer.
    pub context: String,
    /// Answers to choose from, two or more.
    pub choices: Vec<String>,
    /// Which of them is right.
    pub gold: usize,
}

/// How many questions were answered right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// The part that was.
    pub mean: f64,
    /// Its standard error, of a sample of questions; 0 for one question.
    pub stderr: f64,
}

/// Reads the questions of a file that are to be answered, each after the shown ones.
///
/// # Errors
/// When the file can't be read, a line is no question, or none is left: with the line's number.
pub fn read_questions(path: &Path, format: &Format) -> Result<Vec<Question>, DataError> {
    let all = task::read(path, |line| parse(line, &format.prompt))?;
    let (shown, rest) = task::shown(path, all, format.shots)?;
    let show = |q: &Question| {
        [&q.context, &format.delimiter, &q.choices[q.gold], &format.separator]
            .map(String::as_str)
            .concat()
    };
    let shown: String = shown.iter().map(show).collect();
    let after = |q: Question| Question { context: format!("{shown}{}", q.context), ..q };
    Ok(rest.into_iter().map(after).collect())
}

const FORM: &str =
    "write a line as {\"query\": \"...\", \"choices\": [\"...\", \"...\"], \"gold\": 0}";

fn parse(line: &[u8], prompt: &str) -> Result<Question, Wrong> {
    let fields: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| (format!("not a JSON object: {error}"), FORM))?;
    let choices = fields.get("choices").and_then(Value::as_array);
    let choices: Option<Vec<String>> = choices
        .and_then(|all| all.iter().map(|choice| Some(choice.as_str()?.to_owned())).collect());
    let choices = choices.ok_or(("`choices` is no list of texts".to_owned(), FORM))?;
    if choices.len() < 2 {
        return Err((format!("has {} in `choices`, and needs two", choices.len()), FORM));
    }
    if choices.iter().any(String::is_empty) {
        return Err((
            "one of `choices` is empty".to_owned(),
            "an answer has at least one character",
        ));
    }
    let gold = fields.get("gold").and_then(Value::as_u64).map(|gold| gold as usize);
    let gold = gold.filter(|&gold| gold < choices.len()).ok_or_else(|| {
        let last = choices.len() - 1;
        (format!("`gold` is not a number from 0 to {last}"), "the first of `choices` is 0")
    })?;
    Ok(Question { context: fill(prompt, &fields)?, choices, gold })
}

/// Puts fields into a prompt.
fn fill(prompt: &str, fields: &Map<String, Value>) -> Result<String, Wrong> {
    let mut parts = prompt.split('{');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').ok_or_else(|| {
            let what = format!("a `{{` of the prompt `{prompt}` is not closed");
            (what, "close it after the name of a field")
        })?;
        match fields.get(name) {
            Some(Value::String(text)) => out.push_str(text),
            Some(value) => out.push_str(&value.to_string()),
            None => {
                let what = format!("there is no `{name}`, which the prompt has");
                return Err((what, "add the field, or write another `prompt`"));
            }
        }
        out.push_str(rest);
    }
    Ok(out)
}

/// Returns what is asked of a model: the answers of each question in order. `context` is the longest text it reads.
///
/// # Errors
/// When a text can't be encoded, an answer has no tokens of its own or more than the model reads, or a context is empty
/// and the tokenizer has no token to begin with.
pub fn requests(
    path: &Path,
    questions: &[Question],
    delimiter: &str,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Vec<Request>, DataError> {
    let ask = |question: &Question| -> Result<Vec<Request>, DataError> {
        let ask = |choice: &String| {
            let answer = format!("{delimiter}{choice}");
            request(path, &question.context, &answer, tokenizer, context)
        };
        question.choices.iter().map(ask).collect()
    };
    let all: Result<Vec<_>, _> = questions.par_iter().map(ask).collect();
    Ok(all?.into_iter().flatten().collect())
}

/// Returns the index of the likeliest answer when each log-likelihood counts by `size` of the answer; the first one wins
/// a tie.
pub fn likeliest(
    question: &Question,
    log_likelihoods: &[f64],
    size: impl Fn(&str) -> usize,
) -> usize {
    let scores = question.choices.iter().zip(log_likelihoods);
    let scores = scores.map(|(choice, value)| value / size(choice) as f64);
    let best = scores.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(index, _)| index)
}

/// Returns which part is right.
pub fn accuracy(right: &[bool]) -> Accuracy {
    let count = right.len() as f64;
    let mean = right.iter().filter(|&&right| right).count() as f64 / count;
    let stderr = if right.len() < 2 { 0.0 } else { (mean * (1.0 - mean) / (count - 1.0)).sqrt() };
    Accuracy { mean, stderr }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn format(shots: usize) -> Format {
        Format {
            prompt: "Q: {query}\nA:".to_owned(),
            delimiter: " ".to_owned(),
            separator: "\n\n".to_owned(),
            shots,
        }
    }

    fn read(text: &str, shots: usize) -> Result<Vec<Question>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("task.jsonl");
        fs::write(&path, text).unwrap();
        read_questions(&path, &format(shots)).map_err(|error| match error {
            DataError::Invalid { message, help, .. } => {
                assert!(help.is_some(), "no help: {message}");
                message
            }
            error @ DataError::Io { .. } => panic!("{error}"),
        })
    }

    #[test]
    fn first_questions_are_shown_before_the_others() {
        let text = "{\"query\": \"a\", \"choices\": [\"x\", \"y\"], \"gold\": 1}\n\n\
                    {\"query\": 2, \"choices\": [\"x\", \"z\"], \"gold\": 0}";
        let read = read(text, 1).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].context, "Q: a\nA: y\n\nQ: 2\nA:");
    }

    #[test]
    fn lines_that_are_no_questions_are_named() {
        let good = "{\"query\": \"a\", \"choices\": [\"x\", \"y\"], \"gold\": 1}\n";
        let fails = |line: &str, expected: &str| {
            let error = read(&format!("{good}\n{line}"), 0).unwrap_err();
            assert!(error.starts_with("line 3: ") && error.contains(expected), "{error}");
        };
        fails("{", "not a JSON object");
        fails("[1]", "not a JSON object");
        fails("{\"query\": \"\u{0}\"", "not a JSON object");
        fails("{\"query\": \"a\", \"gold\": 1}", "`choices` is no list of texts");
        fails("{\"choices\": [1, 2], \"gold\": 1}", "`choices` is no list of texts");
        fails("{\"choices\": [\"x\"], \"gold\": 0}", "has 1 in `choices`");
        fails("{\"choices\": [\"x\", \"\"], \"gold\": 0}", "one of `choices` is empty");
        fails("{\"choices\": [\"x\", \"y\"], \"gold\": 2}", "`gold` is not a number from 0 to 1");
        fails("{\"choices\": [\"x\", \"y\"], \"gold\": \"A\"}", "`gold` is not a number");
        fails("{\"choices\": [\"x\", \"y\"], \"gold\": 0}", "there is no `query`");
        let error = read(good, 1).unwrap_err();
        assert_eq!(error, "has 1 questions, of which 1 are shown: none is left");
    }

    #[test]
    fn the_first_of_equal_answers_wins() {
        let choices = ["ab", "é", "abcd"].map(str::to_owned).to_vec();
        let question = Question { context: String::new(), choices, gold: 0 };
        assert_eq!(likeliest(&question, &[-2.0, -1.0, -1.0], |_| 1), 1);
        assert_eq!(likeliest(&question, &[-2.0, -1.0, -4.0], |text| text.chars().count()), 0);
        assert_eq!(likeliest(&question, &[-2.2, -2.0, -4.4], str::len), 1);
    }

    #[test]
    fn the_standard_error_is_that_of_a_sample() {
        let half = accuracy(&[true, false, true, false]);
        assert!(
            (half.mean - 0.5).abs() < 1e-12
                && (half.stderr - (1.0_f64 / 12.0).sqrt()).abs() < 1e-12
        );
        assert_eq!(accuracy(&[true]), Accuracy { mean: 1.0, stderr: 0.0 });
    }
}
