//! A model's shape, and the Hugging Face `config.json` it is read from and written to.
//!
//! A Llama with one of PanGu-pi's modules is of `model_type` `pangu_pi`, so that nothing else takes it for a plain one.
//! Its `series_activations` and `shortcut_size` are [`Config::activations`] and [`Config::shortcut`].

use std::path::Path;

use serde_json::{Map, Value, json};
use tlm::data::dataset::read_json;
use tlm::stage::StageError;

/// Everything a Llama's forward pass depends on but its weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) vocab: i64,
    pub(crate) width: i64,
    pub(crate) depth: i64,
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) head_dim: i64,
    pub(crate) ffn: i64,
    /// RMSNorm's epsilon.
    pub(crate) eps: f64,
    pub(crate) rope: Rope,
    /// Whether the output embedding is the input embedding.
    pub(crate) tied: bool,
    /// Whether q, k, v and o have biases.
    pub(crate) attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub(crate) mlp_bias: bool,
    /// Terms of the series activation (PanGu-pi, arXiv 2312.17276); 1 for a plain one.
    pub(crate) activations: i64,
    /// Inner size of the augmented shortcut around attention (PanGu-pi); 0 for none.
    pub(crate) shortcut: i64,
    /// Longest sequence.
    pub(crate) context: i64,
    pub(crate) bos: Option<i64>,
    /// Tokens that end a text, the usual one first.
    pub(crate) eos: Vec<i64>,
    pub(crate) pad: Option<i64>,
}

/// `model_type` and class of a plain model, and of one with PanGu-pi's modules.
const KINDS: [(&str, &str); 2] =
    [("llama", "LlamaForCausalLM"), ("pangu_pi", "PanguPiForCausalLM")];

/// A layer's scales and shifts of the series activation, `[activations, ffn]`.
pub(crate) const SERIES: [&str; 2] = ["mlp.series.scale", "mlp.series.bias"];

/// A layer's two matrices of the augmented shortcut, `[shortcut, width]` and `[width, shortcut]`.
pub(crate) const SHORTCUT: [&str; 2] = ["shortcut.reduce.weight", "shortcut.expand.weight"];

/// Largest sizes. All are well above any model there is, and small enough that no product of a checkpoint overflows.
const LIMITS: [(&str, i64); 9] = [
    ("vocabulary", 1 << 24),
    ("hidden size", 1 << 17),
    ("number of layers", 1 << 12),
    ("number of query heads", 1 << 12),
    ("number of key-value heads", 1 << 12),
    ("head size", 1 << 12),
    ("inner size of the feed-forward network", 1 << 19),
    ("context", 1 << 30),
    ("number of activations", 1 << 6),
];

/// Rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    pub(crate) theta: f64,
    pub(crate) scaling: Scaling,
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
}

impl Rope {
    /// Returns the angle per position of each pair of a head's dimensions.
    pub(crate) fn frequencies(&self, head_dim: i64) -> Vec<f64> {
        let base = |pair: i64| self.theta.powf(-2.0 * pair as f64 / head_dim as f64);
        let scaled = |frequency: f64| match self.scaling {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let turns = original * frequency / (2.0 * std::f64::consts::PI);
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        };
        (0..head_dim / 2).map(base).map(scaled).collect()
    }
}

impl Rope {
    fn check(&self) -> Result<(), String> {
        let above_zero = |what: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(format!("a rope {what} of {value} is not a number above zero")),
        };
        above_zero("theta", self.theta)?;
        match self.scaling {
            Scaling::None => Ok(()),
            Scaling::Linear { factor } => above_zero("factor", factor),
            Scaling::Llama3 { factor, low, high, original } => {
                above_zero("factor", factor)?;
                above_zero("original context", original)?;
                above_zero("`low_freq_factor`", low)?;
                match high.is_finite() && high > low {
                    true => Ok(()),
                    false => Err(format!(
                        "a rope `high_freq_factor` of {high} is not above the `low_freq_factor` of {low}"
                    )),
                }
            }
        }
    }
}

impl Config {
    /// Reads the `config.json` of a model folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, StageError> {
        let path = folder.join("config.json");
        let json: Value = read_json(&path)?;
        Self::parse(&json).and_then(Self::checked).map_err(|what| {
            StageError::input(format!("`{}`: {what}", path.display()))
                .help("use a model of the Llama architecture, saved by transformers")
        })
    }

    fn parse(json: &Value) -> Result<Self, String> {
        let fields = Fields(json);
        let model = json["model_type"].as_str().unwrap_or("none");
        let Some((_, class)) = KINDS.iter().find(|(known, _)| *known == model) else {
            return Err(format!("unsupported `model_type` `{model}`; `llama` is supported"));
        };
        let given = json["architectures"][0].as_str().unwrap_or(class);
        if given != *class {
            return Err(format!("unsupported architecture `{given}`; `{class}` is supported"));
        }
        let act = json["hidden_act"].as_str().unwrap_or("silu");
        if act != "silu" {
            return Err(format!("unsupported `hidden_act` `{act}`; `silu` is supported"));
        }
        let (width, heads) = (fields.count("hidden_size")?, fields.count("num_attention_heads")?);
        Ok(Self {
            vocab: fields.count("vocab_size")?,
            width,
            depth: fields.count("num_hidden_layers")?,
            heads,
            kv_heads: fields.optional("num_key_value_heads")?.unwrap_or(heads),
            head_dim: fields.optional("head_dim")?.unwrap_or(width / heads),
            ffn: fields.count("intermediate_size")?,
            eps: json["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope: parse_rope(json)?,
            tied: json["tie_word_embeddings"].as_bool().unwrap_or(false),
            attention_bias: json["attention_bias"].as_bool().unwrap_or(false),
            mlp_bias: json["mlp_bias"].as_bool().unwrap_or(false),
            activations: fields.optional("series_activations")?.unwrap_or(1),
            shortcut: json["shortcut_size"].as_i64().unwrap_or(0),
            context: fields.optional("max_position_embeddings")?.unwrap_or(2048),
            bos: json["bos_token_id"].as_i64(),
            eos: match &json["eos_token_id"] {
                Value::Array(ids) => ids.iter().filter_map(Value::as_i64).collect(),
                one => one.as_i64().into_iter().collect(),
            },
            pad: json["pad_token_id"].as_i64(),
        })
    }

    /// Returns the config if a model of this shape can exist.
    pub(crate) fn checked(self) -> Result<Self, String> {
        let sizes = [
            self.vocab,
            self.width,
            self.depth,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn,
            self.context,
            self.activations,
        ];
        for ((what, limit), size) in LIMITS.iter().zip(sizes) {
            if !(1..=*limit).contains(&size) {
                return Err(format!("a {what} of {size} is not between 1 and {limit}"));
            }
        }
        if !(0..=self.width).contains(&self.shortcut) {
            return Err(format!(
                "a shortcut of {} is not between 0 and the hidden size, {}",
                self.shortcut, self.width
            ));
        }
        if self.heads % self.kv_heads != 0 {
            return Err(format!(
                "{} query heads can't share {} key-value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if self.head_dim % 2 != 0 {
            return Err(format!(
                "a head size of {} is odd; rotary positions need pairs",
                self.head_dim
            ));
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(format!("an RMSNorm epsilon of {} is not a number from zero up", self.eps));
        }
        self.rope.check()?;
        Ok(self)
    }

    /// Returns whether it has none of PanGu-pi's modules.
    pub(crate) fn is_plain(&self) -> bool {
        self.activations == 1 && self.shortcut == 0
    }

    /// Writes `config.json` as transformers reads it.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), StageError> {
        let path = folder.join("config.json");
        let mut text = serde_json::to_string_pretty(&self.to_json()).expect("plain data");
        text.push('\n');
        std::fs::write(&path, text).map_err(|e| StageError::io("write", &path, &e))
    }

    fn to_json(&self) -> Value {
        let (model_type, class) = KINDS[usize::from(!self.is_plain())];
        let mut json = json!({
            "architectures": [class],
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos.first(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.context,
            "mlp_bias": self.mlp_bias,
            "model_type": model_type,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.depth,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.eps,
            "rope_scaling": self.rope.scaling.to_json(),
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": self.vocab,
        });
        if !self.is_plain() {
            json["series_activations"] = json!(self.activations);
            json["shortcut_size"] = json!(self.shortcut);
        }
        if self.eos.len() > 1 {
            json["eos_token_id"] = json!(self.eos);
        }
        if let Some(pad) = self.pad {
            json["pad_token_id"] = json!(pad);
        }
        json
    }

    /// Returns the tensors of a checkpoint with their shapes, by name.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, self.width]),
            ("model.norm.weight".to_owned(), vec![self.width]),
        ];
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab, self.width]));
        }
        for layer in 0..self.depth {
            all.extend(
                self.layer_tensors()
                    .into_iter()
                    .map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)),
            );
        }
        all.sort();
        all
    }

    /// Returns the tensors of one layer, named without the layer's prefix.
    fn layer_tensors(&self) -> Vec<(String, Vec<i64>)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let projections = [
            ("self_attn.q_proj", q, self.width, self.attention_bias),
            ("self_attn.k_proj", kv, self.width, self.attention_bias),
            ("self_attn.v_proj", kv, self.width, self.attention_bias),
            ("self_attn.o_proj", self.width, q, self.attention_bias),
            ("mlp.gate_proj", self.ffn, self.width, self.mlp_bias),
            ("mlp.up_proj", self.ffn, self.width, self.mlp_bias),
            ("mlp.down_proj", self.width, self.ffn, self.mlp_bias),
        ];
        let mut all = vec![
            ("input_layernorm.weight".to_owned(), vec![self.width]),
            ("post_attention_layernorm.weight".to_owned(), vec![self.width]),
        ];
        for (name, rows, columns, bias) in projections {
            all.push((format!("{name}.weight"), vec![rows, columns]));
            if bias {
                all.push((format!("{name}.bias"), vec![rows]));
            }
        }
        if self.activations > 1 {
            let shape = vec![self.activations, self.ffn];
            all.extend(SERIES.map(|name| (name.to_owned(), shape.clone())));
        }
        if self.shortcut > 0 {
            let shapes = [vec![self.shortcut, self.width], vec![self.width, self.shortcut]];
            all.extend(SHORTCUT.map(str::to_owned).into_iter().zip(shapes));
        }
        all
    }

    /// Returns the number of parameters.
    pub(crate) fn params(&self) -> i64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<i64>()).sum()
    }
}

impl Scaling {
    fn to_json(&self) -> Value {
        match *self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original as i64,
            }),
        }
    }
}

/// Newer transformers write `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
fn parse_rope(json: &Value) -> Result<Rope, String> {
    let empty = Value::Object(Map::new());
    let scaling = [&json["rope_parameters"], &json["rope_scaling"]]
        .into_iter()
        .find(|value| value.is_object())
        .unwrap_or(&empty);
    let theta = json["rope_theta"].as_f64().or_else(|| scaling["rope_theta"].as_f64());
    let number = |name: &str| {
        scaling[name].as_f64().ok_or_else(|| format!("`{name}` of the rope scaling is missing"))
    };
    let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str());
    let scaling = match kind.unwrap_or("default") {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: number("factor")? },
        "llama3" => Scaling::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original: number("original_max_position_embeddings")?,
        },
        other => {
            return Err(format!(
                "unsupported rope type `{other}`; `default`, `linear` and `llama3` are supported"
            ));
        }
    };
    Ok(Rope { theta: theta.unwrap_or(10000.0), scaling })
}

struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn optional(&self, name: &str) -> Result<Option<i64>, String> {
        match &self.0[name] {
            Value::Null => Ok(None),
            value => match value.as_i64() {
                Some(count) if count > 0 => Ok(Some(count)),
                _ => Err(format!("`{name}` is `{value}`, not a whole number above zero")),
            },
        }
    }

    fn count(&self, name: &str) -> Result<i64, String> {
        self.optional(name)?.ok_or_else(|| format!("`{name}` is missing"))
    }
}
