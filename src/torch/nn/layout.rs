//! How a Llama's parameters lie in one flat buffer.
//!
//! Matrices come first, so that weight decay is a prefix. Projections of the same input lie end to end and are used as
//! one matrix (q, k and v; gate and up). The rows of q and k are interleaved: the two numbers that a rotary angle
//! turns are neighbours, so that turning is one complex product; attention doesn't see the difference.

use std::sync::Arc;

use rayon::ThreadPool;
use tch::{TchError, Tensor};

use crate::nn::config::{Config, SERIES, SHORTCUT};
use crate::nn::cpu::{Affine, Layer, Net};

/// One tensor that the optimiser sees.
pub(crate) struct Leaf {
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
}

/// One tensor of the checkpoint: some rows of a leaf.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) offset: i64,
    /// Whether rows are interleaved in the buffer.
    pub(crate) rotary: bool,
}

/// Leaves and parts of a model.
pub(crate) struct Layout {
    pub(crate) leaves: Vec<Leaf>,
    /// In order of name.
    pub(crate) parts: Vec<Part>,
    pub(crate) head: usize,
    pub(crate) norm: usize,
    pub(crate) layers: Vec<LayerLeaves>,
    /// Numbers in matrices; these come first.
    pub(crate) decayed: i64,
    /// Numbers in all.
    pub(crate) total: i64,
}

/// Indices of a layer's leaves.
#[derive(Clone, Copy, Default)]
pub(crate) struct LayerLeaves {
    pub(crate) qkv: Projection,
    pub(crate) out: Projection,
    pub(crate) gate_up: Projection,
    pub(crate) down: Projection,
    pub(crate) attention_norm: usize,
    pub(crate) mlp_norm: usize,
    /// Scales and shifts of the series activation, if it has more than one term.
    pub(crate) series: Option<[usize; 2]>,
    /// The two matrices of the augmented shortcut, if there is one.
    pub(crate) shortcut: Option<[Projection; 2]>,
}

/// Name, number of rows, and whether these are rotary.
type Rows<'a> = (&'a str, i64, bool);

/// Indices of a projection's leaves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Projection {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
}

impl Layout {
    /// Returns the layout of a model.
    pub(crate) fn of(config: &Config) -> Self {
        let mut layout = Self {
            leaves: Vec::new(),
            parts: Vec::new(),
            head: 0,
            norm: 0,
            layers: vec![LayerLeaves::default(); config.depth as usize],
            decayed: 0,
            total: 0,
        };
        layout.add_matrices(config);
        layout.decayed = layout.total;
        layout.add_vectors(config);
        layout.parts.sort_by(|a, b| a.name.cmp(&b.name));
        layout
    }

    /// Returns where `cpu` finds the parameters of a model of f32.
    pub(crate) fn net(&self, config: &Config, pool: Arc<ThreadPool>) -> Net {
        let size = |number: i64| number as usize;
        let place = |leaf: usize| {
            let Leaf { offset, shape } = &self.leaves[leaf];
            size(*offset)..size(offset + shape.iter().product::<i64>())
        };
        let affine = |with: Projection| Affine {
            weight: place(with.weight),
            bias: with.bias.map(place),
            inputs: size(self.leaves[with.weight].shape[1]),
            outputs: size(self.leaves[with.weight].shape[0]),
        };
        let layer = |leaves: &LayerLeaves| Layer {
            qkv: affine(leaves.qkv),
            out: affine(leaves.out),
            gate_up: affine(leaves.gate_up),
            down: affine(leaves.down),
            attention_norm: place(leaves.attention_norm),
            mlp_norm: place(leaves.mlp_norm),
            series: leaves.series.map(|both| both.map(place)),
            shortcut: leaves.shortcut.map(|both| both.map(affine)),
        };
        Net {
            width: size(config.width),
            heads: size(config.heads),
            kv_heads: size(config.kv_heads),
            head_dim: size(config.head_dim),
            ffn: size(config.ffn),
            eps: config.eps as f32,
            frequencies: config.rope.frequencies(config.head_dim),
            embedding: place(0),
            head: place(self.head),
            norm: place(self.norm),
            layers: self.layers.iter().map(layer).collect(),
            pool,
        }
    }

    fn add_matrices(&mut self, config: &Config) {
        let width = config.width;
        self.leaf(&[("model.embed_tokens.weight", config.vocab, false)], Some(width));
        if !config.tied {
            self.head = self.leaf(&[("lm_head.weight", config.vocab, false)], Some(width));
        }
        for layer in 0..config.depth as usize {
            let [qkv, out, gate_up, down] = self.projections(config, layer, "weight");
            let leaves = &mut self.layers[layer];
            leaves.qkv.weight = qkv;
            leaves.out.weight = out;
            leaves.gate_up.weight = gate_up;
            leaves.down.weight = down;
            if config.shortcut > 0 {
                let shapes = [(config.shortcut, width), (width, config.shortcut)];
                let both = [0, 1].map(|at| {
                    let name = format!("model.layers.{layer}.{}", SHORTCUT[at]);
                    let (rows, columns) = shapes[at];
                    let weight = self.leaf(&[(&name, rows, false)], Some(columns));
                    Projection { weight, bias: None }
                });
                self.layers[layer].shortcut = Some(both);
            }
        }
    }

    fn add_vectors(&mut self, config: &Config) {
        self.norm = self.leaf(&[("model.norm.weight", config.width, false)], None);
        for layer in 0..config.depth as usize {
            let name = |what: &str| format!("model.layers.{layer}.{what}_layernorm.weight");
            let norms = [name("input"), name("post_attention")];
            self.layers[layer].attention_norm =
                self.leaf(&[(&norms[0], config.width, false)], None);
            self.layers[layer].mlp_norm = self.leaf(&[(&norms[1], config.width, false)], None);
            if config.activations > 1 {
                self.layers[layer].series = Some(SERIES.map(|name| {
                    let name = format!("model.layers.{layer}.{name}");
                    self.leaf(&[(&name, config.activations, false)], Some(config.ffn))
                }));
            }
            if !config.attention_bias && !config.mlp_bias {
                continue;
            }
            let [qkv, out, gate_up, down] = self.projections(config, layer, "bias");
            let leaves = &mut self.layers[layer];
            if config.attention_bias {
                leaves.qkv.bias = Some(qkv);
                leaves.out.bias = Some(out);
            }
            if config.mlp_bias {
                leaves.gate_up.bias = Some(gate_up);
                leaves.down.bias = Some(down);
            }
        }
    }

    /// Adds the weights or biases of a layer's projections; index 0 stands for biases that the model doesn't have.
    fn projections(&mut self, config: &Config, layer: usize, what: &str) -> [usize; 4] {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (width, ffn) = (config.width, config.ffn);
        let attention = what == "weight" || config.attention_bias;
        let mlp = what == "weight" || config.mlp_bias;
        let groups: [(bool, i64, &[Rows]); 4] = [
            (
                attention,
                width,
                &[
                    ("self_attn.q_proj", q, true),
                    ("self_attn.k_proj", kv, true),
                    ("self_attn.v_proj", kv, false),
                ],
            ),
            (attention, q, &[("self_attn.o_proj", width, false)]),
            (mlp, width, &[("mlp.gate_proj", ffn, false), ("mlp.up_proj", ffn, false)]),
            (mlp, ffn, &[("mlp.down_proj", width, false)]),
        ];
        groups.map(|(exists, columns, parts)| {
            if !exists {
                return 0;
            }
            let named: Vec<(String, i64, bool)> = parts
                .iter()
                .map(|&(name, rows, rotary)| {
                    (format!("model.layers.{layer}.{name}.{what}"), rows, rotary)
                })
                .collect();
            let named: Vec<Rows> =
                named.iter().map(|(name, rows, rotary)| (&**name, *rows, *rotary)).collect();
            self.leaf(&named, (what == "weight").then_some(columns))
        })
    }

    /// Adds a leaf of these parts (name, rows, whether rotary) and returns its index.
    fn leaf(&mut self, parts: &[Rows], columns: Option<i64>) -> usize {
        let shape = |rows: i64| [rows].into_iter().chain(columns).collect::<Vec<i64>>();
        let offset = self.total;
        for &(name, rows, rotary) in parts {
            let part =
                Part { name: name.to_owned(), shape: shape(rows), offset: self.total, rotary };
            self.total += part.shape.iter().product::<i64>();
            self.parts.push(part);
        }
        let rows = parts.iter().map(|(_, rows, _)| rows).sum();
        self.leaves.push(Leaf { offset, shape: shape(rows) });
        self.leaves.len() - 1
    }
}

/// Returns q or k rows in interleaved order, from Hugging Face's order of first and second halves.
pub(crate) fn interleave(rows: &Tensor, head_dim: i64) -> Result<Tensor, TchError> {
    swap(rows, [-1, 2, head_dim / 2, columns(rows)])
}

/// Returns q or k rows in Hugging Face's order.
pub(crate) fn deinterleave(rows: &Tensor, head_dim: i64) -> Result<Tensor, TchError> {
    swap(rows, [-1, head_dim / 2, 2, columns(rows)])
}

fn columns(rows: &Tensor) -> i64 {
    rows.size().get(1).copied().unwrap_or(1)
}

fn swap(rows: &Tensor, shape: [i64; 4]) -> Result<Tensor, TchError> {
    rows.f_reshape(shape)?.f_transpose(1, 2)?.f_reshape(rows.size())
}
