//! `rounds.resample` on a dataset whose losses are set by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    seed: i64,
}

const PLAIN: Draw = Draw { rate: 0.25, by: "softmax", temperature: 1.0, seed: 7 };

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
            losses.push(loss(unit) * 8.0, 8).expect("written");
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
        let input = |name: &str| (name.to_owned(), vec![self.dir.path().join(name)]);
        let params = [
            ("rate", Value::Float(draw.rate)),
            ("by", Value::Str(draw.by.to_owned())),
            ("temperature", Value::Float(draw.temperature)),
            ("seed", Value::Int(draw.seed)),
        ];
        Action {
            protocol: PROTOCOL,
            key: Digest::of(b"key"),
            stage: "rounds.resample".to_owned(),
            params: params.map(|(name, value)| (name.to_owned(), value)).into(),
            inputs: BTreeMap::from([input("data"), input("losses")]),
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

    /// Returns the part of the drawn sequences that are odd.
    fn odd_part(&self, draw: Draw) -> f64 {
        let drawn = self.draw(draw).expect("drawn");
        drawn.iter().filter(|id| *id % 2 == 1).count() as f64 / drawn.len() as f64
    }
}

fn run(action: Action, stopped: bool) -> Result<(), StageError> {
    let (_, body) = REGISTRY.iter().find(|(name, _)| *name == action.stage).expect("a stage");
    let stop = Arc::new(AtomicBool::new(stopped));
    body(&mut Context::new(action, stop, Box::new(std::io::sink())))
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
