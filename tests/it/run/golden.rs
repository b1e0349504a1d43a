//! What each stage makes of small inputs, to the byte: a stage whose results change needs a new version, or old results would
//! pass for new ones.
//!
//! `tests/golden/stages/digests.txt` has a line for each output of a stage without tensors, `tensors.txt` for each of a tensor stage.
//! `INSTA_UPDATE=always cargo test golden` adds lines of new stages and cases and replaces those of stages with a new version; it
//! never touches those of the same version.
//!
//! Sums of real numbers depend on their order, and libtorch and what it calls choose code, and with it the order, by the kind of CPU.
//! So tensor stages run on [`PLAIN_CODE`], on one thread, and in `f32`: products in `bf16` have no code that all CPUs share. Then all
//! bits are the same on an AMD CPU with AVX-512 and in emulations of Intel and AMD CPUs without (`qemu-x86_64 -cpu Nehalem`, `Haswell`,
//! `EPYC`, `max`), but for one operation: the square roots of MKL, which start from the CPU's own approximation. Only training takes
//! any, so of its outputs the lines have numbers, marked with `~`, which may differ by [`TOLERANCE`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use tlm::base::Digest;

use crate::cost::declared;
use crate::run::space::{Space, finish};

/// A stage with its version, and the lines of its outputs: step, name, digest or number.
type Outputs = BTreeMap<(String, u64), BTreeSet<String>>;

/// The code that any x86-64 has: of libtorch's own loops, of the matrix products of MKL and oneDNN, and of `exp` and the like in the
/// C library. MKL and the C library take other code by maker and features of the CPU, and round otherwise in the last bit.
const PLAIN_CODE: [(&str, &str); 4] = [
    ("ATEN_CPU_CAPABILITY", "default"),
    ("MKL_CBWR", "COMPATIBLE"),
    ("ONEDNN_MAX_CPU_ISA", "SSE41"),
    ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4"),
];

/// Stages whose bits depend on the kind of CPU.
const INEXACT: [&str; 1] = ["train.run"];

/// How much numbers with `~` may differ, as a part of their size. Emulated CPUs give numbers within 2e-7.
const TOLERANCE: f64 = 1e-5;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stages")
}

/// Runs the cases of a recipe, and takes what those of some stages made out of a lock.
fn made(recipe: &str, stages: &BTreeSet<String>) -> Outputs {
    let space = Space::new();
    let pattern = golden().join("**/*");
    for path in glob::glob(pattern.to_str().expect("text")).expect("a pattern") {
        let path = path.expect("readable");
        let name = path.strip_prefix(golden()).expect("inside").to_str().expect("text").to_owned();
        if path.is_file() {
            space.write(&name, std::fs::read(&path).expect("readable"));
        }
    }
    space.write("donor/tokenizer.json", space.read("tokenizer.json"));
    for command in ["run", "lock"] {
        let ended = finish(space.command(&[command, recipe]).envs(PLAIN_CODE));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let lock: Json = serde_json::from_str(&space.read(&format!("{recipe}.lock"))).expect("JSON");
    let mut made = Outputs::new();
    for step in lock["steps"].as_array().expect("steps") {
        let field = |name: &str| &step["fields"][name];
        let stage = field("stage").as_str().expect("a stage").to_owned();
        if !stages.contains(&stage) {
            continue;
        }
        let is_exact = !INEXACT.contains(&&*stage);
        let lines = made.entry((stage, field("version").as_u64().expect("a version"))).or_default();
        let name = step["name"].as_str().expect("a name");
        for (output, made) in step["outputs"].as_object().expect("outputs") {
            let name = format!("{name}.{output}");
            match made {
                Json::String(digest) if !is_exact => {
                    let object = format!(".tlm/objects/{}/{digest}", &digest[..2]);
                    lines.extend(
                        contents(&space.path(&object)).map(|line| format!("{name} {line}")),
                    );
                }
                Json::Number(number) if !is_exact && number.is_f64() => {
                    lines.insert(format!("{name} ~{number}"));
                }
                made => {
                    lines.insert(format!("{name} {}", made.to_string().trim_matches('"')));
                }
            }
        }
    }
    made
}

/// Returns what is in the files of a folder: of tensors and logs the numbers, of others the digest.
fn contents(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("text").to_owned();
        let bytes = std::fs::read(&path).expect("readable");
        match &*name {
            "model.safetensors" => tensors(&bytes),
            "log.jsonl" => logged(std::str::from_utf8(&bytes).expect("text")),
            _ => vec![format!("{name} {}", Digest::of(&bytes))],
        }
    };
    entries.flat_map(file)
}

/// Of each tensor the sum of all sizes, weighted so that a number in another place makes a difference.
fn tensors(bytes: &[u8]) -> Vec<String> {
    let tensors = SafeTensors::deserialize(bytes).expect("tensors");
    let line = |(name, tensor): (String, TensorView<'_>)| {
        let (numbers, rest) = tensor.data().as_chunks::<4>();
        assert!(rest.is_empty() && tensor.dtype() == Dtype::F32, "{name}");
        let numbers = numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)).abs());
        let sum: f64 = numbers.enumerate().map(|(at, number)| number * (1 + at % 13) as f64).sum();
        format!("{name} {:?} ~{sum}", tensor.shape())
    };
    tensors.tensors().into_iter().map(line).collect()
}

fn logged(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let logged: BTreeMap<String, f64> = serde_json::from_str(line).expect("numbers");
        let numbers = logged.iter().map(|(name, number)| format!("{name} ~{number}"));
        format!("step {} {}", logged["step"], numbers.collect::<Vec<_>>().join(" "))
    };
    text.lines().map(line).collect()
}

/// Returns whether lines say the same, as exactly as they can.
fn is_same(before: &BTreeSet<String>, now: &BTreeSet<String>) -> bool {
    let number = |word: &str| word.strip_prefix('~')?.parse::<f64>().ok();
    let is_near = |(before, now): (&str, &str)| match (number(before), number(now)) {
        (Some(before), Some(now)) => (before - now).abs() <= TOLERANCE * before.abs(),
        _ => before == now,
    };
    let is_same_line = |(before, now): (&String, &String)| {
        let words = [before, now].map(|line| line.split(' ').collect::<Vec<_>>());
        words[0].len() == words[1].len()
            && words[0].iter().copied().zip(words[1].iter().copied()).all(is_near)
    };
    before.len() == now.len() && before.iter().zip(now).all(is_same_line)
}

fn parse(text: &str) -> Outputs {
    let mut outputs = Outputs::new();
    for line in text.lines() {
        let [stage, version, rest] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("`{line}` is no stage, version and output")
        };
        let key = (stage.to_owned(), version.parse().expect("a version"));
        outputs.entry(key).or_default().insert(rest.to_owned());
    }
    outputs
}

fn text(outputs: &Outputs) -> String {
    let line = |((stage, version), lines): (&(String, u64), &BTreeSet<String>)| {
        lines.iter().map(|line| format!("{stage} {version} {line}\n")).collect::<String>()
    };
    outputs.iter().map(line).collect()
}

/// Returns what is wrong: outputs that moved under a version, and stages or versions that have no lines.
fn wrong(known: &Outputs, made: &Outputs) -> Vec<String> {
    let one = |(key, now): (&(String, u64), &BTreeSet<String>)| {
        let (stage, version) = key;
        match known.get(key) {
            Some(before) if is_same(before, now) => None,
            Some(before) => {
                let moved: Vec<_> = now.difference(before).cloned().collect();
                Some(format!(
                    "{stage} gives something else, but is still of version {version}: raise it in stdlib; {}",
                    moved.join(", ")
                ))
            }
            None => Some(format!(
                "{stage} {version} has no lines here: INSTA_UPDATE=always writes them"
            )),
        }
    };
    made.iter().filter_map(one).collect()
}

/// Checks the stages that a recipe has cases of, tensor stages or others.
#[track_caller]
fn check(recipe: &str, digests: &str, tensor: bool) {
    // Stages of version 0 are planned.
    let stages = declared().into_iter().filter(|stage| stage.version > 0 && stage.tensor == tensor);
    let stages: BTreeSet<String> = stages.map(|stage| stage.name).collect();
    let made = made(recipe, &stages);
    let cases: BTreeSet<_> = made.keys().map(|(stage, _)| stage.clone()).collect();
    let missing: Vec<_> = stages.difference(&cases).collect();
    assert_eq!(missing, [""; 0], "add a case to tests/golden/stages/{recipe}");

    let path = golden().join(digests);
    let mut known = parse(&std::fs::read_to_string(&path).unwrap_or_default());
    #[expect(clippy::disallowed_methods, reason = "insta reads it too")]
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        let mut updated = made.clone();
        let has_moved = |(key, before): &(_, BTreeSet<_>)| {
            made.get(key).is_some_and(|now| !now.is_superset(before))
        };
        updated.extend(known.into_iter().filter(has_moved));
        std::fs::write(&path, text(&updated)).expect("written");
        known = updated;
    }
    assert_eq!(wrong(&known, &made), [""; 0], "{digests}");
    assert_eq!(known.len(), made.len(), "{digests} has lines of old versions");
}

#[test]
fn golden_results_of_a_stage_move_with_its_version_only() {
    check("stages.tlm", "digests.txt", false);
}

#[cfg(feature = "torch")]
#[test]
fn golden_results_of_a_tensor_stage_move_with_its_version_only() {
    check("tensors.tlm", "tensors.txt", true);
}

#[test]
fn a_golden_result_that_moves_is_found() {
    let outputs = |text: &str| parse(text);
    let known = outputs("a.b 1 x.out 00\na.b 1 x.size 3\nc.d 2 y.out 11\n");
    assert_eq!(text(&known), "a.b 1 x.out 00\na.b 1 x.size 3\nc.d 2 y.out 11\n");
    assert_eq!(wrong(&known, &known), [""; 0]);
    let moved = outputs("a.b 1 x.out 00\na.b 1 x.size 4\nc.d 3 y.out 12\n");
    let found = wrong(&known, &moved);
    assert!(found[0].contains("a.b gives something else") && found[0].contains("x.size 4"));
    assert!(found[1].contains("c.d 3 has no lines"), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");

    let known = outputs("a.b 1 x.log step 1 loss ~4.5\n");
    assert_eq!(wrong(&known, &outputs("a.b 1 x.log step 1 loss ~4.50001\n")), [""; 0]);
    for moved in
        ["step 1 loss ~4.5001", "step 2 loss ~4.5", "step 1 loss 4.5", "step 1 loss ~4.5 lr ~1"]
    {
        assert_eq!(wrong(&known, &outputs(&format!("a.b 1 x.log {moved}\n"))).len(), 1, "{moved}");
    }
}
