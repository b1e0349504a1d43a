//! Making and opening models: the formats, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::nn::config::Config;
use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, ids, json as stored, open, reference};
use crate::nn::weights::{Safetensors, Weights};
use crate::stage::tests::donor::donor;
use crate::stage::tests::{Bench, checkpoint, letters, scratch, set_config, tokenizer};

#[test]
fn a_new_model_has_the_shape_asked_for() {
    let tokens = tokenizer(letters(64));
    let shape = json!({
        "depth": 2, "width": 64, "heads": 4, "kv_heads": 2, "tied": true, "bias": false, "activations": 1,
        "shortcut": 0.0, "rope_theta": 10000.0, "context": 128,
    });
    let params = json!({"shape": shape, "law": "residual", "std": 0.02, "seed": 0});
    let bench = Bench::new(params, &[("tokenizer", tokens.path())]);
    bench.done("model.init");
    let model = open(&bench.path("out"));
    let config = &model.config;
    assert_eq!((config.head_dim, config.ffn, config.vocab), (16, 192, 64));
    let std = model.flat.narrow(0, 0, 64 * 64).std(true).double_value(&[]);
    assert!((std - 0.02).abs() < 0.002, "{std}");
}

/// Opens a folder and checks that the checkpoint has the numbers of `expected`.
#[track_caller]
fn check_opens(folder: &Path, expected: &Path, tolerance: f32) {
    let bench = Bench::new(json!({}), &[("source", folder)]);
    bench.done("model.open");
    assert!(bench.path("out.tokenizer/tokenizer.json").exists());
    let flat = |folder: &Path| f32_values(&open(folder).flat).unwrap();
    check_close("weights", &flat(&bench.path("out")), &flat(expected), tolerance);
}

#[track_caller]
fn check_refused(source: &Path, expected: &str) -> String {
    Bench::new(json!({}), &[("source", source)]).fails("model.open", expected)
}

#[test]
fn a_folder_opens_as_it_is() {
    for name in ["model_plain", "model_biased"] {
        let source = checkpoint(name);
        check_opens(source.path(), source.path(), 0.0);
    }
    let source = checkpoint("model_plain");
    let weights = source.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 9]).unwrap();
    check_refused(source.path(), "not a whole safetensors file");
}

/// A file's name, and which tensors go into it.
type Shard<'a> = (&'a str, fn(&str) -> bool);

/// Writes a checkpoint's tensors as this type, into these files.
fn rewrite(folder: &Path, dtype: Dtype, files: &[Shard]) {
    let config = Config::read(folder).unwrap();
    let stored = Safetensors::open(folder).unwrap();
    let bytes = |name: &str, shape: &[i64]| -> Vec<u8> {
        let numbers = f32_values(&stored.load(name, shape).unwrap()).unwrap();
        let narrow = |number: &f32| match dtype {
            Dtype::F16 => half::f16::from_f32(*number).to_le_bytes(),
            _ => half::bf16::from_f32(*number).to_le_bytes(),
        };
        numbers.iter().flat_map(narrow).collect()
    };
    let all: Vec<(String, Vec<usize>, Vec<u8>)> = config
        .tensors()
        .iter()
        .map(|(name, shape)| {
            (name.clone(), shape.iter().map(|&n| n as usize).collect(), bytes(name, shape))
        })
        .collect();
    drop(stored);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    for (file, takes) in files {
        let views = all.iter().filter(|(name, _, _)| takes(name)).map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        fs::write(folder.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

/// Stores a model as two shards, in bf16; the index is for the test to write.
fn shard(model: &Path) -> [&'static str; 2] {
    let [a, b] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    rewrite(
        model,
        Dtype::BF16,
        &[(a, |name| name.contains("layers.0")), (b, |name| !name.contains("layers.0"))],
    );
    [a, b]
}

#[test]
fn half_precision_and_shards_open() {
    for (dtype, tolerance) in [(Dtype::F16, 1e-3), (Dtype::BF16, 8e-3)] {
        let (source, whole) = (checkpoint("model_biased"), checkpoint("model_biased"));
        rewrite(source.path(), dtype, &[("model.safetensors", |_| true)]);
        check_opens(source.path(), whole.path(), tolerance);
    }
    let (source, whole) = (checkpoint("model_plain"), checkpoint("model_plain"));
    let [a, b] = shard(source.path());
    let index = source.path().join("model.safetensors.index.json");
    let write = |files: &serde_json::Value| {
        fs::write(&index, json!({"weight_map": files}).to_string()).unwrap();
    };
    write(&json!({"x": a, "y": b, "z": a}));
    check_opens(source.path(), whole.path(), 8e-3);
    // A tensor of a file that the index leaves out is missing, not found by chance.
    write(&json!({"x": a}));
    let help = check_refused(source.path(), "tensor `lm_head.weight`");
    assert!(help.contains("tie_word_embeddings"), "{help}");
    write(&json!({"x": a, "y": "../model.safetensors"}));
    check_refused(source.path(), "`../model.safetensors`, which is not in its folder");
    write(&json!({}));
    check_refused(source.path(), "no `weight_map`");
    write(&json!({"x": a, "y": b}));
    fs::remove_file(source.path().join(b)).unwrap();
    check_refused(source.path(), b);
    fs::write(&index, "{").unwrap();
    check_refused(source.path(), "not the JSON expected");
}

/// Files were written by `scripts/reference/torch_file.py`; each folder has the numbers of `model.safetensors`.
#[test]
fn files_of_pytorch_and_of_internevo_open_bit_for_bit() {
    let whole = torch_model(&[("model.safetensors", "model.safetensors")]);
    let same = |files: &[(&str, &str)], config: &serde_json::Value| {
        let source = torch_model(files);
        set_config(source.path(), config);
        check_opens(source.path(), whole.path(), 0.0);
    };
    same(&[("model.bin", "pytorch_model.bin")], &json!({}));
    same(&[("internevo.pt", "model_tp0_pp0.pt")], &json!({}));
    same(&[("internevo_wqkv.pt", "model_tp0_pp0.pt")], &json!({"adapt_hf": true}));
    let (a, b) = ("model-00001-of-00002.bin", "model-00002-of-00002.bin");
    let source = torch_model(&[(a, a), (b, b)]);
    let index = source.path().join("pytorch_model.bin.index.json");
    fs::write(&index, json!({"weight_map": {"x": a, "y": b}}).to_string()).unwrap();
    check_opens(source.path(), whole.path(), 0.0);
    fs::write(source.path().join("twice.bin"), fs::read(source.path().join(a)).unwrap()).unwrap();
    fs::write(&index, json!({"weight_map": {"x": a, "y": b, "z": "twice.bin"}}).to_string())
        .unwrap();
    check_refused(source.path(), "twice.bin`");
    fs::write(&index, json!({"weight_map": {"x": b}}).to_string()).unwrap();
    check_refused(source.path(), "tensor `model.embed_tokens.weight` of `");
}

/// Returns a folder with the model of these reference files, each under another name.
fn torch_model(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tokenizer(letters(64));
    let config = json!({
        "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": true,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for (from, to) in files {
        fs::copy(reference("torch").join(from), folder.path().join(to)).unwrap();
    }
    folder
}

#[test]
fn checkpoints_that_would_run_or_are_split_are_refused() {
    let foreign = torch_model(&[("foreign.bin", "pytorch_model.bin")]);
    let help =
        check_refused(foreign.path(), "pytorch_model.bin`: its pickle names `__builtin__.print`");
    assert!(help.contains("safetensors.torch.save_file"), "{help}");
    let split =
        torch_model(&[("internevo.pt", "model_tp0_pp0.pt"), ("internevo.pt", "model_tp1_pp0.pt")]);
    check_refused(split.path(), "is split: it has `model_tp0_pp0.pt` and `model_tp1_pp0.pt`");
    let biased = torch_model(&[("internevo.pt", "model_tp0_pp0.pt")]);
    set_config(biased.path(), &json!({"attention_bias": false}));
    check_refused(biased.path(), "tensor `layers.0.attention.wk.bias` of `");
    let other = torch_model(&[("internevo_wqkv.pt", "model_tp0_pp0.pt")]);
    set_config(other.path(), &json!({"num_key_value_heads": 4}));
    check_refused(other.path(), "tensor `model.layers.0.attention.wqkv.bias` of `");
    let pangu = torch_model(&[("internevo.pt", "model_tp0_pp0.pt")]);
    let changes = json!({"model_type": "pangu_pi", "architectures": null, "series_activations": 2});
    set_config(pangu.path(), &changes);
    check_refused(
        pangu.path(),
        "a checkpoint of InternEvo has no tensor like `model.layers.0.mlp.series",
    );
}

/// Before anything is written: the tokenizer too comes after the check.
#[track_caller]
fn check_refused_at_once(source: &Path, expected: &str) -> String {
    let bench = Bench::new(json!({}), &[("source", source)]);
    let help = bench.fails("model.open", expected);
    assert!(!bench.path("out").exists(), "something was written");
    help
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named_before_anything_is_written() {
    let fails = |changes: &serde_json::Value, expected: &str| {
        let source = checkpoint("model_plain");
        set_config(source.path(), changes);
        check_refused_at_once(source.path(), expected)
    };
    let shape = "model.safetensors` has shape [16, 32], but `config.json` means [16, 48]";
    fails(&json!({"intermediate_size": 48}), shape);
    fails(&json!({"vocab_size": 65}), "has shape [64, 16], but `config.json` means [65, 16]");
    fails(&json!({"num_hidden_layers": 3}), "tensor `model.layers.2.");
    let help = fails(
        &json!({"num_hidden_layers": 1}),
        "tensor `model.layers.1.input_layernorm.weight` of `",
    );
    assert!(help.contains("num_hidden_layers"), "{help}");
    let source = checkpoint("model_biased");
    set_config(source.path(), &json!({"mlp_bias": false}));
    check_refused_at_once(source.path(), "tensor `model.layers.0.mlp.down_proj.bias` of `");
}

#[test]
fn whole_numbers_are_no_weights() {
    let source = checkpoint("model_plain");
    let path = source.path().join("model.safetensors");
    let text = fs::read(&path).unwrap();
    let at = text.windows(5).rposition(|part| part == b"\"F32\"").unwrap();
    let mut bytes = text.clone();
    bytes[at..at + 5].copy_from_slice(b"\"I32\"");
    fs::write(&path, bytes).unwrap();
    check_refused_at_once(source.path(), "is of type I32; F64, F32, F16 and BF16 are supported");
}

#[test]
fn the_tokenizer_of_another_model_is_refused() {
    let source = checkpoint("model_plain");
    let larger = tokenizer(letters(65));
    let tokens =
        |from: &Path| fs::copy(from.join("tokenizer.json"), source.path().join("tokenizer.json"));
    tokens(larger.path()).unwrap();
    let help = check_refused(source.path(), "has 65 ids, but the model has embeddings for 64");
    assert!(help.contains("another model"), "{help}");
}

#[test]
fn a_damaged_or_cut_shard_is_named() {
    let source = checkpoint("model_plain");
    let [a, b] = shard(source.path());
    let index = source.path().join("model.safetensors.index.json");
    fs::write(index, json!({"weight_map": {"x": a, "y": b}}).to_string()).unwrap();
    let whole = fs::read(source.path().join(b)).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        fs::write(source.path().join(b), &whole[..length]).unwrap();
        check_refused_at_once(source.path(), &format!("{b}`: not a whole safetensors file"));
    }
    let huge = fs::File::create(source.path().join(b)).unwrap();
    (&huge).write_all(&(1_u64 << 30).to_le_bytes()).unwrap();
    huge.set_len((1 << 30) + 8).unwrap();
    check_refused_at_once(
        source.path(),
        &format!("{b}`: not a whole safetensors file: header too large"),
    );
}

#[test]
fn only_a_folder_or_a_gguf_file_is_a_source() {
    let source = checkpoint("model_plain");
    let config = source.path().join("config.json");
    let help = check_refused(&config, "config.json` is no GGUF file");
    assert!(help.contains("the folder itself"), "{help}");
    let mut bench = Bench::new(json!({}), &[("source", &config)]);
    bench.inputs.get_mut("source").unwrap().push(source.path().join("model.safetensors"));
    bench.fails("model.open", "`source` names 2 files");
}

#[test]
fn folders_that_are_no_model_say_why() {
    let fails = |changes: &serde_json::Value, expected: &str| {
        let source = checkpoint("model_plain");
        set_config(source.path(), changes);
        check_refused(source.path(), expected);
    };
    fails(&json!({"architectures": ["LlamaForSequenceClassification"]}), "ForSequence");
    fails(&json!({"model_type": "mamba"}), "unsupported `model_type` `mamba`");
    fails(&json!({"hidden_size": null}), "`hidden_size` is missing");
    fails(
        &json!({"num_hidden_layers": 1_000_000_000_000_i64}),
        "a number of layers of 1000000000000",
    );
    fails(&json!({"intermediate_size": i64::MAX}), "a inner size");
    fails(&json!({"num_attention_heads": 64, "head_dim": null}), "a head size of 0");
    fails(&json!({"head_dim": 3}), "a head size of 3 is odd");
    fails(&json!({"num_key_value_heads": 3}), "can't share 3 key-value heads");
    let rope = |rope: serde_json::Value| json!({"rope_parameters": rope});
    fails(&rope(json!({"rope_type": "linear", "factor": 0.0})), "a rope factor of 0");
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    fails(&rope(llama3), "is not above the `low_freq_factor` of 4");
    fails(&rope(json!({"rope_type": "yarn"})), "unsupported rope type `yarn`");
    let tied = json!({"tie_word_embeddings": true, "architectures": null});
    let source = checkpoint("model_plain");
    set_config(source.path(), &tied);
    Bench::new(json!({}), &[("source", source.path())]).done("model.open");
}

#[test]
fn missing_files_are_named() {
    let source = checkpoint("model_plain");
    let remove = |name: &str| fs::remove_file(source.path().join(name)).unwrap();
    remove("model.safetensors");
    check_refused(source.path(), "has no `model.safetensors`");
    fs::write(source.path().join("pytorch_model.bin"), "").unwrap();
    check_refused(source.path(), "pytorch_model.bin`: not a whole file of PyTorch");
    let source = checkpoint("model_plain");
    fs::remove_file(source.path().join("tokenizer.json")).unwrap();
    check_refused(source.path(), "has no `tokenizer.json`");
    let twice =
        json!({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 0}}, "added_tokens": []});
    fs::write(source.path().join("tokenizer.json"), twice.to_string()).unwrap();
    check_refused(source.path(), "tokenizer.json");
}

#[test]
fn numbers_that_are_not_finite_are_not_published() {
    let source = checkpoint("model_plain");
    let path = source.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    check_refused(source.path(), "tensor `model.norm.weight` has numbers that are not finite");
}

#[test]
fn an_opened_model_keeps_all_its_special_tokens() {
    let source = checkpoint("model_plain");
    set_config(source.path(), &json!({"eos_token_id": [2, 7], "pad_token_id": 3}));
    let bench = Bench::new(json!({}), &[("source", source.path())]);
    bench.done("model.open");
    let config = Config::read(&bench.path("out")).unwrap();
    assert_eq!((config.eos, config.pad), (vec![2, 7], Some(3)));
}

/// A GGUF metadata value.
enum Meta {
    Count(u32),
    Number(f32),
    Text(&'static str),
}

/// Writes a GGUF file with this metadata and one tensor of f32, the embeddings of eight tokens of width 8.
fn gguf(changes: &[(&'static str, Meta)]) -> tempfile::NamedTempFile {
    gguf_of(changes, 0)
}

/// The same with another type of the tensor.
fn gguf_of(changes: &[(&'static str, Meta)], kind: u32) -> tempfile::NamedTempFile {
    let mut metadata = BTreeMap::from([
        ("general.architecture", &Meta::Text("llama")),
        ("llama.embedding_length", &Meta::Count(8)),
        ("llama.block_count", &Meta::Count(1)),
        ("llama.attention.head_count", &Meta::Count(2)),
        ("llama.feed_forward_length", &Meta::Count(8)),
        ("llama.context_length", &Meta::Count(8)),
    ]);
    metadata.extend(changes.iter().map(|(name, value)| (*name, value)));
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (name, value) in metadata {
        out.extend(text(name));
        let (kind, bytes) = match value {
            Meta::Count(count) => (4_u32, count.to_le_bytes().to_vec()),
            Meta::Number(number) => (6, number.to_le_bytes().to_vec()),
            Meta::Text(value) => (8, text(value)),
        };
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    }
    out.extend(text("token_embd.weight"));
    out.extend(2_u32.to_le_bytes());
    out.extend([8_u64.to_le_bytes(), 8_u64.to_le_bytes()].concat());
    out.extend(kind.to_le_bytes());
    out.extend([0; 8]);
    out.resize(out.len().next_multiple_of(32) + 256, 0);
    let mut file = tempfile::NamedTempFile::new_in(scratch()).unwrap();
    file.write_all(&out).unwrap();
    file
}

#[test]
fn gguf_files_that_would_be_read_wrongly_are_refused() {
    let fails = |name: &'static str, value: Meta, expected: &str| {
        check_refused(gguf(&[(name, value)]).path(), expected);
    };
    fails("llama.block_count", Meta::Count(u32::MAX), "a number of layers of 4294967295");
    fails("llama.attention.head_count", Meta::Count(9), "a head size of 0");
    fails("llama.rope.dimension_count", Meta::Count(2), "turns 2 of 4 dimensions of a head");
    fails("llama.rope.scale_linear", Meta::Number(4.0), "`llama.rope.scale_linear` of 4");
    fails("llama.rope.scaling.type", Meta::Text("yarn"), "unsupported rope scaling `yarn`");
    fails("llama.rope.scaling.type", Meta::Text("linear"), "without `llama.rope.scaling.factor`");
    fails("llama.expert_count", Meta::Count(8), "has experts");
    fails("general.architecture", Meta::Text("gemma"), "architecture `gemma`");
    // Nothing of these is wrong; what is missing next is a tensor.
    let next = "tensor `blk.0.attn_norm.weight` is missing";
    for (name, value) in [
        ("llama.expert_count", Meta::Count(0)),
        ("llama.rope.scale_linear", Meta::Number(1.0)),
        ("llama.rope.dimension_count", Meta::Count(4)),
    ] {
        let file = gguf(&[(name, value)]);
        let (result, _) =
            Bench::new(json!({}), &[("source", file.path())]).run("model.open", usize::MAX);
        assert!(format!("{result:?}").contains(next), "{result:?}");
    }
}

#[test]
fn gguf_types_that_are_not_read_are_named() {
    for (kind, name) in
        [(20, "IQ4_NL"), (16, "IQ2_XXS"), (39, "MXFP4"), (24, "I8"), (99, "number 99")]
    {
        let help = check_refused_at_once(
            gguf_of(&[], kind).path(),
            &format!("tensor `token_embd.weight` is of ggml type {name}, which is not supported"),
        );
        assert!(help.contains("llama-quantize"), "{help}");
    }
}

#[test]
fn the_donor_has_the_logits_of_transformers() {
    let bench = Bench::new(json!({}), &[("source", donor())]);
    bench.done("model.open");
    let model = open(&bench.path("out"));
    let expected = stored("model_donor.json");
    let stride = expected["stride"].as_i64().unwrap();
    let logits = model.logits(&ids(&expected["ids"])).unwrap();
    let got = f32_values(&logits.slice(1, None, None, stride)).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone()).unwrap();
    check_close("donor", &got, &rows.concat(), 1e-3);
}

#[test]
fn a_truncated_gguf_is_refused() {
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let cut = folder.path().join("cut.gguf");
    let bytes = fs::read(donor()).unwrap();
    for length in [20, 100_000, bytes.len() - 1] {
        fs::write(&cut, &bytes[..length]).unwrap();
        Bench::new(json!({}), &[("source", &cut)]).fails("model.open", "truncated");
    }
}
