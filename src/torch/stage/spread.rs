//! `model.spread`: how large the weights of a layer are (paper figure 11).

use serde::Deserialize;
use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::runtime::{self, fault};
use crate::nn::weights::{Safetensors, Weights};

#[derive(Deserialize)]
struct Params {
    layer: i64,
}

const MATRICES: [(&str, &str); 7] = [
    ("q", "self_attn.q_proj"),
    ("k", "self_attn.k_proj"),
    ("v", "self_attn.v_proj"),
    ("o", "self_attn.o_proj"),
    ("gate", "mlp.gate_proj"),
    ("up", "mlp.up_proj"),
    ("down", "mlp.down_proj"),
];

/// Tells the standard deviation of each matrix.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { layer } = context.params()?;
    runtime::prepare(context.action())?;
    let folder = context.input("model").to_path_buf();
    let config = Config::read(&folder)?;
    if layer >= config.depth {
        return Err(StageError::input(format!(
            "`layer` is {layer}, but the model has {} layers",
            config.depth
        ))
        .help(format!("choose a `layer` from 0 to {}", config.depth - 1)));
    }
    let weights = Safetensors::open(&folder)?;
    let tensors = config.tensors();
    for (output, matrix) in MATRICES {
        let name = format!("model.layers.{layer}.{matrix}.weight");
        let (_, shape) = tensors.iter().find(|(known, _)| *known == name).expect("a Llama has it");
        let std = weights.load(&name, shape)?.f_std(false).and_then(|std| std.f_double_value(&[]));
        context.output(output, Value::Float(std.map_err(fault)?))?;
    }
    Ok(())
}
