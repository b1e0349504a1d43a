//! A Llama in a GGUF file: its shape from the metadata, its tensors dequantised one by one.

use std::collections::BTreeSet;
use std::path::Path;

use tch::Tensor;
use tlm::data;
use tlm::data::gguf::{GgufValue, TensorInfo};
use tlm::stage::StageError;

use crate::nn::config::{Config, Rope, Scaling};
use crate::nn::layout::deinterleave;
use crate::nn::quant::Quant;
use crate::nn::runtime::fault;
use crate::nn::weights::{Source, Weights};

/// An open GGUF file with a Llama in it.
pub(crate) struct Gguf {
    file: data::Gguf,
    pub(crate) config: Config,
}

impl Gguf {
    /// Opens a file and checks that it is whole and of a kind that is known.
    pub(crate) fn open(path: &Path) -> Result<Self, StageError> {
        let file = data::Gguf::open(path)?;
        let broken = |what: String| {
            StageError::input(format!("`{}` {what}", path.display()))
                .help("use a GGUF file of a plain Llama model, or the model's Hugging Face folder")
        };
        let config = config(&file).map_err(broken)?;
        supported(&file, &config).map_err(broken)?;
        Ok(Self { file, config })
    }
}

impl Gguf {
    /// Returns a tensor's bytes and how they are stored; fails unless it is there in this shape.
    fn readable(&self, name: &str, shape: &[i64]) -> Result<(Quant, &[u8]), StageError> {
        let path = self.file.path().display();
        let wrong = |what: String| {
            StageError::input(format!("tensor `{name}` of `{path}` {what}"))
                .help("fetch the file again, or convert the model again")
        };
        let stored = gguf_name(name).ok_or_else(|| wrong("is not known".to_owned()))?;
        let (info, bytes) = self.file.tensor(&stored)?;
        let kind = Quant::of(info.ggml_type).ok_or_else(|| self.file.unsupported(info))?;
        let found = shape_of(info);
        if found != shape {
            return Err(wrong(format!("has shape {found:?}, but its metadata means {shape:?}")));
        }
        Ok((kind, bytes))
    }
}

impl Weights for Gguf {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        let (kind, bytes) = self.readable(name, shape)?;
        let numbers = kind.dequantise(bytes);
        let tensor = Tensor::f_from_slice(&numbers).and_then(|flat| flat.f_view(shape));
        // llama.cpp turns neighbours, so its files hold interleaved rows.
        let rotary = name.contains(".q_proj.") || name.contains(".k_proj.");
        let size = self.config.head_dim;
        tensor
            .and_then(|rows| if rotary { deinterleave(&rows, size) } else { Ok(rows) })
            .map_err(fault)
    }
}

impl Source for Gguf {
    fn check(&self, config: &Config) -> Result<(), StageError> {
        let mut known = BTreeSet::new();
        for (name, shape) in config.tensors() {
            self.readable(&name, &shape)?;
            known.extend(gguf_name(&name));
        }
        match self.file.tensors().iter().find(|info| !known.contains(&info.name)) {
            None => Ok(()),
            Some(info) => Err(StageError::input(format!(
                "tensor `{}` of `{}` has no place in a plain Llama",
                info.name,
                self.file.path().display()
            ))
            .help(
                "it would be left out, and the model be another one: use a file of a plain Llama",
            )),
        }
    }
}

/// Returns a tensor's shape in PyTorch's order; GGML counts the fastest dimension first.
fn shape_of(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().rev().map(|&size| size as i64).collect()
}

fn tensor<'f>(file: &'f data::Gguf, name: &str) -> Option<&'f TensorInfo> {
    file.tensors().iter().find(|info| info.name == name)
}

/// Fails on what this reader would silently get wrong.
fn supported(file: &data::Gguf, config: &Config) -> Result<(), String> {
    let number = |name: &str| file.get(&format!("llama.{name}")).and_then(GgufValue::as_f64);
    let scaling = file.get("llama.rope.scaling.type").and_then(GgufValue::as_str).unwrap_or("none");
    if scaling != "none" && scaling != "linear" {
        return Err(format!("has unsupported rope scaling `{scaling}`"));
    }
    if let Some(scale) = number("rope.scale_linear").filter(|&scale| scale != 1.0) {
        return Err(format!(
            "has a `llama.rope.scale_linear` of {scale}, an old form that is not supported"
        ));
    }
    let (turned, size) = (number("rope.dimension_count"), config.head_dim);
    if let Some(turned) = turned.filter(|&turned| turned != size as f64) {
        return Err(format!(
            "turns {turned} of {size} dimensions of a head by position, which is not supported"
        ));
    }
    if number("expert_count").is_some_and(|count| count != 0.0) {
        return Err("has experts, which are not supported".to_owned());
    }
    if tensor(file, "rope_freqs.weight").is_some() {
        return Err("has stored rope frequencies, which are not supported".to_owned());
    }
    Ok(())
}

/// Returns llama.cpp's name of a Hugging Face tensor.
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    let whole = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = whole {
        return Some(name.to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}

fn config(file: &data::Gguf) -> Result<Config, String> {
    let text = |name: &str| file.get(name).and_then(GgufValue::as_str);
    let arch = text("general.architecture").unwrap_or("none");
    if arch != "llama" {
        return Err(format!("is of architecture `{arch}`; `llama` is supported"));
    }
    let number = |name: &str| file.get(&format!("llama.{name}")).and_then(GgufValue::as_f64);
    let count = |name: &str| match number(name) {
        Some(value) if value >= 1.0 => Ok(value as i64),
        _ => Err(format!("has no usable `llama.{name}` in its metadata")),
    };
    let (width, heads) = (count("embedding_length")?, count("attention.head_count")?);
    let vocab = tensor(file, "token_embd.weight").and_then(|info| shape_of(info).first().copied());
    let scaling = match text("llama.rope.scaling.type") {
        Some("linear") => Scaling::Linear {
            factor: number("rope.scaling.factor")
                .ok_or("has linear rope scaling without `llama.rope.scaling.factor`")?,
        },
        _ => Scaling::None,
    };
    let token = |name: &str| {
        let id = file.get(&format!("tokenizer.ggml.{name}_token_id"))?;
        i64::try_from(id.as_u64()?).ok()
    };
    Config {
        vocab: vocab.ok_or("has no tensor `token_embd.weight`")?,
        width,
        depth: count("block_count")?,
        heads,
        kv_heads: number("attention.head_count_kv").map_or(heads, |count| count as i64),
        head_dim: number("attention.key_length").map_or(width / heads, |size| size as i64),
        ffn: count("feed_forward_length")?,
        eps: round(number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5)),
        rope: Rope { theta: round(number("rope.freq_base").unwrap_or(10000.0)), scaling },
        tied: tensor(file, "output.weight").is_none(),
        attention_bias: tensor(file, "blk.0.attn_q.bias").is_some(),
        mlp_bias: tensor(file, "blk.0.ffn_gate.bias").is_some(),
        activations: 1,
        shortcut: 0,
        context: count("context_length")?,
        bos: token("bos"),
        eos: token("eos").into_iter().collect(),
        pad: token("padding"),
    }
    .checked()
    .map_err(|what| format!("describes no model: {what}"))
}

/// GGUF stores f32; the shortest decimal that means the same f32 is what was meant.
fn round(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
