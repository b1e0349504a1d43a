//! The loss of each sequence of a dataset under a frozen model, for `rounds.score` and `eval.perplexity`.
//!
//! Losses go to a journal in the state folder as they are computed, so memory does not grow with the dataset, and an
//! interrupted stage goes on where it stopped, to the same bits.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::Kind;
use tlm::data::array::Array;
use tlm::stage::{Context, StageError};

use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::nn::sequences::Sequences;
use crate::stage::journal::{Journal, Mark};
use crate::stage::state::{Origin, replace, seal, tell_unusable, unseal};
use crate::stage::{UNSAVED, check_not_empty, micro_batch};

/// Summed losses, in nats.
pub(crate) struct SequenceLosses {
    /// Of each sequence.
    pub(crate) each: Array<f64>,
    /// Of all sequences, added in order.
    pub(crate) sum: f64,
}

/// `losses.json` in the state folder.
#[derive(Serialize, Deserialize)]
struct Header {
    origin: Origin,
    /// Sequences done.
    done: u64,
    losses: Mark,
}

/// Losses so far.
struct Scoring {
    origin: Origin,
    done: u64,
    sum: f64,
    journal: Journal,
    saved: Instant,
    saved_done: u64,
}

/// Computes the loss of every sequence.
pub(crate) fn sequence_losses(
    context: &mut Context,
    model: &Llama,
    data: &Sequences,
) -> Result<SequenceLosses, StageError> {
    check_not_empty(data)?;
    let mut scoring = Scoring::start(context, micro_batch(context, data, model))?;
    while scoring.done < data.count {
        let stopped = context.interrupted();
        if stopped || scoring.saved.elapsed() > UNSAVED {
            scoring.save(context, data)?;
        }
        if stopped {
            return Err(StageError::Interrupted);
        }
        scoring.step(model, data)?;
        let tokens = scoring.done * data.length;
        context.progress(tokens, Some(data.count * data.length), "tokens");
        context.metric("loss", scoring.sum / tokens as f64);
    }
    let each = Array::open(&scoring.journal.finish()?)?;
    Ok(SequenceLosses { each, sum: scoring.sum })
}

impl Scoring {
    /// Returns the saved state, or an empty one.
    fn start(context: &mut Context, micro_batch: u64) -> Result<Self, StageError> {
        match Self::find(context) {
            Ok(Some(mut found)) => {
                context.log(format!("resumes after {} sequences", found.done));
                found.origin.go_on(context);
                return Ok(found);
            }
            Ok(None) => {}
            Err(why) => tell_unusable(context, &why),
        }
        let journal = Journal::create(losses_path(context))?;
        Ok(Self::at(Origin::new(context, micro_batch), journal, 0, 0.0))
    }

    fn at(origin: Origin, journal: Journal, done: u64, sum: f64) -> Self {
        Self { origin, done, sum, journal, saved: Instant::now(), saved_done: done }
    }

    fn find(context: &Context) -> Result<Option<Self>, String> {
        let path = context.state_dir().join("losses.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(|_| "it is damaged")?;
        let header: Header = unseal(&text)?;
        header.origin.check(context)?;
        let journal = Journal::reopen(losses_path(context), &header.losses)
            .ok_or("its losses are damaged or missing")?;
        let losses = Array::<f64>::open(journal.path()).map_err(|error| error.to_string())?;
        let sum = losses.iter().sum();
        Ok(Some(Self::at(header.origin, journal, header.done, sum)))
    }

    /// Scores the next sequences.
    fn step(&mut self, model: &Llama, data: &Sequences) -> Result<(), StageError> {
        let end = (self.done + self.origin.micro_batch).min(data.count);
        let indices: Vec<u64> = (self.done..end).collect();
        let (inputs, targets) = data.batch(&indices, model.device())?;
        let losses = model
            .nll(&inputs, &targets)
            .and_then(|nll| nll.f_view([indices.len() as i64, -1]))
            .and_then(|nll| nll.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double))
            .and_then(Vec::<f64>::try_from)
            .map_err(fault)?;
        for (index, loss) in indices.iter().zip(losses) {
            if !loss.is_finite() {
                return Err(StageError::input(format!(
                    "the loss of sequence {index} is {loss}: the model has diverged"
                ))
                .help("train it with a smaller `lr`"));
            }
            self.sum += loss;
            self.journal.append(&loss.to_le_bytes())?;
        }
        self.done = end;
        Ok(())
    }

    fn save(&mut self, context: &mut Context, data: &Sequences) -> Result<(), StageError> {
        if self.done > self.saved_done {
            let losses = self.journal.mark()?;
            let header = Header { origin: self.origin.clone(), done: self.done, losses };
            let folder = context.state_dir();
            let (fresh, path) = (folder.join("losses.new"), folder.join("losses.json"));
            File::create(&fresh)
                .and_then(|mut file| file.write_all(seal(&header).as_bytes()).map(|()| file))
                .and_then(|file| file.sync_all())
                .map_err(|e| StageError::io("write", &fresh, &e))?;
            replace(folder, &fresh, &path)?;
            self.saved_done = self.done;
        }
        self.saved = Instant::now();
        context.checkpointed(self.done * data.length);
        Ok(())
    }
}

fn losses_path(context: &Context) -> PathBuf {
    context.state_dir().join("losses.f64")
}
