//! Sums that a stage adds to, batch after batch, and that outlive an interruption: an interrupted stage goes on where it stopped,
//! to the same bits.

use std::fs;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, TchError, Tensor};
use tlm::base::Digest;
use tlm::stage::{Context, StageError};

use crate::nn::runtime::fault;
use crate::stage::UNSAVED;
use crate::stage::state::{Origin, seal, tell_unusable, unseal, write};

const FILE: &str = "sums.bin";

/// The first line of the file; the numbers of the sums follow.
#[derive(Serialize, Deserialize)]
struct Header {
    origin: Origin,
    done: u64,
    digest: Digest,
}

/// Where a sweep over data stands.
pub(crate) struct SavedSums {
    /// Sequences at once.
    pub(crate) micro_batch: u64,
    /// Sequences done.
    pub(crate) done: u64,
    origin: Origin,
    saved: Instant,
    saved_done: u64,
}

impl SavedSums {
    /// Returns a position and puts what was saved of it into the sums. A saved one goes on with its own `micro_batch`.
    pub(crate) fn start(
        context: &mut Context,
        micro_batch: u64,
        sums: &[&Tensor],
    ) -> Result<Self, StageError> {
        match find(context, sums) {
            Ok(Some((mut origin, done))) => {
                context.log(format!("resumes after {done} sequences"));
                origin.go_on(context);
                return Ok(Self::at(origin, done));
            }
            Ok(None) => {}
            Err(why) => tell_unusable(context, &why),
        }
        Ok(Self::at(Origin::new(context, micro_batch), 0))
    }

    fn at(origin: Origin, done: u64) -> Self {
        let micro_batch = origin.micro_batch;
        Self { micro_batch, done, origin, saved: Instant::now(), saved_done: done }
    }

    /// Saves if it is time to, and ends the stage if it is asked to stop. `told` is what is done, in the unit of the stage's
    /// progress.
    pub(crate) fn rest(
        &mut self,
        context: &mut Context,
        told: u64,
        sums: &[&Tensor],
    ) -> Result<(), StageError> {
        let stopped = context.interrupted();
        if stopped || self.saved.elapsed() > UNSAVED {
            self.save(context, told, sums)?;
        }
        if stopped { Err(StageError::Interrupted) } else { Ok(()) }
    }

    fn save(
        &mut self,
        context: &mut Context,
        told: u64,
        sums: &[&Tensor],
    ) -> Result<(), StageError> {
        if self.done > self.saved_done {
            let numbers: Result<Vec<_>, _> = sums.iter().map(|sum| bytes(sum)).collect();
            let numbers = numbers.map_err(fault)?.concat();
            let (origin, digest) = (self.origin.clone(), Digest::of(&numbers));
            let header = seal(&Header { origin, done: self.done, digest });
            write(context.state_dir(), FILE, &[header.as_bytes(), b"\n", &numbers])?;
            self.saved_done = self.done;
        }
        self.saved = Instant::now();
        context.checkpointed(told);
        Ok(())
    }
}

/// Puts saved numbers into the sums; none where there are none. Fails with the reason, and changes nothing, where they can't be
/// used.
fn find(context: &Context, sums: &[&Tensor]) -> Result<Option<(Origin, u64)>, String> {
    let path = context.state_dir().join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let damaged = || "it is damaged".to_owned();
    let stored = fs::read(&path).map_err(|_| damaged())?;
    let end = stored.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
    let header: Header = unseal(std::str::from_utf8(&stored[..end]).map_err(|_| damaged())?)?;
    header.origin.check(context)?;
    let mut numbers = &stored[end + 1..];
    let total: usize = sums.iter().map(|sum| size(sum)).sum();
    if numbers.len() != total || Digest::of(numbers) != header.digest {
        return Err(damaged());
    }
    for sum in sums {
        let (own, others) = numbers.split_at(size(sum));
        numbers = others;
        let value = Tensor::f_from_data_size(own, &sum.size(), sum.kind());
        let restored = value
            .and_then(|value| tch::no_grad(|| sum.shallow_clone().f_copy_(&value).map(|_| ())));
        restored.map_err(|error| error.to_string())?;
    }
    Ok(Some((header.origin, header.done)))
}

/// Returns a sum's bytes.
fn bytes(sum: &Tensor) -> Result<Vec<u8>, TchError> {
    let mut bytes = vec![0; size(sum)];
    let sum = sum.f_to_device(Device::Cpu)?.f_contiguous()?;
    sum.f_copy_data_u8(&mut bytes, sum.numel())?;
    Ok(bytes)
}

fn size(sum: &Tensor) -> usize {
    sum.numel() * sum.kind().elt_size_in_bytes()
}
