//! What each stage makes of small inputs, to the byte: a stage whose results change needs a new version, or old results would
//! pass for new ones.
//!
//! Of each output of `tests/golden/stages/stages.tlm` there is a line in `digests.txt`, and of each of `tensors.tlm`, where tensor stages
//! run, in `tensors.txt`. `INSTA_UPDATE=always cargo test golden` adds lines of new stages and cases and replaces those of stages with
//! a new version and of what is made from these; it never touches others.
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

/// What a recipe's steps made, and of each step in the order of the lock the stage, the key and those that it uses.
#[derive(Default)]
struct Made {
    outputs: Outputs,
    steps: Vec<((String, u64), String, Vec<String>)>,
}

/// The code that any x86-64 has: of libtorch's own loops, of the matrix products of MKL and oneDNN, and of `exp` and the like in the
/// C library. MKL and the C library take other code by maker and features of the CPU, and round otherwise in the last bit.
const PLAIN_CODE: [(&str, &str); 4] = [
    ("ATEN_CPU_CAPABILITY", "default"),
    ("MKL_CBWR", "COMPATIBLE"),
    ("ONEDNN_MAX_CPU_ISA", "SSE41"),
    ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4"),
];

/// Stages whose bits depend on the kind of CPU.
const INEXACT: [&str; 3] = ["model.learn_masks", "train.keep", "train.run"];

/// Stages that tell how long something took.
const MEASURING: [&str; 1] = ["eval.speed"];

/// How much numbers with `~` may differ, as a part of their size. Emulated CPUs give numbers within 2e-7.
const TOLERANCE: f64 = 1e-5;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stages")
}

/// Runs the cases of a recipe, and takes what they made out of a lock.
fn made(recipe: &str) -> Made {
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
    let mut made = Made::default();
    for step in lock["steps"].as_array().expect("steps") {
        let field = |name: &str| &step["fields"][name];
        let stage = field("stage").as_str().expect("a stage").to_owned();
        let is_exact = !INEXACT.contains(&&*stage);
        let stage = (stage, field("version").as_u64().expect("a version"));
        let fields = step["fields"].as_object().expect("fields").iter();
        let used = fields.filter(|(name, _)| name.ends_with(".step"));
        let used = used.map(|(_, key)| key.as_str().expect("a key").to_owned());
        let key = step["key"].as_str().expect("a key").to_owned();
        made.steps.push((stage.clone(), key, used.collect()));
        let lines = made.outputs.entry(stage).or_default();
        let name = step["name"].as_str().expect("a name");
        for (output, made) in step["outputs"].as_object().expect("outputs") {
            let name = format!("{name}.{output}");
            match made {
                Json::String(digest) if !is_exact => {
                    let object = format!(".tlm/objects/{}/{digest}", &digest[..2]);
                    lines.extend(
                        contents(&space.path(&object)).iter().map(|line| format!("{name} {line}")),
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

/// Returns what is in the files of a folder and those inside: of tensors and logs the numbers, of others the digest.
fn contents(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            let name = path.file_name().expect("a name").to_str().expect("text");
            return contents(&path).iter().map(|line| format!("{name}/{line}")).collect();
        }
        let name = path.file_name().expect("a name").to_str().expect("text").to_owned();
        let bytes = std::fs::read(&path).expect("readable");
        match &*name {
            "model.safetensors" => tensors(&bytes),
            "importance.json" => weights(&serde_json::from_slice(&bytes).expect("JSON")),
            "log.jsonl" => logged(std::str::from_utf8(&bytes).expect("text")),
            _ => vec![format!("{name} {}", Digest::of(&bytes))],
        }
    };
    entries.flat_map(file).collect()
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

/// Of each list of numbers the sum of all sizes; the rest as it is.
fn weights(importance: &Json) -> Vec<String> {
    fn sum(value: &Json) -> f64 {
        let of_list = |list: &Vec<Json>| list.iter().map(sum).sum();
        value.as_array().map_or_else(|| value.as_f64().expect("a number").abs(), of_list)
    }
    let fields = importance.as_object().expect("fields").iter();
    let line = |(name, value): (&String, &Json)| match value.is_array() {
        true => format!("{name} ~{}", sum(value)),
        false => format!("{name} {value}"),
    };
    fields.map(line).collect()
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

impl Made {
    /// Returns the stages that are not known, or use what these make.
    fn may_move(&self, known: &Outputs) -> BTreeSet<&(String, u64)> {
        let (mut stages, mut keys) = (BTreeSet::new(), BTreeSet::new());
        // Once around for each step at most, whatever their order.
        for (stage, key, used) in self.steps.iter().cycle().take(self.steps.len().pow(2)) {
            if !known.contains_key(stage) || used.iter().any(|used| keys.contains(used)) {
                stages.insert(stage);
                keys.insert(key);
            }
        }
        stages
    }

    /// Returns the lines as they are to be: what is known under a version stays, unless only lines are added, or an input is new.
    fn updated(&self, known: &Outputs) -> Outputs {
        let may_move = self.may_move(known);
        let stays = |(stage, before): &((String, u64), BTreeSet<String>)| {
            let now = self.outputs.get(stage);
            now.is_some_and(|now| !may_move.contains(stage) && !now.is_superset(before))
        };
        let kept: Vec<_> = known.clone().into_iter().filter(stays).collect();
        self.outputs.clone().into_iter().chain(kept).collect()
    }
}

/// Checks what a recipe makes, and that it has a case of each tensor stage, or of each other one.
#[track_caller]
fn check(recipe: &str, digests: &str, tensor: bool) {
    // Stages of version 0 are planned.
    let stages = declared().into_iter().filter(|stage| stage.version > 0 && stage.tensor == tensor);
    let made = made(recipe);
    let cases: BTreeSet<_> = made.outputs.keys().map(|(stage, _)| stage.clone()).collect();
    let missing = stages
        .map(|stage| stage.name)
        .filter(|stage| !cases.contains(stage) && !MEASURING.contains(&&**stage));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0], "add a case to {recipe}");

    let path = golden().join(digests);
    let mut known = parse(&std::fs::read_to_string(&path).unwrap_or_default());
    #[expect(clippy::disallowed_methods, reason = "insta reads it too")]
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        known = made.updated(&known);
        std::fs::write(&path, text(&known)).expect("written");
    }
    assert_eq!(wrong(&known, &made.outputs), [""; 0], "{digests}");
    assert_eq!(known.len(), made.outputs.len(), "{digests} has lines of old versions");
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

#[test]
fn golden_results_move_with_those_they_are_made_from() {
    let stage = |name: &str, version: u64| (name.to_owned(), version);
    let made = |version: u64, b: u32| Made {
        outputs: parse(&format!("a.a {version} x.out {version}\nb.b 1 y.out {b}\nc.c 1 z.out 1\n")),
        steps: vec![
            (stage("b.b", 1), "key-b".to_owned(), vec!["key-a".to_owned()]),
            (stage("a.a", version), "key-a".to_owned(), Vec::new()),
            (stage("c.c", 1), "key-c".to_owned(), Vec::new()),
        ],
    };
    let known = made(1, 1).outputs;
    assert_eq!(made(1, 1).updated(&known), known);
    assert_eq!(made(2, 2).updated(&known), made(2, 2).outputs);
    // Without a new version what has moved is not taken.
    assert_eq!(made(1, 2).updated(&known), known);
    let mut other = made(2, 2);
    other.outputs.insert(stage("c.c", 1), BTreeSet::from(["z.out 2".to_owned()]));
    assert_eq!(other.updated(&known)[&stage("c.c", 1)], BTreeSet::from(["z.out 1".to_owned()]));
}
