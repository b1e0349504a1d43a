//! AdamW on one flat buffer, and the learning rate's course.

use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;
use serde::Deserialize;
use tch::{Device, TchError, Tensor};
use tlm::stage::StageError;

use crate::nn::cpu::{Factors, adamw, sum_of_squares};
use crate::nn::runtime::{fault, numbers, numbers_mut, pool};

/// AdamW's constants; decay is decoupled from the gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hyper {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    /// Largest norm of the gradient; zero for no clipping.
    pub(crate) clip: f64,
}

/// The optimiser's memory.
pub(crate) struct AdamW {
    pub(crate) mean: Tensor,
    pub(crate) square: Tensor,
    /// Updates done.
    pub(crate) steps: u64,
    hyper: Hyper,
    /// Numbers from the buffer's start that are decayed.
    decayed: i64,
    /// Threads of the CPU, where the buffer is there.
    pool: Option<Arc<ThreadPool>>,
}

/// Numbers that a thread of the CPU updates at once.
const BLOCK: usize = 1 << 16;

impl AdamW {
    /// Returns an optimiser for a buffer, before its first step.
    pub(crate) fn new(flat: &Tensor, decayed: i64, hyper: Hyper) -> Result<Self, StageError> {
        let zeros = || flat.f_zeros_like().map_err(fault);
        let pool = (flat.device() == Device::Cpu).then(pool).transpose()?;
        Ok(Self { mean: zeros()?, square: zeros()?, steps: 0, hyper, decayed, pool })
    }

    /// Returns whether large gradients are scaled down.
    pub(crate) fn clips(&self) -> bool {
        self.hyper.clip > 0.0
    }

    /// Returns a gradient's norm.
    pub(crate) fn norm(&self, gradient: &Tensor) -> Result<f64, TchError> {
        let Some(pool) = &self.pool else { return gradient.f_norm()?.f_double_value(&[]) };
        let gradient = numbers(gradient);
        Ok(pool.install(|| norm(gradient)))
    }

    /// Does one update by a gradient of this norm, which is used up.
    pub(crate) fn step(
        &mut self,
        flat: &Tensor,
        gradient: &Tensor,
        norm: f64,
        lr: f64,
    ) -> Result<(), TchError> {
        self.steps += 1;
        let (decayed, total) = (self.decayed, flat.size()[0]);
        for (start, count, decay) in
            [(0, decayed, self.hyper.weight_decay), (decayed, total - decayed, 0.0)]
        {
            let parts = [flat, gradient, &self.mean, &self.square]
                .map(|buffer| buffer.f_narrow(0, start, count));
            let [flat, gradient, mean, square] = parts;
            let factors = self.factors(norm, lr, decay);
            self.update([flat?, mean?, square?], &gradient?, factors)?;
        }
        Ok(())
    }

    /// Returns the numbers of this step.
    fn factors(&self, norm: f64, lr: f64, decay: f64) -> Factors {
        let Hyper { beta1, beta2, eps, clip, .. } = self.hyper;
        let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (correct1, correct2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
        Factors {
            scale: if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 },
            mean: (1.0 - beta1) as f32,
            square: (1.0 - beta2) as f32,
            keep: (1.0 - lr * decay) as f32,
            size: (lr / correct1) as f32,
            slope: (1.0 / correct2.sqrt()) as f32,
            eps: eps as f32,
        }
    }

    /// Updates weights and the memory of their gradient.
    fn update(
        &self,
        mut buffers: [Tensor; 3],
        gradient: &Tensor,
        factors: Factors,
    ) -> Result<(), TchError> {
        let Some(pool) = &self.pool else { return update_tensors(buffers, gradient, factors) };
        let [weights, mean, square] = buffers.each_mut().map(numbers_mut::<f32>);
        let buffers = (weights.par_chunks_mut(BLOCK), mean.par_chunks_mut(BLOCK));
        let buffers = (buffers, square.par_chunks_mut(BLOCK));
        let gradient = numbers(gradient);
        pool.install(|| {
            (buffers, gradient.par_chunks(BLOCK)).into_par_iter().for_each(
                |(((weights, mean), square), gradient)| {
                    adamw(weights, mean, square, gradient, factors);
                },
            );
        });
        Ok(())
    }
}

/// Returns the square root of the sum of squares, in the same order whatever the number of threads.
fn norm(values: &[f32]) -> f64 {
    let sums: Vec<f64> = values.par_chunks(BLOCK).map(sum_of_squares).collect();
    sums.into_iter().sum::<f64>().sqrt()
}

/// The same as [`adamw`] by tensors.
fn update_tensors(
    [mut weights, mut mean, mut square]: [Tensor; 3],
    gradient: &Tensor,
    factors: Factors,
) -> Result<(), TchError> {
    let Factors { scale, mean: part, square: square_part, keep, size, slope, eps } = factors;
    let mut gradient = gradient.shallow_clone();
    let _ = mean.f_lerp_(&gradient.f_mul_scalar_(f64::from(scale))?, f64::from(part))?;
    let _ = square.f_lerp_(&gradient.f_square_()?, f64::from(square_part))?;
    let _ = gradient.f_copy_(&square).and_then(|()| gradient.f_sqrt_())?;
    let below = gradient.f_mul_scalar_(f64::from(slope))?.f_add_scalar_(f64::from(eps))?;
    let step = mean.f_div(&below)?.f_mul_scalar_(f64::from(size))?;
    weights.f_mul_scalar_(f64::from(keep))?.f_sub_(&step).map(|_| ())
}

/// How the learning rate falls after its peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Schedule {
    Cosine,
    Linear,
    Constant,
    /// Warm-up, stable, decay (MiniCPM, arXiv 2404.06395).
    Wsd,
}

/// The learning rate of each step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) peak: f64,
    /// Final rate as a part of the peak. The last step has it, unless it is the first one after the warm-up: that has
    /// the peak.
    pub(crate) end: f64,
    pub(crate) warmup: u64,
    pub(crate) steps: u64,
    pub(crate) schedule: Schedule,
    /// Over so many of the last steps the rate falls under [`Schedule::Wsd`]; before, it keeps the peak.
    pub(crate) decay: u64,
}

impl Course {
    /// Returns the learning rate of a step, counted from zero.
    pub(crate) fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let falling = self.steps.saturating_sub(self.warmup + 1).max(1);
        let part = ((step - self.warmup) as f64 / falling as f64).min(1.0);
        let left = match self.schedule {
            Schedule::Cosine => (1.0 + (std::f64::consts::PI * part).cos()) / 2.0,
            Schedule::Linear => 1.0 - part,
            Schedule::Constant => 1.0,
            Schedule::Wsd => {
                (self.steps - 1).saturating_sub(step) as f64 / self.decay.max(1) as f64
            }
        };
        self.peak * (self.end + (1.0 - self.end) * left.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::{Course, Schedule};

    #[test]
    fn the_first_step_after_the_warm_up_has_the_peak_and_the_last_one_the_end() {
        let check = |schedule, warmup, steps, expected: &[f64]| {
            let course = Course { peak: 1.0, end: 0.1, warmup, steps, schedule, decay: 3 };
            let rates: Vec<f64> = (0..steps).map(|step| course.at(step)).collect();
            assert!(
                rates.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-12),
                "{rates:?}"
            );
        };
        check(Schedule::Linear, 2, 5, &[0.5, 1.0, 1.0, 0.55, 0.1]);
        check(Schedule::Linear, 0, 2, &[1.0, 0.1]);
        check(Schedule::Linear, 1, 2, &[1.0, 1.0]);
        check(Schedule::Linear, 0, 1, &[1.0]);
        check(Schedule::Linear, 3, 3, &[1.0 / 3.0, 2.0 / 3.0, 1.0]);
        check(Schedule::Wsd, 2, 7, &[0.5, 1.0, 1.0, 1.0, 0.7, 0.4, 0.1]);
        check(Schedule::Wsd, 0, 3, &[0.7, 0.4, 0.1]);
    }
}
