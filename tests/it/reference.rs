//! `tlm doc` and `tlm explain`: what they tell, and that the written reference is what they tell.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

#[track_caller]
pub(crate) fn check(args: &[&str], code: i32, parts: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tlm")).args(args).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    for part in parts {
        assert!(out.contains(part) || err.contains(part), "no `{part}` in:\n{out}{err}");
    }
    out
}

#[test]
fn the_written_reference_is_that_of_the_stdlib() {
    let told = check(&["doc", "--markdown"], 0, &["# The standard library"]);
    let written = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stages.md");
    let written = fs::read_to_string(written).expect("readable");
    assert!(told == written, "run `cargo run -- doc --markdown > docs/stages.md`");
}

#[test]
fn what_is_in_the_library_is_shown_by_name() {
    check(&["doc"], 0, &["train.run", "Checkpoint"]);
    check(&["doc", "train"], 0, &["### train.run", "- `lr: Float in 0 .. = 2e-4`"]);
    check(
        &["doc", "rounds.resample"],
        0,
        &["- `rate: Ratio in 0% .. 100%`: The part of the units"],
    );
    check(&["doc", "Dataset"], 0, &["- `sequences: Count`"]);
    check(
        &["doc", "train.scaled_lr"],
        0,
        &["scaled_lr(batch: Tokens; ...) -> Float", "A function."],
    );
    check(&["doc", "eval.ablation"], 0, &["Result: a record of `arc_e`, `hellaswag`, `c3`."]);
    check(&["doc", "model.b0_shape"], 0, &["model.b0_shape = shape(depth: 20, width: 1792)"]);
    check(&["doc", "train.rnu"], 2, &["did you mean `train.run`?"]);
}

#[test]
fn every_named_parameter_is_explained() {
    let told = check(&["doc", "--markdown"], 0, &[]);
    let bare: Vec<_> =
        told.lines().filter(|line| line.starts_with("- `") && line.contains(" = ")).collect();
    let bare: Vec<_> = bare.into_iter().filter(|line| line.ends_with('`')).collect();
    assert_eq!(bare, [""; 0], "write a `##` comment above it in stdlib");
}

#[test]
fn codes_are_explained_by_any_part_of_their_name() {
    for code in ["tlm::sema::circle", "sema::circle", "circle"] {
        check(&["explain", code], 0, &["tlm::sema::circle\n\n  A name is", "\n  Right:\n"]);
    }
    check(&["explain", "crcle"], 2, &["no code `crcle`", "did you mean `circle`?"]);
    check(&["explain", "sema::crcle"], 2, &["did you mean `sema::circle`?"]);
    check(&["explain", "nothing"], 2, &["`tlm explain` lists all codes"]);
}

#[test]
fn codes_are_listed_by_phase() {
    let told = check(&["explain"], 0, &["tlm::parse::unclosed", "tlm::exec::never_fits"]);
    let phases: Vec<_> = told.split("\n\n").collect();
    assert!(phases.len() >= 5);
    for phase in phases {
        let of = |line: &str| line.split("::").nth(1).expect("a phase").to_owned();
        let mut all: Vec<_> = phase.lines().map(of).collect();
        all.dedup();
        assert_eq!(all.len(), 1, "{phase}");
    }
}

#[test]
fn a_recipe_is_shown_from_outside() {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart/quickstart.tlm");
    check(
        &["doc", recipe],
        0,
        &[
            "Compacts a tokenizer",
            "params\n  keep : Count = 4096\n",
            "  second : hard | uniform | longer = [hard, uniform, longer]\n",
            "  init : Checkpoint over start\n",
            "  drawn : Dataset over start, second\n",
            "  rounds = final vary second\n",
        ],
    );
}
