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
use crate::nn::runtime::{fault, numbers, numbers_mut, pool};
use crate::nn::weights::{Weights, Writer};

/// A model in memory. All parameters are views of one flat f32 buffer.
pub(crate) struct Llama {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    /// All parameters.
    pub(crate) flat: Tensor,
    leaves: Vec<Tensor>,
    kind: Kind,
    /// The model for `cpu`, if that can do it.
    net: Option<Net>,
    room: RefCell<Room>,
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
        for part in &layout.parts {
            let mut value = weights.load(&part.name, &part.shape)?;
            if part.rotary {
                value = interleave(&value, config.head_dim).map_err(fault)?;
            }
            flat.f_narrow(0, part.offset, value.numel() as i64)
                .and_then(|mut slot| slot.f_copy_(&value.f_reshape([-1])?))
                .map_err(fault)?;
        }
        let leaves = leaves(&layout, &flat).map_err(fault)?;
        let is_f32 = kind == Kind::Float && device == Device::Cpu;
        let pool = is_f32.then(pool).transpose()?;
        let net = pool.map(|pool| layout.net(&config, pool));
        Ok(Self { config, layout, flat, leaves, kind, net, room: RefCell::default() })
    }

    /// Returns a model of the same shape with a buffer of its own, of zeros.
    pub(crate) fn twin(&self) -> Result<Self, TchError> {
        let (config, layout) = (self.config.clone(), Layout::of(&self.config));
        let flat = self.flat.f_zeros_like()?;
        let leaves = leaves(&layout, &flat)?;
        let net = self.net.as_ref().map(|net| layout.net(&config, net.pool.clone()));
        let kind = self.kind;
        Ok(Self { config, layout, flat, leaves, kind, net, room: RefCell::default() })
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
            writer.push(&part.name, &self.value(part).map_err(fault)?)?;
        }
        writer.finish()
    }

    /// Returns a tensor of the checkpoint.
    fn value(&self, part: &Part) -> Result<Tensor, TchError> {
        let count = part.shape.iter().product();
        let rows = self.flat.f_narrow(0, part.offset, count)?.f_reshape(&part.shape[..])?;
        if part.rotary { deinterleave(&rows, self.config.head_dim) } else { Ok(rows) }
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

    /// Returns the last hidden states, one row per token.
    pub(crate) fn hidden(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        self.hidden_after(ids, None)
    }

    /// The same for tokens that come after those in a cache, which gets theirs.
    pub(crate) fn hidden_after(
        &self,
        ids: &Tensor,
        mut cache: Option<&mut Cache>,
    ) -> Result<Tensor, TchError> {
        let length = ids.size()[1];
        let start = cache.as_ref().map_or(0, |cache| cache.length);
        let turns = self.turns(start, length)?;
        let mut x = self.embedded(ids)?;
        for (index, layer) in self.layout.layers.iter().enumerate() {
            let z = self.normed(&x, layer.attention_norm)?;
            let mixed = self.mixed(layer, &z, &turns, cache.as_deref_mut().map(|c| (c, index)))?;
            x = self.after_attention(layer, &x, &z, &mixed)?;
            let inner = self.gated(layer, &self.normed(&x, layer.mlp_norm)?)?;
            x = x.f_add(&self.project(&inner, layer.down)?)?;
        }
        if let Some(cache) = cache {
            cache.length += length;
        }
        self.normed(&x, self.layout.norm)?.f_reshape([-1, self.config.width])
    }

    pub(crate) fn embedded(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        Tensor::f_embedding(&self.leaves[0], ids, -1, false, false)
    }

    /// Returns e^(i * angle) for each position from `start` and each pair: `[length, 1, head_dim / 2]`.
    pub(crate) fn turns(&self, start: i64, length: i64) -> Result<Tensor, TchError> {
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
        turns: &Tensor,
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
            .f_mul(turns)?
            .f_view_as_real()?
            .f_flatten(-2, -1)?
            .f_to_kind(self.kind)?
            .f_transpose(1, 2)?;
        let mut qk = turned.f_split_with_sizes([heads, kv_heads], 1)?;
        let mut values = parts[1].f_transpose(1, 2)?;
        if let Some((cache, index)) = cache {
            (qk[1], values) = cache.extend(index, &qk[1], &values)?;
        }
        let mixed = Tensor::f_scaled_dot_product_attention(
            &qk[0],
            &qk[1],
            &values,
            None::<&Tensor>,
            0.0,
            // A single token sees all that came before it.
            length > 1,
            None,
            heads != kv_heads,
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
    pub(crate) fn nll(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
        let Some(net) = self.net() else {
            return tch::no_grad(|| self.nll_of(&self.hidden(ids)?, &targets.f_reshape([-1, 1])?));
        };
        let (ids, targets) = (ids.f_contiguous()?, targets.f_contiguous()?);
        let parameters = numbers(&self.flat);
        let hidden = net.hidden(parameters, batch(&ids));
        Tensor::f_from_slice(&net.nll(parameters, &hidden, numbers(&targets)))
    }

    /// The same for some tokens only: `places` are their rows in `ids` when that is one row after another.
    pub(crate) fn nll_at(
        &self,
        ids: &Tensor,
        places: &Tensor,
        targets: &Tensor,
    ) -> Result<Tensor, TchError> {
        let Some(net) = self.net() else {
            return tch::no_grad(|| {
                let hidden = self.hidden(ids)?.f_index_select(0, places)?;
                self.nll_of(&hidden, &targets.f_reshape([-1, 1])?)
            });
        };
        let [ids, places, targets] = [ids, places, targets].map(Tensor::f_contiguous);
        let (ids, places, targets) = (ids?, places?, targets?);
        let parameters = numbers(&self.flat);
        let hidden = net.hidden_at(parameters, batch(&ids), numbers(&places));
        Tensor::f_from_slice(&net.nll(parameters, &hidden, numbers(&targets)))
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

    /// Adds `scale` times the gradient of the summed loss to `gradient`, a buffer like [`Self::flat`], and returns the
    /// summed loss, in nats.
    ///
    /// The output embedding and the loss are done by chunks of rows, forward and backward at once, so that no more
    /// than one chunk of logits exists.
    pub(crate) fn backward(
        &self,
        ids: &Tensor,
        targets: &Tensor,
        scale: f64,
        gradient: &mut Tensor,
    ) -> Result<f64, TchError> {
        if self.net().is_some() {
            self.backward_by_hand(ids, targets, scale, gradient)
        } else {
            self.backward_by_graph(ids, targets, scale, gradient)
        }
    }

    /// The same by [`Net`].
    ///
    /// # Panics
    /// When the model isn't one of f32 on the CPU.
    pub(crate) fn backward_by_hand(
        &self,
        ids: &Tensor,
        targets: &Tensor,
        scale: f64,
        gradient: &mut Tensor,
    ) -> Result<f64, TchError> {
        let net = self.net.as_ref().expect("a model of f32 on the CPU");
        let (ids, targets) = (ids.f_contiguous()?, targets.f_contiguous()?);
        let (parameters, gradient) = (numbers(&self.flat), numbers_mut(gradient));
        let room = &mut self.room.borrow_mut();
        let (batch, targets) = (batch(&ids), numbers(&targets));
        Ok(net.backward(parameters, batch, targets, scale as f32, gradient, room))
    }

    /// The same by one graph of everything below the head.
    pub(crate) fn backward_by_graph(
        &self,
        ids: &Tensor,
        targets: &Tensor,
        scale: f64,
        gradient: &mut Tensor,
    ) -> Result<f64, TchError> {
        let hidden = self.hidden(ids)?;
        let (nll, d_hidden) = tch::no_grad(|| {
            self.head_backward(&hidden.f_detach()?, &targets.f_reshape([-1, 1])?, scale, gradient)
        })?;
        // The gradient of this product is the gradient that comes from the head.
        let product = hidden.f_mul(&d_hidden)?.f_sum(Kind::Float)?;
        let below: Vec<usize> = (0..self.leaves.len())
            .filter(|&index| index == 0 || index != self.layout.head)
            .collect();
        let inputs: Vec<&Tensor> = below.iter().map(|&index| &self.leaves[index]).collect();
        let gradients = Tensor::f_run_backward(&[&product], &inputs, false, false)?;
        tch::no_grad(|| {
            below.iter().zip(&gradients).try_for_each(|(&index, value)| {
                self.slot(gradient, index)?.f_add_(value).map(|_| ())
            })
        })?;
        Ok(nll)
    }

    /// Returns the summed loss of hidden states, one a row, and the gradient by them; adds that by the head.
    fn head_backward(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        scale: f64,
        gradient: &Tensor,
    ) -> Result<(f64, Tensor), TchError> {
        let head = self.leaves[self.layout.head].f_detach()?.f_to_kind(self.kind)?;
        let mut d_head = self.slot(gradient, self.layout.head)?;
        let d_hidden = hidden.f_empty_like()?;
        let mut nll = Tensor::f_zeros([1], (Kind::Double, self.device()))?;
        for (start, count) in self.chunks(hidden.size()[0]) {
            let rows = hidden.f_narrow(0, start, count)?;
            let targets = targets.f_narrow(0, start, count)?;
            let mut log = self.log_probabilities(&rows, &head)?;
            let picked = log.f_gather(1, &targets, false)?;
            let _ = nll.f_sub_(&picked.f_sum(Kind::Double)?)?;
            // The gradient by logits is the probabilities, less one at the target.
            let mut d_logits = log.f_exp_()?;
            let minus_one = picked.f_full_like(-1.0)?;
            let d_logits =
                d_logits.f_scatter_add_(1, &targets, &minus_one)?.f_to_kind(self.kind)?;
            let d_rows = d_logits.f_mm(&head)?.f_to_kind(Kind::Float)?.f_mul_scalar(scale)?;
            d_hidden.f_narrow(0, start, count)?.f_copy_(&d_rows)?;
            let scaled = rows.f_mul_scalar(scale)?.f_to_kind(self.kind)?;
            let _ = d_head.f_add_(&d_logits.f_tr()?.f_mm(&scaled)?)?;
        }
        Ok((nll.f_double_value(&[0])?, d_hidden))
    }

    fn log_probabilities(&self, rows: &Tensor, head: &Tensor) -> Result<Tensor, TchError> {
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
    fn chunks(&self, rows: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let numbers = if self.device() == Device::Cpu { 1 << 20 } else { 1 << 26 };
        let size = (numbers / self.config.vocab).max(128);
        (0..rows).step_by(size as usize).map(move |start| (start, size.min(rows - start)))
    }

    /// Returns the logits of every position, for tests and short inputs.
    #[cfg(test)]
    pub(crate) fn logits(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        tch::no_grad(|| self.logits_of(&self.hidden(ids)?))
    }
}

impl Weights for Llama {
    fn load(&self, name: &str, _shape: &[i64]) -> Result<Tensor, StageError> {
        let part = self.layout.parts.iter().find(|part| part.name == name);
        let value = self.value(part.expect("the model has what its config says"));
        value.and_then(|value| value.f_to_device(Device::Cpu)).map_err(fault)
    }
}

/// Returns tokens, `[sequences, length]`, as `cpu` takes them.
pub(crate) fn batch(ids: &Tensor) -> Batch<'_> {
    let length = ids.size().last().map_or(0, |&length| length as usize);
    Batch { ids: numbers(ids), length }
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
