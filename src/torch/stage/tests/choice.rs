//! Multiple choice: against lm-evaluation-harness, interrupted, refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::nn::tests::{json as stored, reference};
use crate::stage::tests::{Bench, checkpoint, output, scratch};

/// Log-likelihoods are sums of up to some dozen f32 logarithms of up to some tens, in another order than PyTorch's.
pub(super) const TOLERANCE: f64 = 1e-3;

/// Returns the folder of a byte-level tokenizer; one that is `marked` puts `<s>` before each text.
pub(super) fn byte_level(marked: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let stages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stages");
    let text = fs::read_to_string(stages.join("tokenizer.json")).unwrap();
    let mut tokens: Value = serde_json::from_str(&text).unwrap();
    let mut config =
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"});
    if marked {
        let mut start = tokens["added_tokens"][0].clone();
        start["id"] = json!(273);
        start["content"] = json!("<s>");
        tokens["added_tokens"].as_array_mut().unwrap().push(start);
        let marked = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
        tokens["post_processor"] = json!({
            "type": "TemplateProcessing", "single": marked, "pair": marked,
            "special_tokens": {"<s>": {"id": "<s>", "ids": [273], "tokens": ["<s>"]}},
        });
        config["bos_token"] = json!("<s>");
    }
    fs::write(folder.path().join("tokenizer.json"), tokens.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// Makes a model that reads 48 tokens.
pub(super) fn model(marked: bool) -> Bench {
    let shape = json!({
        "depth": 2, "width": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "tied": true, "bias": true, "activations": 1,
        "shortcut": 0.0, "rope_theta": 500.0, "context": 48,
    });
    let params = json!({"shape": shape, "law": "constant", "std": 0.3, "seed": 0});
    let tokens = byte_level(marked);
    let bench = Bench::new(params, &[("tokenizer", tokens.path())]);
    bench.done("model.init");
    bench
}

fn choice(model: &Path, task: &Path, format: &Value) -> Bench {
    let mut params = format.clone();
    params["skip"] = json!(0);
    params["skip_from"] = json!(0);
    params["dtype"] = json!("f32");
    Bench::new(params, &[("model", model), ("task", task)])
}

fn task() -> PathBuf {
    reference("choice.jsonl")
}

fn plain() -> Value {
    json!({"shots": 0, "prompt": "{query}", "delimiter": " ", "separator": "\n\n"})
}

/// Values were written by `scripts/reference/choice.py`.
#[test]
fn choice_agrees_with_lm_evaluation_harness() {
    let models = BTreeMap::from([("bare", model(false)), ("marked", model(true))]);
    if option_env!("TLM_WRITE_REFERENCE").is_some() {
        for (name, bench) in &models {
            let target = scratch().join("choice").join(name);
            fs::create_dir_all(&target).unwrap();
            for entry in fs::read_dir(bench.path("out")).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let stored = stored("choice.json");
    for (name, model) in &models {
        for (case, expected) in stored[name].as_object().unwrap() {
            let bench = choice(&model.path("out"), &task(), &expected["format"]);
            let events = bench.done("eval.choice");
            for figure in ["acc", "acc_norm", "acc_bytes", "acc_stderr", "acc_norm_stderr"] {
                let (got, wanted) = (output(&events, figure), expected[figure].as_f64().unwrap());
                assert!((got - wanted).abs() < 1e-9, "{name} {case} {figure}: {got}, not {wanted}");
            }
            let lines = fs::read_to_string(bench.path("answers")).unwrap();
            let lines: Vec<Value> =
                lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let wanted: Vec<Vec<f64>> =
                serde_json::from_value(expected["log_likelihoods"].clone()).unwrap();
            assert_eq!(lines.len(), wanted.len());
            for (line, wanted) in lines.iter().zip(&wanted) {
                let got: Vec<f64> =
                    serde_json::from_value(line["log_likelihoods"].clone()).unwrap();
                let off = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(off < TOLERANCE, "{name} {case}: {got:?}, not {wanted:?}");
            }
        }
    }
}

#[test]
fn interrupted_choice_goes_on_to_the_same_bits() {
    let model = model(false);
    let mut bench = choice(&model.path("out"), &task(), &plain());
    bench.micro_batch = Some(3);
    bench.done("eval.choice");
    let whole = fs::read(bench.path("answers")).unwrap();
    bench.stopped("eval.choice", 4);
    let events = bench.done("eval.choice");
    assert!(events.contains("resumes after 12 scores"), "{events}");
    assert!(fs::read(bench.path("answers")).unwrap() == whole);
}

#[test]
fn leaving_out_layers_is_the_model_without_them() {
    let model = model(false);
    let answers = |skip: u64, from: u64| {
        let mut bench = choice(&model.path("out"), &task(), &plain());
        bench.params["skip"] = json!(skip);
        bench.params["skip_from"] = json!(from);
        bench.done("eval.choice");
        fs::read(bench.path("answers")).unwrap()
    };
    let (whole, first, last) = (answers(0, 7), answers(1, 0), answers(1, 1));
    assert!(whole != first && first != last && whole != last);
    let mut bench = choice(&model.path("out"), &task(), &plain());
    bench.params["skip"] = json!(2);
    bench.params["skip_from"] = json!(1);
    bench.fails("eval.choice", "`skip_from` is 1 and `skip` 2, but the model has 2 layers");
}

#[test]
fn tasks_that_cannot_be_asked_are_refused() {
    let model = model(false);
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let path = folder.path().join("task.jsonl");
    let fails = |line: &str, expected: &str| {
        fs::write(&path, line).unwrap();
        choice(&model.path("out"), &path, &plain()).fails("eval.choice", expected);
    };
    fails("{\"query\": 1}", "line 1: `choices` is no list of texts");
    fails("", "has 0 questions, of which 0 are shown: none is left");
    let long = "z".repeat(60);
    let line = json!({"query": "q", "choices": [long, "b"], "gold": 0});
    fails(&line.to_string(), "has more tokens than the 48 the model reads");
    // Without a token to begin with, an empty question can't be asked.
    let bare = checkpoint("model_plain");
    fs::write(bare.path().join("tokenizer_config.json"), "{}").unwrap();
    let line = json!({"query": "", "choices": ["'", "("], "gold": 0});
    fs::write(&path, line.to_string()).unwrap();
    let mut format = plain();
    format["delimiter"] = json!("");
    choice(bare.path(), &path, &format)
        .fails("eval.choice", "a question is empty, and the tokenizer has no token");
}
