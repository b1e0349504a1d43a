//! Writing on: a few tokens of each text at a time, after those whose keys and values are kept.

use rayon::prelude::*;

use super::matrix::{LEAST, Packed};
use super::rows;
use super::{Batch, Net, Ready, ReadyLayer, Turns};

/// A model's products, ready for tokens, and keys and values of the tokens that it has read.
pub(crate) struct Cache<'p> {
    parameters: &'p [f32],
    head: Packed,
    layers: Vec<Layer<'p>>,
    turns: Turns,
    capacity: usize,
    /// Tokens read of each text.
    length: usize,
}

struct Layer<'p> {
    ready: ReadyLayer<'p>,
    /// `[texts, kv_heads, capacity, head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Ready<'_> {
    /// Returns what it makes of a few rows.
    fn of_few(&self, x: &[f32]) -> Vec<f32> {
        let mut to = self.weight.multiply_few(x);
        if let Some(bias) = self.bias {
            rows::add_to_rows(&mut to, bias);
        }
        to
    }
}

impl Cache<'_> {
    /// Forgets the tokens read.
    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }
}

impl Net {
    /// Returns a cache with room for `capacity` tokens of each of `texts` texts.
    pub(crate) fn cache<'p>(
        &self,
        parameters: &'p [f32],
        texts: usize,
        capacity: usize,
    ) -> Cache<'p> {
        let room = || vec![0.0; texts * self.kv_heads * capacity * self.head_dim];
        let layer = |layer: &super::Layer| Layer {
            ready: layer.ready(parameters),
            keys: room(),
            values: room(),
        };
        self.pool.install(|| Cache {
            parameters,
            head: self.head_ready(parameters),
            layers: self.layers.iter().map(layer).collect(),
            turns: self.turns(capacity),
            capacity,
            length: 0,
        })
    }

    /// Reads the next tokens of each text and returns the logits of what comes after them, one row a text. All tokens see all that
    /// came before them.
    ///
    /// # Panics
    /// When the cache is full, or the batch has starts.
    pub(crate) fn read(&self, cache: &mut Cache, batch: Batch) -> Vec<f32> {
        assert!(cache.length + batch.length <= cache.capacity, "room in the cache");
        assert!(batch.starts.is_empty(), "texts of one document");
        self.pool.install(|| {
            let mut x = self.embedded(cache.parameters, batch.ids);
            for at in 0..self.layers.len() {
                self.read_layer(at, &mut x, cache, batch.length);
            }
            cache.length += batch.length;
            let of_text = x.chunks_exact(batch.length * self.width);
            let last: Vec<f32> =
                of_text.flat_map(|x| &x[x.len() - self.width..]).copied().collect();
            let z = self.normed(&cache.parameters[self.norm.clone()], &last);
            cache.head.multiply_few(&z)
        })
    }

    /// Makes a layer's input its output.
    fn read_layer(&self, at: usize, x: &mut [f32], cache: &mut Cache, length: usize) {
        let ready = &cache.layers[at].ready;
        let z = self.normed(ready.attention_norm, x);
        let mut qkv = ready.qkv.of_few(&z);
        let position = |row: usize| cache.length + row % length;
        self.turn_to(&mut qkv, &cache.turns, position, false);
        let mixed = self.attend_after(at, &qkv, cache, length);
        let ready = &cache.layers[at].ready;
        rows::add(x, &ready.out.of_few(&mixed));
        if let Some([reduce, expand]) = &ready.shortcut {
            let mut inner = reduce.of_few(&z);
            rows::gelu(&mut inner);
            rows::add(x, &expand.of_few(&inner));
        }
        let both = ready.gate_up.of_few(&self.normed(ready.mlp_norm, x));
        rows::add(x, &ready.down.of_few(&self.gated(ready.series, &both)));
    }

    /// Adds keys and values to a layer's cache and returns what attention makes of them.
    fn attend_after(&self, at: usize, qkv: &[f32], cache: &mut Cache, length: usize) -> Vec<f32> {
        let (size, group, before) = (self.head_dim, self.group(), cache.length);
        let Layer { keys, values, .. } = &mut cache.layers[at];
        let of_head = cache.capacity * size;
        let mut mixed = vec![0.0; qkv.len() / self.qkv() * self.mixed()];
        let texts = qkv.chunks_exact(length * self.qkv());
        let texts = texts.zip(mixed.chunks_exact_mut(length * self.mixed()));
        let caches = keys.chunks_exact_mut(self.kv_heads * of_head);
        let caches = caches.zip(values.chunks_exact_mut(self.kv_heads * of_head));
        let pieces: Vec<_> = texts.zip(caches).collect();
        let least = (LEAST / ((before + length) * self.kv_heads * size)).max(1);
        pieces.into_par_iter().with_min_len(least).for_each(|((qkv, mixed), (keys, values))| {
            let mut scores = vec![0.0; before + length];
            for kv_head in 0..self.kv_heads {
                let keys = &mut keys[kv_head * of_head..][..of_head];
                let values = &mut values[kv_head * of_head..][..of_head];
                for (token, row) in qkv.chunks_exact(self.qkv()).enumerate() {
                    let part = |head: usize| &row[head * size..(head + 1) * size];
                    let place = (before + token) * size..(before + token + 1) * size;
                    keys[place.clone()].copy_from_slice(part(self.heads + kv_head));
                    values[place].copy_from_slice(part(self.heads + self.kv_heads + kv_head));
                    let mixed = &mut mixed[token * self.mixed()..(token + 1) * self.mixed()];
                    let scores = &mut scores[..before + token + 1];
                    for head in kv_head * group..(kv_head + 1) * group {
                        let out = &mut mixed[head * size..(head + 1) * size];
                        rows::attend(out, part(head), keys, values, scores);
                    }
                }
            }
        });
        mixed
    }
}
