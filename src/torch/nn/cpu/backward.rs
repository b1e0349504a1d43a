//! Gradients by hand. A layer's backward pass is the three passes of its forward pass in reverse, with the outer products that are
//! its weights' gradients in between, rows of a weight by rows of a weight.

use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{DEPTH, Packed};
use super::outer::{Outer, OuterPiece};
use super::rows;
use super::scratch::Scratch;
use super::{
    Affine, Batch, HEAD_ROWS, Layer, Made, Net, Places, ROWS, Ready, part, part_mut, steps,
};

/// Numbers of gradients by logits that exist at once, or more if there is little for each thread.
const LOGITS: usize = 1 << 22;

/// What a backward pass keeps from its forward pass; its room is kept from one to the next.
#[derive(Default)]
pub(crate) struct Room {
    layers: Vec<Kept>,
    /// The last layer's output.
    last: Vec<f32>,
    /// What one layer made of some rows, where layers don't keep that.
    again: Made<Vec<f32>>,
}

/// A layer's input and what it made of it.
#[derive(Default)]
struct Kept {
    x: Vec<f32>,
    made: Made<Vec<f32>>,
}

/// Gradients of one piece of rows: each by what lies at a place in the buffer of parameters.
type Parts = Vec<(Range<usize>, Vec<f32>)>;

impl Affine {
    /// Returns what makes the gradient by its input of that by its output.
    fn back(&self, parameters: &[f32]) -> Packed {
        Packed::shared(self.weight(parameters))
    }

    /// Returns the room for what its weight's gradient is made of.
    fn outer(&self, rows: usize) -> Outer {
        Outer::room(rows, self.outputs, self.inputs)
    }

    /// Adds the gradient by its weight.
    fn add_gradient(&self, gradient: &mut [f32], outer: &Outer) {
        outer.add_to(&mut gradient[self.weight.clone()]);
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

/// Adds the gradients of all pieces, one after another.
fn add_parts(gradient: &mut [f32], pieces: Vec<Parts>) {
    for (place, values) in pieces.into_iter().flatten() {
        rows::add(&mut gradient[place], &values);
    }
}

/// A layer with the products of its backward pass, packed once for all rows.
struct Back<'p> {
    layer: &'p Layer,
    parameters: &'p [f32],
    qkv: Packed,
    out: Packed,
    gate_up: Packed,
    down: Packed,
    shortcut: Option<ShortcutPasses<'p>>,
}

impl Layer {
    fn back<'p>(&'p self, parameters: &'p [f32]) -> Back<'p> {
        let shortcut = self.shortcut.as_ref().map(|[reduce, expand]| ShortcutPasses {
            reduce: reduce.ready(parameters),
            back: [reduce, expand].map(|affine| affine.back(parameters)),
        });
        Back {
            layer: self,
            parameters,
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
    /// Adds the gradient by the augmented shortcut's input `z` to `d_z` and packs what its weights' gradients are made of, from row
    /// `first` of the pieces on.
    fn backward(
        &self,
        z: &[f32],
        d: &[f32],
        d_z: &mut [f32],
        [of_reduce, of_expand]: &mut [OuterPiece; 2],
        first: usize,
    ) {
        let [reduce_back, expand_back] = &self.back;
        let count = z.len() / reduce_back.columns() * self.reduce.weight.columns();
        let (mut reduced, mut d_reduced) = (Scratch::of(count), Scratch::of(count));
        self.reduce.apply(&mut reduced, false, z);
        expand_back.multiply(&mut d_reduced, false, d);
        rows::gelu_backward(&mut d_reduced, &reduced);
        rows::gelu(&mut reduced);
        reduce_back.multiply(d_z, true, &d_reduced);
        of_reduce.put(first, &d_reduced, z);
        of_expand.put(first, d, &reduced);
    }
}

impl Net {
    /// Numbers a row of queries, keys and values, key head by key head.
    fn qkv_by_head(&self) -> usize {
        self.kv_heads * (self.group() + 2) * self.head_dim
    }

    /// Adds `scale` times the gradient of the summed loss to `gradient` and returns the summed loss, in nats. Where layers are
    /// computed again, `room` keeps only their inputs.
    pub(crate) fn backward(
        &self,
        parameters: &[f32],
        batch: Batch,
        targets: &[i64],
        scale: f32,
        gradient: &mut [f32],
        (room, recompute): (&mut Room, bool),
    ) -> f64 {
        // All of it within the pool: what a thread takes for a moment it gives back itself.
        self.pool.install(|| {
            self.forward_kept(parameters, batch, (room, recompute));
            let (nll, mut d) = self.head_backward(parameters, &room.last, targets, scale, gradient);
            self.backward_below(parameters, batch, &mut d, gradient, (room, recompute));
            nll
        })
    }

    /// Returns the last hidden states, one row per token, for [`Self::backward_from`].
    pub(crate) fn hidden_kept(
        &self,
        parameters: &[f32],
        batch: Batch,
        (room, recompute): (&mut Room, bool),
    ) -> Vec<f32> {
        self.forward_kept(parameters, batch, (room, recompute));
        let mut hidden = vec![0.0; room.last.len()];
        self.pool.install(|| self.last_norm(parameters, &mut hidden, &room.last));
        hidden
    }

    /// Adds the gradients by all below the head, from that by the last hidden states.
    pub(crate) fn backward_from(
        &self,
        parameters: &[f32],
        batch: Batch,
        d_hidden: &[f32],
        gradient: &mut [f32],
        (room, recompute): (&mut Room, bool),
    ) {
        let mut d = vec![0.0; d_hidden.len()];
        let (place, d_gain) =
            self.norm_backward(parameters, &self.norm, &mut d, &room.last, d_hidden);
        rows::add(&mut gradient[place], &d_gain);
        self.backward_below(parameters, batch, &mut d, gradient, (room, recompute));
    }

    fn forward_kept(&self, parameters: &[f32], batch: Batch, (room, recompute): (&mut Room, bool)) {
        let count = batch.ids.len();
        let turns = self.turns(batch.length);
        let places = Places::new(batch, &turns);
        let Room { layers, last: x, again } = room;
        *x = self.embedded(parameters, batch.ids);
        layers.resize_with(self.layers.len(), Kept::default);
        self.pool.install(|| {
            for (layer, kept) in self.layers.iter().zip(layers) {
                // What was kept before has the room for what comes next.
                std::mem::swap(&mut kept.x, x);
                x.resize(count * self.width, 0.0);
                let layer = layer.ready(parameters);
                for rows in places.portions(count) {
                    let made = match recompute {
                        true => again.room(self, rows.len()),
                        false => {
                            kept.made.resize(self, count);
                            kept.made.rows_mut(self, &rows)
                        }
                    };
                    self.forward(&layer, &kept.x, made, x, &rows, places);
                }
            }
        });
    }

    /// Adds the gradients by all below the last norm; `d` is the gradient by the last layer's output, and is used up.
    fn backward_below(
        &self,
        parameters: &[f32],
        batch: Batch,
        d: &mut [f32],
        gradient: &mut [f32],
        (room, recompute): (&mut Room, bool),
    ) {
        let count = batch.ids.len();
        let turns = self.turns(batch.length);
        let places = Places::new(batch, &turns);
        let Room { layers, last: output, again } = room;
        self.pool.install(|| {
            for (layer, kept) in self.layers.iter().zip(layers).rev() {
                let ready = recompute.then(|| layer.ready(parameters));
                let back = layer.back(parameters);
                for rows in places.portions(count) {
                    let made = match &ready {
                        Some(ready) => {
                            let made = again.room(self, rows.len());
                            self.forward(ready, &kept.x, made, output, &rows, places);
                            again.rows(self, &(0..rows.len()))
                        }
                        None => kept.made.rows(self, &rows),
                    };
                    let d = part_mut(d, &rows, self.width);
                    let x = part(&kept.x, &rows, self.width);
                    self.layer_backward(&back, x, &made, d, gradient, places.of(rows));
                }
            }
            let table = &mut gradient[self.embedding.clone()];
            for (&id, d) in batch.ids.iter().zip(d.chunks_exact(self.width)) {
                rows::add(&mut table[id as usize * self.width..][..self.width], d);
            }
        });
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
        let head = [self.head_ready(parameters), Packed::shared(self.head(parameters))];
        let vocab = head[0].columns();
        let mut d = Scratch::of(x.len());
        let mut nll = 0.0;
        let pieces = (LOGITS / vocab / DEPTH).max(rayon::current_num_threads());
        for rows in steps(targets.len(), pieces * DEPTH) {
            let mut outer = [Outer::room(rows.len(), vocab, width)];
            let inputs = (
                targets[rows.clone()].par_chunks(DEPTH),
                part(x, &rows, width).par_chunks(DEPTH * width),
                part_mut(&mut d, &rows, width).par_chunks_mut(DEPTH * width),
                Outer::pieces(&mut outer),
            );
            let made: Vec<(f64, Parts)> = inputs
                .into_par_iter()
                .map(|(targets, x, d, [outer])| {
                    self.head_piece_backward(parameters, &head, (targets, x), d, scale, outer)
                })
                .collect();
            let (losses, parts): (Vec<f64>, Vec<Parts>) = made.into_iter().unzip();
            nll += losses.into_iter().sum::<f64>();
            add_parts(gradient, parts);
            outer[0].add_to(&mut gradient[self.head.clone()]);
        }
        (nll, d)
    }

    /// Does [`Self::head_backward`] for a piece of rows and returns the loss and the gradient by the norm's gain.
    fn head_piece_backward(
        &self,
        parameters: &[f32],
        [head, back]: &[Packed; 2],
        (targets, x): (&[i64], &[f32]),
        d: &mut [f32],
        scale: f32,
        mut outer: OuterPiece,
    ) -> (f64, Parts) {
        let (mut loss, mut parts) = (0.0, Parts::new());
        for rows in steps(targets.len(), HEAD_ROWS) {
            let (x, d) = (part(x, &rows, self.width), part_mut(d, &rows, self.width));
            let mut z = self.normed(&parameters[self.norm.clone()], x);
            let mut logits = Scratch::of(rows.len() * head.columns());
            head.multiply(&mut logits, false, &z);
            loss += rows::nll_backward(&mut logits, &targets[rows.clone()], scale);
            outer.put(rows.start, &logits, &z);
            back.multiply(&mut z, false, &logits);
            d.fill(0.0);
            parts.push(self.norm_backward(parameters, &self.norm, d, x, &z));
        }
        (loss, parts)
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
    fn layer_backward(
        &self,
        back: &Back,
        x: &[f32],
        made: &Made<&[f32]>,
        d: &mut [f32],
        gradient: &mut [f32],
        places: Places,
    ) {
        let rows = d.len() / self.width;
        let mut d_mixed = Scratch::of(rows * self.mixed());
        self.mlp_backward(back, made, d, &mut d_mixed, gradient);
        let by_head = self.attend_backward(made, &d_mixed, places);
        self.input_backward(back, [x, &by_head], d, gradient, places);
    }

    /// Makes `d` the gradient by a layer's middle from that by its output, writes that by what attention made, and adds those by the
    /// parameters in between.
    fn mlp_backward(
        &self,
        back: &Back,
        made: &Made<&[f32]>,
        d: &mut [f32],
        d_mixed: &mut [f32],
        gradient: &mut [f32],
    ) {
        let affines = [&back.layer.down, &back.layer.gate_up, &back.layer.out];
        let mut outers = affines.map(|affine| affine.outer(d.len() / self.width));
        let size = DEPTH * self.width;
        let inputs = (
            made.mid.par_chunks(size),
            made.both.par_chunks(DEPTH * 2 * self.ffn),
            made.mixed.par_chunks(DEPTH * self.mixed()),
        );
        let outputs = (d.par_chunks_mut(size), d_mixed.par_chunks_mut(DEPTH * self.mixed()));
        let parts = (inputs, outputs, Outer::pieces(&mut outers))
            .into_par_iter()
            .map(|((mid, both, mixed), (d, d_mixed), mut outers)| {
                let mut parts = Parts::new();
                for rows in steps(d.len() / self.width, ROWS) {
                    let inputs = [
                        part(mid, &rows, self.width),
                        part(both, &rows, 2 * self.ffn),
                        part(mixed, &rows, self.mixed()),
                    ];
                    let d = part_mut(d, &rows, self.width);
                    let d_mixed = part_mut(d_mixed, &rows, self.mixed());
                    let outers = &mut outers;
                    self.mlp_rows_backward(
                        back,
                        inputs,
                        [d, d_mixed],
                        outers,
                        rows.start,
                        &mut parts,
                    );
                }
                parts
            })
            .collect();
        add_parts(gradient, parts);
        for (affine, outer) in affines.iter().zip(&outers) {
            affine.add_gradient(gradient, outer);
        }
    }

    /// Does [`Self::mlp_backward`] for some rows, from row `first` of the pieces on.
    fn mlp_rows_backward(
        &self,
        back: &Back,
        [mid, both, mixed]: [&[f32]; 3],
        [d, d_mixed]: [&mut [f32]; 2],
        [of_down, of_gate_up, of_out]: &mut [OuterPiece; 3],
        first: usize,
        parts: &mut Parts,
    ) {
        let Back { layer, parameters, .. } = *back;
        let (mut inner, mut d_both) = (Scratch::of(both.len() / 2), Scratch::of(both.len()));
        layer.down.push_bias(parts, d);
        back.down.multiply(&mut inner, false, d);
        self.gate_backward(parameters, layer, [&mut d_both, &mut inner], both, parts);
        of_down.put(first, d, &inner);
        layer.gate_up.push_bias(parts, &d_both);
        let gain = &layer.mlp_norm;
        of_gate_up.put(first, &d_both, &self.normed(&parameters[gain.clone()], mid));
        let mut d_z = Scratch::of(mid.len());
        back.gate_up.multiply(&mut d_z, false, &d_both);
        parts.push(self.norm_backward(parameters, gain, d, mid, &d_z));
        layer.out.push_bias(parts, d);
        of_out.put(first, d, mixed);
        back.out.multiply(d_mixed, false, d);
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

    /// Makes `d` the gradient by a layer's input `x`, from that by its middle and `by_head`, that by queries, keys and values, and adds
    /// those by the parameters in between.
    fn input_backward(
        &self,
        back: &Back,
        [x, by_head]: [&[f32]; 2],
        d: &mut [f32],
        gradient: &mut [f32],
        places: Places,
    ) {
        let (rows, size) = (d.len() / self.width, DEPTH * self.width);
        let mut of_qkv = [back.layer.qkv.outer(rows)];
        let shortcut = back.layer.shortcut.as_ref();
        let mut of_shortcut = shortcut.map(|both| both.each_ref().map(|affine| affine.outer(rows)));
        let mut shortcut_pieces = of_shortcut.as_mut().map(Outer::pieces).into_iter().flatten();
        let pieces = Outer::pieces(&mut of_qkv);
        let pieces: Vec<_> =
            pieces.into_iter().map(|[piece]| (piece, shortcut_pieces.next())).collect();
        let parts = (x.par_chunks(size), d.par_chunks_mut(size), pieces)
            .into_par_iter()
            .enumerate()
            .map(|(at, (x, d, (mut of_qkv, mut of_shortcut)))| {
                let mut parts = Parts::new();
                for rows in steps(d.len() / self.width, ROWS) {
                    let (x, d) = (part(x, &rows, self.width), part_mut(d, &rows, self.width));
                    let place = at * DEPTH + rows.start;
                    let d_qkv = self.d_qkv(by_head, place..place + rows.len(), places);
                    let outers = (&mut of_qkv, of_shortcut.as_mut());
                    self.input_rows_backward(back, [x, &d_qkv], d, outers, rows.start, &mut parts);
                }
                parts
            })
            .collect();
        add_parts(gradient, parts);
        back.layer.qkv.add_gradient(gradient, &of_qkv[0]);
        let shortcut = shortcut.into_iter().flatten().zip(of_shortcut.iter().flatten());
        for (affine, outer) in shortcut {
            affine.add_gradient(gradient, outer);
        }
    }

    /// Does [`Self::input_backward`] for some rows, from row `first` of the pieces on.
    fn input_rows_backward(
        &self,
        back: &Back,
        [x, d_qkv]: [&[f32]; 2],
        d: &mut [f32],
        (of_qkv, of_shortcut): (&mut OuterPiece, Option<&mut [OuterPiece; 2]>),
        first: usize,
        parts: &mut Parts,
    ) {
        let Back { layer, parameters, .. } = *back;
        let gain = &layer.attention_norm;
        layer.qkv.push_bias(parts, d_qkv);
        let z = self.normed(&parameters[gain.clone()], x);
        of_qkv.put(first, d_qkv, &z);
        let mut d_z = Scratch::of(x.len());
        back.qkv.multiply(&mut d_z, false, d_qkv);
        if let (Some(passes), Some(outers)) = (&back.shortcut, of_shortcut) {
            passes.backward(&z, d, &mut d_z, outers, first);
        }
        parts.push(self.norm_backward(parameters, gain, d, x, &d_z));
    }

    /// Returns the gradient by queries, keys and values before they were turned.
    fn d_qkv(&self, by_head: &[f32], rows: Range<usize>, places: Places) -> Scratch {
        let mut d_qkv = Scratch::of(rows.len() * self.qkv());
        self.gather_qkv(&mut d_qkv, by_head, rows.start, places.length);
        self.turn(&mut d_qkv, rows.start, places, true);
        d_qkv
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
