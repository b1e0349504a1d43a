//! `rounds.resample` of many units (`DESIGN` bar: 10^9 in less than a minute, memory in proportion to the sample): seconds and peak
//! memory, mapped files included, for a draw of 1% and of 50%.
//!
//! `TLM_BENCH_UNITS` says how many units (10^8); each takes 12 bytes of disk for its losses and 8 when it is drawn, below
//! `TMPDIR`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tlm::base::{Digest, Value, World};
use tlm::data::LossesWriter;
use tlm::data::losses::Unit;
use tlm::data::mix::splitmix;
use tlm::stage::action::PROTOCOL;
use tlm::stage::{Action, Context, REGISTRY};

fn main() {
    let world = World::of_process().expect("an environment");
    let units = world.var("TLM_BENCH_UNITS").and_then(|units| units.parse().ok());
    let units: u64 = units.unwrap_or(100_000_000);
    let space = tempfile::tempdir().expect("a folder");
    prepare(space.path(), units);
    for by in ["softmax", "uniform", "top"] {
        for rate in [0.01, 0.5] {
            let _ = fs::write("/proc/self/clear_refs", "5");
            let start = Instant::now();
            draw(space.path(), by, rate);
            let seconds = start.elapsed().as_secs_f64();
            let peak = peak();
            let _ = writeln!(stdout(), "{units} units, {by}, {rate}: {seconds:.1} s, {peak}");
        }
    }
}

/// Writes a dataset of sequences of one token, which takes no space, and losses about 3.
fn prepare(space: &Path, units: u64) {
    let [data, losses] = ["data", "losses"].map(|name| space.join(name));
    [&data, &losses].iter().for_each(|path| fs::create_dir(path).expect("created"));
    let tokens = fs::File::create(data.join("tokens.u16")).expect("created");
    tokens.set_len(2 * (units + 1)).expect("long");
    fs::write(data.join("documents.u64"), [0; 8]).expect("written");
    let meta =
        json!({"seq": 1, "vocab": 2, "dtype": "u16", "tokens": units + 1, "sequences": units});
    fs::write(data.join("meta.json"), meta.to_string()).expect("written");
    let mut writer = LossesWriter::create(&losses, Unit::Sequence, 1, 1).expect("created");
    for unit in 0..units {
        let [a, b] = [unit, unit + units].map(|id| splitmix(id) as f64 / u64::MAX as f64);
        writer.push(2.0 + a + b, 1).expect("written");
    }
    writer.finish().expect("written");
}

fn draw(space: &Path, by: &str, rate: f64) {
    let out = tempfile::tempdir_in(space).expect("a folder");
    let input = |name: &str| (name.to_owned(), vec![space.join(name)]);
    let params = [
        ("rate", Value::Float(rate)),
        ("by", Value::Str(by.to_owned())),
        ("temperature", Value::Float(1.0)),
        ("from", Value::Float(0.0)),
        ("to", Value::Float(1.0)),
        ("parts", Value::Int(1)),
        ("seed", Value::Int(7)),
    ];
    let action = Action {
        protocol: PROTOCOL,
        key: Digest::of(b"key"),
        stage: "rounds.resample".to_owned(),
        params: params.map(|(name, value)| (name.to_owned(), value)).into(),
        inputs: BTreeMap::from([input("data"), input("losses")]),
        out: out.path().to_owned(),
        state: out.path().to_owned(),
        seed: 1,
        threads: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
        device: "cpu".to_owned(),
        micro_batch: None,
        recompute: false,
        shell: None,
    };
    let (_, body) = REGISTRY.iter().find(|(name, _)| *name == action.stage).expect("a stage");
    body(&mut Context::new(action, Arc::default(), Box::new(std::io::sink()))).expect("drawn");
}

fn peak() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "peak memory unknown".to_owned(), |size| format!("peak{size}"))
}
