//! Models made, measured, cut and sampled through the programs, as a recipe says.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

const RECIPE: &str = r#"
use std.{corpus, dataset, eval, model, tokenizer}

let tok   = tokenizer.open("tokenizer*.json")
let ds    = dataset.pack(corpus.text("[ab].txt", delimiter: "\n\n"), tok, seq: 8)
let shape = model.shape(depth: 3, width: 32, head_dim: 8, ffn: 48, activations: 2, shortcut: 25%, context: 64)
let made  = model.init(tok, shape: shape, law: depth_adaptive, std: 0.2)
let fewer = model.gqa(made, kv_heads: 2)
let small = model.cut(fewer, model.importance(fewer, ds, tokens: 64), shape: {depth: 2, width: 16, heads: 2, kv_heads: 1})
let m     = eval.choice(small, "choice.jsonl", shots: 2, prompt: "Q: {{query}} A:")
let p     = eval.perplexity(fewer, ds, skip: 1, skip_from: 1)
let s     = model.spread(small, layer: 1)
let r     = eval.rouge(small, "rouge.jsonl", tokens: 4)
let file  = model.gguf(model.init(tok, shape: {depth: 1, width: 16, heads: 2, head_dim: 8}))
let again = model.open(file)
let speed = eval.speed(small, new: 8, batch: 2, dtype: f32)

plan default = [m, p, s, r, speed, again]
report made = table([m.acc, m.acc_norm, m.acc_bytes, m.questions, p.perplexity, s.q, r.rouge1, small.params, again.params])
"#;

fn tlm(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tlm"));
    let output = program.current_dir(folder).args(args).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn models_are_made_measured_cut_and_sampled() {
    let dir = tempfile::tempdir().expect("a folder");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for name in [
        "golden/stages/a.txt",
        "golden/stages/b.txt",
        "golden/stages/tokenizer.json",
        "reference/choice.jsonl",
    ] {
        let from = tests.join(name);
        fs::copy(&from, dir.path().join(from.file_name().expect("a name"))).expect("copied");
    }
    let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}"#;
    fs::write(dir.path().join("tokenizer_config.json"), config).expect("written");
    fs::write(dir.path().join("models.tlm"), RECIPE).expect("written");
    let line = r#"{"query": "The cat sat on the", "reference": "mat"}"#;
    fs::write(dir.path().join("rouge.jsonl"), line).expect("written");
    let (code, out, told) = tlm(dir.path(), &["run", "models.tlm"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(out.contains("acc_bytes"), "{out}");
    let (code, _, told) = tlm(dir.path(), &["run", "models.tlm"]);
    assert!(code == Some(0) && told.contains("nothing to do"), "{told}");

    let sample = |args: &[&str]| tlm(dir.path(), &[&["sample", "small", "The cat"], args].concat());
    let (code, out, told) = sample(&["--tokens", "12"]);
    assert!(code == Some(0) && out.starts_with("The cat") && out.ends_with('\n'), "{out}{told}");
    let drawn = |seed: &str| sample(&["--temperature", "2", "--top-k", "50", "--seed", seed]).1;
    assert!(drawn("1") == drawn("1") && drawn("1") != drawn("2"));
    for (args, wanted, expected) in [
        (&["sample", "nothing", "x"][..], 2, "the store has no step `nothing`"),
        (&["sample", "m", "x"], 2, "`m` made no checkpoint"),
        (&["sample", "models.tlm", "x"], 2, "`models.tlm` is no checkpoint"),
        (
            &["sample", "small", "x", "--temperature=-1"],
            2,
            "`--temperature` is no number from 0 up",
        ),
        (&["sample", "small", "x", "--top-p", "0"], 2, "`--top-p` is not above 0"),
        (&["sample", "small", "x", "--torch", "no/such"], 4, "can't ask `"),
    ] {
        let (code, _, told) = tlm(dir.path(), args);
        assert!(code == Some(wanted) && told.contains(expected), "{args:?}: {code:?} {told}");
    }
    let long = "cat ".repeat(70);
    let (code, _, told) = tlm(dir.path(), &["sample", "small", &long]);
    assert!(code == Some(1) && told.contains("and the model's context is 64"), "{code:?} {told}");
}
