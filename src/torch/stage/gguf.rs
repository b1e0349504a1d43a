//! `model.gguf`: a plain Llama as one GGUF file, for llama.cpp and what is built on it.

use half::{bf16, f16};
use serde::Deserialize;
use tch::Tensor;
use tlm::data::gguf_write::{GgufWriter, Meta};
use tlm::data::tokenizer::gguf_write::gguf_tokenizer;
use tlm::stage::{Context, StageError};

use crate::nn::config::{Config, Scaling};
use crate::nn::gguf::gguf_name;
use crate::nn::layout::interleave;
use crate::nn::runtime::{self, f32_values, fault};
use crate::nn::weights::{Safetensors, Weights};

#[derive(Deserialize)]
struct Params {
    dtype: Dtype,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// Returns ggml's type, and llama.cpp's number for a file of mostly that type.
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::F32 => (0, 0),
            Self::F16 => (1, 1),
            Self::Bf16 => (30, 32),
        }
    }

    fn encode(self, numbers: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => numbers.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => {
                numbers.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
            }
            Self::Bf16 => {
                numbers.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
            }
        }
    }
}

/// Writes the file. Vectors stay in f32, as llama.cpp wants them.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let Params { dtype } = context.params()?;
    runtime::prepare(context.action())?;
    let folder = context.input("model").to_path_buf();
    let config = Config::read(&folder)?;
    let mut metadata = metadata(&config, dtype)?;
    metadata.extend(gguf_tokenizer(&folder, config.vocab as usize)?);
    let kind = |shape: &[i64]| if shape.len() == 1 { Dtype::F32 } else { dtype };
    let tensors = config.tensors();
    let announced: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| {
            let sizes = shape.iter().rev().map(|&size| size as u64).collect();
            (stored_name(name), sizes, kind(shape).numbers().0)
        })
        .collect();
    let mut writer = GgufWriter::create(&context.out("out"), &metadata, &announced)?;
    let weights = Safetensors::open(&folder)?;
    let (mut done, total) = (0, config.params() as u64);
    for (name, shape) in &tensors {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        let value = rows(weights.load(name, shape)?, name, &config)?;
        let numbers = f32_values(&value).map_err(fault)?;
        writer.push(&stored_name(name), &kind(shape).encode(&numbers))?;
        done += numbers.len() as u64;
        context.progress(done, Some(total), "params");
    }
    Ok(writer.finish()?)
}

fn stored_name(name: &str) -> String {
    gguf_name(name).expect("llama.cpp knows all tensors of a plain Llama")
}

/// Returns a tensor as llama.cpp wants it, which turns neighbours.
fn rows(value: Tensor, name: &str, config: &Config) -> Result<Tensor, StageError> {
    if name.contains(".q_proj.") || name.contains(".k_proj.") {
        return interleave(&value, config.head_dim).map_err(fault);
    }
    Ok(value)
}

fn metadata(config: &Config, dtype: Dtype) -> Result<Vec<(String, Meta)>, StageError> {
    if !config.is_plain() {
        return Err(StageError::input(
            "the model has modules of PanGu-pi, which GGUF has no place for",
        )
        .help("use the model's folder as it is"));
    }
    let count = |value: i64| Meta::U32(value as u32);
    let number = |value: f64| Meta::F32(value as f32);
    let llama = |name: &str, value: Meta| (format!("llama.{name}"), value);
    let mut all = vec![
        ("general.architecture".to_owned(), Meta::Str("llama".to_owned())),
        ("general.file_type".to_owned(), Meta::U32(dtype.numbers().1)),
        llama("block_count", count(config.depth)),
        llama("context_length", count(config.context)),
        llama("embedding_length", count(config.width)),
        llama("feed_forward_length", count(config.ffn)),
        llama("vocab_size", count(config.vocab)),
        llama("attention.head_count", count(config.heads)),
        llama("attention.head_count_kv", count(config.kv_heads)),
        llama("attention.key_length", count(config.head_dim)),
        llama("attention.value_length", count(config.head_dim)),
        llama("attention.layer_norm_rms_epsilon", number(config.eps)),
        llama("rope.dimension_count", count(config.head_dim)),
        llama("rope.freq_base", number(config.rope.theta)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Meta::Bool(false)),
    ];
    match config.rope.scaling {
        Scaling::None => {}
        Scaling::Linear { factor } => {
            all.push(llama("rope.scaling.type", Meta::Str("linear".to_owned())));
            all.push(llama("rope.scaling.factor", number(factor)));
        }
        Scaling::Llama3 { .. } => {
            return Err(StageError::input(
                "the model's rope scaling, `llama3`, can't be written to GGUF yet",
            )
            .help("use the model's folder as it is"));
        }
    }
    let tokens =
        [("bos", config.bos), ("eos", config.eos.first().copied()), ("padding", config.pad)];
    for (name, id) in tokens {
        if let Some(id) = id {
            all.push((format!("tokenizer.ggml.{name}_token_id"), count(id)));
        }
    }
    Ok(all)
}
