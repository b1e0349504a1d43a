//! `TrainLog`: `log.jsonl`, a line for each optimiser step.

use std::path::Path;

use serde::Deserialize;

use crate::data::error::DataError;

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
pub fn read_log(folder: &Path) -> Result<Vec<Point>, DataError> {
    let path = folder.join("log.jsonl");
    let text = std::fs::read_to_string(&path).map_err(DataError::io("read", &path))?;
    Ok(parse_log(&text))
}

/// Returns the points of a log; lines without tokens and a finite loss are passed over.
fn parse_log(text: &str) -> Vec<Point> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<Point>(line).ok())
        .filter(|point| point.loss.is_finite() && point.tokens.is_finite())
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
}
