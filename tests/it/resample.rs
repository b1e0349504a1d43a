//! `rounds.resample` on a dataset whose losses are set by hand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tlm::base::{Digest, Value};
use tlm::data::losses::Unit;
use tlm::data::{Dataset, DatasetWriter, LossesWriter};
use tlm::stage::action::PROTOCOL;
use tlm::stage::{Action, Context, REGISTRY, StageError};

const SEQ: u64 = 4;

/// How to draw.
#[derive(Clone, Copy)]
struct Draw {
    rate: f64,
    by: &'static str,
    temperature: f64,
    from: f64,
    to: f64,
    parts: i64,
    seed: i64,
}

const PLAIN: Draw =
    Draw { rate: 0.25, by: "softmax", temperature: 1.0, from: 0.0, to: 1.0, parts: 1, seed: 7 };

/// A dataset of `sequences`, and one loss per unit of `batch` sequences.
struct Scored {
    dir: tempfile::TempDir,
}

impl Scored {
    fn new(sequences: u64, batch: u64, loss: impl Fn(u64) -> f64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["data", "losses"] {
            fs::create_dir(dir.path().join(name)).expect("created");
        }
        let mut data = DatasetWriter::create(&dir.path().join("data"), SEQ, 10).expect("created");
        data.push(&vec![1; (sequences * SEQ + 1) as usize]).expect("written");
        data.finish().expect("written");
        let unit = if batch == 1 { Unit::Sequence } else { Unit::Batch };
        let folder = dir.path().join("losses");
        let mut losses = LossesWriter::create(&folder, unit, batch, SEQ).expect("created");
        for unit in 0..sequences.div_ceil(batch) {
            let tokens = SEQ * batch.min(sequences - unit * batch);
            losses.push(loss(unit) * tokens as f64, tokens as u32).expect("written");
        }
        losses.finish().expect("written");
        Self { dir }
    }

    fn draw(&self, draw: Draw) -> Result<Vec<u64>, StageError> {
        let out = tempfile::tempdir_in(self.dir.path()).expect("a folder");
        run(self.action(draw, out.path()), false)?;
        Ok(ids(&out.path().join("out")))
    }

    fn action(&self, draw: Draw, out: &Path) -> Action {
        let params = [
            ("rate", Value::Float(draw.rate)),
            ("by", Value::Str(draw.by.to_owned())),
            ("temperature", Value::Float(draw.temperature)),
            ("from", Value::Float(draw.from)),
            ("to", Value::Float(draw.to)),
            ("parts", Value::Int(draw.parts)),
            ("seed", Value::Int(draw.seed)),
        ];
        let input = |name| (name, self.dir.path().join(name));
        action("rounds.resample", &params, &[input("data"), input("losses")], out)
    }

    /// Returns the part of the drawn sequences that are odd.
    fn odd_part(&self, draw: Draw) -> f64 {
        let drawn = self.draw(draw).expect("drawn");
        drawn.iter().filter(|id| *id % 2 == 1).count() as f64 / drawn.len() as f64
    }
}

fn action(stage: &str, params: &[(&str, Value)], inputs: &[(&str, PathBuf)], out: &Path) -> Action {
    let input = |(name, path): &(&str, PathBuf)| ((*name).to_owned(), vec![path.clone()]);
    Action {
        protocol: PROTOCOL,
        key: Digest::of(b"key"),
        stage: stage.to_owned(),
        params: params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        inputs: inputs.iter().map(input).collect(),
        out: out.to_owned(),
        state: out.to_owned(),
        seed: 1,
        threads: 1,
        device: "cpu".to_owned(),
        micro_batch: None,
        recompute: false,
        shell: None,
    }
}

fn run(action: Action, stopped: bool) -> Result<(), StageError> {
    let (_, body) = REGISTRY.iter().find(|(name, _)| *name == action.stage).expect("a stage");
    let stop = Arc::new(AtomicBool::new(stopped));
    body(&mut Context::new(action, stop, Box::new(std::io::sink())))
}

#[track_caller]
fn check_refused<T>(result: Result<T, StageError>, expected: &str) {
    match result {
        Err(StageError::Failed(failure)) => {
            assert!(failure.message.contains(expected), "{}", failure.message);
            assert!(failure.help.is_some(), "{}", failure.message);
        }
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("was not refused: {expected}"),
    }
}

/// Returns the sequences of a view, in its order.
fn ids(folder: &Path) -> Vec<u64> {
    let view = Dataset::open(folder).expect("a view");
    (0..view.len()).map(|index| view.sequence_id(index)).collect()
}

#[test]
fn temperature_zero_takes_the_hardest() {
    let scored = Scored::new(40, 1, |unit| ((unit * 17) % 40) as f64);
    let drawn = scored.draw(Draw { temperature: 0.0, ..PLAIN }).expect("drawn");
    let hardest: BTreeSet<u64> = (0..40).filter(|unit| (unit * 17) % 40 >= 30).collect();
    assert_eq!(drawn.iter().copied().collect::<BTreeSet<_>>(), hardest);
    assert!(!drawn.is_sorted(), "units stand in random order");
    let again = scored.draw(Draw { temperature: 0.0, ..PLAIN }).expect("drawn");
    assert_eq!(again, drawn);
}

#[test]
fn a_temperature_divides_the_losses() {
    let scored = Scored::new(40_000, 1, |unit| 2.0 * (unit % 2) as f64);
    for temperature in [0.5, 1.0, 2.0, 8.0] {
        // So few are drawn that what is left keeps its parts.
        let part = scored.odd_part(Draw { rate: 0.01, temperature, ..PLAIN });
        let expected = 1.0 / (1.0 + (-2.0 / temperature).exp());
        assert!((part - expected).abs() < 0.06, "{temperature}: {part} against {expected}");
    }
}

#[test]
fn uniform_does_not_look_at_losses() {
    let scored = Scored::new(40_000, 1, |unit| 1000.0 * (unit % 2) as f64);
    let part = scored.odd_part(Draw { rate: 0.01, by: "uniform", ..PLAIN });
    assert!((part - 0.5).abs() < 0.06, "{part}");
    // Nor does it matter that they are not finite.
    let broken = Scored::new(4, 1, |_| f64::NAN);
    assert_eq!(broken.draw(Draw { by: "uniform", ..PLAIN }).expect("drawn").len(), 1);
    let error = broken.draw(PLAIN).expect_err("no finite loss");
    assert!(format!("{error:?}").contains("the loss of unit 0 is not a finite number"));
}

#[test]
fn units_of_a_batch_come_together_and_the_last_may_be_short() {
    // Ten sequences in units of 0..4, 4..8 and 8..10.
    let scored = Scored::new(10, 4, |unit| unit as f64);
    let hardest = |rate| {
        let drawn = scored.draw(Draw { rate, temperature: 0.0, ..PLAIN });
        drawn.expect("drawn").into_iter().collect::<BTreeSet<_>>()
    };
    assert_eq!(hardest(1.0 / 3.0), BTreeSet::from([8, 9]));
    assert_eq!(hardest(2.0 / 3.0), (4..10).collect());
    let all = scored.draw(Draw { rate: 1.0, ..PLAIN }).expect("drawn");
    for unit in [0..4, 4..8, 8..10] {
        let unit: Vec<u64> = unit.collect();
        assert!(all.windows(unit.len()).any(|part| part == unit), "{unit:?} is torn in {all:?}");
    }
}

#[test]
fn a_draw_stops_when_asked() {
    let scored = Scored::new(8, 1, |unit| unit as f64);
    let ended = run(scored.action(PLAIN, scored.dir.path()), true);
    assert!(matches!(ended, Err(StageError::Interrupted)), "{ended:?}");
}

#[test]
fn the_rate_goes_from_nothing_to_all() {
    let scored = Scored::new(8, 1, |unit| unit as f64);
    let drawn = |rate| scored.draw(Draw { rate, ..PLAIN }).expect("drawn");
    assert_eq!(drawn(0.0), [0; 0]);
    assert_eq!(drawn(0.5).len(), 4);
    assert_eq!(drawn(1.0).into_iter().collect::<BTreeSet<_>>(), (0..8).collect());
}

#[test]
fn the_top_are_the_largest_losses_and_of_equal_ones_the_first() {
    let scored = Scored::new(40, 1, |unit| ((unit % 4) as f64) - 1.0);
    let top = Draw { by: "top", rate: 0.375, ..PLAIN };
    let drawn = scored.draw(top).expect("drawn").into_iter().collect::<BTreeSet<_>>();
    let expected = (0..40).filter(|unit| unit % 4 == 3 || unit % 4 == 2 && *unit < 20);
    assert_eq!(drawn, expected.collect());
    let other = scored.draw(Draw { seed: 8, ..top }).expect("drawn");
    assert_eq!(other.into_iter().collect::<BTreeSet<_>>(), drawn, "only the order is of the seed");
}

#[test]
fn a_band_leaves_out_the_ends() {
    let scored = Scored::new(100, 1, |unit| ((unit * 37) % 100) as f64);
    let losses = |draw| {
        let drawn = scored.draw(draw).expect("drawn");
        drawn.iter().map(|unit| (unit * 37) % 100).collect::<BTreeSet<_>>()
    };
    let band = Draw { by: "uniform", from: 0.2, to: 0.8, ..PLAIN };
    assert_eq!(losses(Draw { rate: 0.6, ..band }), (20..80).collect());
    let some = losses(Draw { rate: 0.3, ..band });
    assert_eq!(some.len(), 30);
    assert!(some.iter().all(|loss| (20..80).contains(loss)), "{some:?}");
    assert_eq!(losses(Draw { by: "top", to: 0.99, rate: 0.1, ..PLAIN }), (89..99).collect());
    let wide = Draw { rate: 0.7, ..band };
    check_refused(scored.draw(wide), "`rate` is 70% of the units, but 60");
    check_refused(scored.draw(Draw { to: 0.2, ..band }), "no units are from 20% to 20%");
}

#[test]
fn parts_are_drawn_from_by_themselves() {
    // The second half is so hard that nothing else would be drawn.
    let scored = Scored::new(80, 1, |unit| if unit < 40 { 1.0 } else { 100.0 });
    let first = |parts| {
        let drawn = scored.draw(Draw { parts, ..PLAIN }).expect("drawn");
        (drawn.len(), drawn.iter().filter(|unit| **unit < 40).count())
    };
    assert_eq!(first(1), (20, 0));
    assert_eq!(first(2), (20, 10));
    // 26, 27 and 27 units, of which a quarter is rounded.
    assert_eq!(first(3).0, 7 + 7 + 7);
    // A quarter of one unit is none.
    assert_eq!(first(80), (0, 0));
    check_refused(
        scored.draw(Draw { parts: 81, ..PLAIN }),
        "`parts` is 81, but there are 80 units",
    );
}

/// Documents of 3, 0, 7, 5, 1 and 10 tokens, each of its number, with given losses.
fn documents(losses: [f64; 6]) -> Scored {
    let scored = Scored::new(1, 1, |_| 0.0);
    let folder = scored.dir.path().join("data");
    let mut data = DatasetWriter::create(&folder, SEQ, 10).expect("created");
    for (number, size) in SIZES.iter().enumerate() {
        data.push(&vec![number as u32; *size]).expect("written");
    }
    assert_eq!(data.finish().expect("written").sequences, 6);
    // Token 0 is trained by no sequence, nor is the last one.
    let trained = [2, 0, 7, 5, 1, 9];
    write_document_losses(&scored, trained, losses);
    scored
}

const SIZES: [usize; 6] = [3, 0, 7, 5, 1, 10];

fn write_document_losses(scored: &Scored, tokens: [u32; 6], losses: [f64; 6]) {
    let folder = scored.dir.path().join("losses");
    let mut writer = LossesWriter::create(&folder, Unit::Document, 1, SEQ).expect("created");
    for (loss, tokens) in losses.iter().zip(tokens) {
        writer.push(loss * f64::from(tokens), tokens).expect("written");
    }
    writer.finish().expect("written");
}

/// Returns numbers and tokens of the documents of a dataset that was drawn.
fn drawn_documents(folder: &Path) -> Vec<(u64, Vec<u32>)> {
    let data = Dataset::open(folder).expect("a dataset");
    let (documents, numbers) = (data.documents().expect("documents"), data.drawn().expect("read"));
    let tokens = |index| {
        let mut tokens = Vec::new();
        data.tokens(documents.range(index), &mut tokens).expect("tokens");
        tokens
    };
    numbers.expect("numbers").iter().enumerate().map(|(at, id)| (id, tokens(at))).collect()
}

#[test]
fn documents_are_copied_whole_into_a_dataset_of_their_own() {
    let scored = documents([1.0, 9.0, 3.0, 4.0, 2.0, 5.0]);
    let out = tempfile::tempdir().expect("a folder");
    let top = Draw { by: "top", rate: 0.6, seed: 1, ..PLAIN };
    run(scored.action(top, out.path()), false).expect("drawn");
    // Of five documents that have tokens.
    let mut drawn = drawn_documents(&out.path().join("out"));
    assert!(drawn.iter().map(|(id, _)| *id).collect::<Vec<_>>() != [2, 3, 5], "in random order");
    drawn.sort();
    let expected = [2, 3, 5].map(|id| (id, vec![id as u32; SIZES[id as usize]]));
    assert_eq!(drawn, expected);
    let data = Dataset::open(&out.path().join("out")).expect("a dataset");
    assert_eq!((data.len(), data.is_view()), (5, false));
}

#[test]
fn of_a_view_documents_have_the_tokens_that_it_trains() {
    let scored = documents([0.0; 6]);
    let folder = scored.dir.path().join("data");
    let data = Dataset::open(&folder).expect("a dataset");
    // Tokens 13..17, 1..5 and 17..21.
    let view = tempfile::tempdir_in(scored.dir.path()).expect("a folder");
    data.write_view(view.path(), [3, 0, 4]).expect("written");
    fs::remove_dir_all(&folder).expect("removed");
    fs::rename(view.keep(), &folder).expect("renamed");
    write_document_losses(&scored, [2, 0, 2, 2, 1, 5], [1.0, 0.0, 2.0, 3.0, 4.0, 5.0]);
    let out = tempfile::tempdir().expect("a folder");
    run(scored.action(Draw { rate: 1.0, ..PLAIN }, out.path()), false).expect("drawn");
    let mut drawn = drawn_documents(&out.path().join("out"));
    drawn.sort();
    let expected = [(0, 2), (2, 2), (3, 2), (4, 1), (5, 5)];
    assert_eq!(drawn, expected.map(|(id, size)| (id, vec![id as u32; size])));
}

#[test]
fn documents_that_fill_no_sequence_are_refused() {
    let scored = documents([1.0, 9.0, 3.0, 4.0, 20.0, 5.0]);
    let top = Draw { by: "top", rate: 0.2, ..PLAIN };
    check_refused(scored.draw(top), "1 document of 1 tokens are too few for a sequence of 4");
    assert_eq!(scored.draw(Draw { rate: 0.0, ..top }).expect("drawn"), [0; 0]);
}

#[test]
fn losses_of_something_else_are_refused() {
    let scored = Scored::new(8, 2, |unit| unit as f64);
    let write = |unit, batch, seq, units: &[u32]| {
        let folder = scored.dir.path().join("losses");
        let mut losses = LossesWriter::create(&folder, unit, batch, seq).expect("created");
        units.iter().for_each(|tokens| losses.push(1.0, *tokens).expect("written"));
        losses.finish().expect("written");
        scored.draw(PLAIN)
    };
    check_refused(
        write(Unit::Sequence, 1, SEQ, &[4; 7]),
        "the losses are of 7 units, but the dataset has 8",
    );
    check_refused(
        write(Unit::Batch, 2, 8, &[16; 4]),
        "the losses are of sequences of 8, but the dataset's have 4",
    );
    check_refused(
        write(Unit::Sequence, 1, SEQ, &[5; 8]),
        "the losses are of 40 tokens, but the dataset trains 32",
    );
    check_refused(
        write(Unit::Document, 1, SEQ, &[32; 2]),
        "the losses are of 2 units, but the dataset has 1",
    );
    check_refused(write(Unit::Sequence, 1, SEQ, &[]), "the losses are of 0 units");
    assert_eq!(write(Unit::Batch, 2, SEQ, &[8; 4]).expect("drawn").len(), 2);
    // A temperature that no difference of losses survives.
    write(Unit::Batch, 2, SEQ, &[8; 4]).expect("drawn");
    let cold = Draw { temperature: 1e-320, ..PLAIN };
    check_refused(scored.draw(cold), "the loss of unit 0, divided by the temperature");
}

/// Returns what `rounds.drift` tells of a draw, and its report.
fn drift(scored: &Scored, drawn: &Path, parts: i64) -> Result<(Told, Vec<Told>), StageError> {
    let params = [
        ("parts", Value::Int(parts)),
        ("temperature", Value::Float(1.0)),
        ("seed", Value::Int(PLAIN.seed)),
    ];
    let [data, losses] = ["data", "losses"].map(|name| (name, scored.dir.path().join(name)));
    let out = tempfile::tempdir().expect("a folder");
    let inputs = [data, losses, ("drawn", drawn.to_owned())];
    let told = outputs(action("rounds.drift", &params, &inputs, out.path()))?;
    let report = fs::read_to_string(out.path().join("report")).expect("a report");
    Ok((told, report.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()))
}

type Told = std::collections::BTreeMap<String, f64>;

/// Runs a stage and returns its numbers.
fn outputs(action: Action) -> Result<Told, StageError> {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("lines").extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (_, body) = REGISTRY.iter().find(|(name, _)| *name == action.stage).expect("a stage");
    let lines = Lines::default();
    body(&mut Context::new(action, Arc::default(), Box::new(lines.clone())))?;
    let lines = String::from_utf8(lines.0.lock().expect("lines").clone()).expect("text");
    let events = lines.lines().map(serde_json::from_str::<serde_json::Value>);
    let output = |event: serde_json::Value| {
        let name = event.get("name")?.as_str()?.to_owned();
        let value = event.get("value")?;
        let number = value.as_f64().or_else(|| value.as_object()?.values().next()?.as_f64())?;
        Some((name, number))
    };
    Ok(events.filter_map(|event| output(event.expect("JSON"))).collect())
}

#[test]
fn drift_tells_weights_overlap_and_shares() {
    let loss = |unit: u64| if unit < 30 { 1.0 } else { 3.0 };
    let scored = Scored::new(40, 1, loss);
    let out = tempfile::tempdir().expect("a folder");
    let draw = |name: &str, draw| {
        let out = out.path().join(name);
        fs::create_dir(&out).expect("created");
        run(scored.action(draw, &out), false).expect("drawn");
        out.join("out")
    };
    let (told, lines) =
        drift(&scored, &draw("top", Draw { by: "top", ..PLAIN }), 2).expect("measured");
    let close = |got: f64, expected: f64| {
        assert!((got - expected).abs() < 1e-12, "{got} against {expected}");
    };
    let (small, large) = (1f64.exp(), 3f64.exp());
    let weights = (30.0 * small + 10.0 * large, 30.0 * small * small + 10.0 * large * large);
    close(told["ess"], weights.0 * weights.0 / weights.1);
    close(told["loss"], 1.5);
    close(told["drawn_loss"], 3.0);
    // All ten are of the second half.
    close(told["drift"], 0.5);
    let shares: Vec<_> = lines.iter().map(|line| (line["share"], line["drawn_share"])).collect();
    assert_eq!(shares, [(0.5, 0.0), (0.5, 1.0)]);
    close(lines[0]["ess"], 20.0);
    close(lines[1]["drawn_units"], 10.0);
    close(lines[1]["loss"], 2.0);
    // The uniform draw of the same seed is itself, and equal losses don't matter.
    let (told, _) =
        drift(&scored, &draw("uniform", Draw { by: "uniform", ..PLAIN }), 1).expect("measured");
    close(told["overlap"], 1.0);
    let equal = Scored::new(40, 1, |_| 2.0);
    let softmax = tempfile::tempdir().expect("a folder");
    run(equal.action(PLAIN, softmax.path()), false).expect("drawn");
    let (told, _) = drift(&equal, &softmax.path().join("out"), 1).expect("measured");
    close(told["overlap"], 1.0);
    close(told["ess"], 40.0);
    let nothing = draw("nothing", Draw { rate: 0.0, ..PLAIN });
    check_refused(drift(&scored, &nothing, 1), "nothing was drawn");
    check_refused(drift(&scored, &scored.dir.path().join("data"), 1), "`drawn` was not drawn");
    let first = Scored::new(5, 1, loss);
    let top = draw("again", Draw { by: "top", ..PLAIN });
    check_refused(drift(&first, &top, 1), "`drawn` was not drawn from `data`");
}

#[test]
fn drift_of_batches_and_of_documents() {
    let batches = Scored::new(10, 4, |unit| unit as f64);
    let out = tempfile::tempdir().expect("a folder");
    run(batches.action(Draw { rate: 0.67, by: "top", ..PLAIN }, out.path()), false).expect("drawn");
    let (told, lines) = drift(&batches, &out.path().join("out"), 1).expect("measured");
    assert_eq!((lines[0]["drawn_units"], lines[0]["drawn_tokens"]), (2.0, 24.0));
    assert!((told["drawn_loss"] - (16.0 + 2.0 * 8.0) / 24.0).abs() < 1e-12, "{told:?}");
    let scored = documents([1.0, 9.0, 3.0, 4.0, 2.0, 5.0]);
    let out = tempfile::tempdir().expect("a folder");
    run(scored.action(Draw { rate: 0.6, by: "top", ..PLAIN }, out.path()), false).expect("drawn");
    let (told, lines) = drift(&scored, &out.path().join("out"), 3).expect("measured");
    assert_eq!(lines.iter().map(|line| line["drawn_units"]).collect::<Vec<_>>(), [0.0, 2.0, 1.0]);
    assert!((told["drawn_loss"] - (21.0 + 20.0 + 45.0) / 21.0).abs() < 1e-12, "{told:?}");
}

#[test]
fn a_part_of_the_losses_has_its_own_mean() {
    let scored = Scored::new(10, 1, |unit| unit as f64);
    let loss = |parts, part| {
        let params = [("parts", Value::Int(parts)), ("part", Value::Int(part))];
        let out = tempfile::tempdir().expect("a folder");
        let losses = ("losses", scored.dir.path().join("losses"));
        outputs(action("rounds.part_loss", &params, &[losses], out.path()))
    };
    let means = |parts| -> Vec<f64> {
        (1..=parts).map(|part| loss(parts, part).expect("a mean")["loss"]).collect()
    };
    assert_eq!(means(2), [2.0, 7.0]);
    assert_eq!(means(3), [1.0, 4.0, 7.5]);
    check_refused(loss(2, 3), "there is no part 3 of 2");
    check_refused(loss(20, 1), "part 1 of 20 has no tokens: there are 10 units");
}
