//! `tokenizer.prune` in a recipe: what it leaves and tells, and what it refuses.

use serde_json::Value as Json;

use crate::run::inputs::made;
use crate::run::space::{Run, Space};

/// Runs `tok` with other arguments.
fn run(arguments: &str) -> (Space, Run) {
    let space = Space::new();
    space.edit("keep: keep)", &format!("{arguments})"));
    let run = space.run(&["tok"]);
    (space, run)
}

#[test]
fn a_vocabulary_is_pruned_by_size_or_by_coverage() {
    let report = |arguments: &str| {
        let (space, run) = run(arguments);
        assert_eq!(run.code, Some(0), "{run}");
        let folder = made(&space, "tok");
        let report = std::fs::read(folder.join("report.json")).expect("a report");
        let ids = std::fs::metadata(folder.join("id_map.u32")).expect("a map").len() / 4;
        let report: Json = serde_json::from_slice(&report).expect("JSON");
        assert_eq!((&report["tokens"], &report["orphans"]), (&Json::from(ids), &Json::from(0)));
        report
    };
    let by_size = report("keep: 270");
    assert_eq!(by_size["tokens"], 270);
    let coverage = by_size["coverage"].as_f64().expect("a share");
    let by_coverage = report(&format!("coverage: {}%", 100.0 * coverage - 1e-9));
    assert_eq!(by_coverage["coverage"], coverage);
    let all = report("coverage: 100%");
    assert_eq!(all["coverage"], 1.0);
}

#[test]
fn files_with_old_ids_are_left_behind() {
    let space = Space::new();
    space.write("tok/tokenizer.json", space.read("tokenizer.json"));
    space.write("tok/added_tokens.json", "{\"<x>\": 300}");
    space.write("tok/special_tokens_map.json", "{\"pad_token\": \"<x>\"}");
    space.edit("tokenizer.open(\"tokenizer.json\")", "tokenizer.open(\"tok\")");
    let run = space.run(&["tok"]);
    assert_eq!(run.code, Some(0), "{run}");
    let folder = made(&space, "tok");
    let config = std::fs::read_to_string(folder.join("tokenizer_config.json")).expect("readable");
    assert!(config.contains("\"pad_token\":\"<x>\""), "{config}");
    assert!(!folder.join("added_tokens.json").exists());
}

#[test]
fn what_can_not_be_kept_is_told() {
    for (arguments, message, help) in [
        ("keep: 3", "can't keep 3 tokens: ", "set `keep:` to "),
        ("keep: 1M", "can't keep 1000000 tokens: it has ", " or less"),
    ] {
        let (_, run) = run(arguments);
        assert_eq!(run.code, Some(1), "{run}");
        let failed = run.all("failed").next().expect("a failure");
        let text = |name: &str| failed[name].as_str().unwrap_or_default().to_owned();
        assert!(text("message").contains(message), "{run}");
        assert!(text("help").contains(help), "{run}");
    }
}
