//! Making models of other shapes: laws of initialisation, PanGu-pi's modules, shared key-value heads; how large weights are,
//! and how fast they write.

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::nn::config::Config;
use crate::nn::decode::{Choice, Decoder};
use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, ids, json as stored, open, reference, trained};
use crate::nn::weights::{Safetensors, Weights};
use crate::stage::tests::{Bench, RANDOM, checkpoint, letters, output, tokenizer};

fn shape() -> Value {
    json!({
        "depth": 3, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 96, "tied": false, "bias": true,
        "activations": 3, "shortcut": 0.125, "rope_theta": 10000.0, "context": 128,
    })
}

fn init(shape: &Value, law: &str) -> Bench {
    let tokens = tokenizer(letters(64));
    let params = json!({"shape": shape, "law": law, "std": 0.02, "seed": 3});
    let bench = Bench::new(params, &[("tokenizer", tokens.path())]);
    bench.done("model.init");
    bench
}

/// Standard deviations of `n` normal numbers are within `4 / sqrt(2 n)` of the true one, but for one in 16,000.
#[test]
fn weights_have_the_spread_of_their_law() {
    let check = |law: &str, expected: &dyn Fn(i64, &str) -> f64| {
        let bench = init(&shape(), law);
        for layer in 0..3 {
            let out = bench.path("out");
            let events =
                Bench::new(json!({"layer": layer}), &[("model", &out)]).done("model.spread");
            for (name, count) in [
                ("q", 8192),
                ("k", 4096),
                ("v", 4096),
                ("o", 8192),
                ("gate", 6144),
                ("up", 6144),
                ("down", 6144),
            ] {
                let (got, wanted) = (output(&events, name), 0.02 * expected(layer, name));
                let bound = 4.0 / (2.0 * f64::from(count)).sqrt();
                assert!(
                    (got / wanted - 1.0).abs() < bound,
                    "{law} {layer} {name}: {got}, not {wanted}"
                );
            }
        }
    };
    let six = 6.0_f64.sqrt();
    check("constant", &|_, _| 1.0);
    check("gpt2", &|_, _| 1.0 / six);
    check("internlm", &|layer, name| match name {
        "o" | "down" => 1.0 / (2.0 * (layer + 1) as f64).sqrt(),
        _ => 1.0,
    });
    check("depth_adaptive", &|layer, name| {
        let (two, part) = (2.0_f64.sqrt(), layer as f64 / 2.0);
        match name {
            "q" | "k" => two + (1.0 - two) * part,
            "v" | "o" => 1.0 / two + (1.0 - 1.0 / two) * part,
            _ => 1.0,
        }
    });
}

#[test]
fn a_layer_that_is_not_there_has_no_spread() {
    let model = checkpoint("model_plain");
    let bench = Bench::new(json!({"layer": 2}), &[("model", model.path())]);
    bench.fails("model.spread", "`layer` is 2, but the model has 2 layers");
}

#[test]
fn modules_of_pangu_pi_start_apart_from_each_other() {
    let model = open(&init(&shape(), "constant").path("out"));
    assert_eq!((model.config.activations, model.config.shortcut), (3, 8));
    let part = |name: &str| {
        let part = model.layout.parts.iter().find(|part| part.name == name).unwrap();
        let count = part.shape.iter().product();
        f32_values(&model.flat.narrow(0, part.offset, count)).unwrap()
    };
    assert!(part("model.layers.1.mlp.series.scale").iter().all(|&scale| scale == 1.0 / 3.0));
    let shifts = part("model.layers.1.mlp.series.bias");
    assert!(shifts[..96] != shifts[96..192] && shifts.iter().all(|shift| shift.abs() < 0.2));
    assert!(part("model.layers.0.self_attn.q_proj.bias").iter().all(|&bias| bias == 0.0));
    let mut none = shape();
    none["activations"] = json!(0);
    let tokens = tokenizer(letters(64));
    let params = json!({"shape": none, "law": "gpt2", "std": 0.02, "seed": 3});
    Bench::new(params, &[("tokenizer", tokens.path())])
        .fails("model.init", "`shape.activations` is zero");
}

#[test]
fn shapes_that_do_not_divide_are_refused() {
    let tokens = tokenizer(letters(64));
    let fails = |changes: &[(&str, Value)], expected: &str| {
        let mut shape = shape();
        shape.as_object_mut().unwrap().remove("head_dim");
        changes.iter().for_each(|(name, value)| shape[*name] = value.clone());
        let params = json!({"shape": shape, "law": "gpt2", "std": 0.02, "seed": 3});
        Bench::new(params, &[("tokenizer", tokens.path())]).fails("model.init", expected);
    };
    let uneven = [("heads", json!(3)), ("kv_heads", json!(3))];
    fails(&uneven, "`shape.width` is 64, which 3 heads can't share evenly");
    fails(&[("kv_heads", json!(3))], "4 query heads can't share 3 key-value heads evenly");
    fails(&[("heads", json!(64)), ("kv_heads", json!(1))], "a head size of 1 is odd");
    fails(
        &[("width", json!(200)), ("heads", json!(null)), ("kv_heads", json!(null))],
        "200, which 3 heads",
    );
}

/// Logits and gradients were written by `scripts/reference/pangu.py`.
#[test]
fn modules_of_pangu_pi_are_those_of_the_reference() {
    let expected = stored("model_pangu.json");
    let model = open(&reference("model_pangu"));
    let logits = model.logits(&ids(&expected["ids"])).unwrap();
    let wanted: Vec<f32> = serde_json::from_value(expected["logits"].clone()).unwrap();
    check_close("logits", &f32_values(&logits).unwrap(), &wanted, 1e-4);
    let rows = ids(&expected["ids"]);
    let length = rows.size()[1] - 1;
    let mut gradient = model.flat.zeros_like();
    model.backward(&trained(&rows), 1.0 / (2 * length) as f64, &mut gradient, None).unwrap();
    for (name, wanted) in expected["gradients"].as_object().unwrap() {
        let part = model.layout.parts.iter().find(|part| part.name == *name).unwrap();
        let got = gradient.narrow(0, part.offset, part.shape.iter().product());
        let wanted: Vec<f32> = serde_json::from_value(wanted.clone()).unwrap();
        check_close(name, &f32_values(&got).unwrap(), &wanted, 1e-4);
    }
    // Nothing else takes such a model for a plain Llama.
    let config = std::fs::read_to_string(init(&shape(), "gpt2").path("out/config.json")).unwrap();
    assert!(config.contains("\"model_type\": \"pangu_pi\""), "{config}");
}

#[test]
fn shared_heads_are_the_mean_of_those_they_stand_for() {
    let model = checkpoint("model_biased");
    let gqa = |kv_heads: i64| Bench::new(json!({"kv_heads": kv_heads}), &[("model", model.path())]);
    let bench = gqa(1);
    bench.done("model.gqa");
    let (before, after) = (model.path().to_path_buf(), bench.path("out"));
    let load = |folder: &std::path::Path, name: &str| {
        let tensors = Config::read(folder).unwrap().tensors();
        let shape = tensors.into_iter().find(|(known, _)| known == name).unwrap().1;
        Safetensors::open(folder).unwrap().load(name, &shape).unwrap()
    };
    for name in ["k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias", "q_proj.weight"] {
        let name = format!("model.layers.1.self_attn.{name}");
        let (old, new) = (load(&before, &name), load(&after, &name));
        let wanted = if name.contains("q_proj") {
            old
        } else {
            (old.narrow(0, 0, 4) + old.narrow(0, 4, 4)) / 2.0
        };
        check_close(&name, &f32_values(&new).unwrap(), &f32_values(&wanted).unwrap(), 1e-6);
    }
    assert_eq!(Config::read(&after).unwrap().kv_heads, 1);
    gqa(3).fails("model.gqa", "`kv_heads` is 3, but the model's 2 key-value heads");
    // Heads that are equal lose nothing by it.
    let same = gqa(2);
    same.done("model.gqa");
    let input = ids(&stored("model_logits.json")["ids"]);
    let logits =
        |folder: &std::path::Path| f32_values(&open(folder).logits(&input).unwrap()).unwrap();
    assert_eq!(logits(&before), logits(&same.path("out")));
}

#[test]
fn decoding_with_a_cache_has_the_logits_of_the_whole() {
    let pangu = init(&shape(), "constant");
    for folder in [reference("model_plain"), reference("model_biased"), pangu.path("out")] {
        let model = open(&folder);
        let input = ids(&stored("model_logits.json")["ids"]);
        let whole = model.logits(&input).unwrap().view([2, 12, 64]);
        let model = model.frozen().unwrap();
        let mut decoder = Decoder::new(&model, 2, 12).unwrap();
        let mut next = decoder.read(&input.narrow(1, 0, 5)).unwrap();
        for at in 5..=12 {
            let wanted = whole.select(1, at - 1);
            let wanted = f32_values(&wanted).unwrap();
            check_close("logits", &f32_values(&next).unwrap(), &wanted, 1e-5);
            if at < 12 {
                next = decoder.read(&input.narrow(1, at, 1)).unwrap();
            }
        }
    }
}

#[test]
fn draws_follow_temperature_and_cuts() {
    let alone = RANDOM.lock();
    tch::manual_seed(1);
    let logits = Tensor::from_slice(&[0.5_f32, 0.125, 0.25, 0.125]).log().unsqueeze(0);
    let rows = logits.repeat([4000, 1]);
    let parts = |choice: Choice| -> Vec<f64> {
        let drawn = choice.draw(&rows).unwrap();
        (0..4).map(|id| drawn.eq(id).sum(Kind::Double).double_value(&[]) / 4000.0).collect()
    };
    let check = |choice: Choice, wanted: [f64; 4]| {
        // Four standard deviations of a part of 4,000 draws are at most 0.032.
        let got = parts(choice);
        let off = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 0.032, "{choice:?}: {got:?}");
    };
    let choice = |temperature: f64, top_k: i64, top_p: f64| Choice { temperature, top_k, top_p };
    check(Choice::GREEDY, [1.0, 0.0, 0.0, 0.0]);
    check(choice(1.0, 0, 1.0), [0.5, 0.125, 0.25, 0.125]);
    check(choice(1.0, 2, 1.0), [2.0 / 3.0, 0.0, 1.0 / 3.0, 0.0]);
    check(choice(1.0, 0, 0.4), [1.0, 0.0, 0.0, 0.0]);
    check(choice(1.0, 0, 0.6), [2.0 / 3.0, 0.0, 1.0 / 3.0, 0.0]);
    let sum = 16.0 + 4.0 + 1.0 + 1.0;
    check(choice(0.5, 0, 1.0), [16.0 / sum, 1.0 / sum, 4.0 / sum, 1.0 / sum]);
    drop(alone);
}

#[test]
fn speed_is_measured_in_every_type() {
    let model = checkpoint("model_biased");
    let speed = |new: i64, dtype: &str| {
        let params = json!({"prefix": 2, "new": new, "batch": 3, "dtype": dtype});
        Bench::new(params, &[("model", model.path())])
    };
    for dtype in ["f32", "bf16", "f16"] {
        assert!(output(&speed(20, dtype).done("eval.speed"), "tokens_per_s") > 0.0);
    }
    speed(63, "f32").fails("eval.speed", "are 65 tokens together, but the model's context is 64");
}

/// Returns what a model writes.
fn sample(prompt: &str, changes: &Value) -> String {
    let model = checkpoint("model_plain");
    let mut params = json!({
        "prompt": prompt, "tokens": 10, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 1,
    });
    for (name, value) in changes.as_object().unwrap() {
        params[name] = value.clone();
    }
    let bench = Bench::new(params, &[("model", model.path())]);
    let events = bench.done("sample");
    let lines = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|event| event["line"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_sample_goes_on_as_the_model_does() {
    let model = open(&reference("model_plain"));
    let mut all: Vec<i64> = vec![3, 17, 5];
    for _ in 0..10 {
        let logits = model.logits(&Tensor::from_slice(&all).unsqueeze(0)).unwrap();
        all.push(logits.select(0, -1).argmax(0, false).int64_value(&[]));
    }
    let letter = |id: &i64| letters(64).nth(*id as usize).unwrap();
    let end =
        all.iter().skip(3).position(|id| model.config.eos.contains(id)).map_or(13, |at| at + 3);
    let (prompt, wanted): (String, String) =
        (all[..3].iter().map(letter).collect(), all[3..end].iter().map(letter).collect());
    assert_eq!(sample(&prompt, &json!({})).replace(' ', ""), wanted);
    let hot = |seed: i64| sample(&prompt, &json!({"temperature": 5.0, "seed": seed}));
    assert!(hot(1) == hot(1) && hot(1) != hot(2));
    assert!(!sample("", &json!({})).is_empty());
}

#[test]
fn rouge_compares_what_the_model_writes() {
    let model = checkpoint("model_plain");
    let folder = tempfile::tempdir_in(crate::stage::tests::scratch()).unwrap();
    let path = folder.path().join("task.jsonl");
    let rouge = |reference: &str, tokens: i64| {
        let line = json!({"query": "5B1", "reference": reference}).to_string();
        std::fs::write(&path, format!("{line}\n{line}\n")).unwrap();
        let params = json!({"tokens": tokens, "shots": 0, "dtype": "f32"});
        Bench::new(params, &[("model", model.path()), ("task", &path)])
    };
    let written = sample("5B1", &json!({"tokens": 20}));
    let events = rouge(&written, 20).done("eval.rouge");
    assert_eq!((output(&events, "rouge1"), output(&events, "rouge_l")), (1.0, 1.0), "{written}");
    let events = rouge("nothing like this", 20).done("eval.rouge");
    assert_eq!((output(&events, "rouge1"), output(&events, "rouge_l")), (0.0, 0.0));
    rouge("x", 64).fails("eval.rouge", "`tokens` is 64, but the model's context is 64");
}
