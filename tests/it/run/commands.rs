//! `plan`, `why`, `show`, `log`, `ls`, `graph`, `verify`: what they tell about a recipe that ran.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tlm::base::{Digest, Value};
use tlm::store::Record;

use crate::frames;
use crate::run::space::{ALL, Space, check, finish};

#[test]
fn plan_tells_what_would_run_and_runs_nothing() {
    let space = Space::new();
    let plan = space.tlm(&["plan", "r.tlm"]);
    check(
        &plan,
        0,
        &[
            "7 steps: 0 fresh, 7 to run (5 of them after others)\n",
            "never ran",
            "after split, base",
            "after split, tok",
        ],
    );
    assert_eq!(space.tlm(&["ls"]).out, "0 records\n");
    check(&space.tlm(&["plan", "r.tlm", "words"]), 0, &["4 steps: 0 fresh"]);

    space.run(&[]).check(0, &ALL);
    assert_eq!(space.tlm(&["plan", "r.tlm"]).out, "7 steps, all fresh\n");
    let plan = space.tlm(&["plan", "r.tlm", "-s", "keep=265"]);
    check(
        &plan,
        0,
        &[
            "7 steps: 4 fresh, 3 to run (2 of them after others), about 0.",
            "keep: 270 -> 265",
            "after tok",
        ],
    );
    space.edit("\\n\\n", "\\n");
    check(&space.tlm(&["plan", "r.tlm"]), 0, &[r#"delimiter: "\n\n" -> "\n""#]);
}

#[test]
fn report_shows_what_the_store_has_and_runs_nothing() {
    let space = Space::new();
    let empty = space.tlm(&["report", "r.tlm", "--format", "csv"]);
    check(&empty, 0, &["size,sequences,tokens\n,,\n"]);
    assert_eq!(space.tlm(&["ls"]).out, "0 records\n");
    let run = space.tlm(&["run", "r.tlm"]).out;
    assert_eq!(space.tlm(&["report", "r.tlm"]).out.trim_end(), run.trim_end());
    let told = space.tlm(&["report", "r.tlm", "--format", "json", "--name", "sizes"]).out;
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let cell = &told[0]["rows"][0]["cells"][0];
    assert_eq!((&cell["value"], &cell["sources"][0]["step"]), (&270.into(), &"tok".into()));
    let key = cell["sources"][0]["key"].as_str().expect("a key");
    check(&space.tlm(&["show", key]), 0, &["tok (tokenizer.prune)"]);
    check(&space.tlm(&["report", "r.tlm", "--name", "size"]), 2, &["did you mean `sizes`?"]);
}

#[test]
fn why_names_the_change_and_its_place() {
    let space = Space::new();
    check(&space.tlm(&["why", "r.tlm", "tok"]), 0, &["has to run; no step of this stage ever ran"]);
    space.run(&[]).check(0, &ALL);
    check(&space.tlm(&["why", "r.tlm", "tok"]), 0, &["tok (tokenizer.prune), key ", "fresh, made"]);
    space.edit("seed: 7", "seed: 8");
    let why = space.tlm(&["why", "r.tlm", "split"]);
    check(&why, 0, &["compared with split", "seed: 7 -> 8   at r.tlm:6:51"]);
    check(&space.tlm(&["why", "r.tlm", "counts"]), 0, &["comes from another split", "r.tlm:8:30"]);
    space.write("texts/a.txt", "other\n\ntexts");
    check(&space.tlm(&["why", "r.tlm", "text"]), 0, &["files: another content   at r.tlm:5:26"]);
    check(&space.tlm(&["why", "r.tlm", "spilt"]), 2, &["no step `spilt`", "did you mean `split`?"]);
    check(&space.tlm(&["why", "r.tlm", "x"]), 2, &["steps are "]);
}

#[test]
fn show_log_and_ls_know_steps_by_name_and_key() {
    let space = Space::new();
    let run = space.run(&[]);
    let split = run.all("finished").find(|line| line["step"]["name"] == "split").expect("it ran");
    let key = split["step"]["key"].as_str().expect("a key");
    let by_name = space.tlm(&["show", "split"]);
    check(
        &by_name,
        0,
        &["split (corpus.split), made ", key, "params.seed = 7", "train.documents = "],
    );
    check(&by_name, 0, &["/objects/", "params.valid = "]);
    assert_eq!(space.tlm(&["show", &key[..6]]).out, by_name.out);
    check(&space.tlm(&["show", "spilt"]), 2, &["no step `spilt`", "did you mean `split`?"]);
    check(&space.tlm(&["show", &key[..3]]), 2, &["`tlm ls` lists all"]);

    let listed = space.tlm(&["ls"]).out;
    for part in ["corpus.split", &key[..12], "7 records"] {
        assert!(listed.contains(part), "no `{part}` in {listed}");
    }
    check(&space.tlm(&["log", "tok"]), 0, &["270 of 273 tokens cover 87.81% of the old counts"]);
    check(&space.tlm(&["log", "tko"]), 2, &["did you mean `tok`?"]);
    check(&space.tlm(&["verify"]), 0, &["7 records verified"]);

    space.run(&["-s", "keep=265"]).check(0, &["dev", "ds", "tok"]);
    check(
        &space.tlm(&["show", "tok"]),
        2,
        &["`tok` names 2 steps", "by the first digits of its key"],
    );
}

#[test]
fn graph_draws_every_step() {
    let space = Space::new();
    let dot = space.tlm(&["graph", "r.tlm"]);
    check(&dot, 0, &["digraph {", "[ label=\"split\\ncorpus.split\", fillcolor=\"#e0e0e0\""]);
    assert_eq!((dot.out.matches("label=").count(), dot.out.matches(" -> ").count()), (7, 9));
    space.run(&[]).check(0, &ALL);
    let mermaid = space.tlm(&["graph", "r.tlm", "--format", "mermaid"]);
    check(&mermaid, 0, &["flowchart LR", "[\"split<br/>corpus.split\"]", "fill:#c7e9c0"]);
    assert_eq!(mermaid.out.matches(" --> ").count(), 9, "{}", mermaid.out);
    check(&space.tlm(&["graph", "r.tlm", "--format", "dto"]), 2, &["dot, mermaid"]);
}

#[test]
fn the_store_is_chosen_by_flag_then_variable_then_place() {
    let space = Space::new();
    space.run(&["--store", "one"]).check(0, &ALL);
    assert!(!space.path(".tlm").exists());
    space.run(&["--store", "one"]).check(0, &[]);
    let in_two = |args: &[&str]| finish(space.command(args).env("TLM_STORE", "two"));
    check(&in_two(&["run", "r.tlm", "words"]), 0, &["4 steps ran"]);
    check(&in_two(&["ls"]), 0, &["4 records"]);
    check(&in_two(&["ls", "--store", "one"]), 0, &["7 records"]);
    check(&in_two(&["run", "r.tlm", "--store", "one"]), 0, &["nothing to do"]);
    assert!(!space.path(".tlm").exists());
    // Beside the recipe, wherever the command is given.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let recipe = space.path("r.tlm").display().to_string();
    let ran = finish(space.command(&["run", &recipe]).current_dir(elsewhere.path()));
    check(&ran, 0, &["7 steps ran"]);
    assert!(space.path(".tlm/index").exists());
    assert_eq!(std::fs::read_dir(elsewhere.path()).expect("there").count(), 0);
}

#[test]
fn wrong_names_on_the_command_line_are_told_with_near_ones() {
    let space = Space::new();
    for (args, code, parts) in [
        (&["run", "r.tlm", "wrods"][..], 3, &["no plan `wrods`", "did you mean `words`?"][..]),
        (&["plan", "r.tlm", "x"], 3, &["plans are default, words"]),
        (&["run", "r.tlm", "-s", "keeep=3"], 3, &["no param `keeep`", "did you mean `keep`?"]),
        (&["run", "r.tlm", "-s", "keep"], 2, &["gives no value", "-s name=value"]),
        (&["run", "r.tlm", "-s", "keep=many"], 3, &["many"]),
        (&["run", "rr.tlm"], 4, &["can't read `rr.tlm`", "did you mean `r.tlm`?"]),
        (&["rnu", "r.tlm"], 2, &["unrecognized subcommand"]),
    ] {
        check(&space.tlm(args), code, parts);
    }
    assert!(!space.path(".tlm").exists(), "a wrong command made a store");
}

#[test]
fn a_plan_of_many_stale_steps_does_not_compare_all_with_all() {
    const STEPS: usize = 800;
    let space = Space::new();
    let values: Vec<_> = (0..STEPS).map(|i| (300 + i).to_string()).collect();
    space.edit("keep: keep", "keep: n");
    space.edit("param keep : Count = 270", &format!("axis n = [{}]", values.join(", ")));
    space.edit("plan default = [ds, dev]", "plan default = tok vary n");
    space.edit(
        "report sizes = table([tok.size, ds.sequences, dev.tokens])",
        "report words_ = table(counts.tokens)",
    );
    space.edit("\"texts/*.txt\"", "\"texts/a.txt\"");
    let plan = space.tlm(&["plan", "r.tlm"]);
    check(&plan, 0, &["804 steps: 0 fresh, 804 to run"]);

    let prune = |i: usize| {
        let key = |part: &str| Digest::of(format!("{part} {i}").as_bytes());
        let counts = Value::map([
            ("output", Value::Str("out".to_owned())),
            ("step", Value::Digest(key("counts"))),
        ]);
        Record {
            recipe: key("recipe"),
            content: key("content"),
            stage: "tokenizer.prune".to_owned(),
            label: "tok".to_owned(),
            point: vec![("n".to_owned(), values[i].clone())],
            outputs: BTreeMap::new(),
            manifest: Value::map([
                ("format", Value::Int(1)),
                ("stage", Value::Str("tokenizer.prune".to_owned())),
                ("version", Value::Int(1)),
                ("params", Value::map([("keep", Value::Int(300 + i as i64))])),
                ("inputs", Value::map([("counts", counts)])),
            ]),
            seconds: 2.0,
            finished_unix: 1_700_000_000,
            origin: BTreeMap::new(),
        }
    };
    frames::write(&space.path(".tlm"), (0..STEPS).map(prune));
    let began = Instant::now();
    let plan = space.tlm(&["plan", "r.tlm"]);
    check(&plan, 0, &["over 26m40s", "tok[n=1000]"]);
    // Comparing all with all takes half a minute.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_folder_that_is_gone_is_told() {
    let space = Space::new();
    let mut shell = std::process::Command::new("sh");
    space.at_home(&mut shell);
    shell.args(["-c", "mkdir gone; cd gone; rmdir ../gone; exec \"$TLM\" ls"]);
    let ended = finish(shell.env("TLM", env!("CARGO_BIN_EXE_tlm")));
    check(&ended, 4, &["can't find the current folder", "change to a folder that is there"]);
}

#[test]
fn paths_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let space = Space::new();
    let latin = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let mut in_store = space.command(&["run", "r.tlm", "--store"]);
    check(&finish(in_store.arg(latin)), 4, &["the store's path", "is not UTF-8", "--store DIR"]);
    let mut by_variable = space.command(&["run", "r.tlm"]);
    check(&finish(by_variable.env("TLM_STORE", latin)), 4, &["the store's path"]);
    let folder = space.path("").join(latin);
    std::fs::create_dir(&folder).expect("created");
    std::fs::copy(space.path("r.tlm"), folder.join("r.tlm")).expect("copied");
    let mut inside = space.command(&["run", "r.tlm"]);
    check(&finish(inside.current_dir(&folder)), 3, &["the recipe's path", "rename the folder"]);
}

#[test]
fn a_store_in_a_folder_with_other_files_is_refused() {
    let space = Space::new();
    let run = space.tlm(&["run", "r.tlm", "--store", "texts"]);
    check(&run, 4, &["texts` is no store, and not empty", "choose an empty or new folder"]);
    assert_eq!(std::fs::read_dir(space.path("texts")).expect("there").count(), 2);
}
