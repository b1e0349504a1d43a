//! `rounds.drift`: how far a draw is from the data that it was drawn from.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::base::Value;
use crate::data::Dataset;
use crate::stage::draw::{Band, By, Law, Reader};
use crate::stage::scored::Scored;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    parts: u64,
    temperature: f64,
    seed: i64,
}

/// Runs the stage.
///
/// # Errors
/// When inputs don't fit together, nothing was drawn, or a loss is not finite.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    if params.temperature == 0.0 {
        return Err(StageError::input("`temperature` is zero: only the largest loss has weight")
            .help("give the temperature of a draw by softmax"));
    }
    let scored = Scored::open(context)?;
    scored.check_parts(params.parts)?;
    let drawn = scored.drawn(&Dataset::open(context.input("drawn"))?)?;
    if drawn.is_empty() {
        return Err(StageError::input("nothing was drawn").help("raise `rate`"));
    }
    let mut reader = Reader::new(context, &scored, 3)?;
    let mut parts = Vec::new();
    let mut overlap = 0;
    for part in 0..params.parts {
        let units = scored.losses.part(part, params.parts);
        let own = measure(&mut reader, &scored, units.clone(), &drawn, params.temperature)?;
        let law = Law { by: By::Uniform, temperature: 0.0, seed: params.seed.cast_unsigned() };
        let is_drawn = |unit| drawn.binary_search(&scored.id(unit)).is_ok();
        if own.drawn.units > 0 {
            let take = |is_drawn, _| overlap += u64::from(is_drawn);
            reader.draw(units, own.drawn.units as usize, (law, Band::ALL), is_drawn, take)?;
        }
        parts.push(own);
    }
    let all = parts.iter().fold(Measured::default(), Measured::with);
    scored.check_tokens(all.all.tokens)?;
    scored.check_drawn(&drawn, all.drawn.units)?;
    let drift = parts.iter().map(|part| (part.share(&all) - part.drawn_share(&all)).abs());
    context.output("ess", Value::Float(all.weights.ess()))?;
    context.output("overlap", Value::Float(overlap as f64 / all.drawn.units as f64))?;
    context.output("drift", Value::Float(drift.sum::<f64>() / 2.0))?;
    context.output("loss", Value::Float(all.all.loss()))?;
    context.output("drawn_loss", Value::Float(all.drawn.loss()))?;
    write(context, &parts, &all)
}

/// Units, their tokens, and the summed losses of these.
#[derive(Clone, Copy, Default)]
struct Sum {
    units: u64,
    tokens: u64,
    nll: f64,
}

impl Sum {
    fn with(self, other: Self) -> Self {
        Self {
            units: self.units + other.units,
            tokens: self.tokens + other.tokens,
            nll: self.nll + other.nll,
        }
    }

    fn loss(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.nll / self.tokens as f64 }
    }
}

/// Sums of `exp(x)` and of its squares, divided by `exp(largest)` and its square so that none overflows.
#[derive(Clone, Copy)]
struct Weights {
    largest: f64,
    sum: f64,
    squares: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { largest: f64::NEG_INFINITY, sum: 0.0, squares: 0.0 }
    }
}

impl Weights {
    fn of(logarithm: f64) -> Self {
        Self { largest: logarithm, sum: 1.0, squares: 1.0 }
    }

    fn with(self, other: Self) -> Self {
        let (big, small) = if self.largest < other.largest { (other, self) } else { (self, other) };
        if small.sum == 0.0 {
            return big;
        }
        let scale = (small.largest - big.largest).exp();
        Self {
            largest: big.largest,
            sum: big.sum + scale * small.sum,
            squares: big.squares + scale * scale * small.squares,
        }
    }

    /// Returns Kish's effective sample size, `(sum of w)^2 / sum of w^2`.
    fn ess(&self) -> f64 {
        if self.sum == 0.0 { 0.0 } else { self.sum * self.sum / self.squares }
    }
}

/// What a part has, and what was drawn of it.
#[derive(Clone, Copy, Default)]
struct Measured {
    all: Sum,
    drawn: Sum,
    weights: Weights,
}

impl Measured {
    fn with(self, other: &Self) -> Self {
        Self {
            all: self.all.with(other.all),
            drawn: self.drawn.with(other.drawn),
            weights: self.weights.with(other.weights),
        }
    }

    fn share(&self, of: &Self) -> f64 {
        self.all.tokens as f64 / of.all.tokens as f64
    }

    fn drawn_share(&self, of: &Self) -> f64 {
        self.drawn.tokens as f64 / of.drawn.tokens as f64
    }
}

fn measure(
    reader: &mut Reader<'_>,
    scored: &Scored,
    units: Range<usize>,
    drawn: &[u64],
    temperature: f64,
) -> Result<Measured, StageError> {
    let losses = &scored.losses;
    let add = |block: Range<usize>, own: &mut Measured| {
        for unit in block {
            let Some(loss) = losses.loss(unit) else { continue };
            let logarithm = loss / temperature;
            if !logarithm.is_finite() {
                return Err(unit);
            }
            let one = Sum { units: 1, tokens: losses.tokens(unit).into(), nll: losses.nll(unit) };
            own.all = own.all.with(one);
            own.weights = own.weights.with(Weights::of(logarithm));
            if drawn.binary_search(&scored.id(unit)).is_ok() {
                own.drawn = own.drawn.with(one);
            }
        }
        Ok(())
    };
    // Blocks are added in their order, so that sums are the same for any number of threads.
    let mut all = Measured::default();
    reader.pass(units, add, |states| {
        for own in states {
            all = all.with(&std::mem::take(own));
        }
    })?;
    Ok(all)
}

/// A line of the report.
#[derive(Serialize)]
struct Line {
    part: u64,
    units: u64,
    tokens: u64,
    share: f64,
    loss: f64,
    ess: f64,
    drawn_units: u64,
    drawn_tokens: u64,
    drawn_share: f64,
    drawn_loss: f64,
}

fn write(context: &Context, parts: &[Measured], all: &Measured) -> Result<(), StageError> {
    let path = context.out("report");
    let io = |error| StageError::io("write", &path, &error);
    let mut file = BufWriter::new(File::create(&path).map_err(io)?);
    for (part, own) in (1..).zip(parts) {
        let line = Line {
            part,
            units: own.all.units,
            tokens: own.all.tokens,
            share: own.share(all),
            loss: own.all.loss(),
            ess: own.weights.ess(),
            drawn_units: own.drawn.units,
            drawn_tokens: own.drawn.tokens,
            drawn_share: own.drawn_share(all),
            drawn_loss: own.drawn.loss(),
        };
        let json = serde_json::to_string(&line).expect("plain data turns into JSON");
        writeln!(file, "{json}").map_err(io)?;
    }
    file.flush().map_err(io)
}
