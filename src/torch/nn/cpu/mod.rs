//! The model's arithmetic in f32 on the CPU, without libtorch: what `Llama` does with tensors, in a tenth of the calls.
//!
//! A layer is three passes over the cores' caches: rows of tokens to queries, keys and values; attention of each sequence and
//! key head; rows to the next layer's input. Each piece of a pass is one thread's, with products of its own, and writes what no
//! other piece writes. So results don't depend on the number of threads.

mod attention;
mod backward;
mod decode;
mod matrix;
mod rows;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;
use rayon::prelude::*;
use tlm::base::World;

use attention::Heads;
pub(crate) use backward::Room;
pub(crate) use decode::Cache;
use matrix::{Matrix, Packed};
use rows::Instructions;
pub(crate) use rows::{Factors, adamw, sum_of_squares};

/// Rows of tokens that a thread does at once.
const ROWS: usize = 128;
/// Rows whose logits a thread makes at once.
const HEAD_ROWS: usize = 64;

/// Returns whether this is faster than libtorch on this machine: its MKL takes slower code on processors that aren't Intel's, and
/// these loops are slow unless they are compiled for speed.
pub(crate) fn is_faster() -> bool {
    static FASTER: OnceLock<bool> = OnceLock::new();
    *FASTER.get_or_init(|| {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut vendors = cpus.lines().filter(|line| line.starts_with("vendor_id"));
        let is_foreign = vendors.next().is_some_and(|vendor| !vendor.contains("GenuineIntel"));
        // Who wants libtorch's code for any CPU wants the same bits everywhere.
        let is_plain = World::of_process()
            .is_ok_and(|world| world.var("ATEN_CPU_CAPABILITY") == Some("default"));
        let is_optimised = !cfg!(debug_assertions);
        is_optimised && is_foreign && !is_plain && rows::instructions() == Instructions::Widest
    })
}

/// A product with a weight, `[outputs, inputs]`, and perhaps a bias: where they lie in the buffer of parameters.
pub(crate) struct Affine {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// Where a layer's parameters lie.
pub(crate) struct Layer {
    pub(crate) qkv: Affine,
    pub(crate) out: Affine,
    pub(crate) gate_up: Affine,
    pub(crate) down: Affine,
    pub(crate) attention_norm: Range<usize>,
    pub(crate) mlp_norm: Range<usize>,
    /// Scales and shifts of the series activation.
    pub(crate) series: Option<[Range<usize>; 2]>,
    /// The two products of the augmented shortcut.
    pub(crate) shortcut: Option<[Affine; 2]>,
}

/// A model's shape, and where its parameters lie in one buffer.
pub(crate) struct Net {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) eps: f32,
    /// Angle per position of each pair of a head's dimensions.
    pub(crate) frequencies: Vec<f64>,
    pub(crate) embedding: Range<usize>,
    pub(crate) head: Range<usize>,
    pub(crate) norm: Range<usize>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) pool: Arc<ThreadPool>,
}

/// Sequences of equal length, one after another.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) ids: &'a [i64],
    /// Tokens of a sequence.
    pub(crate) length: usize,
    /// The place in its sequence of the first token that each token sees, which comes no later than itself: where its document
    /// begins. Nothing where all see all that came before them.
    pub(crate) starts: &'a [u32],
}

/// Where tokens stand in their sequences, and what that means.
struct Places<'a> {
    length: usize,
    /// As in [`Batch`].
    starts: &'a [u32],
    turns: Turns,
}

impl<'a> Places<'a> {
    /// The starts of a sequence's tokens.
    fn starts_of(&self, sequence: usize) -> &'a [u32] {
        let tokens = sequence * self.length..(sequence + 1) * self.length;
        self.starts.get(tokens).unwrap_or_default()
    }
}

/// Cosines and sines of each position's angles.
struct Turns {
    cosines: Vec<f32>,
    sines: Vec<f32>,
    pairs: usize,
}

impl Turns {
    fn of(&self, position: usize) -> (&[f32], &[f32]) {
        let place = position * self.pairs..(position + 1) * self.pairs;
        (&self.cosines[place.clone()], &self.sines[place])
    }
}

/// What a layer makes of its input, row by row, until its output.
#[derive(Default)]
struct Made {
    /// Queries and keys, turned, and values.
    qkv: Vec<f32>,
    /// Of each sequence, key head, query head and token.
    log_sums: Vec<f32>,
    /// What attention makes, key head by key head.
    by_head: Vec<f32>,
    /// The same, row by row.
    mixed: Vec<f32>,
    /// The residual stream between attention and feed-forward network.
    mid: Vec<f32>,
    /// Gate and up projection.
    both: Vec<f32>,
}

impl Affine {
    fn weight<'p>(&self, parameters: &'p [f32]) -> Matrix<'p> {
        Matrix::new(&parameters[self.weight.clone()], self.inputs)
    }

    /// Returns the product and bias, ready for rows.
    fn ready<'p>(&self, parameters: &'p [f32]) -> Ready<'p> {
        let weight = Packed::shared(self.weight(parameters).transposed());
        Ready { weight, bias: self.bias.clone().map(|bias| &parameters[bias]) }
    }
}

impl Layer {
    /// Returns the products of the augmented shortcut, ready for rows.
    fn shortcut_ready<'p>(&self, parameters: &'p [f32]) -> Option<[Ready<'p>; 2]> {
        let both = self.shortcut.as_ref()?;
        Some(both.each_ref().map(|affine| affine.ready(parameters)))
    }
}

/// An [`Affine`] with its weight packed.
struct Ready<'p> {
    weight: Packed,
    bias: Option<&'p [f32]>,
}

impl Ready<'_> {
    /// Writes what it makes of rows, or adds that.
    fn apply(&self, to: &mut [f32], is_sum: bool, x: &[f32]) {
        self.weight.multiply(to, is_sum, x);
        if let Some(bias) = self.bias {
            rows::add_to_rows(to, bias);
        }
    }
}

impl Net {
    /// Numbers a row of queries, keys and values.
    fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Numbers a row of what attention makes.
    fn mixed(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Query heads of a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn turns(&self, length: usize) -> Turns {
        let angle = |at: usize| {
            (at / self.frequencies.len()) as f64 * self.frequencies[at % self.frequencies.len()]
        };
        let angles = (0..length * self.frequencies.len()).map(angle);
        let (cosines, sines) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        Turns { cosines, sines, pairs: self.frequencies.len() }
    }

    fn places<'a>(&self, batch: Batch<'a>) -> Places<'a> {
        let Batch { ids, length, starts } = batch;
        assert!(starts.is_empty() || starts.len() == ids.len(), "a start for each token");
        let is_past = |(at, &start): (usize, &u32)| start as usize <= at % length;
        assert!(starts.iter().enumerate().all(is_past), "starts that come no later than tokens");
        Places { length, starts, turns: self.turns(length) }
    }

    /// Returns the embedding of each token.
    fn embedded(&self, parameters: &[f32], ids: &[i64]) -> Vec<f32> {
        let table = &parameters[self.embedding.clone()];
        let row = |&id: &i64| &table[id as usize * self.width..][..self.width];
        ids.iter().flat_map(row).copied().collect()
    }

    /// Returns the last hidden states, one row per token.
    pub(crate) fn hidden(&self, parameters: &[f32], batch: Batch) -> Vec<f32> {
        let places = self.places(batch);
        let mut x = self.embedded(parameters, batch.ids);
        let (mut made, mut next) = (Made::default(), vec![0.0; x.len()]);
        self.pool.install(|| {
            for layer in &self.layers {
                self.forward(parameters, layer, &x, &mut made, &mut next, &places);
                std::mem::swap(&mut x, &mut next);
            }
            self.normed(parameters, &mut next, &x);
        });
        next
    }

    /// The same of some rows only.
    pub(crate) fn hidden_at(&self, parameters: &[f32], batch: Batch, places: &[i64]) -> Vec<f32> {
        let hidden = self.hidden(parameters, batch);
        let row = |&place: &i64| &hidden[place as usize * self.width..][..self.width];
        places.iter().flat_map(row).copied().collect()
    }

    /// Writes the final norm of rows.
    fn normed(&self, parameters: &[f32], to: &mut [f32], x: &[f32]) {
        let size = ROWS * self.width;
        let gain = &parameters[self.norm.clone()];
        (to.par_chunks_mut(size), x.par_chunks(size))
            .into_par_iter()
            .for_each(|(to, x)| rows::norm(to, x, gain, self.eps));
    }

    /// Returns the negative log-likelihood of each hidden state's target.
    pub(crate) fn nll(&self, parameters: &[f32], hidden: &[f32], targets: &[i64]) -> Vec<f32> {
        let head = Matrix::new(&parameters[self.head.clone()], self.width).transposed();
        let vocab = self.head.len() / self.width;
        let mut losses = vec![0.0; targets.len()];
        let pieces = (losses.par_chunks_mut(HEAD_ROWS), targets.par_chunks(HEAD_ROWS));
        let pieces = (pieces, hidden.par_chunks(HEAD_ROWS * self.width));
        self.pool.install(|| {
            let head = Packed::shared(head);
            pieces.into_par_iter().for_each(|((losses, targets), hidden)| {
                let mut logits = vec![0.0; targets.len() * vocab];
                head.multiply(&mut logits, false, hidden);
                rows::nll(losses, &logits, targets);
            });
        });
        losses
    }

    /// Writes a layer's output and what it makes on the way.
    fn forward(
        &self,
        parameters: &[f32],
        layer: &Layer,
        x: &[f32],
        made: &mut Made,
        next: &mut [f32],
        places: &Places,
    ) {
        made.resize(self, x.len() / self.width);
        self.before_attention(parameters, layer, x, made, places);
        self.attend(made, places);
        self.after_attention(parameters, layer, x, made, next, places.length);
    }

    fn before_attention(
        &self,
        parameters: &[f32],
        layer: &Layer,
        x: &[f32],
        made: &mut Made,
        places: &Places,
    ) {
        let project = layer.qkv.ready(parameters);
        let pieces = (x.par_chunks(ROWS * self.width), made.qkv.par_chunks_mut(ROWS * self.qkv()));
        pieces.into_par_iter().enumerate().for_each(|(at, (x, qkv))| {
            let mut z = vec![0.0; x.len()];
            let gain = &parameters[layer.attention_norm.clone()];
            rows::norm(&mut z, x, gain, self.eps);
            project.apply(qkv, false, &z);
            self.turn(qkv, at * ROWS, places, false);
        });
    }

    /// Turns the queries and keys of rows from row `first` on.
    fn turn(&self, qkv: &mut [f32], first: usize, places: &Places, back: bool) {
        for (at, row) in qkv.chunks_exact_mut(self.qkv()).enumerate() {
            let (cosines, sines) = places.turns.of((first + at) % places.length);
            let turned = (self.heads + self.kv_heads) * self.head_dim;
            rows::turn(&mut row[..turned], cosines, sines, back);
        }
    }

    /// Returns the heads of a key head, in a sequence's rows of queries, keys and values.
    fn heads<'a>(&self, qkv: &'a [f32], kv_head: usize, starts: &'a [u32]) -> Heads<'a> {
        let part = |head: usize| &qkv[head * self.head_dim..];
        Heads {
            queries: part(kv_head * self.group()),
            keys: part(self.heads + kv_head),
            values: part(self.heads + self.kv_heads + kv_head),
            row: self.qkv(),
            count: self.group(),
            head_dim: self.head_dim,
            length: qkv.len() / self.qkv(),
            starts,
        }
    }

    fn attend(&self, made: &mut Made, places: &Places) {
        let Made { qkv, by_head, log_sums, .. } = made;
        let length = places.length;
        let of_head = length * self.group();
        (by_head.par_chunks_mut(of_head * self.head_dim), log_sums.par_chunks_mut(of_head))
            .into_par_iter()
            .enumerate()
            .for_each(|(unit, (out, log_sums))| {
                let (sequence, kv_head) = (unit / self.kv_heads, unit % self.kv_heads);
                let rows = length * self.qkv();
                let qkv = &qkv[sequence * rows..(sequence + 1) * rows];
                self.heads(qkv, kv_head, places.starts_of(sequence)).attend(out, log_sums);
            });
    }

    /// Writes rows from row `first` on of what lies key head by key head, `size` numbers a row and head.
    fn gather(&self, to: &mut [f32], by_head: &[f32], first: usize, size: usize, length: usize) {
        for (at, row) in to.chunks_exact_mut(self.kv_heads * size).enumerate() {
            let (sequence, token) = ((first + at) / length, (first + at) % length);
            for (kv_head, part) in row.chunks_exact_mut(size).enumerate() {
                let from = ((sequence * self.kv_heads + kv_head) * length + token) * size;
                part.copy_from_slice(&by_head[from..from + size]);
            }
        }
    }

    /// Returns the inner neurons of gate and up projections.
    fn gated(&self, parameters: &[f32], layer: &Layer, both: &[f32]) -> Vec<f32> {
        let mut inner = vec![0.0; both.len() / 2];
        match &layer.series {
            None => rows::gate(&mut inner, both, self.ffn),
            Some(series) => {
                let [scales, shifts] = series.clone().map(|place| &parameters[place]);
                rows::gate_series(&mut inner, both, scales, shifts, self.ffn);
            }
        }
        inner
    }

    fn after_attention(
        &self,
        parameters: &[f32],
        layer: &Layer,
        x: &[f32],
        made: &mut Made,
        next: &mut [f32],
        length: usize,
    ) {
        let Made { by_head, mixed, mid, both, .. } = made;
        let [out, gate_up, down] =
            [&layer.out, &layer.gate_up, &layer.down].map(|affine| affine.ready(parameters));
        let shortcut = layer.shortcut_ready(parameters);
        let size = ROWS * self.width;
        let outputs = (mid.par_chunks_mut(size), next.par_chunks_mut(size));
        let outputs = (outputs, both.par_chunks_mut(ROWS * 2 * self.ffn));
        let pieces = (outputs, mixed.par_chunks_mut(ROWS * self.mixed()), x.par_chunks(size));
        pieces.into_par_iter().enumerate().for_each(|(at, (((mid, next), both), mixed, x))| {
            self.gather(mixed, by_head, at * ROWS, self.group() * self.head_dim, length);
            mid.copy_from_slice(x);
            out.apply(mid, true, mixed);
            if let Some([reduce, expand]) = &shortcut {
                let mut z = vec![0.0; x.len()];
                let gain = &parameters[layer.attention_norm.clone()];
                rows::norm(&mut z, x, gain, self.eps);
                let mut inner = vec![0.0; x.len() / self.width * reduce.weight.columns()];
                reduce.apply(&mut inner, false, &z);
                rows::gelu(&mut inner);
                expand.apply(mid, true, &inner);
            }
            let gain = &parameters[layer.mlp_norm.clone()];
            let mut z = vec![0.0; x.len()];
            rows::norm(&mut z, mid, gain, self.eps);
            gate_up.apply(both, false, &z);
            let inner = self.gated(parameters, layer, both);
            next.copy_from_slice(mid);
            down.apply(next, true, &inner);
        });
    }
}

impl Made {
    fn resize(&mut self, net: &Net, rows: usize) {
        self.qkv.resize(rows * net.qkv(), 0.0);
        self.log_sums.resize(rows * net.heads, 0.0);
        self.by_head.resize(rows * net.mixed(), 0.0);
        self.mixed.resize(rows * net.mixed(), 0.0);
        self.mid.resize(rows * net.width, 0.0);
        self.both.resize(rows * 2 * net.ffn, 0.0);
    }
}
