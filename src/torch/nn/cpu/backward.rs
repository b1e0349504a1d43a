//! Gradients by hand. A layer's backward pass is the three passes of its forward pass in reverse, then the products that are its
//! weights' gradients, rows of a weight by rows of a weight.

use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{Matrix, Packed, TILE_ROWS, multiply};
use super::rows;
use super::{Affine, Batch, HEAD_ROWS, Layer, Made, Net, Places, ROWS, Ready};

/// Most rows of a weight whose gradient a thread makes at once.
const WEIGHT_ROWS: usize = 256;
/// Numbers of logits that exist at once.
const LOGITS: usize = 1 << 22;

/// What a backward pass works in, kept from one to the next.
#[derive(Default)]
pub(crate) struct Room {
    layers: Vec<Kept>,
    d_qkv_by_head: Vec<f32>,
    d_qkv: Vec<f32>,
    d_mixed: Vec<f32>,
    d_mid: Vec<f32>,
    d_both: Vec<f32>,
    inner: Vec<f32>,
    z: Vec<f32>,
    logits: Vec<f32>,
}

/// A layer's input and what it made of it.
#[derive(Default)]
struct Kept {
    x: Vec<f32>,
    made: Made,
}

/// Gradients of one piece of rows: each by what lies at a place in the buffer of parameters.
type Parts = Vec<(Range<usize>, Vec<f32>)>;

/// What a piece of rows adds to the gradients of the augmented shortcut's two weights.
type Shortcut = Option<[(Vec<f32>, Vec<f32>); 2]>;

impl Affine {
    /// Returns what makes the gradient by its input of that by its output.
    fn back(&self, parameters: &[f32]) -> Packed {
        Packed::shared(self.weight(parameters))
    }

    /// Adds the gradient by its weight, from rows of its input and the gradient by its output.
    fn add_gradient(&self, gradient: &mut [f32], d: &[f32], x: &[f32]) {
        let x = Packed::shared(Matrix::new(x, self.inputs));
        add_outer(&mut gradient[self.weight.clone()], d, self.outputs, &x);
    }

    /// Adds to `parts` the gradient by its bias.
    fn push_bias(&self, parts: &mut Parts, d: &[f32]) {
        if let Some(bias) = &self.bias {
            let mut sums = vec![0.0; self.outputs];
            rows::add_rows(&mut sums, d);
            parts.push((bias.clone(), sums));
        }
    }
}

/// Adds `d^T x` to a matrix.
fn add_outer(to: &mut [f32], d: &[f32], d_columns: usize, x: &Packed) {
    let columns = x.columns();
    let rows = even_share(d_columns);
    to.par_chunks_mut(rows * columns).enumerate().for_each(|(at, to)| {
        let count = to.len() / columns;
        let start = at * rows;
        let d = Matrix::strided(&d[start..d.len() - d_columns + start + count], count, d_columns);
        multiply(to, [columns; 2], true, d.transposed(), x);
    });
}

/// Returns how many of a weight's rows are a piece, so that all threads get as many.
fn even_share(rows: usize) -> usize {
    let least = 2 * rayon::current_num_threads();
    let pieces = least * rows.div_ceil(least * WEIGHT_ROWS);
    rows.div_ceil(pieces).next_multiple_of(TILE_ROWS)
}

/// Adds the gradients of all pieces, one after another.
fn add_parts(gradient: &mut [f32], pieces: Vec<Parts>) {
    for (place, values) in pieces.into_iter().flatten() {
        rows::add(&mut gradient[place], &values);
    }
}

/// The products of the augmented shortcut's backward pass, packed once for all pieces of rows.
struct ShortcutPasses<'p> {
    reduce: Ready<'p>,
    /// Of reduce and expand.
    back: [Packed; 2],
}

impl ShortcutPasses<'_> {
    /// Adds the gradient by the augmented shortcut's input `z` to `d_z` and returns, for each of its products, the gradient by the
    /// output and the input.
    fn backward(&self, z: &[f32], d: &[f32], d_z: &mut [f32]) -> [(Vec<f32>, Vec<f32>); 2] {
        let [reduce_back, expand_back] = &self.back;
        let mut reduced = vec![0.0; z.len() / reduce_back.columns() * self.reduce.weight.columns()];
        self.reduce.apply(&mut reduced, false, z);
        let mut d_reduced = vec![0.0; reduced.len()];
        expand_back.multiply(&mut d_reduced, false, d);
        rows::gelu_backward(&mut d_reduced, &reduced);
        rows::gelu(&mut reduced);
        reduce_back.multiply(d_z, true, &d_reduced);
        [(d_reduced, z.to_vec()), (d.to_vec(), reduced)]
    }
}

impl Room {
    fn resize(&mut self, net: &Net, rows: usize) {
        self.layers.resize_with(net.layers.len(), Kept::default);
        for kept in &mut self.layers {
            kept.x.resize(rows * net.width, 0.0);
            kept.made.resize(net, rows);
        }
        self.d_qkv_by_head.resize(rows * net.qkv_by_head(), 0.0);
        self.d_qkv.resize(rows * net.qkv(), 0.0);
        self.d_mixed.resize(rows * net.mixed(), 0.0);
        self.d_mid.resize(rows * net.width, 0.0);
        self.d_both.resize(rows * 2 * net.ffn, 0.0);
        self.inner.resize(rows * net.ffn, 0.0);
        self.z.resize(rows * net.width, 0.0);
    }
}

impl Net {
    /// Numbers a row of queries, keys and values, key head by key head.
    fn qkv_by_head(&self) -> usize {
        self.kv_heads * (self.group() + 2) * self.head_dim
    }

    /// Adds `scale` times the gradient of the summed loss to `gradient` and returns the summed loss, in nats.
    pub(crate) fn backward(
        &self,
        parameters: &[f32],
        batch: Batch,
        targets: &[i64],
        scale: f32,
        gradient: &mut [f32],
        room: &mut Room,
    ) -> f64 {
        room.resize(self, batch.ids.len());
        let places = self.places(batch);
        let mut x = self.embedded(parameters, batch.ids);
        let mut next = vec![0.0; x.len()];
        self.pool.install(|| {
            for (layer, kept) in self.layers.iter().zip(&mut room.layers) {
                self.forward(parameters, layer, &x, &mut kept.made, &mut next, &places);
                std::mem::swap(&mut kept.x, &mut x);
                std::mem::swap(&mut x, &mut next);
            }
            let mut d = next;
            let nll = self.head_backward(parameters, &x, targets, scale, gradient, &mut d, room);
            for (at, layer) in self.layers.iter().enumerate().rev() {
                self.layer_backward(parameters, layer, at, &mut d, gradient, room, &places);
            }
            let table = &mut gradient[self.embedding.clone()];
            for (&id, d) in batch.ids.iter().zip(d.chunks_exact(self.width)) {
                rows::add(&mut table[id as usize * self.width..][..self.width], d);
            }
            nll
        })
    }

    /// Makes `d` the gradient by the last layer's output `x`, adds those by the head and its norm, and returns the summed loss.
    #[expect(clippy::too_many_arguments, reason = "inputs, outputs and room")]
    fn head_backward(
        &self,
        parameters: &[f32],
        x: &[f32],
        targets: &[i64],
        scale: f32,
        gradient: &mut [f32],
        d: &mut [f32],
        room: &mut Room,
    ) -> f64 {
        let (width, vocab) = (self.width, self.head.len() / self.width);
        let head = Matrix::new(&parameters[self.head.clone()], width);
        let (head, head_back) = (Packed::shared(head.transposed()), Packed::shared(head));
        let Room { z, d_mid: d_z, logits, .. } = room;
        self.normed(parameters, z, x);
        let count = (LOGITS / vocab / HEAD_ROWS).max(1) * HEAD_ROWS;
        logits.resize(count.min(targets.len()) * vocab, 0.0);
        let mut nll = 0.0;
        let chunks = targets.chunks(count).zip(z.chunks(count * width));
        for ((targets, z), d_z) in chunks.zip(d_z.chunks_mut(count * width)) {
            let logits = &mut logits[..targets.len() * vocab];
            let pieces = (targets.par_chunks(HEAD_ROWS), z.par_chunks(HEAD_ROWS * width));
            let outputs =
                (d_z.par_chunks_mut(HEAD_ROWS * width), logits.par_chunks_mut(HEAD_ROWS * vocab));
            let losses: Vec<f64> = (pieces, outputs)
                .into_par_iter()
                .map(|((targets, z), (d_z, logits))| {
                    head.multiply(logits, false, z);
                    let loss = rows::nll_backward(logits, targets, scale);
                    head_back.multiply(d_z, false, logits);
                    loss
                })
                .collect();
            nll += losses.into_iter().sum::<f64>();
            let z = Packed::shared(Matrix::new(z, width));
            add_outer(&mut gradient[self.head.clone()], logits, vocab, &z);
        }
        d.fill(0.0);
        let size = ROWS * width;
        let pieces = (d.par_chunks_mut(size), x.par_chunks(size), d_z.par_chunks(size));
        let parts = pieces
            .into_par_iter()
            .map(|(d, x, d_z)| vec![self.norm_backward(parameters, &self.norm, d, x, d_z)]);
        add_parts(gradient, parts.collect());
        nll
    }

    /// Adds the gradient by a norm's input and returns that by its gain.
    fn norm_backward(
        &self,
        parameters: &[f32],
        gain: &Range<usize>,
        d: &mut [f32],
        x: &[f32],
        d_z: &[f32],
    ) -> (Range<usize>, Vec<f32>) {
        let mut d_gain = vec![0.0; self.width];
        let place = gain.clone();
        let gain = &parameters[place.clone()];
        rows::norm_backward(d, &mut d_gain, x, d_z, gain, self.eps);
        (place, d_gain)
    }

    /// Makes `d` the gradient by a layer's input from that by its output, and adds those by its parameters.
    #[expect(clippy::too_many_arguments, reason = "inputs, outputs, their shape and room")]
    fn layer_backward(
        &self,
        parameters: &[f32],
        layer: &Layer,
        at: usize,
        d: &mut [f32],
        gradient: &mut [f32],
        room: &mut Room,
        places: &Places,
    ) {
        add_parts(gradient, self.mlp_backward(parameters, layer, at, d, room));
        let Room { layers, d_both, inner, z, d_mid, .. } = room;
        layer.down.add_gradient(gradient, d, inner);
        layer.gate_up.add_gradient(gradient, d_both, z);
        layer.out.add_gradient(gradient, d_mid, &layers[at].made.mixed);
        self.attend_backward(at, room, places);
        let pieces = self.input_backward(parameters, layer, at, d, room, places);
        layer.qkv.add_gradient(gradient, &room.d_qkv, &room.z);
        for (parts, shortcut) in pieces {
            add_parts(gradient, vec![parts]);
            let Some(both) = &layer.shortcut else { continue };
            for (affine, (d, x)) in both.iter().zip(shortcut.into_iter().flatten()) {
                affine.add_gradient(gradient, &d, &x);
            }
        }
    }

    /// Writes the gradients by a layer's middle and by what attention made, from `d`, that by the layer's output, and what the
    /// weights' gradients need.
    fn mlp_backward(
        &self,
        parameters: &[f32],
        layer: &Layer,
        at: usize,
        d: &[f32],
        room: &mut Room,
    ) -> Vec<Parts> {
        let Room { layers, d_both, inner, z, d_mid, d_mixed, .. } = room;
        let Made { both, mid, .. } = &layers[at].made;
        let size = ROWS * self.width;
        let inputs =
            (d.par_chunks(size), mid.par_chunks(size), both.par_chunks(ROWS * 2 * self.ffn));
        let outputs = (
            d_both.par_chunks_mut(ROWS * 2 * self.ffn),
            inner.par_chunks_mut(ROWS * self.ffn),
            z.par_chunks_mut(size),
            d_mid.par_chunks_mut(size),
            d_mixed.par_chunks_mut(ROWS * self.mixed()),
        );
        let [down, gate_up, out] =
            [&layer.down, &layer.gate_up, &layer.out].map(|affine| affine.back(parameters));
        type Inputs<'a> = (&'a [f32], &'a [f32], &'a [f32]);
        type Outputs<'a> =
            (&'a mut [f32], &'a mut [f32], &'a mut [f32], &'a mut [f32], &'a mut [f32]);
        let piece = |((d, mid, both), (d_both, inner, z, d_mid, d_mixed)): (Inputs, Outputs)| {
            let mut parts = Parts::new();
            layer.down.push_bias(&mut parts, d);
            down.multiply(inner, false, d);
            self.gate_backward(parameters, layer, [d_both, inner], both, &mut parts);
            layer.gate_up.push_bias(&mut parts, d_both);
            gate_up.multiply(z, false, d_both);
            d_mid.copy_from_slice(d);
            parts.push(self.norm_backward(parameters, &layer.mlp_norm, d_mid, mid, z));
            let gain = &parameters[layer.mlp_norm.clone()];
            rows::norm(z, mid, gain, self.eps);
            layer.out.push_bias(&mut parts, d_mid);
            out.multiply(d_mixed, false, d_mid);
            parts
        };
        (inputs, outputs).into_par_iter().map(piece).collect()
    }

    fn gate_backward(
        &self,
        parameters: &[f32],
        layer: &Layer,
        [d_both, inner]: [&mut [f32]; 2],
        both: &[f32],
        parts: &mut Parts,
    ) {
        let Some(series) = &layer.series else {
            return rows::gate_backward(d_both, inner, both, self.ffn);
        };
        let values = series.clone().map(|place| &parameters[place]);
        let [mut d_scales, mut d_shifts] = values.map(|values| vec![0.0; values.len()]);
        let sums = [&mut d_scales[..], &mut d_shifts[..]];
        rows::gate_series_backward(d_both, inner, both, values, sums, self.ffn);
        parts.extend(series.clone().into_iter().zip([d_scales, d_shifts]));
    }

    fn attend_backward(&self, at: usize, room: &mut Room, places: &Places) {
        let Room { layers, d_qkv_by_head, d_mixed, .. } = room;
        let Made { qkv, mixed, log_sums, .. } = &layers[at].made;
        let (group, length) = (self.group(), places.length);
        let pieces = d_qkv_by_head.par_chunks_mut(length * (group + 2) * self.head_dim);
        let pieces = (pieces, log_sums.par_chunks(length * group));
        pieces.into_par_iter().enumerate().for_each(|(unit, (d, log_sums))| {
            let (sequence, kv_head) = (unit / self.kv_heads, unit % self.kv_heads);
            let of = |rows: usize| sequence * length * rows..(sequence + 1) * length * rows;
            let first = kv_head * group * self.head_dim;
            let starts = places.starts_of(sequence);
            self.heads(&qkv[of(self.qkv())], kv_head, starts).attend_backward(
                d,
                &mixed[of(self.mixed())][first..],
                &d_mixed[of(self.mixed())][first..],
                self.mixed(),
                log_sums,
            );
        });
    }

    /// Makes `d` the gradient by a layer's input, from those by its middle and by queries, keys and values.
    fn input_backward(
        &self,
        parameters: &[f32],
        layer: &Layer,
        at: usize,
        d: &mut [f32],
        room: &mut Room,
        places: &Places,
    ) -> Vec<(Parts, Shortcut)> {
        let Room { layers, d_qkv_by_head, d_qkv, d_mid, z, .. } = room;
        let size = ROWS * self.width;
        let inputs = (layers[at].x.par_chunks(size), d_mid.par_chunks(size));
        let outputs = (
            d.par_chunks_mut(size),
            z.par_chunks_mut(size),
            d_qkv.par_chunks_mut(ROWS * self.qkv()),
        );
        let back = layer.qkv.back(parameters);
        let shortcut = layer.shortcut.as_ref().map(|[reduce, expand]| ShortcutPasses {
            reduce: reduce.ready(parameters),
            back: [reduce, expand].map(|affine| affine.back(parameters)),
        });
        type Slices<'a> = ((&'a [f32], &'a [f32]), (&'a mut [f32], &'a mut [f32], &'a mut [f32]));
        let piece = |(at, ((x, d_mid), (d, z, d_qkv))): (usize, Slices)| {
            let mut parts = Parts::new();
            self.gather_qkv(d_qkv, d_qkv_by_head, at * ROWS, places.length);
            self.turn(d_qkv, at * ROWS, places, true);
            layer.qkv.push_bias(&mut parts, d_qkv);
            let gain = &parameters[layer.attention_norm.clone()];
            rows::norm(z, x, gain, self.eps);
            let mut d_z = vec![0.0; x.len()];
            back.multiply(&mut d_z, false, d_qkv);
            let shortcut = shortcut.as_ref().map(|passes| passes.backward(z, d_mid, &mut d_z));
            d.copy_from_slice(d_mid);
            parts.push(self.norm_backward(parameters, &layer.attention_norm, d, x, &d_z));
            (parts, shortcut)
        };
        (inputs, outputs).into_par_iter().enumerate().map(piece).collect()
    }

    /// Writes rows from row `first` on of gradients that lie key head by key head.
    fn gather_qkv(&self, to: &mut [f32], by_head: &[f32], first: usize, length: usize) {
        let (size, queries) = (self.head_dim, self.group() * self.head_dim);
        let one = queries + 2 * size;
        for (at, row) in to.chunks_exact_mut(self.qkv()).enumerate() {
            let (sequence, token) = ((first + at) / length, (first + at) % length);
            let (q, kv) = row.split_at_mut(self.mixed());
            let (k, v) = kv.split_at_mut(self.kv_heads * size);
            for kv_head in 0..self.kv_heads {
                let start = ((sequence * self.kv_heads + kv_head) * length + token) * one;
                let from = &by_head[start..start + one];
                q[kv_head * queries..][..queries].copy_from_slice(&from[..queries]);
                k[kv_head * size..][..size].copy_from_slice(&from[queries..queries + size]);
                v[kv_head * size..][..size].copy_from_slice(&from[queries + size..]);
            }
        }
    }
}
