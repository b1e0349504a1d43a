//! The model's arithmetic in f32 on the CPU, without libtorch: what `Llama` does with tensors, in a tenth of the calls.
//!
//! A layer is three passes: rows of tokens to queries, keys and values; attention of each sequence and key head; rows to the next
//! layer's input. Each piece of a pass is one thread's, with products of its own, and writes what no other piece writes. So results
//! don't depend on the number of threads. As many sequences go through all three at once as stay in the cores' shared cache.

mod attention;
mod backward;
mod decode;
mod matrix;
mod outer;
mod rows;
mod scratch;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;
use rayon::prelude::*;
use tlm::base::World;

use attention::Heads;
pub(crate) use backward::Room;
pub(crate) use decode::Cache;
use matrix::{DEPTH, Matrix, Packed};
use rows::Instructions;
pub(crate) use rows::{Factors, adamw, sum_of_squares};
use scratch::Scratch;

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
#[derive(Clone, Copy)]
struct Places<'a> {
    length: usize,
    /// As in [`Batch`].
    starts: &'a [u32],
    turns: &'a Turns,
}

impl<'a> Places<'a> {
    fn new(batch: Batch<'a>, turns: &'a Turns) -> Self {
        let Batch { ids, length, starts } = batch;
        assert!(starts.is_empty() || starts.len() == ids.len(), "a start for each token");
        let is_past = |(at, &start): (usize, &u32)| start as usize <= at % length;
        assert!(starts.iter().enumerate().all(is_past), "starts that come no later than tokens");
        Self { length, starts, turns }
    }

    /// The same of some tokens only, which are whole sequences.
    fn of(self, tokens: Range<usize>) -> Self {
        Self { starts: self.starts.get(tokens).unwrap_or_default(), ..self }
    }

    /// The starts of a sequence's tokens.
    fn starts_of(&self, sequence: usize) -> &'a [u32] {
        self.of(sequence * self.length..(sequence + 1) * self.length).starts
    }

    /// Returns the tokens that go through a layer at once, of so many: whole sequences, two pieces of a backward pass or more for each
    /// thread. All pieces but the last of all have as many rows, so results don't depend on what goes at once.
    fn portions(self, tokens: usize) -> impl Iterator<Item = Range<usize>> {
        let least = (1..).map(|count| count * self.length).find(|rows| rows.is_multiple_of(DEPTH));
        let least = least.unwrap_or(tokens).max(1);
        let wanted = 2 * rayon::current_num_threads() * DEPTH;
        steps(tokens, (wanted / least).max(1) * least)
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
struct Made<T> {
    /// Queries and keys, turned, and values.
    qkv: T,
    /// Of each sequence, key head, query head and token.
    log_sums: T,
    /// What attention makes.
    mixed: T,
    /// The residual stream between attention and feed-forward network.
    mid: T,
    /// Gate and up projection.
    both: T,
}

impl<T> Made<T> {
    fn zip<U, V>(self, other: Made<U>, with: impl Fn(T, U) -> V) -> Made<V> {
        Made {
            qkv: with(self.qkv, other.qkv),
            log_sums: with(self.log_sums, other.log_sums),
            mixed: with(self.mixed, other.mixed),
            mid: with(self.mid, other.mid),
            both: with(self.both, other.both),
        }
    }
}

impl Made<Vec<f32>> {
    fn resize(&mut self, net: &Net, rows: usize) {
        let Self { qkv, log_sums, mixed, mid, both } = self;
        let all = Made { qkv, log_sums, mixed, mid, both };
        all.zip(net.sizes(), |all, size| all.resize(rows * size, 0.0));
    }

    /// Returns room for so many rows alone.
    fn room(&mut self, net: &Net, rows: usize) -> Made<&mut [f32]> {
        self.resize(net, rows);
        self.rows_mut(net, &(0..rows))
    }

    fn rows(&self, net: &Net, rows: &Range<usize>) -> Made<&[f32]> {
        let Self { qkv, log_sums, mixed, mid, both } = self;
        let all = Made { qkv, log_sums, mixed, mid, both };
        all.zip(net.sizes(), |all, size| part(all, rows, size))
    }

    fn rows_mut(&mut self, net: &Net, rows: &Range<usize>) -> Made<&mut [f32]> {
        let Self { qkv, log_sums, mixed, mid, both } = self;
        let all = Made { qkv, log_sums, mixed, mid, both };
        all.zip(net.sizes(), |all, size| part_mut(all, rows, size))
    }
}

/// Returns ranges of so many of some rows, one after another.
fn steps(rows: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
}

/// Returns some rows of so many numbers each.
fn part<'a>(all: &'a [f32], rows: &Range<usize>, size: usize) -> &'a [f32] {
    &all[rows.start * size..rows.end * size]
}

/// The same, to write them.
fn part_mut<'a>(all: &'a mut [f32], rows: &Range<usize>, size: usize) -> &'a mut [f32] {
    &mut all[rows.start * size..rows.end * size]
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

/// An [`Affine`] with its weight packed.
struct Ready<'p> {
    weight: Packed,
    bias: Option<&'p [f32]>,
}

/// A [`Layer`] with its weights packed.
struct ReadyLayer<'p> {
    qkv: Ready<'p>,
    out: Ready<'p>,
    gate_up: Ready<'p>,
    down: Ready<'p>,
    attention_norm: &'p [f32],
    mlp_norm: &'p [f32],
    series: Option<[&'p [f32]; 2]>,
    shortcut: Option<[Ready<'p>; 2]>,
}

impl Layer {
    /// Returns the layer, ready for rows.
    fn ready<'p>(&self, parameters: &'p [f32]) -> ReadyLayer<'p> {
        let shortcut = self.shortcut.as_ref();
        let series = self.series.as_ref();
        ReadyLayer {
            qkv: self.qkv.ready(parameters),
            out: self.out.ready(parameters),
            gate_up: self.gate_up.ready(parameters),
            down: self.down.ready(parameters),
            attention_norm: &parameters[self.attention_norm.clone()],
            mlp_norm: &parameters[self.mlp_norm.clone()],
            series: series.map(|both| both.clone().map(|place| &parameters[place])),
            shortcut: shortcut.map(|both| both.each_ref().map(|affine| affine.ready(parameters))),
        }
    }
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

    /// Numbers a row of what a layer makes.
    fn sizes(&self) -> Made<usize> {
        Made {
            qkv: self.qkv(),
            log_sums: self.heads,
            mixed: self.mixed(),
            mid: self.width,
            both: 2 * self.ffn,
        }
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

    /// Returns the embedding of each token.
    fn embedded(&self, parameters: &[f32], ids: &[i64]) -> Vec<f32> {
        let table = &parameters[self.embedding.clone()];
        let mut x = Vec::with_capacity(ids.len() * self.width);
        for &id in ids {
            x.extend_from_slice(&table[id as usize * self.width..][..self.width]);
        }
        x
    }

    /// Returns the product with the head, ready for rows.
    fn head_ready(&self, parameters: &[f32]) -> Packed {
        Packed::shared(self.head(parameters).transposed())
    }

    /// Returns the head's weight, `[vocab, width]`.
    fn head<'p>(&self, parameters: &'p [f32]) -> Matrix<'p> {
        Matrix::new(&parameters[self.head.clone()], self.width)
    }

    /// Returns the last hidden states, one row per token.
    pub(crate) fn hidden(&self, parameters: &[f32], batch: Batch) -> Vec<f32> {
        let turns = self.turns(batch.length);
        let places = Places::new(batch, &turns);
        let mut x = self.embedded(parameters, batch.ids);
        let (mut made, mut next) = (Made::default(), vec![0.0; x.len()]);
        self.pool.install(|| {
            for layer in &self.layers {
                let layer = layer.ready(parameters);
                for rows in places.portions(batch.ids.len()) {
                    let made = made.room(self, rows.len());
                    self.forward(&layer, &x, made, &mut next, &rows, places);
                }
                std::mem::swap(&mut x, &mut next);
            }
            self.last_norm(parameters, &mut next, &x);
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
    fn last_norm(&self, parameters: &[f32], to: &mut [f32], x: &[f32]) {
        let size = ROWS * self.width;
        let gain = &parameters[self.norm.clone()];
        (to.par_chunks_mut(size), x.par_chunks(size))
            .into_par_iter()
            .for_each(|(to, x)| rows::norm(to, x, gain, self.eps));
    }

    /// Returns the norm of rows.
    fn normed(&self, gain: &[f32], x: &[f32]) -> Scratch {
        let mut z = Scratch::of(x.len());
        rows::norm(&mut z, x, gain, self.eps);
        z
    }

    /// Returns the negative log-likelihood of each hidden state's target.
    pub(crate) fn nll(&self, parameters: &[f32], hidden: &[f32], targets: &[i64]) -> Vec<f32> {
        let mut losses = vec![0.0; targets.len()];
        let pieces = (losses.par_chunks_mut(HEAD_ROWS), targets.par_chunks(HEAD_ROWS));
        let pieces = (pieces, hidden.par_chunks(HEAD_ROWS * self.width));
        self.pool.install(|| {
            let head = self.head_ready(parameters);
            pieces.into_par_iter().for_each(|((losses, targets), hidden)| {
                let mut logits = Scratch::of(targets.len() * head.columns());
                head.multiply(&mut logits, false, hidden);
                rows::nll(losses, &logits, targets);
            });
        });
        losses
    }

    /// Writes a layer's output of some rows and what it makes of them on the way.
    fn forward(
        &self,
        layer: &ReadyLayer,
        x: &[f32],
        made: Made<&mut [f32]>,
        next: &mut [f32],
        rows: &Range<usize>,
        places: Places,
    ) {
        let places = places.of(rows.clone());
        let x = part(x, rows, self.width);
        let Made { qkv, log_sums, mixed, mid, both } = made;
        self.before_attention(layer, x, qkv, places);
        let mut by_head = Scratch::of(mixed.len());
        self.attend(&mut by_head, log_sums, qkv, places);
        let next = part_mut(next, rows, self.width);
        self.after_attention(layer, x, &by_head, [mixed, mid, both, next], places);
    }

    fn before_attention(&self, layer: &ReadyLayer, x: &[f32], qkv: &mut [f32], places: Places) {
        let pieces = (x.par_chunks(ROWS * self.width), qkv.par_chunks_mut(ROWS * self.qkv()));
        pieces.into_par_iter().enumerate().for_each(|(at, (x, qkv))| {
            layer.qkv.apply(qkv, false, &self.normed(layer.attention_norm, x));
            self.turn(qkv, at * ROWS, places, false);
        });
    }

    /// Turns the queries and keys of rows from row `first` on.
    fn turn(&self, qkv: &mut [f32], first: usize, places: Places, back: bool) {
        let position = |row: usize| (first + row) % places.length;
        self.turn_to(qkv, places.turns, position, back);
    }

    /// Turns the queries and keys of rows at the positions that a function tells, or back from there.
    fn turn_to(
        &self,
        qkv: &mut [f32],
        turns: &Turns,
        position: impl Fn(usize) -> usize,
        back: bool,
    ) {
        for (at, row) in qkv.chunks_exact_mut(self.qkv()).enumerate() {
            let (cosines, sines) = turns.of(position(at));
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

    /// Writes what attention makes, key head by key head, and its logarithms of sums.
    fn attend(&self, by_head: &mut [f32], log_sums: &mut [f32], qkv: &[f32], places: Places) {
        let of_head = places.length * self.group();
        (by_head.par_chunks_mut(of_head * self.head_dim), log_sums.par_chunks_mut(of_head))
            .into_par_iter()
            .enumerate()
            .for_each(|(unit, (out, log_sums))| {
                let (sequence, kv_head) = (unit / self.kv_heads, unit % self.kv_heads);
                let rows = places.length * self.qkv();
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
    fn gated(&self, series: Option<[&[f32]; 2]>, both: &[f32]) -> Scratch {
        let mut inner = Scratch::of(both.len() / 2);
        match series {
            None => rows::gate(&mut inner, both, self.ffn),
            Some([scales, shifts]) => {
                rows::gate_series(&mut inner, both, scales, shifts, self.ffn);
            }
        }
        inner
    }

    fn after_attention(
        &self,
        layer: &ReadyLayer,
        x: &[f32],
        by_head: &[f32],
        [mixed, mid, both, next]: [&mut [f32]; 4],
        places: Places,
    ) {
        let size = ROWS * self.width;
        let outputs = (mid.par_chunks_mut(size), next.par_chunks_mut(size));
        let outputs = (outputs, both.par_chunks_mut(ROWS * 2 * self.ffn));
        let pieces = (outputs, mixed.par_chunks_mut(ROWS * self.mixed()), x.par_chunks(size));
        pieces.into_par_iter().enumerate().for_each(|(at, (((mid, next), both), mixed, x))| {
            let of_head = self.group() * self.head_dim;
            self.gather(mixed, by_head, at * ROWS, of_head, places.length);
            mid.copy_from_slice(x);
            layer.out.apply(mid, true, mixed);
            if let Some([reduce, expand]) = &layer.shortcut {
                let z = self.normed(layer.attention_norm, x);
                let mut inner = Scratch::of(x.len() / self.width * reduce.weight.columns());
                reduce.apply(&mut inner, false, &z);
                rows::gelu(&mut inner);
                expand.apply(mid, true, &inner);
            }
            layer.gate_up.apply(both, false, &self.normed(layer.mlp_norm, mid));
            next.copy_from_slice(mid);
            layer.down.apply(next, true, &self.gated(layer.series, both));
        });
    }
}
