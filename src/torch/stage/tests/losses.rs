//! Scoring and perplexity: against transformers, interrupted, refused.

use std::f64::consts::LN_2;
use std::fs;
use std::path::Path;

use serde_json::json;
use tlm::data::Losses;

use crate::nn::tests::{check_close, json as stored, numbers, reference};
use crate::stage::tests::{Bench, checkpoint, empty_data, long_data, output, reference_data};

#[test]
fn losses_of_units_add_up_to_the_perplexity() {
    let (data, model) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("model", model.path()), ("data", data.path())];
    let score = Bench::new(
        json!({"unit": "batch", "batch": 4, "dtype": "f32", "attention": "sequence"}),
        &inputs,
    );
    score.done("rounds.score");
    let nll = fs::read(score.path("out/nll.f64")).unwrap();
    let sum: f64 = nll.chunks(8).map(|eight| f64::from_le_bytes(eight.try_into().unwrap())).sum();
    let tokens = fs::read(score.path("out/tokens.u32")).unwrap();
    let count: u32 =
        tokens.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).sum();
    assert_eq!((nll.len(), count), (13 * 8, 49 * 8));
    let events = Bench::new(
        json!({"skip": 0, "skip_from": 0, "dtype": "f32", "attention": "sequence"}),
        &inputs,
    )
    .done("eval.perplexity");
    let expected = (sum / f64::from(count)).exp();
    let got = output(&events, "perplexity");
    assert!((got / expected - 1.0).abs() < 1e-9, "{got} {expected}");
    // Each token of this tokenizer is a byte.
    let bits = output(&events, "bits_per_byte");
    assert!((bits / (got.ln() / LN_2) - 1.0).abs() < 1e-9, "{bits}");
}

#[test]
fn losses_match_transformers() {
    let data = reference_data();
    for name in ["plain", "biased"] {
        let model = checkpoint(&format!("model_{name}"));
        let inputs: [(&str, &Path); 2] = [("model", model.path()), ("data", data.path())];
        let score = Bench::new(
            json!({"unit": "sequence", "batch": 1, "dtype": "f32", "attention": "sequence"}),
            &inputs,
        );
        let events = score.done("rounds.score");
        let losses = Losses::open(&score.path("out")).unwrap();
        let got: Vec<f32> = (0..4).map(|unit| losses.loss(unit).unwrap() as f32 * 8.0).collect();
        let expected = numbers(&stored("model_losses.json")[name]);
        check_close(name, &got, &expected, 1e-5);
        let mean = f64::from(expected.iter().sum::<f32>()) / 32.0;
        assert!((output(&events, "out.mean") / mean - 1.0).abs() < 1e-5);
        let events = Bench::new(
            json!({"skip": 0, "skip_from": 0, "dtype": "f32", "attention": "sequence"}),
            &inputs,
        )
        .done("eval.perplexity");
        assert!((output(&events, "perplexity") / mean.exp() - 1.0).abs() < 1e-4);
    }
}

/// Returns the losses of units, in nats, and their tokens.
fn units(folder: &Path) -> (Vec<f64>, Vec<u32>) {
    let losses = Losses::open(folder).unwrap();
    (0..losses.len()).map(|unit| (losses.nll(unit), losses.tokens(unit))).unzip()
}

/// Gives `long_data` documents that begin at these tokens.
fn set_documents(data: &Path, starts: &[u64]) {
    let bytes: Vec<u8> = starts.iter().flat_map(|start| start.to_le_bytes()).collect();
    fs::write(data.join("documents.u64"), bytes).unwrap();
}

/// Takes some of the sequences of a dataset.
fn set_view(data: &Path, sequences: &[u64]) {
    let bytes: Vec<u8> = sequences.iter().flat_map(|id| id.to_le_bytes()).collect();
    fs::write(data.join("sequences.u64"), bytes).unwrap();
    let path = data.join("meta.json");
    let mut meta: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    meta["sequences"] = json!(sequences.len());
    fs::write(path, meta.to_string()).unwrap();
}

#[test]
fn losses_of_documents_are_those_of_their_tokens() {
    let (data, model) = (long_data(), checkpoint("model_plain"));
    let score = |unit: &str| {
        let inputs: [(&str, &Path); 2] = [("model", model.path()), ("data", data.path())];
        let bench = Bench::new(
            json!({"unit": unit, "batch": 1, "dtype": "f32", "attention": "sequence"}),
            &inputs,
        );
        let mean = output(&bench.done("rounds.score"), "out.mean");
        (units(&bench.path("out")), mean)
    };
    // Token 0 is nobody's target, and the last sequence ends with token 392.
    let check = |starts: &[u64], expected: &[u32]| {
        set_documents(data.path(), starts);
        let ((nll, tokens), mean) = score("document");
        assert_eq!(tokens, expected, "{starts:?}");
        assert!(nll.iter().zip(&tokens).all(|(nll, tokens)| (*nll > 0.0) == (*tokens > 0)));
        let ((each, _), whole) = score("sequence");
        assert!((mean / whole - 1.0).abs() < 1e-9, "{mean} {whole}");
        assert!((nll.iter().sum::<f64>() / each.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        (nll, each)
    };
    // Where documents are sequences, losses are theirs.
    let starts: Vec<u64> = (0..49).map(|at| if at == 0 { 0 } else { 8 * at + 1 }).collect();
    let (nll, each) = check(&starts, &[8; 49]);
    for (document, (got, expected)) in nll.iter().zip(&each).enumerate() {
        assert!((got / expected - 1.0).abs() < 1e-6, "{document}: {got} {expected}");
    }
    check(&[0, 1, 1, 4, 13, 30, 395], &[0, 0, 3, 9, 17, 363, 0]);
    // A view has the tokens that its sequences train: 17..25 and 1..9.
    set_view(data.path(), &[2, 0]);
    let (view, _) = check(&[0, 1, 1, 4, 13, 30, 395], &[0, 0, 3, 5, 8, 0, 0]);
    check(&[0, 20], &[11, 5]);
    set_documents(data.path(), &[0, 4, 9]);
    let ((parts, _), _) = score("document");
    assert!((parts[0] + parts[1] - view[2] - view[3]).abs() < 1e-9);
}

#[test]
fn interrupted_scoring_of_documents_goes_on_to_the_same_bits() {
    let (data, model) = (long_data(), checkpoint("model_plain"));
    set_documents(data.path(), &[0, 3, 4, 5, 30, 30, 200, 210]);
    let inputs: [(&str, &Path); 2] = [("model", model.path()), ("data", data.path())];
    let mut bench = Bench::new(
        json!({"unit": "document", "batch": 1, "dtype": "f32", "attention": "sequence"}),
        &inputs,
    );
    bench.micro_batch = Some(3);
    bench.done("rounds.score");
    let whole = units(&bench.path("out"));
    bench.stopped("rounds.score", 5);
    let events = bench.done("rounds.score");
    // Fifteen sequences, the first of which has parts of four documents and the fourth of two.
    assert!(events.contains("resumes after 19 scores"), "{events}");
    assert_eq!(units(&bench.path("out")), whole);
}

#[test]
fn interrupted_scoring_goes_on_to_the_same_bits() {
    let (data, model) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("model", model.path()), ("data", data.path())];
    let mut bench = Bench::new(
        json!({"unit": "batch", "batch": 4, "dtype": "f32", "attention": "sequence"}),
        &inputs,
    );
    bench.micro_batch = Some(3);
    let mean = |events: &str| output(events, "out.mean").to_bits();
    let expected = mean(&bench.done("rounds.score"));
    let whole = fs::read(bench.path("out/nll.f64")).unwrap();
    bench.stopped("rounds.score", 5);
    bench.micro_batch = Some(7);
    let events = bench.stopped("rounds.score", 3);
    assert!(events.contains("resumes after 15 scores"), "{events}");
    assert_eq!(events.matches("checkpointed").count(), 1, "{events}");
    let events = bench.done("rounds.score");
    assert!(events.contains("resumes after 24 scores"), "{events}");
    assert_eq!(mean(&events), expected);
    assert!(fs::read(bench.path("out/nll.f64")).unwrap() == whole);
    // What can't be used is told, and scoring starts over; with the first micro batch come the first bits.
    bench.micro_batch = Some(3);
    for (name, said) in [("scores.json", "it is damaged"), ("scores.f64", "its scores are")] {
        fs::remove_dir_all(bench.state("")).unwrap();
        bench.stopped("rounds.score", 9);
        let mut bytes = fs::read(bench.state(name)).unwrap();
        bytes[70] ^= 1;
        fs::write(bench.state(name), bytes).unwrap();
        let events = bench.done("rounds.score");
        assert!(events.contains(said), "{events}");
        assert!(fs::read(bench.path("out/nll.f64")).unwrap() == whole);
    }
}

#[test]
fn broken_models_and_empty_selections_have_no_loss() {
    let (data, empty, model) = (long_data(), empty_data(), checkpoint("model_plain"));
    let run = |data: &Path, stage: &str, expected: &str| {
        let inputs: [(&str, &Path); 2] = [("model", model.path()), ("data", data)];
        let params = json!({"unit": "sequence", "batch": 1, "skip": 0, "skip_from": 0, "dtype": "f32", "attention": "sequence"});
        Bench::new(params, &inputs).fails(stage, expected);
    };
    for stage in ["rounds.score", "eval.perplexity"] {
        run(empty.path(), stage, "the selection is empty: raise `rate`");
    }
    let scale = |factor: f32| {
        let path = model.path().join("model.safetensors");
        let mut bytes = fs::read(reference("model_plain").join("model.safetensors")).unwrap();
        // The head is the first tensor.
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for four in bytes[start..start + 64 * 16 * 4].chunks_exact_mut(4) {
            let number = f32::from_le_bytes((&*four).try_into().unwrap()) * factor;
            four.copy_from_slice(&number.to_le_bytes());
        }
        fs::write(path, bytes).unwrap();
    };
    scale(1e4);
    run(data.path(), "eval.perplexity", "the model has diverged: its mean loss is");
    scale(f32::NAN);
    for stage in ["rounds.score", "eval.perplexity"] {
        run(data.path(), stage, "the loss of sequence 0 is NaN: the model has diverged");
    }
}
