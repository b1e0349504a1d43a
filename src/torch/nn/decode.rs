//! Writing on: one decoder with a cache of keys and values for `eval.speed`, `eval.rouge` and `tlm sample`.

use tch::{Device, Kind, TchError, Tensor};

use crate::nn::cpu::{self, Net};
use crate::nn::llama::{Llama, batch};
use crate::nn::runtime::numbers;

/// Keys and values of the tokens that a model has read.
pub(crate) struct Cache {
    /// Of each layer: keys and values, `[batch, kv_heads, capacity, head_dim]`.
    layers: Vec<(Tensor, Tensor)>,
    /// Tokens read.
    pub(crate) length: i64,
}

impl Cache {
    fn new(model: &Llama, batch: i64, capacity: i64) -> Result<Self, TchError> {
        let shape = [batch, model.config.kv_heads, capacity, model.config.head_dim];
        let room = || Tensor::f_zeros(shape, (model.kind(), model.device()));
        let layers = model.layout.layers.iter().map(|_| Ok((room()?, room()?)));
        Ok(Self { layers: layers.collect::<Result<_, TchError>>()?, length: 0 })
    }

    /// Adds keys and values of new tokens to a layer, and returns those of all.
    pub(crate) fn extend(
        &mut self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor), TchError> {
        let count = keys.size()[2];
        let add = |all: &Tensor, new: &Tensor| {
            all.f_narrow(2, self.length, count)?.f_copy_(new)?;
            all.f_narrow(2, 0, self.length + count)
        };
        let (all_keys, all_values) = &self.layers[layer];
        Ok((add(all_keys, keys)?, add(all_values, values)?))
    }
}

/// A model that has read some tokens.
pub(crate) struct Decoder<'m> {
    model: &'m Llama,
    read: Read<'m>,
}

enum Read<'m> {
    ByTensors(Cache),
    OnCpu(&'m Net, cpu::Cache<'m>),
}

impl<'m> Decoder<'m> {
    /// Returns one with room for `capacity` tokens of each of `batch` texts.
    pub(crate) fn new(model: &'m Llama, batch: i64, capacity: i64) -> Result<Self, TchError> {
        let read = match model.net() {
            Some(net) => {
                let cache = net.cache(numbers(&model.flat), batch as usize, capacity as usize);
                Read::OnCpu(net, cache)
            }
            None => Read::ByTensors(Cache::new(model, batch, capacity)?),
        };
        Ok(Self { model, read })
    }

    /// Forgets the tokens read.
    pub(crate) fn clear(&mut self) {
        match &mut self.read {
            Read::ByTensors(cache) => cache.length = 0,
            Read::OnCpu(_, cache) => cache.clear(),
        }
    }

    /// Reads tokens, `[batch, length]`, and returns the logits of the next one, `[batch, vocab]`. After the first time, one
    /// token of each text at a time.
    pub(crate) fn read(&mut self, ids: &Tensor) -> Result<Tensor, TchError> {
        let length = ids.size()[1];
        let cache = match &mut self.read {
            Read::ByTensors(cache) => cache,
            Read::OnCpu(net, cache) => {
                let logits = net.read(cache, batch(&ids.f_contiguous()?, None));
                return Tensor::f_from_slice(&logits)?.f_view([ids.size()[0], -1]);
            }
        };
        assert!(length == 1 || cache.length == 0, "several tokens after the first ones");
        tch::no_grad(|| {
            let hidden = self.model.hidden_after(ids, cache)?;
            let last = hidden.f_view([ids.size()[0], length, -1])?.f_select(1, length - 1)?;
            self.model.logits_of(&last)
        })
    }
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// Divides the logits; 0 always takes the likeliest token.
    pub(crate) temperature: f64,
    /// Takes one of so many likeliest tokens; 0 for all.
    pub(crate) top_k: i64,
    /// Takes one of the likeliest tokens that together have this probability.
    pub(crate) top_p: f64,
}

impl Choice {
    /// The likeliest token.
    pub(crate) const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0 };

    /// Draws a token for each row of logits, `[batch, vocab]`, by libtorch's seed: `[batch, 1]`.
    pub(crate) fn draw(self, logits: &Tensor) -> Result<Tensor, TchError> {
        if self.temperature == 0.0 {
            return logits.f_argmax(-1, true);
        }
        // On the CPU, so that a seed draws the same tokens on every device.
        let device = logits.device();
        let logits = logits.f_to_device(Device::Cpu)?.f_div_scalar(self.temperature)?;
        let (sorted, order) = logits.f_sort(-1, true)?;
        let vocab = logits.size()[1];
        let kept = if self.top_k > 0 { self.top_k.min(vocab) } else { vocab };
        let probabilities = sorted.f_narrow(1, 0, kept)?.f_softmax(-1, Kind::Float)?;
        // A token counts while those before it have less than `top_p`; so the first one always does.
        let before = probabilities.f_cumsum(-1, Kind::Float)?.f_sub(&probabilities)?;
        let probabilities = probabilities.f_masked_fill(&before.f_ge(self.top_p)?, 0.0)?;
        let drawn = probabilities.f_multinomial(1, false)?;
        order.f_gather(1, &drawn, false)?.f_to_device(device)
    }
}
