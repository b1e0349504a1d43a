//! Training in the tensor worker itself, stopped by Ctrl-C and by SIGKILL: the same command goes on to the same bits.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;

use serde_json::Value;

use crate::run::space::{Run, Space, eventually, name, processes_of, signal, start};

const RECIPE: &str = r#"use std.{corpus, tokenizer, dataset, model, train}

let text = corpus.text("texts/*.txt", delimiter: "\n\n")
let tok  = tokenizer.open("tokenizer.json")
let ds   = dataset.pack(text, tok, seq: 32)
let init = model.init(tok, shape: {depth: 2, width: 64, heads: 1, ffn: 128})
let r1   = train.run(init, ds, tokens: 160k, batch: 256 tokens, lr: 1e-3) run { cpus: 1 }

plan default = r1.model
"#;

/// Returns the digest of what `r1` made.
fn model(run: &Run) -> String {
    let finished = run.all("finished").find(|event| name(event) == "r1").expect("it ran");
    finished["artifacts"]["model"].as_str().expect("a digest").to_owned()
}

/// Reads events until training is on its way; returns them.
fn until_training(child: &mut Child) -> Vec<Value> {
    let mut events = Vec::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    for line in stdout.by_ref().lines().map_while(Result::ok) {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        let on_its_way = event["event"] == "progress" && name(&event) == "r1";
        let done = event["done"].as_u64().filter(|_| on_its_way).unwrap_or_default();
        events.push(event);
        if done > 0 {
            break;
        }
    }
    child.stdout = Some(stdout.into_inner());
    events
}

#[test]
fn stopped_training_goes_on_to_the_same_bits() {
    let clean = Space::with(RECIPE).run(&[]);
    assert_eq!(clean.code, Some(0), "{clean}");

    for (how, code) in [("INT", Some(130)), ("KILL", None)] {
        let space = Space::with(RECIPE);
        let mut child = start(&mut space.run_command(&[]));
        let events = until_training(&mut child);
        let told = events.iter().any(|event| event["event"] == "metric" && event["name"] == "loss");
        assert!(told, "the loss is shown while it trains: {events:?}");
        signal(child.id(), how);
        // What is still in the pipe may begin within a line.
        let mut rest = String::new();
        child.stdout.take().expect("kept").read_to_string(&mut rest).expect("text");
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), code, "{rest}");
        if how == "INT" {
            assert!(
                rest.contains("\"checkpointed\"") && rest.contains("\"interrupted\""),
                "{rest}"
            );
            assert_eq!(space.stored("state").len(), 1, "the state is kept");
        }
        let again = space.run(&[]);
        again.check(0, &["r1"]);
        assert_eq!(model(&again), model(&clean), "after SIG{how}");
        eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));
        space.check_store();
    }
}
