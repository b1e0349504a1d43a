//! Training: against PyTorch, interrupted, refused.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::nn::runtime::f32_values;
use crate::nn::tests::{check_close, json as stored, numbers, open, reference};
use crate::stage::tests::{
    Bench, checkpoint, empty_data, long_data, output, reference_data, set_config,
};

pub(super) fn train_params(tokens: u64, batch: u64) -> serde_json::Value {
    json!({
        "tokens": tokens, "batch": batch, "lr": 0.01, "lr_end": 0.1, "warmup": 0.2, "schedule": "cosine", "decay": 0.1,
        "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "clip": 1.0, "dtype": "f32", "seed": 0,
        "attention": "sequence", "on_spike": "ignore", "validations": 4, "distill": 0.5, "temperature": 1.0,
    })
}

pub(super) fn keep_params(
    tokens: u64,
    batch: u64,
    snapshots: u64,
    parts: u64,
) -> serde_json::Value {
    let mut params = train_params(tokens, batch);
    params["snapshots"] = json!(snapshots);
    params["parts"] = json!(parts);
    params
}

pub(super) fn log(bench: &Bench) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(bench.path("log/log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ten_steps_match_pytorch() {
    let (data, init) = (reference_data(), checkpoint("model_plain"));
    let bench = Bench::new(train_params(320, 32), &[("init", init.path()), ("data", data.path())]);
    let events = bench.done("train.run");
    assert!(events.contains("\"model.params\""), "{events}");
    let expected = stored("model_train.json");
    let column = |name: &str| -> Vec<f32> {
        log(&bench).iter().map(|line| line[name].as_f64().unwrap() as f32).collect()
    };
    check_close("losses", &column("loss"), &numbers(&expected["losses"]), 1e-4);
    check_close("norms", &column("grad_norm"), &numbers(&expected["norms"]), 1e-4);
    let trained = bench.path("model");
    let committed = reference("model_trained");
    if option_env!("TLM_WRITE_REFERENCE").is_some() {
        fs::create_dir_all(&committed).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(trained.join(name), committed.join(name)).unwrap();
        }
    }
    let flat = |folder: &Path| f32_values(&open(folder).flat).unwrap();
    check_close("weights", &flat(&trained), &flat(&committed), 1e-3);
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let (data, init) = (long_data(), checkpoint("model_biased"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let whole = Bench::new(train_params(64 * 12, 64), &inputs);
    whole.done("train.run");
    let parts = Bench::new(train_params(64 * 12, 64), &inputs);
    for stop_after in [5, 4] {
        let events = parts.stopped("train.run", stop_after);
        assert_eq!(events.matches("checkpointed").count(), 1, "{events}");
    }
    parts.done("train.run");
    let bytes = |bench: &Bench| fs::read(bench.path("model/model.safetensors")).unwrap();
    assert!(bytes(&whole) == bytes(&parts), "weights differ");
    let steps: Vec<u64> = log(&parts).iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    let text = |bench: &Bench| fs::read(bench.path("log/log.jsonl")).unwrap();
    assert!(text(&whole) == text(&parts), "logs differ");
}

/// Stops a run after five steps, spoils its state, and checks that it says so and comes to the same model.
#[track_caller]
fn check_restart(said: &str, spoil: impl Fn(&mut Bench)) {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let mut bench = Bench::new(train_params(64 * 7, 64), &inputs);
    bench.done("train.run");
    let whole = fs::read(bench.path("model/model.safetensors")).unwrap();
    bench.stopped("train.run", 5);
    spoil(&mut bench);
    let events = bench.done("train.run");
    assert!(events.contains(said), "{said}: {events}");
    assert!(fs::read(bench.path("model/model.safetensors")).unwrap() == whole, "{said}");
    assert_eq!(log(&bench).len(), 7, "{said}");
}

#[test]
fn a_state_that_cannot_be_used_is_told_and_training_starts_over() {
    let change = |name: &'static str, change: fn(&mut Vec<u8>)| {
        move |bench: &mut Bench| {
            let path = bench.state(name);
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
        }
    };
    let state = "state.safetensors";
    check_restart("it is damaged", change(state, Vec::clear));
    check_restart("it is damaged", change(state, |bytes| bytes.truncate(7)));
    check_restart("it is damaged", change(state, |bytes| bytes.truncate(bytes.len() - 1)));
    check_restart("it is damaged", change(state, |bytes| bytes[..8].fill(0xff)));
    // A step counted up in the header, a bit of the last number.
    check_restart(
        "it is damaged",
        change(state, |bytes| {
            let at = bytes.windows(6).position(|six| six == b"step\\\"").unwrap();
            bytes[at + 7] ^= 1;
        }),
    );
    check_restart("it is damaged", change(state, |bytes| *bytes.last_mut().unwrap() ^= 1));
    check_restart("its log is damaged or missing", change("log.jsonl", |log| log.truncate(9)));
    check_restart("it is of other inputs", |bench| bench.seed += 1);
}

#[test]
fn a_resumed_run_keeps_its_micro_batch_and_tells_of_other_threads() {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let mut bench = Bench::new(train_params(64 * 7, 64), &inputs);
    bench.micro_batch = Some(3);
    bench.done("train.run");
    let whole = fs::read(bench.path("model/model.safetensors")).unwrap();
    bench.stopped("train.run", 4);
    (bench.micro_batch, bench.threads) = (Some(8), 2);
    let events = bench.done("train.run");
    assert!(events.contains("resumes after step 4"), "{events}");
    assert!(events.contains("began with 1 threads and goes on with 2"), "{events}");
    assert!(fs::read(bench.path("model/model.safetensors")).unwrap() == whole);
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let (data, init) = (long_data(), checkpoint("model_biased"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let mut bench = Bench::new(train_params(64 * 6, 64), &inputs);
    let mut columns = |micro_batch| {
        bench.micro_batch = Some(micro_batch);
        bench.done("train.run");
        let column = |name: &str| -> Vec<f32> {
            log(&bench).iter().map(|line| line[name].as_f64().unwrap() as f32).collect()
        };
        [column("loss"), column("grad_norm")]
    };
    let [losses, norms] = columns(8);
    for micro_batch in [1, 3] {
        let [other_losses, other_norms] = columns(micro_batch);
        check_close("losses", &other_losses, &losses, 1e-5);
        check_close("norms", &other_norms, &norms, 1e-4);
    }
}

#[test]
fn the_log_holds_nothing_that_differs_between_runs() {
    let (data, init) = (reference_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let bench = Bench::new(train_params(64, 32), &inputs);
    let events = bench.done("train.run");
    assert!(events.contains("\"tokens_per_s\""), "{events}");
    for line in log(&bench) {
        let names: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(names, ["grad_norm", "loss", "lr", "step", "tokens"]);
    }
}

#[test]
fn an_empty_selection_trains_nothing() {
    let (data, init) = (empty_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let bench = Bench::new(train_params(0, 32), &inputs);
    assert_eq!(output(&bench.done("train.run"), "loss"), 0.0);
    let flat = |folder: &Path| f32_values(&open(folder).flat).unwrap();
    assert_eq!(flat(&bench.path("model")), flat(init.path()));
    let expected = "the selection is empty: raise `rate`";
    Bench::new(train_params(32, 32), &inputs).fails("train.run", expected);
}

#[test]
fn the_untrained_loss_is_that_of_the_first_batch() {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let mut bench = Bench::new(train_params(0, 64), &inputs);
    let mut loss = |micro_batch| {
        bench.micro_batch = Some(micro_batch);
        output(&bench.done("train.run"), "loss")
    };
    assert_eq!(loss(1), loss(5));
    let mut params = train_params(64, 64);
    params["lr"] = json!(0.0);
    let first = output(&Bench::new(params, &inputs).done("train.run"), "loss");
    assert!((loss(8) / first - 1.0).abs() < 1e-6, "{first}");
}

#[test]
fn what_can_only_diverge_is_refused_or_not_published() {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let fails = |changes: &[(&str, f64)], expected: &str| {
        let mut params = train_params(64, 64);
        for (name, value) in changes {
            params[name] = json!(value);
        }
        Bench::new(params, &inputs).fails("train.run", expected)
    };
    assert!(fails(&[("beta1", 1.0)], "`beta1` is 1, not below 1").contains("`beta1`"));
    fails(&[("beta2", 1.0)], "`beta2` is 1, not below 1");
    fails(&[("eps", 0.0)], "`eps` is 0, not above zero");
    // One step: the loss before it is fine, and no step comes after it to notice.
    let help = fails(&[("lr", 1e39)], "the weights are not finite after 1 steps");
    assert!(help.contains("a smaller `clip`"), "{help}");
    let help = fails(&[("lr", 1e39), ("clip", 0.0)], "the weights are not finite");
    assert!(!help.contains("smaller `clip`"), "{help}");
}

#[test]
fn sequences_longer_than_the_context_are_refused() {
    let (data, model) = (long_data(), checkpoint("model_plain"));
    set_config(model.path(), &json!({"max_position_embeddings": 7}));
    let expected = "sequences have 8 tokens, but the model's context is 7";
    let inputs: [(&str, &Path); 2] = [("init", model.path()), ("data", data.path())];
    Bench::new(train_params(64, 64), &inputs).fails("train.run", expected);
    let inputs: [(&str, &Path); 2] = [("model", model.path()), ("data", data.path())];
    Bench::new(
        json!({"skip": 0, "skip_from": 0, "dtype": "f32", "attention": "sequence"}),
        &inputs,
    )
    .fails("eval.perplexity", expected);
}

#[test]
fn zero_tokens_leave_the_model_as_it_is() {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let bench = Bench::new(train_params(0, 64), &[("init", init.path()), ("data", data.path())]);
    bench.done("train.run");
    let (before, after) = (open(init.path()), open(&bench.path("model")));
    assert_eq!(f32_values(&before.flat).unwrap(), f32_values(&after.flat).unwrap());
}

#[test]
fn training_says_what_is_wrong() {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    Bench::new(train_params(640, 60), &inputs).fails("train.run", "not a multiple");
    let mut params = train_params(6400, 64);
    params["lr"] = json!(1e30);
    params["clip"] = json!(0.0);
    Bench::new(params, &inputs).fails("train.run", "at step");
}

#[test]
fn what_is_kept_is_the_model_after_equal_parts_of_the_training() {
    let (data, init) = (long_data(), checkpoint("model_biased"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let file = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
    let whole = Bench::new(train_params(64 * 8, 64), &inputs);
    whole.done("train.run");
    let weights = file(&whole.path("model"), "model.safetensors");
    let check = |bench: &Bench, said: &str| {
        let events = bench.done("train.keep");
        assert!(events.contains(said), "{said}: {events}");
        assert!(file(&bench.path("model"), "model.safetensors") == weights, "{said}");
        assert!(file(&bench.path("log"), "log.jsonl") == file(&whole.path("log"), "log.jsonl"));
        let kept = bench.path("snapshots");
        let told: serde_json::Value =
            serde_json::from_slice(&file(&kept, "snapshots.json")).unwrap();
        assert_eq!(told["tokens"], json!([192, 384, 512]), "{said}");
        assert!(file(&kept, "3/model.safetensors") == weights, "{said}");
        ["1", "2"].map(|name| file(&kept.join(name), "model.safetensors"))
    };
    let bench = Bench::new(keep_params(64 * 8, 64, 3, 1), &inputs);
    let first = check(&bench, "\"model.params\"");
    for name in ["1", "2", "3"] {
        assert_eq!(
            open(&bench.path("snapshots").join(name)).config.depth,
            open(init.path()).config.depth
        );
    }
    assert!(first[0] != first[1] && first[1] != weights);
    // Steps 3, 6 and 8 are kept; it stops after 4 and 7 steps.
    bench.stopped("train.keep", 4);
    bench.stopped("train.keep", 3);
    assert!(check(&bench, "resumes after step 7") == first);
    let bench = Bench::new(keep_params(64 * 8, 64, 3, 1), &inputs);
    bench.stopped("train.keep", 4);
    fs::write(bench.state("kept-1.safetensors"), "damaged").unwrap();
    assert!(check(&bench, "model 1 of those it kept is damaged or missing") == first);
}

#[test]
fn parts_of_the_data_are_seen_one_after_the_other() {
    let (data, init) = (long_data(), checkpoint("model_plain"));
    let inputs: [(&str, &Path); 2] = [("init", init.path()), ("data", data.path())];
    let losses = |parts| {
        let mut params = keep_params(64 * 6, 64, 1, parts);
        params["lr"] = json!(0.0);
        let bench = Bench::new(params, &inputs);
        bench.done("train.keep");
        log(&bench).iter().map(|line| line["loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_ne!(losses(1), losses(3));
    let fails = |params, said| Bench::new(params, &inputs).fails("train.keep", said);
    fails(keep_params(64 * 6, 64, 7, 1), "`snapshots` is 7, but there are 6 steps");
    fails(keep_params(64 * 6, 64, 1, 1000), "`parts` is 1000, but there are");
}
