//! `model.init`: a model with random weights.

use serde::Deserialize;
use tch::{Kind, Tensor};
use tlm::data::mix::splitmix;
use tlm::data::tokenizer_files::Vocabulary;
use tlm::stage::{Context, StageError};

use crate::nn::config::{Config, Rope, Scaling};
use crate::nn::runtime::{self, fault};
use crate::stage::write_checkpoint;

#[derive(Deserialize)]
struct Params {
    shape: Shape,
    std: f64,
    seed: i64,
}

#[derive(Deserialize)]
struct Shape {
    depth: i64,
    width: i64,
    heads: Option<i64>,
    kv_heads: Option<i64>,
    head_dim: Option<i64>,
    ffn: Option<i64>,
    tied: bool,
    rope_theta: f64,
    context: i64,
}

/// Writes the checkpoint.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    runtime::prepare(context.action())?;
    let folder = context.input("tokenizer").to_path_buf();
    let config = config(&params.shape, &Vocabulary::open(&folder)?)?;
    let seed = splitmix(u64::from_le_bytes(params.seed.to_le_bytes()));
    tch::manual_seed(i64::from_le_bytes(seed.to_le_bytes()));
    write_checkpoint(context, &config, &folder, |name, shape| {
        random(name, shape, params.std, config.depth).map_err(fault)
    })
}

/// Gains are one, biases zero, matrices normal; those into the residual stream are scaled by depth (GPT-2).
fn random(name: &str, shape: &[i64], std: f64, depth: i64) -> Result<Tensor, tch::TchError> {
    let options = (Kind::Float, tch::Device::Cpu);
    if name.ends_with("norm.weight") {
        return Tensor::f_ones(shape, options);
    }
    if name.ends_with(".bias") {
        return Tensor::f_zeros(shape, options);
    }
    let residual = name.contains("o_proj") || name.contains("down_proj");
    let std = if residual { std / (2.0 * depth as f64).sqrt() } else { std };
    Tensor::f_randn(shape, options)?.f_mul_scalar(std)
}

fn config(shape: &Shape, tokens: &Vocabulary) -> Result<Config, StageError> {
    let (depth, width) = (shape.depth.max(0), shape.width.max(0));
    let heads = shape.heads.unwrap_or((width / 64).max(1));
    let config = Config {
        vocab: tokens.size() as i64,
        width,
        depth,
        heads,
        kv_heads: shape.kv_heads.unwrap_or(heads),
        head_dim: shape.head_dim.unwrap_or(width / heads.max(1)),
        ffn: shape.ffn.unwrap_or(ffn(width)),
        eps: 1e-5,
        rope: Rope { theta: shape.rope_theta, scaling: Scaling::None },
        tied: shape.tied,
        attention_bias: false,
        mlp_bias: false,
        context: shape.context,
        bos: tokens.special("bos_token").map(i64::from),
        eos: tokens.special("eos_token").map(i64::from).into_iter().collect(),
        pad: None,
    };
    let sizes = [
        ("depth", config.depth),
        ("width", config.width),
        ("heads", config.heads),
        ("kv_heads", config.kv_heads),
        ("ffn", config.ffn),
    ];
    if let Some((name, _)) = sizes.iter().find(|(_, size)| *size < 1) {
        return Err(StageError::input(format!("`shape.{name}` is zero"))
            .help(format!("give `{name}` a number from one up")));
    }
    config.checked().map_err(|what| {
        StageError::input(format!("no model has this shape: {what}"))
            .help("change `heads`, `kv_heads` or `head_dim` in `shape`")
    })
}

/// Returns 8/3 of the width, rounded up to a multiple of 64.
fn ffn(width: i64) -> i64 {
    let exact = (width * 8 + 2) / 3;
    (exact + 63) / 64 * 64
}
