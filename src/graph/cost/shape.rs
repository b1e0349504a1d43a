//! The shape of a model of the Llama family, and what follows from it: its parameters, and the floating-point operations of a
//! pass (`docs/cost.md`).

use std::collections::BTreeMap;

use crate::base::Value;
use crate::graph::cost::heads::Heads;

/// What parameters and operations of a model depend on.
///
/// Sizes are whole numbers, kept as `f64` as they are multiplied into numbers beyond 2^64; counts are exact up to 2^53.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Rows of the embeddings.
    pub vocab: f64,
    /// Layers.
    pub depth: f64,
    /// Hidden size.
    pub width: f64,
    /// Query heads.
    pub heads: f64,
    /// Key and value heads.
    pub kv_heads: f64,
    /// Size of a head.
    pub head_dim: f64,
    /// Inner size of the feed-forward network.
    pub ffn: f64,
    /// Inner size of the augmented shortcut around attention (PanGu-pi); 0 for none.
    pub shortcut: f64,
    /// Whether input and output embeddings are one matrix.
    pub tied: bool,
    /// Whether the four projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the three projections of the feed-forward network have biases.
    pub mlp_bias: bool,
}

/// A backward pass multiplies twice as much as the forward pass before it.
const BACKWARD: f64 = 2.0;

impl Shape {
    /// Returns the shape that a recipe gives `model.init`, for a tokenizer of so many tokens; what it leaves open is as the stage has it.
    /// None if that is no shape.
    pub fn of_recipe(shape: &Value, vocab: f64) -> Option<Self> {
        let Value::Map(fields) = shape else { return None };
        let (depth, width) = (size(fields, "depth")?, size(fields, "width")?);
        let heads = size(fields, "heads").unwrap_or((width / 64.0).floor().max(1.0));
        Some(Self {
            vocab,
            depth,
            width,
            heads,
            kv_heads: size(fields, "kv_heads").unwrap_or(heads),
            head_dim: size(fields, "head_dim").unwrap_or((width / heads).floor()),
            ffn: size(fields, "ffn").unwrap_or((width * 8.0 / 3.0 / 64.0).ceil() * 64.0),
            shortcut: (width * number(fields, "shortcut").unwrap_or(0.0)).round(),
            tied: flag(fields, "tied").unwrap_or(true),
            attention_bias: flag(fields, "bias").unwrap_or(false),
            mlp_bias: false,
        })
    }

    /// Returns the shape that a `config.json` of a Llama tells, or of one with PanGu-pi's modules; none if it is of another model.
    pub fn of_config(config: &Value) -> Option<Self> {
        let Value::Map(fields) = config else { return None };
        let kinds = ["llama", "pangu_pi"].map(|kind| Value::Str(kind.to_owned()));
        if !fields.get("model_type").is_some_and(|kind| kinds.contains(kind)) {
            return None;
        }
        let (width, heads) = (size(fields, "hidden_size")?, size(fields, "num_attention_heads")?);
        Some(Self {
            vocab: size(fields, "vocab_size")?,
            depth: size(fields, "num_hidden_layers")?,
            width,
            heads,
            kv_heads: size(fields, "num_key_value_heads").unwrap_or(heads),
            head_dim: size(fields, "head_dim").unwrap_or((width / heads).floor()),
            ffn: size(fields, "intermediate_size")?,
            shortcut: size(fields, "shortcut_size").unwrap_or(0.0),
            tied: flag(fields, "tie_word_embeddings").unwrap_or(false),
            attention_bias: flag(fields, "attention_bias").unwrap_or(false),
            mlp_bias: flag(fields, "mlp_bias").unwrap_or(false),
        })
    }

    /// Returns the shape that `model.inherit` and `model.cut` make of this one; what the recipe leaves open follows from the width.
    /// None if that is no shape.
    pub fn cut(&self, shape: &Value) -> Option<Self> {
        let Value::Map(fields) = shape else { return None };
        let width = size(fields, "width").unwrap_or(self.width);
        let scaled = |own: f64| (own * width / self.width).round().clamp(1.0, own);
        let own = Heads { queries: self.heads as i64, keys: self.kv_heads as i64 };
        let kv_heads = size(fields, "kv_heads");
        let heads = size(fields, "heads").unwrap_or_else(|| {
            let given = kv_heads.map(|kv_heads| kv_heads as i64);
            own.default_queries(scaled(self.heads) as i64, given) as f64
        });
        Some(Self {
            depth: size(fields, "depth").unwrap_or(self.depth),
            width,
            heads,
            kv_heads: kv_heads.unwrap_or_else(|| own.default_keys(heads as i64) as f64),
            ffn: size(fields, "ffn").unwrap_or_else(|| scaled(self.ffn)),
            shortcut: (self.shortcut * width / self.width).round(),
            ..*self
        })
    }

    /// Returns the number of parameters. The few of a series activation are not counted.
    pub fn params(&self) -> f64 {
        let Self { width, heads, kv_heads, head_dim, ffn, .. } = *self;
        let biases = |has: bool, count: f64| if has { count } else { 0.0 };
        let layer = self.layer_matrices()
            + biases(self.attention_bias, head_dim * (heads + 2.0 * kv_heads) + width)
            + biases(self.mlp_bias, 2.0 * ffn + width)
            + 2.0 * width;
        let embeddings = if self.tied { 1.0 } else { 2.0 };
        embeddings * self.vocab * width + self.depth * layer + width
    }

    /// Returns the parameters of all matrices that each token is multiplied with: those of the layers and the output head. The
    /// input embedding is looked up.
    pub fn multiplied(&self) -> f64 {
        self.depth * self.layer_matrices() + self.vocab * self.width
    }

    /// Returns the floating-point operations of a forward pass over so many tokens in sequences of so many. A product and its
    /// sum are two; position `i` attends to `i` positions.
    pub fn forward(&self, tokens: f64, seq: f64) -> f64 {
        let attended = (seq + 1.0) / 2.0;
        let attention = 4.0 * self.heads * self.head_dim * self.depth * attended;
        tokens * (2.0 * self.multiplied() + attention)
    }

    /// Returns the floating-point operations of forward and backward passes.
    pub fn training(&self, tokens: f64, seq: f64) -> f64 {
        (1.0 + BACKWARD) * self.forward(tokens, seq)
    }

    fn layer_matrices(&self) -> f64 {
        let attention = self.width * self.head_dim * 2.0 * (self.heads + self.kv_heads);
        attention + 3.0 * self.width * self.ffn + 2.0 * self.width * self.shortcut
    }
}

/// Returns a size from one up, if there is one of that name.
fn size(fields: &BTreeMap<String, Value>, name: &str) -> Option<f64> {
    number(fields, name).filter(|size| *size >= 1.0)
}

fn number(fields: &BTreeMap<String, Value>, name: &str) -> Option<f64> {
    super::real(fields.get(name)?)
}

fn flag(fields: &BTreeMap<String, Value>, name: &str) -> Option<bool> {
    match fields.get(name)? {
        Value::Bool(flag) => Some(*flag),
        _ => None,
    }
}
