//! A checkpoint of InternEvo: `model_tp0_pp0.pt`, of a model that one GPU held whole, beside a Hugging Face `config.json`.

use std::collections::BTreeSet;
use std::path::Path;

use tch::{TchError, Tensor};
use tlm::data::TensorFile;
use tlm::data::dataset::read_json;
use tlm::stage::StageError;

use crate::nn::config::Config;
use crate::nn::layout::deinterleave;
use crate::nn::runtime::fault;
use crate::nn::weights::{Files, Source, Weights};

const FILE: &str = "model_tp0_pp0.pt";

/// Hugging Face's names and InternEvo's, without a layer's prefix and without `.weight` or `.bias`.
const NAMES: [(&str, &str); 12] = [
    ("model.embed_tokens", "tok_embeddings"),
    ("model.norm", "norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
];

/// What InternLM2 keeps of q, k and v in one matrix: for each key-value head its query heads, its key and its value.
const PACKED: &str = "attention.wqkv";

/// An open checkpoint.
pub(crate) struct InternEvo {
    files: Files,
    /// What stands before each name: `model.` where the model was wrapped.
    prefix: &'static str,
    config: Config,
    /// Whether rotary positions turn neighbours, as InternEvo does unless it was told to do as Hugging Face does.
    interleaved: bool,
}

/// Where a tensor lies.
struct Place {
    name: String,
    shape: Vec<i64>,
    /// The first of a group's heads in a packed matrix, and how many.
    heads: Option<(i64, i64)>,
}

impl InternEvo {
    /// Opens a folder; none where it has no such checkpoint.
    pub(crate) fn find(folder: &Path, config: &Config) -> Result<Option<Self>, StageError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        for split in ["model_tp1_pp0.pt", "model_tp0_pp1.pt"] {
            if folder.join(split).exists() {
                return Err(StageError::input(format!(
                    "`{}` is split: it has `{FILE}` and `{split}`",
                    folder.display()
                ))
                .help("merge it first: load it with InternEvo at `tensor` and `pipeline` sizes of 1, and save it"));
            }
        }
        let files = Files::open(folder, &[path], TensorFile::open_torch)?;
        let prefix =
            if files.names().all(|name| name.starts_with("model.")) { "model." } else { "" };
        let json: serde_json::Value = read_json(&folder.join("config.json"))?;
        let interleaved = !json["adapt_hf"].as_bool().unwrap_or(false);
        Ok(Some(Self { files, prefix, config: config.clone(), interleaved }))
    }

    /// Returns where a tensor of this name and shape lies; none for one of PanGu-pi's modules.
    fn place(&self, name: &str, shape: &[i64]) -> Option<Place> {
        let (layer, rest) =
            match name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
                Some((layer, rest)) => (format!("layers.{layer}."), rest),
                None => (String::new(), name),
            };
        let (module, kind) = rest.rsplit_once('.')?;
        let own = |module: &str| format!("{}{layer}{module}.{kind}", self.prefix);
        let packed = own(PACKED);
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let group = heads / kv_heads;
        let part = match module {
            "self_attn.q_proj" => Some((0, group)),
            "self_attn.k_proj" => Some((group, 1)),
            "self_attn.v_proj" => Some((group + 1, 1)),
            _ => None,
        };
        if part.is_some() && self.files.has(&packed) {
            let mut shape = shape.to_vec();
            shape[0] = (heads + 2 * kv_heads) * head_dim;
            return Some(Place { name: packed, shape, heads: part });
        }
        let (_, theirs) = NAMES.iter().find(|(ours, _)| *ours == module)?;
        let (name, older) = (own(theirs), own(&format!("{theirs}.word_embeddings")));
        let name = if self.files.has(&older) { older } else { name };
        Some(Place { name, shape: shape.to_vec(), heads: None })
    }

    fn placed(&self, name: &str, shape: &[i64]) -> Result<Place, StageError> {
        self.place(name, shape).ok_or_else(|| {
            StageError::input(format!("a checkpoint of InternEvo has no tensor like `{name}`"))
                .help("give it the `config.json` of a plain Llama")
        })
    }

    /// Takes heads out of each group of a packed matrix or vector.
    fn unpacked(&self, packed: &Tensor, (first, count): (i64, i64)) -> Result<Tensor, TchError> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let mut shape = packed.size();
        let groups = [kv_heads, heads / kv_heads + 2, head_dim];
        let apart = packed.f_view(&[&groups[..], &shape[1..]].concat()[..])?;
        shape[0] = kv_heads * count * head_dim;
        apart.f_narrow(1, first, count)?.f_reshape(&shape[..])
    }
}

impl Weights for InternEvo {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        let place = self.placed(name, shape)?;
        let stored = self.files.load(&place.name, &place.shape)?;
        let rows = match place.heads {
            Some(heads) => self.unpacked(&stored, heads).map_err(fault)?,
            None => stored,
        };
        let rotary = name.contains(".q_proj.") || name.contains(".k_proj.");
        if rotary && self.interleaved {
            return deinterleave(&rows, self.config.head_dim).map_err(fault);
        }
        Ok(rows)
    }
}

impl Source for InternEvo {
    fn check(&self, config: &Config) -> Result<(), StageError> {
        let mut known = BTreeSet::new();
        for (name, shape) in config.tensors() {
            let place = self.placed(&name, &shape)?;
            self.files.readable(&place.name, &place.shape)?;
            known.insert(place.name);
        }
        let is_known = |name: &&str| known.contains(*name) || name.ends_with(".inv_freq");
        match self.files.names().find(|name| !is_known(name)) {
            Some(name) => Err(self.files.unknown(name)),
            None => Ok(()),
        }
    }
}
