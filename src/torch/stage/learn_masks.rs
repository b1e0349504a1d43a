//! `model.learn_masks`: which units of a model to keep, learned while it trains, and the smaller model.

use serde::Deserialize;
use tlm::stage::{Context, StageError};

use crate::nn::adamw::Schedule;
use crate::nn::config::Config;
use crate::nn::masks::{Learner, Masks};
use crate::nn::runtime::fault;
use crate::nn::select::{Layers, layers, most_important};
use crate::stage::inherit::{Cutter, Shape, target};
use crate::stage::spikes::OnSpike;
use crate::stage::train::{Keeping, Learning, Params, Run};
use crate::stage::{Attention, importance, load, write_checkpoint};

#[derive(Deserialize)]
struct Own {
    shape: Shape,
    tokens: u64,
    batch: u64,
    mask_lr: f64,
    lr: f64,
    warmup: f64,
    shrinking: f64,
    dtype: String,
    seed: i64,
}

/// Learns, from the state folder's position if it has one.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let own: Own = context.params()?;
    let donor = load(context, "donor", &own.dtype)?;
    let target = target(&own.shape, &donor.config)?;
    let masks = Masks::new(&donor.config, &target, donor.device()).map_err(fault)?;
    let masks = masks.ok_or_else(|| {
        StageError::input("`shape` is the donor's: there is nothing to leave out")
            .help("make one of its sizes smaller")
    })?;
    let learner = Learner::new(&donor, masks, own.seed.cast_unsigned()).map_err(fault)?;
    let learning = Learning { learner, lr: own.mask_lr, shrinking: own.shrinking };
    let params = Params {
        tokens: own.tokens,
        batch: own.batch,
        lr: own.lr,
        lr_end: 0.1,
        warmup: own.warmup,
        schedule: Schedule::Cosine,
        decay: 0.0,
        weight_decay: 0.0,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        clip: 1.0,
        dtype: own.dtype,
        seed: own.seed,
        attention: Attention::Sequence,
        on_spike: OnSpike::Ignore,
        validations: 0,
        distill: 0.0,
        temperature: 1.0,
    };
    let mut run = Run::new(context, &params, Keeping::NOTHING, donor, Some(learning))?;
    run.go(context)?;
    publish(context, run, &target)
}

/// Publishes the model of the shape, with its gates folded in, and what was learned of each unit.
fn publish(context: &mut Context, mut run: Run, target: &Config) -> Result<(), StageError> {
    let donor = run.model.config.clone();
    let learning = run.learning.as_mut().expect("masks are learned");
    let learned = learning.learner.masks().importance().map_err(fault)?;
    let layers = layers(Layers::Important, donor.depth, target.depth, &learned.layers);
    let selection = most_important(&donor, target, &learned, layers);
    learning.learner.fold(&run.model, &selection).map_err(fault)?;
    importance::write(&context.out_dir("importance")?, "learned".to_owned(), &donor, learned)?;
    let cutter = Cutter::new(&donor, &run.model, &selection, None);
    cutter.tell(context, "model", "learned", target)?;
    let folder = context.input("donor").to_path_buf();
    write_checkpoint(context, "model", target, &folder, |name, _| cutter.cut(name))?;
    run.publish_log(context)
}
