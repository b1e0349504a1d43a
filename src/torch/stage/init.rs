//! `model.init`: a model with random weights.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use serde::Deserialize;
use tch::{Kind, Tensor};
use tlm::data::mix::splitmix;
use tlm::data::tokenizer::files::Vocabulary;
use tlm::stage::{Context, StageError};

use crate::nn::config::{Config, Rope, Scaling};
use crate::nn::runtime::{self, fault};
use crate::stage::write_checkpoint;

#[derive(Deserialize)]
struct Params {
    shape: Shape,
    law: Law,
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
    bias: bool,
    activations: i64,
    shortcut: f64,
    rope_theta: f64,
    context: i64,
}

/// Which matrices have which standard deviation (paper T4, T11). Embeddings always have the one that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Law {
    /// Projections into the residual stream divided by the root of the number of residual layers: what GPT-2 does.
    Residual,
    Constant,
    /// All divided by that root: what the paper calls GPT-2's.
    Gpt2,
    /// Projections into the residual stream of layer `i`, from one, divided by the root of `2 * i`: `InternEvo`'s code.
    Internlm,
    /// Output and gate divided by the root of the number of residual layers: the paper's text on `InternLM`.
    InternlmText,
    DepthAdaptive,
}

impl Law {
    /// Returns what the standard deviation of a matrix is multiplied by.
    fn factor(self, name: &str, depth: i64) -> f64 {
        let rest = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let Some((layer, name)) = rest else { return 1.0 };
        let layer: f64 = layer.parse().expect("layers are numbered");
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        let writes = has(&["o_proj", "down_proj", "shortcut.expand"]);
        // Attention and feed-forward network are a residual layer each.
        let by_number = 1.0 / (2.0 * depth as f64).sqrt();
        match self {
            Self::Residual if writes => by_number,
            Self::Gpt2 => by_number,
            Self::Internlm if writes => 1.0 / (2.0 * (layer + 1.0)).sqrt(),
            Self::InternlmText if has(&["o_proj", "gate_proj"]) => by_number,
            Self::DepthAdaptive if has(&["q_proj", "k_proj", "v_proj", "o_proj"]) => {
                let first = if has(&["q_proj", "k_proj"]) { SQRT_2 } else { FRAC_1_SQRT_2 };
                first + (1.0 - first) * layer / (depth - 1).max(1) as f64
            }
            _ => 1.0,
        }
    }
}

/// Writes the checkpoint.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    runtime::prepare(context.action())?;
    let folder = context.input("tokenizer").to_path_buf();
    let config = config(&params.shape, &Vocabulary::open(&folder)?)?;
    let seed = splitmix(u64::from_le_bytes(params.seed.to_le_bytes()));
    tch::manual_seed(i64::from_le_bytes(seed.to_le_bytes()));
    write_checkpoint(context, "out", &config, &folder, |name, shape| {
        random(name, shape, params.std * params.law.factor(name, config.depth)).map_err(fault)
    })
}

/// Returns gains of one, biases of zero, normal matrices. The terms of a series activation have a part of the whole each,
/// and shifts that tell them apart: those that were equal would stay so.
fn random(name: &str, shape: &[i64], std: f64) -> Result<Tensor, tch::TchError> {
    let options = (Kind::Float, tch::Device::Cpu);
    if name.ends_with("norm.weight") {
        Tensor::f_ones(shape, options)
    } else if name.ends_with("series.scale") {
        Tensor::f_full(shape, 1.0 / shape[0] as f64, options)
    } else if name.ends_with("_proj.bias") {
        Tensor::f_zeros(shape, options)
    } else {
        Tensor::f_randn(shape, options)?.f_mul_scalar(std)
    }
}

fn config(shape: &Shape, tokens: &Vocabulary) -> Result<Config, StageError> {
    let (depth, width) = (shape.depth.max(0), shape.width.max(0));
    let heads = shape.heads.unwrap_or((width / 64).max(1));
    if shape.head_dim.is_none() && heads > 0 && width % heads != 0 {
        return Err(StageError::input(format!(
            "`shape.width` is {width}, which {heads} heads can't share evenly"
        ))
        .help("give `heads` that divide the width, or the size of a head, `head_dim`"));
    }
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
        attention_bias: shape.bias,
        mlp_bias: false,
        activations: shape.activations,
        shortcut: (width as f64 * shape.shortcut).round() as i64,
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
        ("activations", config.activations),
    ];
    if let Some((name, _)) = sizes.iter().find(|(_, size)| *size < 1) {
        return Err(StageError::input(format!("`shape.{name}` is zero"))
            .help(format!("give `{name}` a number from one up")));
    }
    config.checked().map_err(|what| {
        StageError::input(format!("no model has this shape: {what}"))
            .help("change `heads`, `kv_heads`, `head_dim` or `shortcut` in `shape`")
    })
}

/// Returns 8/3 of the width, rounded up to a multiple of 64.
fn ffn(width: i64) -> i64 {
    let exact = (width * 8 + 2) / 3;
    (exact + 63) / 64 * 64
}

#[cfg(test)]
mod tests {
    use super::Law;

    #[test]
    fn laws_are_those_of_the_paper() {
        let check = |law: Law, layer: i64, name: &str, expected: f64| {
            let got = law.factor(&format!("model.layers.{layer}.{name}_proj.weight"), 3);
            assert!((got - expected).abs() < 1e-12, "{law:?} {layer} {name}: {got}");
        };
        let (six, two) = (6.0_f64.sqrt().recip(), 2.0_f64.sqrt());
        for name in ["q", "k", "v", "o", "gate", "up", "down"] {
            let name: &str = &(if "qkvo".contains(name) {
                format!("self_attn.{name}")
            } else {
                format!("mlp.{name}")
            });
            let (out, down) = (name.ends_with(".o"), name.ends_with("down"));
            for layer in 0..3 {
                let writes = |by: f64| if out || down { by } else { 1.0 };
                check(Law::Constant, layer, name, 1.0);
                check(Law::Gpt2, layer, name, six);
                check(Law::Residual, layer, name, writes(six));
                check(
                    Law::Internlm,
                    layer,
                    name,
                    writes((2.0 * (layer + 1) as f64).sqrt().recip()),
                );
                let text = if out || name.ends_with("gate") { six } else { 1.0 };
                check(Law::InternlmText, layer, name, text);
                let ends = match name {
                    "self_attn.q" | "self_attn.k" => two,
                    "self_attn.v" | "self_attn.o" => 1.0 / two,
                    _ => 1.0,
                };
                let adaptive = [ends, f64::midpoint(ends, 1.0), 1.0][layer as usize];
                check(Law::DepthAdaptive, layer, name, adaptive);
            }
        }
        for law in [Law::Gpt2, Law::Internlm, Law::DepthAdaptive] {
            assert_eq!(law.factor("model.embed_tokens.weight", 3).to_bits(), 1.0_f64.to_bits());
        }
    }
}
