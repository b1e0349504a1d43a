//! Loss curves: smoothed, thinned out.

use crate::data::train_log::Point;

/// A training step's loss over its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// `r2[rate=50%]`
    pub name: String,
    /// As logged.
    pub points: Vec<Point>,
}

/// Returns the running mean over about a twentieth of the curve, centred, so that it does not lag. Two passes leave
/// no steps.
pub(super) fn smooth(points: &[Point]) -> Vec<Point> {
    let reach = points.len().div_ceil(50);
    pass(&pass(points, reach), reach)
}

fn pass(points: &[Point], reach: usize) -> Vec<Point> {
    let mean = |index: usize| {
        // The same reach on both sides keeps the ends from being pulled inwards.
        let reach = reach.min(index).min(points.len() - 1 - index);
        let window = &points[index - reach..=index + reach];
        window.iter().map(|point| point.loss).sum::<f64>() / window.len() as f64
    };
    (0..points.len()).map(|i| Point { tokens: points[i].tokens, loss: mean(i) }).collect()
}

/// Returns at most about `most` points: evenly spread ones and the last.
pub(super) fn thin<T: Copy>(points: &[T], most: usize) -> Vec<T> {
    let stride = points.len().div_ceil(most).max(1);
    let last = points.len().saturating_sub(1);
    points
        .iter()
        .enumerate()
        .filter(|(index, _)| index.is_multiple_of(stride) || *index == last)
        .map(|(_, point)| *point)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_both_ends() {
        let points: Vec<_> =
            (0..100).map(|i| Point { tokens: f64::from(i), loss: f64::from(i) }).collect();
        assert_eq!(smooth(&points)[0], points[0]);
        assert_eq!(smooth(&points)[99], points[99]);
        assert_eq!(thin(&points, 10).last(), points.last());
        assert!(smooth(&[]).is_empty());
    }
}
