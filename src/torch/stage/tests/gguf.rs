//! GGUF files that are written: opened again, read by others, refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, ids, json as stored, numbers, open};
use crate::stage::tests::choice::byte_level;
use crate::stage::tests::{Bench, checkpoint, scratch, set_config};

fn model(bias: bool, tied: bool) -> Bench {
    let shape = json!({
        "depth": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 64, "tied": tied, "bias": bias,
        "activations": 1, "shortcut": 0.0, "rope_theta": 500.0, "context": 64,
    });
    let params = json!({"shape": shape, "law": "constant", "std": 0.3, "seed": 5});
    let tokens = byte_level(false);
    let bench = Bench::new(params, &[("tokenizer", tokens.path())]);
    bench.done("model.init");
    bench
}

fn write(model: &Path, dtype: &str) -> Bench {
    Bench::new(json!({"dtype": dtype}), &[("model", model)])
}

#[test]
fn what_is_written_opens_as_the_same_model() {
    for (bias, tied) in [(false, true), (true, false)] {
        let made = model(bias, tied);
        let source = made.path("out");
        for (dtype, tolerance) in [("f32", 0.0), ("f16", 1e-3), ("bf16", 8e-3)] {
            let written = write(&source, dtype);
            written.done("model.gguf");
            let opened = Bench::new(json!({}), &[("source", &written.path("out"))]);
            opened.done("model.open");
            let flat = |folder: &Path| f32_values(&open(folder).flat).unwrap();
            check_close(dtype, &flat(&opened.path("out")), &flat(&source), tolerance);
            let (before, after) = (open(&source).config, open(&opened.path("out")).config);
            assert_eq!(after, before);
            let tokenizer = |folder: &Path| tlm::data::Tokenizer::open(folder).unwrap();
            let text = "The cat sat on\nthe mat, é 12<|endoftext|>";
            let encode = |folder: &Path| tokenizer(folder).encode(text).unwrap();
            assert_eq!(encode(&opened.path("out")), encode(&source));
        }
    }
}

/// Logits were written by `scripts/reference/exported.py`, which has others read the file.
#[test]
fn what_is_written_has_these_logits_elsewhere() {
    let made = model(false, true);
    if option_env!("TLM_WRITE_REFERENCE").is_some() {
        let written = write(&made.path("out"), "f32");
        written.done("model.gguf");
        fs::copy(written.path("out"), scratch().join("written.gguf")).unwrap();
    }
    let expected = stored("model_gguf.json");
    let got = open(&made.path("out")).logits(&ids(&expected["ids"])).unwrap();
    for (name, wanted) in expected["logits"].as_object().unwrap() {
        check_close(name, &f32_values(&got).unwrap(), &numbers(wanted), 1e-4);
    }
}

#[test]
fn what_gguf_has_no_place_for_is_refused() {
    let made = model(false, true);
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    for entry in fs::read_dir(made.path("out")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let fails = |expected: &str| write(folder.path(), "f16").fails("model.gguf", expected);
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    set_config(folder.path(), &json!({"rope_scaling": scaling}));
    fails("rope scaling, `llama3`, can't be written");
    set_config(folder.path(), &json!({"rope_scaling": null}));
    let path = folder.path().join("tokenizer.json");
    let whole: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let change = |changes: &[(&str, Value)]| {
        let mut json = whole.clone();
        changes.iter().for_each(|(name, value)| json[*name] = value.clone());
        fs::write(&path, json.to_string()).unwrap();
    };
    change(&[("pre_tokenizer", json!({"type": "Whitespace"}))]);
    fails("splits words in a way that GGUF has no name for");
    change(&[("normalizer", json!({"type": "NFC"}))]);
    fails("is no plain byte-level BPE tokenizer");
    change(&[("added_tokens", json!([{"content": "far", "id": 400, "special": true}]))]);
    fails("has an id that the model has no embedding for");
    let pangu = checkpoint("model_pangu");
    write(pangu.path(), "f16").fails("model.gguf", "has modules of PanGu-pi");
}
