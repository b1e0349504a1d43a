//! What each stage without tensors makes of small inputs, to the byte: a stage whose results change needs a new version, or
//! old results would pass for new ones.
//!
//! `tests/golden/stages/digests.txt` has a line for each output. `INSTA_UPDATE=always cargo test golden` adds lines of new
//! stages and replaces those of stages with a new version; it never touches those of the same version.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tlm::stage::REGISTRY;

use crate::run::space::Space;

/// A stage with its version, and the lines of its outputs: step, name, digest or number.
type Outputs = BTreeMap<(String, u64), BTreeSet<String>>;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stages")
}

/// Runs the cases, and takes what they made out of a lock.
fn made() -> Outputs {
    let space = Space::new();
    let pattern = golden().join("**/*");
    for path in glob::glob(pattern.to_str().expect("text")).expect("a pattern") {
        let path = path.expect("readable");
        let name = path.strip_prefix(golden()).expect("inside").to_str().expect("text").to_owned();
        if path.is_file() && name != "digests.txt" {
            space.write(&name, std::fs::read(&path).expect("readable"));
        }
    }
    for command in ["run", "lock"] {
        let ended = space.tlm(&[command, "stages.tlm"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let lock: Json = serde_json::from_str(&space.read("stages.tlm.lock")).expect("JSON");
    let mut made = Outputs::new();
    for step in lock["steps"].as_array().expect("steps") {
        let field = |name: &str| &step["fields"][name];
        let stage = field("stage").as_str().expect("a stage").to_owned();
        let lines = made.entry((stage, field("version").as_u64().expect("a version"))).or_default();
        let name = step["name"].as_str().expect("a name");
        for (output, made) in step["outputs"].as_object().expect("outputs") {
            lines.insert(format!("{name}.{output} {}", made.to_string().trim_matches('"')));
        }
    }
    made
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
            Some(before) if before == now => None,
            Some(before) => {
                let moved: Vec<_> = now.difference(before).cloned().collect();
                Some(format!(
                    "{stage} gives something else, but is still of version {version}: raise it in stdlib; {}",
                    moved.join(", ")
                ))
            }
            None => Some(format!(
                "{stage} {version} has no lines in digests.txt: INSTA_UPDATE=always writes them"
            )),
        }
    };
    made.iter().filter_map(one).collect()
}

#[test]
fn golden_results_of_a_stage_move_with_its_version_only() {
    let made = made();
    let cases: BTreeSet<_> = made.keys().map(|(stage, _)| stage.as_str()).collect();
    let stages: BTreeSet<_> = REGISTRY.iter().map(|(stage, _)| *stage).collect();
    let missing: Vec<_> = stages.difference(&cases).collect();
    assert_eq!(missing, [&""; 0], "add a case to tests/golden/stages/stages.tlm");

    let path = golden().join("digests.txt");
    let mut known = parse(&std::fs::read_to_string(&path).unwrap_or_default());
    #[expect(clippy::disallowed_methods, reason = "insta reads it too")]
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        let mut updated = made.clone();
        updated.extend(known.clone().into_iter().filter(|(key, _)| made.contains_key(key)));
        std::fs::write(&path, text(&updated)).expect("written");
        known = updated;
    }
    assert_eq!(wrong(&known, &made), [""; 0]);
    assert_eq!(known.len(), made.len(), "digests.txt has lines of old versions");
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
}
