//! Numbers that a stage computes one after another, as losses of sequences, and that outlive an interruption.
//!
//! They go to a journal in the state folder as they are computed, so memory does not grow with them, and an interrupted
//! stage goes on where it stopped, to the same bits.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tlm::data::array::Array;
use tlm::stage::{Context, StageError};

use crate::stage::UNSAVED;
use crate::stage::journal::{Journal, Mark};
use crate::stage::state::{Origin, seal, tell_unusable, unseal, write};

const FILE: &str = "scores.json";

/// What it holds, in the state folder.
#[derive(Serialize, Deserialize)]
struct Header {
    origin: Origin,
    scores: Mark,
}

/// Scores so far.
pub(crate) struct Scores {
    /// Sequences at once.
    pub(crate) micro_batch: u64,
    /// How many there are.
    pub(crate) done: u64,
    /// All added, in order.
    pub(crate) sum: f64,
    origin: Origin,
    journal: Journal,
    saved: Instant,
    saved_done: u64,
}

impl Scores {
    /// Returns the saved ones, or none. Saved ones go on with their own `micro_batch`.
    pub(crate) fn start(context: &mut Context, micro_batch: u64) -> Result<Self, StageError> {
        match Self::find(context) {
            Ok(Some(mut found)) => {
                context.log(format!("resumes after {} scores", found.done));
                found.origin.go_on(context);
                return Ok(found);
            }
            Ok(None) => {}
            Err(why) => tell_unusable(context, &why),
        }
        let journal = Journal::create(path(context))?;
        Ok(Self::at(Origin::new(context, micro_batch), journal, 0, 0.0))
    }

    fn at(origin: Origin, journal: Journal, done: u64, sum: f64) -> Self {
        let micro_batch = origin.micro_batch;
        Self { micro_batch, done, sum, origin, journal, saved: Instant::now(), saved_done: done }
    }

    fn find(context: &Context) -> Result<Option<Self>, String> {
        let header = context.state_dir().join(FILE);
        if !header.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&header).map_err(|_| "it is damaged")?;
        let header: Header = unseal(&text)?;
        header.origin.check(context)?;
        let journal = Journal::reopen(path(context), &header.scores)
            .ok_or("its scores are damaged or missing")?;
        let scores = Array::<f64>::open(journal.path()).map_err(|error| error.to_string())?;
        let (done, sum) = (scores.len() as u64, scores.iter().sum());
        Ok(Some(Self::at(header.origin, journal, done, sum)))
    }

    /// Appends a score.
    pub(crate) fn push(&mut self, score: f64) -> Result<(), StageError> {
        self.journal.append(&score.to_le_bytes())?;
        self.sum += score;
        self.done += 1;
        Ok(())
    }

    /// Saves if it is time to, and ends the stage if it is asked to stop. `told` is what is done, in the unit of the stage's
    /// progress.
    pub(crate) fn rest(&mut self, context: &mut Context, told: u64) -> Result<(), StageError> {
        let stopped = context.interrupted();
        if stopped || self.saved.elapsed() > UNSAVED {
            self.save(context, told)?;
        }
        if stopped { Err(StageError::Interrupted) } else { Ok(()) }
    }

    fn save(&mut self, context: &mut Context, told: u64) -> Result<(), StageError> {
        if self.done > self.saved_done {
            let header = Header { origin: self.origin.clone(), scores: self.journal.mark()? };
            write(context.state_dir(), FILE, &[seal(&header).as_bytes()])?;
            self.saved_done = self.done;
        }
        self.saved = Instant::now();
        context.checkpointed(told);
        Ok(())
    }

    /// Returns all of them.
    pub(crate) fn finish(self) -> Result<Array<f64>, StageError> {
        Ok(Array::open(&self.journal.finish()?)?)
    }
}

fn path(context: &Context) -> PathBuf {
    context.state_dir().join("scores.f64")
}
