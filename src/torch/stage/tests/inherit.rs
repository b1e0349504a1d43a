//! Inheriting: what is kept, where it comes from, what is refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tch::Tensor;

use crate::nn::config::Config;
use crate::nn::runtime::f32_values;
use crate::nn::select::{Criterion, Layers, Selector, layers};
use crate::nn::tests::{ids, json as stored, open};
use crate::nn::weights::{Safetensors, Weights};
use crate::stage::tests::{Bench, checkpoint, letters, set_config, tokenizer};

pub(super) fn inherit_params(shape: &Value, criterion: &str) -> Value {
    json!({"shape": shape, "criterion": criterion, "layers": "ends", "keep_layers": null, "seed": 0})
}

fn inherit(donor: &Path, tokens: &Path, shape: &Value, criterion: &str) -> Bench {
    let inputs: [(&str, &Path); 2] = [("donor", donor), ("tokenizer", tokens)];
    let bench = Bench::new(inherit_params(shape, criterion), &inputs);
    bench.done("model.inherit");
    bench
}

#[test]
fn inheriting_the_same_shape_gives_the_same_logits() {
    let tokens = tokenizer(letters(64));
    for donor in ["model_plain", "model_biased"] {
        let donor = checkpoint(donor);
        for criterion in ["random", "l1", "l2"] {
            let bench = inherit(donor.path(), tokens.path(), &json!({}), criterion);
            let input = ids(&stored("model_logits.json")["ids"]);
            let logits = |folder: &Path| f32_values(&open(folder).logits(&input).unwrap()).unwrap();
            assert_eq!(logits(donor.path()), logits(&bench.path("out")), "{criterion}");
        }
    }
}

/// Returns a tensor of a checkpoint.
fn tensor(folder: &Path, name: &str) -> Tensor {
    let all = Config::read(folder).unwrap().tensors();
    let (_, shape) = all.into_iter().find(|(known, _)| known == name).unwrap();
    Safetensors::open(folder).unwrap().load(name, &shape).unwrap()
}

/// Selections were written by `scripts/reference/model.py`; heads are of size 4.
#[test]
fn each_slice_is_what_the_reference_selects() {
    let (tokens, donor) = (tokenizer(['&', '*', 'I']), checkpoint("model_plain"));
    let rows = vec![5, 9, 40];
    let shape = json!({"depth": 1, "width": 8, "heads": 1, "kv_heads": 1, "ffn": 12});
    for criterion in ["random", "l1", "l2"] {
        let bench = inherit(donor.path(), tokens.path(), &shape, criterion);
        let out = bench.path("out");
        let written = fs::read_to_string(out.join("selection.json")).unwrap();
        let written: Value = serde_json::from_str(&written).unwrap();
        let expected = &stored("model_selection.json")[criterion];
        let kept = |name: &str| -> Vec<i64> {
            assert_eq!(written[name], expected[name], "{criterion}: {name}");
            let list = &expected[name];
            serde_json::from_value(list.get(0).filter(|of| of.is_array()).unwrap_or(list).clone())
                .unwrap()
        };
        let spread = |heads: Vec<i64>| -> Vec<i64> {
            heads.iter().flat_map(|head| head * 4..head * 4 + 4).collect()
        };
        let (hidden, neurons) = (kept("hidden"), kept("neurons"));
        let (q, kv) = (spread(kept("heads")), spread(kept("kv_heads")));
        let check = |name: &str, slices: &[&Vec<i64>]| {
            let mut whole = tensor(donor.path(), name);
            for (over, kept) in slices.iter().enumerate() {
                whole = whole.index_select(over as i64, &Tensor::from_slice(kept));
            }
            assert_eq!(whole, tensor(&out, name), "{criterion}: {name}");
        };
        check("model.embed_tokens.weight", &[&rows, &hidden]);
        check("lm_head.weight", &[&rows, &hidden]);
        check("model.norm.weight", &[&hidden]);
        let layer = |name: &str, slices: &[&Vec<i64>]| {
            check(&format!("model.layers.0.{name}.weight"), slices);
        };
        layer("input_layernorm", &[&hidden]);
        layer("post_attention_layernorm", &[&hidden]);
        layer("self_attn.q_proj", &[&q, &hidden]);
        layer("self_attn.k_proj", &[&kv, &hidden]);
        layer("self_attn.v_proj", &[&kv, &hidden]);
        layer("self_attn.o_proj", &[&hidden, &q]);
        layer("mlp.gate_proj", &[&neurons, &hidden]);
        layer("mlp.up_proj", &[&neurons, &hidden]);
        layer("mlp.down_proj", &[&hidden, &neurons]);
    }
}

#[test]
fn each_tensor_is_told_as_copied_or_sliced() {
    let (tokens, donor) = (tokenizer(letters(64)), checkpoint("model_plain"));
    let bench = Bench::new(
        inherit_params(&json!({"depth": 1, "ffn": 20}), "l2"),
        &[("donor", donor.path()), ("tokenizer", tokens.path())],
    );
    let events = bench.done("model.inherit");
    assert!(events.contains("of the tensors 9 are copied, 3 sliced, none initialised"), "{events}");
    let written = fs::read_to_string(bench.path("out/selection.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    let told = written["tensors"].as_object().unwrap();
    let names: Vec<_> = Config::read(&bench.path("out")).unwrap().tensors();
    assert_eq!(told.len(), names.len());
    let name = "model.layers.0.mlp.up_proj.weight";
    let expected =
        json!({"how": "sliced", "donor": name, "donor_shape": [32, 16], "shape": [20, 16]});
    assert_eq!(told[name], expected);
    let name = "model.layers.0.self_attn.k_proj.weight";
    let expected =
        json!({"how": "copied", "donor": name, "donor_shape": [8, 16], "shape": [8, 16]});
    assert_eq!(told[name], expected);
}

#[test]
fn a_donor_with_numbers_that_are_not_finite_is_refused_even_where_they_would_be_left_out() {
    let (tokens, donor) = (tokenizer(letters(64)), checkpoint("model_plain"));
    let path = donor.path().join("model.safetensors");
    let whole =
        safetensors_with_nan(&fs::read(&path).unwrap(), "model.layers.0.mlp.up_proj.weight");
    fs::write(&path, whole).unwrap();
    let inputs: [(&str, &Path); 2] = [("donor", donor.path()), ("tokenizer", tokens.path())];
    for shape in [json!({"ffn": 20}), json!({"width": 8}), json!({})] {
        Bench::new(inherit_params(&shape, "l1"), &inputs)
            .fails("model.inherit", "tensor `model.layers.0.mlp.up_proj.weight`");
    }
}

/// Returns a safetensors file in which the first number of a tensor of f32 is none.
fn safetensors_with_nan(whole: &[u8], name: &str) -> Vec<u8> {
    let size = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&whole[8..8 + size]).unwrap();
    let at = 8 + size + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut bytes = whole.to_vec();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes
}

#[test]
fn embeddings_follow_the_tokens_through_two_generations() {
    let donor = checkpoint("model_plain");
    // Each child is cut with a tokenizer of its parent's tokens in another order.
    let (once, twice) = (tokenizer("!&*I5".chars()), tokenizer("I!*".chars()));
    let child = inherit(donor.path(), once.path(), &json!({}), "l2");
    let grandchild = inherit(&child.path("out"), twice.path(), &json!({}), "l2");
    let same = inherit(&child.path("out"), once.path(), &json!({}), "l2");
    let name = "model.embed_tokens.weight";
    let check = |bench: &Bench, rows: &[i64]| {
        let expected = tensor(donor.path(), name).index_select(0, &Tensor::from_slice(rows));
        assert_eq!(tensor(&bench.path("out"), name), expected);
    };
    check(&child, &[0, 5, 9, 40, 20]);
    check(&grandchild, &[40, 0, 9]);
    check(&same, &[0, 5, 9, 40, 20]);
}

#[test]
fn a_token_the_donor_does_not_know_is_named() {
    let donor = checkpoint("model_plain");
    let fails = |tokens: &Path, expected: &str| {
        let inputs: [(&str, &Path); 2] = [("donor", donor.path()), ("tokenizer", tokens)];
        Bench::new(inherit_params(&json!({}), "l2"), &inputs).fails("model.inherit", expected)
    };
    let help = fails(tokenizer("!&~".chars()).path(), "token `~` is not in `");
    assert!(help.contains("donor.tokenizer"), "{help}");
    // A pruned tokenizer's id map is no permission to gather rows of another vocabulary.
    let other = tokenizer("αβ".chars());
    fs::write(other.path().join("id_map.u32"), [1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
    fails(other.path(), "token `α` is not in `");
    let large = tokenizer(letters(65));
    fs::copy(large.path().join("tokenizer.json"), donor.path().join("tokenizer.json")).unwrap();
    fails(large.path(), "has 65 ids, but the donor has embeddings for 64");
}

#[test]
fn special_tokens_keep_their_meaning() {
    let donor = checkpoint("model_plain");
    let config = |tokens: &str| {
        let tokens = tokenizer(tokens.chars());
        let bench = inherit(donor.path(), tokens.path(), &json!({}), "l2");
        Config::read(&bench.path("out")).unwrap()
    };
    // The donor's ids 1, 2 and 5 are `"`, `#` and `&`.
    set_config(
        donor.path(),
        &json!({"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 5}),
    );
    let all = config("&\"#");
    assert_eq!((all.bos, all.eos, all.pad), (Some(1), vec![2, 0], Some(0)));
    let some = config("*#");
    assert_eq!((some.bos, some.eos, some.pad), (None, vec![1], None));
    // Where none of the donor's is left, the tokenizer says: its first token.
    assert_eq!(config("*I").eos, [0]);
}

#[test]
fn a_random_choice_reads_no_matrix() {
    struct Nothing;
    impl Weights for Nothing {
        fn load(&self, name: &str, _: &[i64]) -> Result<Tensor, tlm::stage::StageError> {
            panic!("`{name}` was read");
        }
    }
    let donor = Config::read(&crate::nn::tests::reference("model_plain")).unwrap();
    let select = |target: &Config, criterion| {
        let weights = &Nothing;
        let selector = Selector { donor: &donor, target, weights, criterion, seed: 0 };
        let layers = layers(Layers::Ends, donor.depth, target.depth, &[]);
        selector.select(layers, &mut |_| Ok(())).unwrap();
    };
    select(&Config { width: 8, ffn: 12, heads: 2, ..donor.clone() }, Criterion::Random);
    // Nor does fewer layers.
    select(&Config { depth: 1, ..donor.clone() }, Criterion::L2);
}

#[test]
fn impossible_shapes_name_parameter_and_limit() {
    let (tokens, donor) = (tokenizer(letters(64)), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("donor", donor.path()), ("tokenizer", tokens.path())];
    let check = |shape: &serde_json::Value, expected: &str| {
        Bench::new(inherit_params(shape, "l2"), &inputs).fails("model.inherit", expected);
    };
    check(&json!({"depth": 3}), "`shape.depth` is 3, but the donor has 2 layers");
    check(&json!({"width": 17}), "`shape.width` is 17, but the donor has 16 hidden dimensions");
    check(&json!({"ffn": 0}), "`shape.ffn` is 0");
    check(&json!({"heads": 3, "kv_heads": 2}), "2 query heads for each");
}

#[test]
fn layers_may_be_named() {
    let (tokens, donor) = (tokenizer(letters(64)), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("donor", donor.path()), ("tokenizer", tokens.path())];
    let bench = |layers: Value, shape: &Value| {
        let mut params = inherit_params(shape, "l2");
        params["keep_layers"] = layers;
        Bench::new(params, &inputs)
    };
    let second = bench(json!([1]), &json!({}));
    second.done("model.inherit");
    let norm = "input_layernorm.weight";
    let [got, wanted] = [
        tensor(&second.path("out"), &format!("model.layers.0.{norm}")),
        tensor(donor.path(), &format!("model.layers.1.{norm}")),
    ];
    assert_eq!(got, wanted);
    let fails = |layers: Value, shape: &Value, said: &str| {
        bench(layers, shape).fails("model.inherit", said);
    };
    fails(json!([]), &json!({}), "not a list of rising numbers");
    fails(json!([1, 1]), &json!({}), "not a list of rising numbers");
    fails(json!([0, 2]), &json!({}), "has layer 2, but the donor has 2");
    fails(json!([1]), &json!({"depth": 2}), "has 1 layers, but `shape.depth` is 2");
}
