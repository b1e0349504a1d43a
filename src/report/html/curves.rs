//! Loss curves: read from a `TrainLog`, smoothed, thinned out.

use std::path::Path;

use serde::Deserialize;

/// A training step's loss over its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// `r2[rate=50%]`
    pub name: String,
    /// As logged.
    pub points: Vec<Point>,
}

/// One optimiser step.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Point {
    /// Tokens trained so far.
    pub tokens: f64,
    /// Loss in nats per token.
    pub loss: f64,
}

/// Returns the points of `log.jsonl` in a `TrainLog` folder.
///
/// # Errors
/// When the file can't be read.
pub fn read_log(folder: &Path) -> std::io::Result<Vec<Point>> {
    std::fs::read_to_string(folder.join("log.jsonl")).map(|text| parse_log(&text))
}

/// Returns the points of a log; lines without tokens and a finite loss are passed over.
pub fn parse_log(text: &str) -> Vec<Point> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<Point>(line).ok())
        .filter(|point| point.loss.is_finite() && point.tokens.is_finite())
        .collect()
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
    fn a_log_with_bad_lines_gives_the_good_ones() {
        let log = "{\"step\":1,\"tokens\":10,\"loss\":2.5,\"lr\":1e-3}\n{\"tokens\":20,\"loss\":null}\nhalf a li";
        assert_eq!(parse_log(log), [Point { tokens: 10.0, loss: 2.5 }]);
    }

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
