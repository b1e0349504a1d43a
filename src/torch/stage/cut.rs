//! `model.cut`: a smaller model cut out of a larger one by a measured importance, or as a selection says.

use serde::Deserialize;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::runtime;
use crate::nn::select::most_important;
use crate::nn::weights::Safetensors;
use crate::stage::importance;
use crate::stage::inherit::{Cutter, Depth, Shape, target};
use crate::stage::write_checkpoint;

#[derive(Deserialize)]
struct Params {
    shape: Shape,
    #[serde(flatten)]
    depth: Depth,
}

/// Writes the checkpoint and `selection.json`.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let mut params: Params = context.params()?;
    runtime::prepare(context.action())?;
    let folder = context.input("donor").to_path_buf();
    let donor = Config::read(&folder)?;
    params.depth.complete(&mut params.shape, &donor)?;
    let target = target(&params.shape, &donor)?;
    let importance = importance::read(context.input("importance"), &donor)?;
    let layers = params.depth.layers(&donor, target.depth, &importance.layers);
    let selection = most_important(&donor, &target, &importance, layers);
    let weights = Safetensors::open(&folder)?;
    let cutter = Cutter::new(&donor, &weights, &selection, None);
    cutter.tell(context, "out", "importance", &target)?;
    write_checkpoint(context, "out", &target, &folder, |name, _| cutter.cut(name))
}
