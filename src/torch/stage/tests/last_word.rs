//! Last words: against lm-evaluation-harness, interrupted, refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::nn::tests::{json as stored, reference};
use crate::stage::tests::choice::{TOLERANCE, model};
use crate::stage::tests::{Bench, output, scratch};

fn last_word(model: &Path, task: &Path) -> Bench {
    let params = json!({"skip": 0, "skip_from": 0, "dtype": "f32"});
    Bench::new(params, &[("model", model), ("task", task)])
}

fn answers(bench: &Bench) -> Vec<Value> {
    let text = fs::read_to_string(bench.path("answers")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Values were written by `scripts/reference/last_word.py`, for the models of `choice.py`.
#[test]
fn last_words_agree_with_lm_evaluation_harness() {
    let stored = stored("last_word.json");
    for (name, marked) in [("bare", false), ("marked", true)] {
        let expected = &stored[name];
        let model = model(marked);
        let bench = last_word(&model.path("out"), &reference("last_word.jsonl"));
        let events = bench.done("eval.last_word");
        // Of likelihoods that are off by up to 1e-3.
        for (figure, tolerance) in
            [("acc", 1e-9), ("acc_stderr", 1e-9), ("perplexity", 1e-3), ("perplexity_stderr", 1e-3)]
        {
            let (got, wanted) = (output(&events, figure), expected[figure].as_f64().unwrap());
            assert!((got / wanted - 1.0).abs() < tolerance, "{name} {figure}: {got}, not {wanted}");
        }
        let answers = answers(&bench);
        let wanted = expected["answers"].as_array().unwrap();
        assert_eq!(answers.len(), wanted.len());
        assert!(answers.iter().any(|one| one["right"] == true), "{name}");
        for (got, wanted) in answers.iter().zip(wanted) {
            let number = |answer: &Value| answer["log_likelihood"].as_f64().unwrap();
            assert!(
                (number(got) - number(wanted)).abs() < TOLERANCE,
                "{name}: {got}, not {wanted}"
            );
            assert_eq!(got["right"], wanted["right"], "{name}: {got}");
        }
    }
}

#[test]
fn interrupted_last_words_go_on_to_the_same_bits() {
    let model = model(false);
    let mut bench = last_word(&model.path("out"), &reference("last_word.jsonl"));
    bench.micro_batch = Some(3);
    bench.done("eval.last_word");
    let whole = answers(&bench);
    bench.stopped("eval.last_word", 2);
    let events = bench.done("eval.last_word");
    assert!(events.contains("resumes after 12 scores"), "{events}");
    assert_eq!(answers(&bench), whole);
}

#[test]
fn texts_without_a_last_word_are_refused() {
    let model = model(false);
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let path = folder.path().join("task.jsonl");
    let fails = |line: &str, expected: &str| {
        fs::write(&path, line).unwrap();
        last_word(&model.path("out"), &path).fails("eval.last_word", expected);
    };
    fails("{\"text\": \"a b \"}", "line 1: `text` does not end with a word");
    fails("", "has 0 questions");
    let long = json!({"text": format!("a {}", "z".repeat(60))});
    fails(&long.to_string(), "has more tokens than the 48 the model reads");
}
