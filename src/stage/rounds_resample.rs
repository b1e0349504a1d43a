//! `rounds.resample`: Gumbel top-k. The units with the largest `loss / temperature + Gumbel noise` are a draw without
//! replacement in proportion to `exp(loss / temperature)`. Noise is a function of seed and unit id alone.

use std::ops::Range;

use serde::Deserialize;

use crate::base::{Value, text};
use crate::data::array::ArrayWriter;
use crate::data::dataset::{DRAWN, Documents};
use crate::data::{DataError, Dataset, DatasetWriter};
use crate::stage::draw::{By, Law, Pile, Reader, hash};
use crate::stage::scored::Scored;
use crate::stage::{Context, StageError};

/// Tokens of a document that are copied at once.
const COPIED: usize = 1 << 18;

#[derive(Deserialize)]
struct Params {
    rate: f64,
    by: By,
    temperature: f64,
    from: f64,
    to: f64,
    parts: u64,
    seed: i64,
}

impl Params {
    fn check(&self) -> Result<(), StageError> {
        let percent = |ratio: f64| 100.0 * ratio;
        if self.from >= self.to {
            let (from, to) = (percent(self.from), percent(self.to));
            return Err(StageError::input(format!("no units are from {from}% to {to}%"))
                .help("give a `to` larger than `from`"));
        }
        // 80% less 20% is not 60% to the last bit.
        if self.rate > self.to - self.from + 1e-9 {
            let (rate, band) = (percent(self.rate), percent(self.to - self.from));
            let message = format!("`rate` is {rate}% of the units, but {band}% are in the band");
            return Err(StageError::input(message)
                .help("lower `rate`, or widen the band from `from` to `to`"));
        }
        Ok(())
    }
}

/// Runs the stage.
///
/// # Errors
/// When losses and dataset don't fit together, a loss is not finite, or what is drawn fills no sequence.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    params.check()?;
    let scored = Scored::open(context)?;
    let pile = draw(context, &params, &scored)?;
    let drawn = pile.len();
    let pool = context.pool()?;
    let units = pile.in_order(&pool);
    let out = context.out_dir("out")?;
    let data = &scored.data;
    let sequences = match scored.documents() {
        Some(documents) => Copy::new(&scored, documents).write(context, &out, units, drawn)?,
        None => {
            let ids = units.flat_map(|unit| scored.sequences(unit));
            data.write_view(&out, ids.map(|index| data.sequence_id(index)))?
        }
    };
    context.output("out.tokens", Value::Int((sequences * data.meta().seq) as i64))?;
    context.output("out.sequences", Value::Int(sequences as i64))?;
    Ok(())
}

fn draw<'s>(
    context: &mut Context,
    params: &Params,
    scored: &'s Scored,
) -> Result<Pile<'s>, StageError> {
    scored.check_parts(params.parts)?;
    let seed = params.seed.cast_unsigned();
    let law = Law { by: params.by, temperature: params.temperature, seed };
    let mut reader = Reader::new(context, scored, 3)?;
    let parts: Vec<_> = (0..params.parts)
        .map(|part| scored.losses.part(part, params.parts))
        .map(|units| reader.count(units.clone()).map(|(count, tokens)| (units, count, tokens)))
        .collect::<Result<_, _>>()?;
    scored.check_tokens(parts.iter().map(|(_, _, tokens)| tokens).sum())?;
    let rank = |count: usize, ratio: f64| (ratio * count as f64).round() as usize;
    let all = parts.iter().map(|(_, count, _)| rank(*count, params.rate)).sum();
    let mut pile = Pile::new(scored, seed, all);
    for (units, count, _) in parts {
        let ranks = rank(count, params.from)..rank(count, params.to);
        let drawn = rank(count, params.rate).min(ranks.len());
        if drawn > 0 {
            let band = reader.band(&units, ranks, count)?;
            let place = |unit| hash(scored, seed, unit);
            reader.draw(units, drawn, (law, band), place, |hash, unit| pile.push(hash, unit))?;
        }
    }
    Ok(pile)
}

/// Copies documents of a dataset, of which a view has only parts.
struct Copy<'a> {
    data: &'a Dataset,
    documents: &'a Documents,
    /// The ids of a view's sequences, in rising order.
    view: Option<Vec<u64>>,
}

impl<'a> Copy<'a> {
    fn new(scored: &'a Scored, documents: &'a Documents) -> Self {
        let data = &scored.data;
        let view = data.is_view().then(|| {
            let mut ids: Vec<u64> = (0..data.len()).map(|at| data.sequence_id(at)).collect();
            ids.sort_unstable();
            ids
        });
        Self { data, documents, view }
    }

    /// Writes documents end to end, as a dataset of its own; returns how many sequences it has.
    fn write(
        &self,
        context: &mut Context,
        out: &std::path::Path,
        units: impl Iterator<Item = usize>,
        drawn: usize,
    ) -> Result<u64, StageError> {
        let meta = self.data.meta();
        let mut writer = DatasetWriter::create(out, meta.seq, meta.vocab)?;
        let mut numbers = ArrayWriter::<u64>::create(out.join(DRAWN))?;
        for (done, unit) in units.enumerate() {
            if context.interrupted() {
                return Err(StageError::Interrupted);
            }
            self.document(unit, &mut writer)?;
            numbers.push(unit as u64)?;
            context.progress(done as u64 + 1, Some(drawn as u64), "documents");
        }
        numbers.finish()?;
        let made = writer.finish()?;
        if made.sequences == 0 && drawn > 0 {
            let (drawn, tokens) = (text::plural(drawn, "document"), made.tokens);
            let message =
                format!("{drawn} of {tokens} tokens are too few for a sequence of {}", made.seq);
            return Err(StageError::input(message).help("raise `rate`, or pack shorter sequences"));
        }
        Ok(made.sequences)
    }

    fn document(&self, document: usize, writer: &mut DatasetWriter) -> Result<(), DataError> {
        let whole = self.documents.range(document);
        let mut ids = Vec::new();
        for piece in self.pieces(whole.clone()) {
            for start in piece.clone().step_by(COPIED) {
                ids.clear();
                self.data.tokens(start..piece.end.min(start + COPIED), &mut ids)?;
                writer.append(&ids)?;
            }
        }
        self.data.release(whole);
        writer.end()
    }

    /// Returns where the tokens of a document lie, of a view those that it trains.
    fn pieces(&self, document: Range<usize>) -> Vec<Range<usize>> {
        let Some(view) = &self.view else { return vec![document] };
        let seq = self.data.seq();
        let trained = |id: u64| id as usize * seq + 1..(id as usize + 1) * seq + 1;
        let first = view.partition_point(|id| trained(*id).end <= document.start);
        let trained = view[first..].iter().map(|id| trained(*id));
        let pieces = trained.take_while(|piece| piece.start < document.end);
        pieces.map(|it| it.start.max(document.start)..it.end.min(document.end)).collect()
    }
}
