//! GGUF files: metadata and the tensors of a Llama, dequantised one by one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tch::Tensor;
use tlm::stage::StageError;

use crate::nn::config::{Config, Rope, Scaling};
use crate::nn::layout::deinterleave;
use crate::nn::quant::Quant;
use crate::nn::runtime::fault;
use crate::nn::weights::{Weights, map_file};

/// An open GGUF file.
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mmap,
    numbers: BTreeMap<String, f64>,
    texts: BTreeMap<String, String>,
    tensors: BTreeMap<String, Stored>,
    /// Where tensor data starts.
    data: usize,
    pub(crate) config: Config,
}

struct Stored {
    shape: Vec<i64>,
    kind: u32,
    offset: usize,
}

impl Gguf {
    /// Opens a file and checks that it is whole.
    pub(crate) fn open(path: &Path) -> Result<Self, StageError> {
        let map = map_file(path)?;
        let broken = |what: String| StageError::input(format!("`{}` {what}", path.display()));
        let mut reader = Reader { bytes: &map, at: 0 };
        let header = Header::read(&mut reader).map_err(|stop| match stop {
            Stop::Truncated => broken("is truncated: it ends inside its header".to_owned())
                .help("fetch the file again, and check its `sha256`"),
            Stop::Foreign(what) => broken(what),
        })?;
        let align = header.numbers.get("general.alignment").map_or(32, |&size| size as usize);
        let data = reader.at.next_multiple_of(align.max(1));
        let mut all = Self {
            path: path.to_path_buf(),
            config: config(&header).map_err(broken)?,
            map,
            numbers: header.numbers,
            texts: header.texts,
            tensors: header.tensors,
            data,
        };
        all.check()?;
        all.config.tied = !all.tensors.contains_key("output.weight");
        Ok(all)
    }

    /// Returns whether a file starts like a GGUF file.
    pub(crate) fn is_one(path: &Path) -> bool {
        let mut magic = [0; 4];
        let read = std::fs::File::open(path)
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
        read.is_ok() && &magic == b"GGUF"
    }

    /// Fails unless every tensor is of a known type and lies inside the file.
    fn check(&self) -> Result<(), StageError> {
        let broken = |what: String| StageError::input(format!("`{}`: {what}", self.path.display()));
        let scaling = self.texts.get("llama.rope.scaling.type").map_or("none", |kind| &**kind);
        if scaling != "none" && scaling != "linear" {
            return Err(broken(format!("unsupported rope scaling `{scaling}`")));
        }
        if self.numbers.contains_key("llama.expert_count")
            || self.tensors.contains_key("rope_freqs.weight")
        {
            return Err(broken("experts and stored rope frequencies are not supported".to_owned()));
        }
        for (name, stored) in &self.tensors {
            let Some(kind) = Quant::of(stored.kind) else {
                return Err(broken(format!(
                    "tensor `{name}` is of unsupported type {}",
                    stored.kind
                ))
                .help("use a file of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K or Q6_K"));
            };
            if self.bytes(stored, kind).is_none() {
                return Err(broken(format!("it is truncated: tensor `{name}` is not whole"))
                    .help("fetch the file again, and check its `sha256`"));
            }
        }
        Ok(())
    }

    fn bytes(&self, stored: &Stored, kind: Quant) -> Option<&[u8]> {
        let (numbers, size) = kind.block();
        let count = stored
            .shape
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(usize::try_from(size).ok()?))?;
        let row = usize::try_from(*stored.shape.last()?).ok()?;
        let start = self.data.checked_add(stored.offset)?;
        let end = start.checked_add((count / numbers).checked_mul(size)?)?;
        row.is_multiple_of(numbers).then(|| self.map.get(start..end)).flatten()
    }
}

impl Weights for Gguf {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        let wrong = |what: String| {
            StageError::input(format!("tensor `{name}` of `{}` {what}", self.path.display()))
        };
        let stored = gguf_name(name).and_then(|name| self.tensors.get(&name));
        let stored = stored.ok_or_else(|| wrong("is missing".to_owned()))?;
        if stored.shape != shape {
            return Err(wrong(format!(
                "has shape {:?}, but its metadata means {shape:?}",
                stored.shape
            )));
        }
        let kind = Quant::of(stored.kind).ok_or_else(|| wrong("is unsupported".to_owned()))?;
        let bytes = self.bytes(stored, kind).ok_or_else(|| wrong("is truncated".to_owned()))?;
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

/// Returns llama.cpp's name of a Hugging Face tensor.
fn gguf_name(name: &str) -> Option<String> {
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

fn config(header: &Header) -> Result<Config, String> {
    let arch = header.texts.get("general.architecture").map_or("none", |arch| &**arch);
    if arch != "llama" {
        return Err(format!("is of architecture `{arch}`; `llama` is supported"));
    }
    let number = |name: &str| header.numbers.get(&format!("llama.{name}")).copied();
    let count = |name: &str| match number(name) {
        Some(value) if value >= 1.0 => Ok(value as i64),
        _ => Err(format!("has no usable `llama.{name}` in its metadata")),
    };
    let (width, heads) = (count("embedding_length")?, count("attention.head_count")?);
    let embedding = header.tensors.get("token_embd.weight");
    let vocab = embedding.and_then(|stored| stored.shape.first().copied());
    let scaling = match header.texts.get("llama.rope.scaling.type").map(|kind| &**kind) {
        Some("linear") => Scaling::Linear { factor: number("rope.scaling.factor").unwrap_or(1.0) },
        _ => Scaling::None,
    };
    let token = |name: &str| header.numbers.get(&format!("tokenizer.ggml.{name}_token_id"));
    Config {
        vocab: vocab.ok_or("has no tensor `token_embd.weight`")?,
        width,
        depth: count("block_count")?,
        heads,
        kv_heads: number("attention.head_count_kv").map_or(heads, |count| (count as i64).max(1)),
        head_dim: number("attention.key_length").map_or(width / heads, |size| size as i64),
        ffn: count("feed_forward_length")?,
        eps: round(number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5)),
        rope: Rope { theta: round(number("rope.freq_base").unwrap_or(10000.0)), scaling },
        tied: false,
        attention_bias: header.tensors.contains_key("blk.0.attn_q.bias"),
        mlp_bias: header.tensors.contains_key("blk.0.ffn_gate.bias"),
        context: count("context_length")?,
        bos: token("bos").map(|&id| id as i64),
        eos: token("eos").map(|&id| id as i64),
    }
    .checked()
    .map_err(|what| format!("describes no model: {what}"))
}

/// GGUF stores f32; the shortest decimal that means the same f32 is what was meant.
fn round(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// What stands before the tensor data.
struct Header {
    numbers: BTreeMap<String, f64>,
    texts: BTreeMap<String, String>,
    tensors: BTreeMap<String, Stored>,
}

enum Stop {
    Truncated,
    Foreign(String),
}

impl Header {
    fn read(reader: &mut Reader) -> Result<Self, Stop> {
        if reader.take(4)? != b"GGUF" {
            return Err(Stop::Foreign("is not a GGUF file".to_owned()));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Stop::Foreign(format!("is GGUF version {version}; 2 and 3 are supported")));
        }
        let (tensors, pairs) = (reader.u64()?, reader.u64()?);
        let mut header =
            Self { numbers: BTreeMap::new(), texts: BTreeMap::new(), tensors: BTreeMap::new() };
        for _ in 0..pairs {
            let name = reader.text()?;
            let kind = reader.u32()?;
            match kind {
                8 => drop(header.texts.insert(name, reader.text()?)),
                9 => reader.skip_array()?,
                _ => drop(header.numbers.insert(name, reader.number(kind)?)),
            }
        }
        for _ in 0..tensors {
            let name = reader.text()?;
            let dimensions = reader.u32()?.min(8);
            let mut shape = Vec::new();
            for _ in 0..dimensions {
                shape.push(reader.u64()? as i64);
            }
            // GGML counts the fastest dimension first.
            shape.reverse();
            let (kind, offset) = (reader.u32()?, reader.u64()? as usize);
            header.tensors.insert(name, Stored { shape, kind, offset });
        }
        Ok(header)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(count).ok_or(Stop::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, Stop> {
        let length = usize::try_from(self.u64()?).map_err(|_| Stop::Truncated)?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn number(&mut self, kind: u32) -> Result<f64, Stop> {
        Ok(match kind {
            0 | 7 => f64::from(u8::from_le_bytes(self.array()?)),
            1 => f64::from(i8::from_le_bytes(self.array()?)),
            2 => f64::from(u16::from_le_bytes(self.array()?)),
            3 => f64::from(i16::from_le_bytes(self.array()?)),
            4 => f64::from(self.u32()?),
            5 => f64::from(i32::from_le_bytes(self.array()?)),
            6 => f64::from(f32::from_le_bytes(self.array()?)),
            10 => self.u64()? as f64,
            11 => i64::from_le_bytes(self.array()?) as f64,
            12 => f64::from_le_bytes(self.array()?),
            other => {
                return Err(Stop::Foreign(format!("has metadata of unknown type {other}")));
            }
        })
    }

    fn skip_array(&mut self) -> Result<(), Stop> {
        let (kind, count) = (self.u32()?, self.u64()?);
        for _ in 0..count {
            match kind {
                8 => drop(self.text()?),
                9 => self.skip_array()?,
                _ => drop(self.number(kind)?),
            }
        }
        Ok(())
    }
}
