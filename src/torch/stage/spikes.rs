//! Steps whose loss or gradient norm is far above those before, as OLMo 2 finds them (`SkipStepOptimizer` of OLMo-core).

use serde::Deserialize;

/// What happens at such a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnSpike {
    /// Nothing.
    Ignore,
    /// Its update is left out.
    Skip,
    /// Training fails.
    Stop,
}

/// Steps that a step is compared with.
pub(super) const WINDOW: usize = 128;
/// The least of them; before so many steps there are no spikes.
const LEAST: usize = WINDOW / 2;
/// How many standard deviations above their mean is a spike.
const DEVIATIONS: f64 = 6.0;

/// Returns whether a value is far above the ones before, newest last.
pub(super) fn is_spike(before: &[f64], value: f64) -> bool {
    let before = &before[before.len().saturating_sub(WINDOW)..];
    if before.len() < LEAST {
        return false;
    }
    let count = before.len() as f64;
    let mean = before.iter().sum::<f64>() / count;
    let squares: f64 = before.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    deviation > 0.0 && value - mean > DEVIATIONS * deviation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_far_above_enough_steps_before() {
        // Mean 2, standard deviation 1.008.
        let steps: Vec<f64> = (0..64).map(|step| 1.0 + 2.0 * f64::from(step % 2)).collect();
        assert!(is_spike(&steps, 8.1) && !is_spike(&steps, 8.0));
        assert!(!is_spike(&steps[1..], 100.0), "too few");
        // What is longer ago doesn't count.
        let later = [vec![1e6; 10], steps.repeat(2)].concat();
        assert!(is_spike(&later, 8.1));
    }
}
