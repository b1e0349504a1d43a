//! Gradients by hand. A layer's backward pass is the three passes of its forward pass in reverse, with the products that are its
//! weights' gradients in between, rows of a weight by rows of a weight.

use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{Matrix, Packed, TILE_ROWS, multiply};
use super::rows;
use super::scratch::Scratch;
use super::{Affine, Batch, HEAD_ROWS, Layer, Made, Net, Places, ROWS, Ready, part, part_mut};

/// Most rows of a weight whose gradient a thread makes at once.
const WEIGHT_ROWS: usize = 256;
/// Numbers of logits that exist at once.
const LOGITS: usize = 1 << 22;

/// What a backward pass keeps from its forward pass; its room is kept from one to the next.
#[derive(Default)]
pub(crate) struct Room {
    layers: Vec<Kept>,
}

/// A layer's input and what it made of it.
#[derive(Default)]
struct Kept {
    x: Vec<f32>,
    made: Made<Vec<f32>>,
}

/// What a backward pass makes of some rows of a layer.
struct Work {
    d_mixed: Scratch,
    d_mid: Scratch,
    d_both: Scratch,
    inner: Scratch,
    /// The normed input of a weight whose gradient is next.
    z: Scratch,
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

/// The products of a layer's backward pass, packed once for all rows.
struct Back<'p> {
    qkv: Packed,
    out: Packed,
    gate_up: Packed,
    down: Packed,
    shortcut: Option<ShortcutPasses<'p>>,
}

impl Layer {
    fn back<'p>(&self, parameters: &'p [f32]) -> Back<'p> {
        let shortcut = self.shortcut.as_ref().map(|[reduce, expand]| ShortcutPasses {
            reduce: reduce.ready(parameters),
            back: [reduce, expand].map(|affine| affine.back(parameters)),
        });
        Back {
            qkv: self.qkv.back(parameters),
            out: self.out.back(parameters),
            gate_up: self.gate_up.back(parameters),
            down: self.down.back(parameters),
            shortcut,
        }
    }
}

/// The products of the augmented shortcut's backward pass.
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
        let count = batch.ids.len();
        let turns = self.turns(batch.length);
        let places = Places::new(batch, &turns);
        let mut x = self.embedded(parameters, batch.ids);
        room.layers.resize_with(self.layers.len(), Kept::default);
        self.pool.install(|| {
            for (layer, kept) in self.layers.iter().zip(&mut room.layers) {
                kept.made.resize(self, count);
                // What was kept before has the room for what comes next.
                std::mem::swap(&mut kept.x, &mut x);
                x.resize(count * self.width, 0.0);
                let layer = layer.ready(parameters);
                for rows in places.portions(count) {
                    let made = kept.made.rows_mut(self, &rows);
                    self.forward(&layer, &kept.x, made, &mut x, &rows, places);
                }
            }
            let (nll, mut d) = self.head_backward(parameters, &x, targets, scale, gradient);
            for (layer, kept) in self.layers.iter().zip(&room.layers).rev() {
                let back = layer.back(parameters);
                for rows in places.portions(count) {
                    let d = part_mut(&mut d, &rows, self.width);
                    let x = part(&kept.x, &rows, self.width);
                    let made = kept.made.rows(self, &rows);
                    let places = places.of(rows);
                    self.layer_backward(parameters, layer, &back, x, &made, d, gradient, places);
                }
            }
            let table = &mut gradient[self.embedding.clone()];
            for (&id, d) in batch.ids.iter().zip(d.chunks_exact(self.width)) {
                rows::add(&mut table[id as usize * self.width..][..self.width], d);
            }
            nll
        })
    }

    /// Returns the summed loss and the gradient by the last layer's output `x`, and adds those by the head and its norm.
    fn head_backward(
        &self,
        parameters: &[f32],
        x: &[f32],
        targets: &[i64],
        scale: f32,
        gradient: &mut [f32],
    ) -> (f64, Scratch) {
        let width = self.width;
        let (head, head_back) =
            (self.head_ready(parameters), Packed::shared(self.head(parameters)));
        let vocab = head.columns();
        let (mut z, mut d_z) = (Scratch::of(x.len()), Scratch::of(x.len()));
        self.last_norm(parameters, &mut z, x);
        let count = (LOGITS / vocab / HEAD_ROWS).max(1) * HEAD_ROWS;
        let mut logits = Scratch::of(count.min(targets.len()) * vocab);
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
        let mut d = z;
        let size = ROWS * width;
        let pieces = (d.par_chunks_mut(size), x.par_chunks(size), d_z.par_chunks(size));
        let parts = pieces.into_par_iter().map(|(d, x, d_z)| {
            d.fill(0.0);
            vec![self.norm_backward(parameters, &self.norm, d, x, d_z)]
        });
        add_parts(gradient, parts.collect());
        (nll, d)
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
    #[expect(clippy::too_many_arguments, reason = "inputs, outputs and what they are made with")]
    fn layer_backward(
        &self,
        parameters: &[f32],
        layer: &Layer,
        back: &Back,
        x: &[f32],
        made: &Made<&[f32]>,
        d: &mut [f32],
        gradient: &mut [f32],
        places: Places,
    ) {
        let rows = d.len() / self.width;
        let mut work = Work {
            d_mixed: Scratch::of(rows * self.mixed()),
            d_mid: Scratch::of(rows * self.width),
            d_both: Scratch::of(rows * 2 * self.ffn),
            inner: Scratch::of(rows * self.ffn),
            z: Scratch::of(rows * self.width),
        };
        add_parts(gradient, self.mlp_backward(parameters, layer, back, made, d, &mut work));
        layer.down.add_gradient(gradient, d, &work.inner);
        layer.gate_up.add_gradient(gradient, &work.d_both, &work.z);
        layer.out.add_gradient(gradient, &work.d_mid, made.mixed);
        let by_head = self.attend_backward(made, &work.d_mixed, places);
        let mut d_qkv = Scratch::of(rows * self.qkv());
        let outputs = [d, &mut work.z, &mut d_qkv];
        let pieces = self.input_backward(
            parameters,
            layer,
            back,
            [x, &work.d_mid, &by_head],
            outputs,
            places,
        );
        layer.qkv.add_gradient(gradient, &d_qkv, &work.z);
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
        back: &Back,
        made: &Made<&[f32]>,
        d: &[f32],
        work: &mut Work,
    ) -> Vec<Parts> {
        let Work { d_both, inner, z, d_mid, d_mixed } = work;
        let Made { both, mid, .. } = made;
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
        type Inputs<'a> = (&'a [f32], &'a [f32], &'a [f32]);
        type Outputs<'a> =
            (&'a mut [f32], &'a mut [f32], &'a mut [f32], &'a mut [f32], &'a mut [f32]);
        let piece = |((d, mid, both), (d_both, inner, z, d_mid, d_mixed)): (Inputs, Outputs)| {
            let mut parts = Parts::new();
            layer.down.push_bias(&mut parts, d);
            back.down.multiply(inner, false, d);
            self.gate_backward(parameters, layer, [d_both, inner], both, &mut parts);
            layer.gate_up.push_bias(&mut parts, d_both);
            back.gate_up.multiply(z, false, d_both);
            d_mid.copy_from_slice(d);
            parts.push(self.norm_backward(parameters, &layer.mlp_norm, d_mid, mid, z));
            let gain = &parameters[layer.mlp_norm.clone()];
            rows::norm(z, mid, gain, self.eps);
            layer.out.push_bias(&mut parts, d_mid);
            back.out.multiply(d_mixed, false, d_mid);
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

    /// Returns the gradient by queries, keys and values, key head by key head.
    fn attend_backward(&self, made: &Made<&[f32]>, d_mixed: &[f32], places: Places) -> Scratch {
        let Made { qkv, mixed, log_sums, .. } = made;
        let (group, length) = (self.group(), places.length);
        let mut d = Scratch::of(qkv.len() / self.qkv() * self.qkv_by_head());
        let pieces = d.par_chunks_mut(length * (group + 2) * self.head_dim);
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
        d
    }

    /// Makes `d` the gradient by a layer's input, from those by its middle and by queries, keys and values.
    fn input_backward(
        &self,
        parameters: &[f32],
        layer: &Layer,
        back: &Back,
        [x, d_mid, by_head]: [&[f32]; 3],
        [d, z, d_qkv]: [&mut [f32]; 3],
        places: Places,
    ) -> Vec<(Parts, Shortcut)> {
        let size = ROWS * self.width;
        let inputs = (x.par_chunks(size), d_mid.par_chunks(size));
        let outputs = (
            d.par_chunks_mut(size),
            z.par_chunks_mut(size),
            d_qkv.par_chunks_mut(ROWS * self.qkv()),
        );
        type Slices<'a> = ((&'a [f32], &'a [f32]), (&'a mut [f32], &'a mut [f32], &'a mut [f32]));
        let piece = |(at, ((x, d_mid), (d, z, d_qkv))): (usize, Slices)| {
            let mut parts = Parts::new();
            self.gather_qkv(d_qkv, by_head, at * ROWS, places.length);
            self.turn(d_qkv, at * ROWS, places, true);
            layer.qkv.push_bias(&mut parts, d_qkv);
            let gain = &parameters[layer.attention_norm.clone()];
            rows::norm(z, x, gain, self.eps);
            let mut d_z = Scratch::of(x.len());
            back.qkv.multiply(&mut d_z, false, d_qkv);
            let shortcut = back.shortcut.as_ref().map(|passes| passes.backward(z, d_mid, &mut d_z));
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
