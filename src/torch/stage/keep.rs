//! `train.keep`: training that keeps the model at several places on the way.

use serde::Deserialize;
use tlm::stage::{Context, StageError};

use crate::stage::train::{Keeping, Params, train};

#[derive(Deserialize)]
struct All {
    #[serde(flatten)]
    params: Params,
    #[serde(flatten)]
    keeping: Keeping,
}

/// Trains, from the state folder's position if it has one.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let All { params, keeping } = context.params()?;
    train(context, &params, keeping)
}
