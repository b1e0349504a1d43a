//! The Llama model: RMSNorm, rotary positions, grouped causal attention, SwiGLU. And PanGu-pi's modules (arXiv 2312.17276),
//! where a model has them.
//!
//! The series activation is `sum_i scale_i * silu(gate + bias_i)` with a scale and a shift per term and neuron, in place of
//! SwiGLU's `silu(gate)`. The augmented shortcut adds `expand(gelu(reduce(z)))` to what attention makes of its input `z`.

use std::cell::RefCell;
use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};
use tlm::stage::StageError;

use crate::nn::config::Config;
use crate::nn::cpu::{self, Batch, Net, Room};
use crate::nn::decode::Cache;
use crate::nn::layout::{LayerLeaves, Layout, Part, Projection, deinterleave, interleave};
use crate::nn::runtime::{fault, numbers, pool};
use crate::nn::sequences::Rows;
use crate::nn::weights::{Weights, Writer};

/// A model in memory. All parameters are views of one flat f32 buffer.
pub(crate) struct Llama {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    /// All parameters.
    pub(crate) flat: Tensor,
    pub(crate) leaves: Vec<Tensor>,
    kind: Kind,
    /// Whether a backward pass computes each layer again instead of keeping what it made; changes no bits.
    pub(crate) recompute: bool,
    /// The model for `cpu`, if that can do it.
    pub(crate) net: Option<Net>,
    pub(crate) room: RefCell<Room>,
}

impl Llama {
    /// Loads a model. Matrix products are done in `kind`; parameters are always f32.
    pub(crate) fn load(
        config: Config,
        weights: &dyn Weights,
        device: Device,
        kind: Kind,
    ) -> Result<Self, StageError> {
        let layout = Layout::of(&config);
        let flat = Tensor::f_zeros([layout.total], (Kind::Float, device)).map_err(fault)?;
        fill(&flat, &layout, &config, |part| weights.load(&part.name, &part.shape))?;
        let leaves = leaves(&layout, &flat).map_err(fault)?;
        let is_f32 = kind == Kind::Float && device == Device::Cpu;
        let pool = is_f32.then(pool).transpose()?;
        let net = pool.map(|pool| layout.net(&config, pool));
        Ok(Self {
            config,
            layout,
            flat,
            leaves,
            kind,
            recompute: false,
            net,
            room: RefCell::default(),
        })
    }

    /// Returns a model of the same shape with a buffer of its own, of zeros.
    pub(crate) fn twin(&self) -> Result<Self, TchError> {
        self.with(self.flat.f_zeros_like()?)
    }

    /// Returns the model without a layer, on the same buffer.
    pub(crate) fn without(&self, layer: usize) -> Result<Self, TchError> {
        let mut model = self.with(self.flat.shallow_clone())?;
        model.skip(layer, 1);
        Ok(model)
    }

    /// Returns a model of the same shape with another buffer.
    fn with(&self, flat: Tensor) -> Result<Self, TchError> {
        let (config, layout) = (self.config.clone(), Layout::of(&self.config));
        let leaves = leaves(&layout, &flat)?;
        let net = self.net.as_ref().map(|net| layout.net(&config, net.pool.clone()));
        let (kind, recompute) = (self.kind, self.recompute);
        Ok(Self { config, layout, flat, leaves, kind, recompute, net, room: RefCell::default() })
    }

    /// Writes `config.json` and `model.safetensors` into a folder.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), StageError> {
        self.config.write(folder)?;
        self.save_weights(&folder.join("model.safetensors"))
    }

    /// Writes `model.safetensors`, or what becomes one.
    pub(crate) fn save_weights(&self, path: &Path) -> Result<(), StageError> {
        let mut writer = Writer::create(path, self.config.tensors(), ("format", "pt"))?;
        for part in &self.layout.parts {
            writer.push(&part.name, &self.value(&self.flat, part).map_err(fault)?)?;
        }
        writer.finish()
    }

    /// Returns what a buffer like [`Self::flat`] has for a tensor of the checkpoint.
    fn value(&self, buffer: &Tensor, part: &Part) -> Result<Tensor, TchError> {
        let count = part.shape.iter().product();
        let rows = buffer.f_narrow(0, part.offset, count)?.f_reshape(&part.shape[..])?;
        if part.rotary { deinterleave(&rows, self.config.head_dim) } else { Ok(rows) }
    }

    /// Writes buffers like [`Self::flat`], each tensor under `name.` and the name that it has in a checkpoint.
    pub(crate) fn save_buffers(
        &self,
        path: &Path,
        buffers: &[(&str, &Tensor)],
        metadata: (&str, &str),
    ) -> Result<(), StageError> {
        let parts = || {
            buffers.iter().flat_map(|both| self.layout.parts.iter().map(move |part| (both, part)))
        };
        let name = |name: &str, part: &Part| format!("{name}.{}", part.name);
        let tensors = parts().map(|((of, _), part)| (name(of, part), part.shape.clone())).collect();
        let mut writer = Writer::create(path, tensors, metadata)?;
        for ((of, buffer), part) in parts() {
            writer.push(&name(of, part), &self.value(buffer, part).map_err(fault)?)?;
        }
        writer.finish()
    }

    /// Reads what [`Self::save_buffers`] wrote into a buffer like [`Self::flat`].
    pub(crate) fn load_buffer(
        &self,
        buffer: &Tensor,
        name: &str,
        from: &dyn Weights,
    ) -> Result<(), StageError> {
        let load = |part: &Part| from.load(&format!("{name}.{}", part.name), &part.shape);
        fill(buffer, &self.layout, &self.config, load)
    }

    /// Returns what matrix products are done in.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the model for `cpu`, where that is faster than libtorch.
    pub(crate) fn net(&self) -> Option<&Net> {
        self.net.as_ref().filter(|_| cpu::is_faster())
    }

    /// Returns the device of the parameters.
    pub(crate) fn device(&self) -> Device {
        self.flat.device()
    }

    /// Makes the norms add another number to the mean of squares.
    pub(crate) fn set_eps(&mut self, eps: f64) {
        self.config.eps = eps;
        if let Some(net) = &mut self.net {
            net.eps = eps as f32;
        }
    }

    /// Leaves out `count` layers from layer `first` on.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn skip(&mut self, first: usize, count: usize) {
        self.layout.layers.drain(first..first + count);
        if let Some(net) = &mut self.net {
            net.layers.drain(first..first + count);
        }
    }

    /// Returns the model with its matrices cast once and for all; it can't be trained.
    pub(crate) fn frozen(mut self) -> Result<Self, TchError> {
        tch::no_grad(|| {
            // An embedding that is also the head stays in f32 as the one, and is cast as the other.
            self.leaves.push(self.leaves[self.layout.head].f_to_kind(self.kind)?);
            for (leaf, place) in self.leaves.iter_mut().zip(&self.layout.leaves).skip(1) {
                if place.offset < self.layout.decayed {
                    *leaf = leaf.f_to_kind(self.kind)?;
                }
            }
            self.layout.head = self.leaves.len() - 1;
            Ok(self)
        })
    }

    /// Returns the last hidden states, one row per token. `starts` are those of [`Rows`].
    pub(crate) fn hidden(&self, ids: &Tensor, starts: Option<&[u32]>) -> Result<Tensor, TchError> {
        let places = self.places(0, ids.size()[1], starts)?;
        let mut x = self.embedded(ids)?;
        for layer in &self.layout.layers {
            x = self.layer(layer, &x, &places, None)?;
        }
        self.last(&x)
    }

    /// The same for tokens that come after those in a cache, which gets theirs.
    pub(crate) fn hidden_after(&self, ids: &Tensor, cache: &mut Cache) -> Result<Tensor, TchError> {
        let length = ids.size()[1];
        let places = self.places(cache.length, length, None)?;
        let mut x = self.embedded(ids)?;
        for (index, layer) in self.layout.layers.iter().enumerate() {
            x = self.layer(layer, &x, &places, Some((cache, index)))?;
        }
        cache.length += length;
        self.last(&x)
    }

    /// Returns a layer's output, `[batch, length, width]` as its input.
    pub(crate) fn layer(
        &self,
        layer: &LayerLeaves,
        x: &Tensor,
        places: &Places,
        cache: Option<(&mut Cache, usize)>,
    ) -> Result<Tensor, TchError> {
        let z = self.normed(x, layer.attention_norm)?;
        let mixed = self.mixed(layer, &z, places, cache)?;
        let x = self.after_attention(layer, x, &z, &mixed)?;
        let inner = self.gated(layer, &self.normed(&x, layer.mlp_norm)?)?;
        x.f_add(&self.project(&inner, layer.down)?)
    }

    /// Returns the last hidden states of what the last layer made.
    pub(crate) fn last(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.normed(x, self.layout.norm)?.f_reshape([-1, self.config.width])
    }

    pub(crate) fn embedded(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        Tensor::f_embedding(&self.leaves[0], ids, -1, false, false)
    }

    /// Returns where `length` tokens from position `start` on are, and what they see.
    pub(crate) fn places(
        &self,
        start: i64,
        length: i64,
        starts: Option<&[u32]>,
    ) -> Result<Places, TchError> {
        let turns = self.turns(start, length)?;
        let mask = starts.map(|starts| {
            let starts: Vec<i64> = starts.iter().copied().map(i64::from).collect();
            let starts = Tensor::f_from_slice(&starts)?.f_view([-1, length])?;
            let starts = starts.f_to_device(self.device())?;
            let key = Tensor::f_arange(length, (Kind::Int64, self.device()))?;
            let is_past = key.f_le_tensor(&key.f_unsqueeze(-1)?)?;
            key.f_ge_tensor(&starts.f_unsqueeze(-1)?)?.f_logical_and(&is_past)?.f_unsqueeze(1)
        });
        Ok(Places { turns, mask: mask.transpose()? })
    }

    /// Returns e^(i * angle) for each position from `start` and each pair: `[length, 1, head_dim / 2]`.
    fn turns(&self, start: i64, length: i64) -> Result<Tensor, TchError> {
        let frequencies =
            Tensor::f_from_slice(&self.config.rope.frequencies(self.config.head_dim))?;
        let positions = Tensor::f_arange_start(start, start + length, (Kind::Double, Device::Cpu))?;
        let angles = positions.f_outer(&frequencies)?.f_unsqueeze(1)?;
        let ones = angles.f_ones_like()?;
        Tensor::f_polar(&ones, &angles)?.f_to_kind(Kind::ComplexFloat)?.f_to_device(self.device())
    }

    /// Returns what attention makes of its normed input `z`, before the output projection: `[batch, length, heads *
    /// head_dim]`. With a cache, the tokens come after those in it, for the layer of this index.
    pub(crate) fn mixed(
        &self,
        layer: &LayerLeaves,
        z: &Tensor,
        places: &Places,
        cache: Option<(&mut Cache, usize)>,
    ) -> Result<Tensor, TchError> {
        let qkv = self.project(z, layer.qkv)?;
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let (batch, length) = (qkv.size()[0], qkv.size()[1]);
        let qkv = qkv.f_view([batch, length, heads + 2 * kv_heads, head_dim])?;
        let parts = qkv.f_split_with_sizes([heads + kv_heads, kv_heads], 2)?;
        let turned = parts[0]
            .f_to_kind(Kind::Float)?
            .f_unflatten(-1, [head_dim / 2, 2])?
            .f_view_as_complex()?
            .f_mul(&places.turns)?
            .f_view_as_real()?
            .f_flatten(-2, -1)?
            .f_to_kind(self.kind)?
            .f_transpose(1, 2)?;
        let mut qk = turned.f_split_with_sizes([heads, kv_heads], 1)?;
        let mut values = parts[1].f_transpose(1, 2)?;
        if let Some((cache, index)) = cache {
            (qk[1], values) = cache.extend(index, &qk[1], &values)?;
        }
        // Kernels that take a mask take no groups.
        if places.mask.is_some() && heads != kv_heads {
            let group = heads / kv_heads;
            qk[1] = qk[1].f_repeat_interleave_self_int(group, 1, None)?;
            values = values.f_repeat_interleave_self_int(group, 1, None)?;
        }
        let mixed = Tensor::f_scaled_dot_product_attention(
            &qk[0],
            &qk[1],
            &values,
            places.mask.as_ref(),
            0.0,
            // A single token sees all that came before it.
            length > 1 && places.mask.is_none(),
            None,
            heads != kv_heads && places.mask.is_none(),
        )?;
        mixed.f_transpose(1, 2)?.f_reshape([batch, length, heads * head_dim])
    }

    /// Adds to the residual stream `x` what attention makes of its normed form `z`.
    pub(crate) fn after_attention(
        &self,
        layer: &LayerLeaves,
        x: &Tensor,
        z: &Tensor,
        mixed: &Tensor,
    ) -> Result<Tensor, TchError> {
        let x = x.f_add(&self.project(mixed, layer.out)?)?;
        let Some([reduce, expand]) = layer.shortcut else { return Ok(x) };
        let inner = self.project(z, reduce)?.f_gelu("none")?;
        x.f_add(&self.project(&inner, expand)?)
    }

    /// Returns a feed-forward network's inner neurons: `[batch, length, ffn]`.
    pub(crate) fn gated(&self, layer: &LayerLeaves, z: &Tensor) -> Result<Tensor, TchError> {
        let both = self.project(z, layer.gate_up)?;
        let ffn = self.config.ffn;
        let halves = both.f_split_with_sizes([ffn, ffn], -1)?;
        self.activated(layer, &halves[0])?.f_mul(&halves[1])
    }

    fn activated(&self, layer: &LayerLeaves, gate: &Tensor) -> Result<Tensor, TchError> {
        let Some(series) = layer.series else { return gate.f_silu() };
        let [scales, shifts] = series.map(|index| &self.leaves[index]);
        let term = |at: i64| {
            gate.f_add(&shifts.f_select(0, at)?)?.f_silu()?.f_mul(&scales.f_select(0, at)?)
        };
        let mut sum = term(0)?;
        for at in 1..self.config.activations {
            sum = sum.f_add(&term(at)?)?;
        }
        Ok(sum)
    }

    pub(crate) fn normed(&self, x: &Tensor, gain: usize) -> Result<Tensor, TchError> {
        x.f_rms_norm([self.config.width], Some(&self.leaves[gain]), self.config.eps)
    }

    pub(crate) fn project(&self, x: &Tensor, with: Projection) -> Result<Tensor, TchError> {
        let cast = |index: usize| self.leaves[index].f_to_kind(self.kind);
        let bias = with.bias.map(cast).transpose()?;
        x.f_to_kind(self.kind)?.f_linear(&cast(with.weight)?, bias.as_ref())
    }

    /// Returns the negative log-likelihood of each target token, without a gradient.
    pub(crate) fn nll(&self, rows: &Rows) -> Result<Tensor, TchError> {
        let hidden = self.states(rows)?;
        let Some(net) = self.net() else {
            return tch::no_grad(|| self.nll_of(&hidden, &rows.targets.f_reshape([-1, 1])?));
        };
        let targets = rows.targets.f_contiguous()?;
        Tensor::f_from_slice(&net.nll(numbers(&self.flat), numbers(&hidden), numbers(&targets)))
    }

    /// Returns the last hidden states without a gradient, one row per token.
    pub(crate) fn states(&self, rows: &Rows) -> Result<Tensor, TchError> {
        let starts = rows.starts.as_deref();
        let Some(net) = self.net() else {
            return tch::no_grad(|| self.hidden(&rows.ids, starts));
        };
        let ids = rows.ids.f_contiguous()?;
        let hidden = net.hidden(numbers(&self.flat), batch(&ids, starts));
        Tensor::f_from_slice(&hidden)?.f_view([-1, self.config.width])
    }

    /// Returns the last hidden states of some tokens, without a gradient: `places` are their rows in `ids` when that is one row
    /// after another.
    pub(crate) fn hidden_at(&self, ids: &Tensor, places: &Tensor) -> Result<Tensor, TchError> {
        let Some(net) = self.net() else {
            return tch::no_grad(|| self.hidden(ids, None)?.f_index_select(0, places));
        };
        let (ids, places) = (ids.f_contiguous()?, places.f_contiguous()?);
        let hidden = net.hidden_at(numbers(&self.flat), batch(&ids, None), numbers(&places));
        Tensor::f_from_slice(&hidden)?.f_view([-1, self.config.width])
    }

    /// Returns the negative log-likelihood of each target token after a hidden state, without a gradient.
    pub(crate) fn nll_after(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
        let Some(net) = self.net() else {
            return tch::no_grad(|| self.nll_of(hidden, &targets.f_reshape([-1, 1])?));
        };
        let nll = net.nll(numbers(&self.flat), numbers(hidden), numbers(&targets.f_contiguous()?));
        Tensor::f_from_slice(&nll)
    }

    /// Returns whether each target token is the likeliest one after a hidden state.
    pub(crate) fn are_likeliest(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
    ) -> Result<Vec<bool>, TchError> {
        tch::no_grad(|| {
            let mut likeliest = Vec::new();
            for (start, count) in self.chunks(hidden.size()[0]) {
                let logits = self.logits_of(&hidden.f_narrow(0, start, count)?)?;
                let best = logits.f_argmax(-1, false)?;
                let same = best.f_eq_tensor(&targets.f_narrow(0, start, count)?)?;
                likeliest.extend(Vec::<bool>::try_from(same)?);
            }
            Ok(likeliest)
        })
    }

    fn nll_of(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
        let head = self.leaves[self.layout.head].f_to_kind(self.kind)?;
        let mut losses = Vec::new();
        for (start, count) in self.chunks(hidden.size()[0]) {
            let log = self.log_probabilities(&hidden.f_narrow(0, start, count)?, &head)?;
            let picked = log.f_gather(1, &targets.f_narrow(0, start, count)?, false)?;
            losses.push(picked.f_neg()?.f_squeeze_dim(1)?);
        }
        Tensor::f_cat(&losses, 0)
    }

    pub(crate) fn log_probabilities(
        &self,
        rows: &Tensor,
        head: &Tensor,
    ) -> Result<Tensor, TchError> {
        let logits = rows.f_to_kind(self.kind)?.f_mm(&head.f_tr()?)?;
        logits.f_to_kind(Kind::Float)?.f_log_softmax(-1, Kind::Float)
    }

    /// Returns the logits of hidden states in f32, `[rows, vocab]`; for few rows.
    pub(crate) fn logits_of(&self, hidden: &Tensor) -> Result<Tensor, TchError> {
        let head = self.leaves[self.layout.head].f_to_kind(self.kind)?;
        hidden.f_to_kind(self.kind)?.f_mm(&head.f_tr()?)?.f_to_kind(Kind::Float)
    }

    /// Returns the part of a buffer like [`Self::flat`] that belongs to a leaf.
    pub(crate) fn slot(&self, buffer: &Tensor, index: usize) -> Result<Tensor, TchError> {
        let leaf = &self.layout.leaves[index];
        buffer.f_narrow(0, leaf.offset, leaf.shape.iter().product())?.f_view(&leaf.shape[..])
    }

    /// Returns start and length of each chunk of rows whose logits exist at once.
    pub(crate) fn chunks(&self, rows: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let numbers = if self.device() == Device::Cpu { 1 << 20 } else { 1 << 26 };
        let size = (numbers / self.config.vocab).max(128);
        (0..rows).step_by(size as usize).map(move |start| (start, size.min(rows - start)))
    }

    /// Returns the logits of every position, for tests and short inputs.
    #[cfg(test)]
    pub(crate) fn logits(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        tch::no_grad(|| self.logits_of(&self.hidden(ids, None)?))
    }
}

impl Weights for Llama {
    fn load(&self, name: &str, _shape: &[i64]) -> Result<Tensor, StageError> {
        let part = self.layout.parts.iter().find(|part| part.name == name);
        let value = self.value(&self.flat, part.expect("the model has what its config says"));
        value.and_then(|value| value.f_to_device(Device::Cpu)).map_err(fault)
    }
}

/// Where tokens are, and what they see.
pub(crate) struct Places {
    /// e^(i * angle) for each position and each pair: `[length, 1, head_dim / 2]`.
    turns: Tensor,
    /// Whether a token sees another one, `[batch, 1, length, length]`, where that is not all that came before it.
    mask: Option<Tensor>,
}

/// Fills a buffer like [`Llama::flat`] with the tensors of a checkpoint.
fn fill(
    buffer: &Tensor,
    layout: &Layout,
    config: &Config,
    load: impl Fn(&Part) -> Result<Tensor, StageError>,
) -> Result<(), StageError> {
    for part in &layout.parts {
        let mut value = load(part)?;
        if part.rotary {
            value = interleave(&value, config.head_dim).map_err(fault)?;
        }
        buffer
            .f_narrow(0, part.offset, value.numel() as i64)
            .and_then(|mut slot| slot.f_copy_(&value.f_reshape([-1])?))
            .map_err(fault)?;
    }
    Ok(())
}

/// Returns tokens, `[sequences, length]`, as `cpu` takes them, with the first one that each sees.
pub(crate) fn batch<'a>(ids: &'a Tensor, starts: Option<&'a [u32]>) -> Batch<'a> {
    let length = ids.size().last().map_or(0, |&length| length as usize);
    Batch { ids: numbers(ids), length, starts: starts.unwrap_or_default() }
}

/// Returns a view of the buffer for each leaf, as autograd's inputs.
fn leaves(layout: &Layout, flat: &Tensor) -> Result<Vec<Tensor>, TchError> {
    layout
        .leaves
        .iter()
        .map(|leaf| {
            let count = leaf.shape.iter().product();
            let view = flat.f_narrow(0, leaf.offset, count)?.f_view(&leaf.shape[..])?;
            view.f_detach()?.f_set_requires_grad(true)
        })
        .collect()
}
