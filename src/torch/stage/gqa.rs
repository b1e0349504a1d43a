//! `model.gqa`: groups of query heads come to share a key and value head.

use serde::Deserialize;
use tch::Kind;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::runtime::{self, fault};
use crate::nn::weights::{Safetensors, Weights};
use crate::stage::write_checkpoint;

#[derive(Deserialize)]
struct Params {
    kv_heads: i64,
}

/// Writes the checkpoint.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { kv_heads } = context.params()?;
    runtime::prepare(context.action())?;
    let folder = context.input("model").to_path_buf();
    let model = Config::read(&folder)?;
    if !(1..=model.kv_heads).contains(&kv_heads) || model.kv_heads % kv_heads != 0 {
        return Err(StageError::input(format!(
            "`kv_heads` is {kv_heads}, but the model's {} key-value heads need groups of one size",
            model.kv_heads
        ))
        .help(format!("choose a `kv_heads` that divides {}", model.kv_heads)));
    }
    let weights = Safetensors::open(&folder)?;
    let target = Config { kv_heads, ..model.clone() };
    write_checkpoint(context, "out", &target, &folder, |name, shape| {
        if !name.contains(".k_proj.") && !name.contains(".v_proj.") {
            return weights.load(name, shape);
        }
        let mut from = shape.to_vec();
        from[0] = model.kv_heads * model.head_dim;
        // Each group of heads becomes its mean: [new heads, heads of a group, rest].
        weights
            .load(name, &from)?
            .f_view([kv_heads, model.kv_heads / kv_heads, -1])
            .and_then(|heads| heads.f_mean_dim([1_i64].as_slice(), false, Kind::Float))
            .and_then(|means| means.f_view(shape))
            .map_err(fault)
    })
}
