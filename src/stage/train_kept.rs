//! `train.kept`: the model that was kept at a place of the training.

use serde::Deserialize;

use crate::base::Value;
use crate::data::snapshots::Snapshots;
use crate::stage::{Context, StageError, source_adopt};

#[derive(Deserialize)]
struct Params {
    at: f64,
}

/// Runs the stage.
///
/// # Errors
/// When no model was kept at that place.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { at } = context.params()?;
    let folder = context.input("snapshots").to_owned();
    let snapshots = Snapshots::open(&folder)?;
    let number = number(at, snapshots.tokens.len())?;
    source_adopt::copy(&Snapshots::folder(&folder, number), &context.out("out"), context)?;
    context.output("out.params", Value::Int(snapshots.params))
}

/// Returns which snapshot is at a place, counted from 1.
fn number(at: f64, count: usize) -> Result<u64, StageError> {
    let place = at * count as f64;
    let nearest = place.round();
    // What a recipe computes, such as 1/3, is seldom exact.
    if nearest >= 1.0 && (place - nearest).abs() < 1e-6 {
        return Ok(nearest as u64);
    }
    let step = 100.0 / count as f64;
    let message = format!("no model was kept after {}% of the training", at * 100.0);
    Err(StageError::input(message).help(match count {
        1 => "only the one at its end was: `at: 100%`".to_owned(),
        _ => format!("{count} were, one every {step}%: give `at` a multiple of that"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_between_snapshots_are_refused() {
        for (at, count, expected) in [(1.0, 1, 1), (0.25, 4, 1), (1.0 / 3.0, 3, 1), (0.7, 10, 7)] {
            assert_eq!(number(at, count).ok(), Some(expected), "{at} of {count}");
        }
        for (at, count, said) in [(0.0, 4, "one every 25%"), (0.3, 4, "25%"), (0.5, 1, "100%")] {
            let Err(StageError::Failed(failure)) = number(at, count) else {
                panic!("{at} of {count} was found");
            };
            assert!(failure.help.is_some_and(|help| help.contains(said)), "{at} of {count}");
        }
    }
}
