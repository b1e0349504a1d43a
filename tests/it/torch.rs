//! The worker program: it starts without LD_LIBRARY_PATH and answers in the protocol.

use assert_cmd::Command;
use serde_json::json;

#[track_caller]
fn check(line: &str, expected: &str) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tlm-torch"));
    let output = program.env_clear().write_stdin(format!("{line}\n")).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("\"failed\"") && text.contains(expected), "{text}");
}

#[test]
fn the_program_answers_what_it_cannot_do() {
    check("{}", "can't read the action");
    let action = json!({
        "protocol": 4, "key": "0".repeat(64), "stage": "no.such", "params": {}, "inputs": {},
        "out": "out", "state": "state", "seed": 0, "threads": 1, "device": "cpu", "micro_batch": null, "recompute": false,
    });
    check(&action.to_string(), "no stage `no.such`");
    let mut other = action;
    other["protocol"] = json!(99);
    check(&other.to_string(), "speaks protocol 4");
}
