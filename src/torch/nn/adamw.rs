//! AdamW on one flat buffer, and the learning rate's course.

use serde::Deserialize;
use tch::{TchError, Tensor};

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
}

/// Numbers updated at once: few enough to stay in the processor's cache.
const BLOCK: i64 = 1 << 17;

impl AdamW {
    /// Returns an optimiser for a buffer, before its first step.
    pub(crate) fn new(flat: &Tensor, decayed: i64, hyper: Hyper) -> Result<Self, TchError> {
        let (mean, square) = (flat.f_zeros_like()?, flat.f_zeros_like()?);
        Ok(Self { mean, square, steps: 0, hyper, decayed })
    }

    /// Returns a gradient's norm.
    pub(crate) fn norm(gradient: &Tensor) -> Result<f64, TchError> {
        gradient.f_norm()?.f_double_value(&[])
    }

    /// Returns whether large gradients are scaled down.
    pub(crate) fn clips(&self) -> bool {
        self.hyper.clip > 0.0
    }

    /// Does one update by a gradient of this norm, which is used up.
    pub(crate) fn step(
        &mut self,
        flat: &Tensor,
        gradient: &Tensor,
        norm: f64,
        lr: f64,
    ) -> Result<(), TchError> {
        let clip = self.hyper.clip;
        let scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.steps += 1;
        let total = flat.size()[0];
        let block = if flat.device() == tch::Device::Cpu { BLOCK } else { total.max(1) };
        for (from, to, decay) in [(0, self.decayed, true), (self.decayed, total, false)] {
            let mut start = from;
            while start < to {
                let count = block.min(to - start);
                let part = |buffer: &Tensor| buffer.f_narrow(0, start, count);
                self.update(
                    part(flat)?,
                    part(gradient)?,
                    start,
                    scale,
                    if decay { lr * self.hyper.weight_decay } else { 0.0 },
                    lr,
                )?;
                start += count;
            }
        }
        Ok(())
    }

    fn update(
        &self,
        mut weights: Tensor,
        mut gradient: Tensor,
        start: i64,
        scale: f64,
        decay: f64,
        lr: f64,
    ) -> Result<(), TchError> {
        let Hyper { beta1, beta2, eps, .. } = self.hyper;
        let count = weights.size()[0];
        let mut mean = self.mean.f_narrow(0, start, count)?;
        let mut square = self.square.f_narrow(0, start, count)?;
        let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (correct1, correct2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
        if scale < 1.0 {
            let _ = gradient.f_mul_scalar_(scale)?;
        }
        let _ = mean.f_lerp_(&gradient, 1.0 - beta1)?;
        let _ = square.f_lerp_(&gradient.f_square_()?, 1.0 - beta2)?;
        if lr == 0.0 {
            return Ok(());
        }
        if decay > 0.0 {
            let _ = weights.f_mul_scalar_(1.0 - decay)?;
        }
        // Denominator, with the step size folded in: -(sqrt(v / c2) + eps) * c1 / lr.
        let factor = -correct1 / lr;
        let mut below = square.f_sqrt()?;
        let _ = below.f_mul_scalar_(factor / correct2.sqrt())?.f_add_scalar_(factor * eps)?;
        weights.f_addcdiv_(&mean, &below).map(|_| ())
    }
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
