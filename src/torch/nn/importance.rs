//! How much each unit of a model matters to some data: by gradients, or by the size of what it makes.
//!
//! `taylor` is LLM-Pruner's first-order estimate: the sum of `|weight * gradient|` over the weights of a unit, with the gradient
//! of the mean loss. `activation` is Minitron's: the mean over tokens of the size of a unit's output, added up over the layers for
//! a hidden dimension (after each RMSNorm), the norm for a head; and for a layer one minus the cosine between what enters and
//! leaves it (`ShortGPT`).

use tch::{Kind, TchError, Tensor};
use tlm::stage::StageError;

use crate::nn::config::Config;
use crate::nn::llama::Llama;
use crate::nn::runtime::{f32_values, fault};
use crate::nn::select::{Importance, LayerImportance, Norm, Scorer};
use crate::nn::weights::Weights;

/// The products of a model's weights with their gradients.
struct Products<'m> {
    model: &'m Llama,
    gradient: &'m Tensor,
}

impl Weights for Products<'_> {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        let part = self.model.layout.parts.iter().find(|part| part.name == name);
        let part = part.expect("the model has what its config says");
        let take = |from: &Tensor| from.f_narrow(0, part.offset, shape.iter().product());
        // Rows of q and k are interleaved within their head, which sums over heads don't see.
        take(&self.model.flat)
            .and_then(|weights| weights.f_mul(&take(self.gradient)?)?.f_view(shape))
            .map_err(fault)
    }
}

/// Returns the importance by a gradient like [`Llama::flat`].
pub(crate) fn taylor(model: &Llama, gradient: &Tensor) -> Result<Importance, StageError> {
    let config = &model.config;
    let products = Products { model, gradient };
    let scorer = Scorer { model: config, weights: &products, norm: Norm::Absolute };
    let mut out = zeros(config);
    scorer.add_embeddings(&mut out.hidden)?;
    for (layer, within) in out.within.iter_mut().enumerate() {
        scorer.add_mlp(layer as i64, within, &mut out.hidden)?;
        scorer.add_attention(layer as i64, within, &mut out.hidden)?;
        out.layers[layer] = within.sum();
    }
    Ok(out)
}

fn zeros(config: &Config) -> Importance {
    Importance {
        hidden: vec![0.0; config.width as usize],
        layers: vec![0.0; config.depth as usize],
        within: vec![LayerImportance::zeros(config); config.depth as usize],
    }
}

/// Sums of sizes over tokens, in f64 on the model's device.
pub(crate) struct Activations {
    hidden: Tensor,
    layers: Vec<Tensor>,
    neurons: Vec<Tensor>,
    heads: Vec<Tensor>,
}

impl Activations {
    /// Returns those of no token.
    pub(crate) fn new(model: &Llama) -> Result<Self, TchError> {
        let Config { width, depth, heads, ffn, .. } = model.config;
        let zeros = |count: i64| Tensor::f_zeros([count], (Kind::Double, model.device()));
        let each = |count: i64| (0..depth).map(|_| zeros(count)).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            hidden: zeros(width)?,
            layers: each(1)?,
            neurons: each(ffn)?,
            heads: each(heads)?,
        })
    }

    /// Returns all sums, in an order of their own.
    pub(crate) fn all(&self) -> Vec<&Tensor> {
        let layers = [&self.layers, &self.neurons, &self.heads].into_iter().flatten();
        std::iter::once(&self.hidden).chain(layers).collect()
    }

    /// Adds those of some tokens, `[batch, length]`.
    pub(crate) fn add(&self, model: &Llama, ids: &Tensor) -> Result<(), TchError> {
        tch::no_grad(|| {
            let places = model.places(0, ids.size()[1], None)?;
            let mut x = model.embedded(ids)?;
            for (index, layer) in model.layout.layers.iter().enumerate() {
                let before = x.shallow_clone();
                let z = model.normed(&x, layer.attention_norm)?;
                add_sizes(&self.hidden, &z)?;
                let mixed = model.mixed(layer, &z, &places, None)?;
                let size = model.config.head_dim;
                let norms = mixed.f_to_kind(Kind::Float)?.f_unflatten(-1, [-1, size])?;
                let norms =
                    norms.f_square()?.f_sum_dim_intlist([-1_i64].as_slice(), false, Kind::Float)?;
                add_sizes(&self.heads[index], &norms.f_sqrt()?)?;
                x = model.after_attention(layer, &x, &z, &mixed)?;
                let z = model.normed(&x, layer.mlp_norm)?;
                add_sizes(&self.hidden, &z)?;
                let inner = model.gated(layer, &z)?;
                add_sizes(&self.neurons[index], &inner)?;
                x = x.f_add(&model.project(&inner, layer.down)?)?;
                let change = Tensor::f_cosine_similarity(&before, &x, -1, 1e-8)?
                    .f_neg()?
                    .f_add_scalar(1.0)?;
                add_sizes(&self.layers[index], &change.f_unsqueeze(-1)?)?;
            }
            add_sizes(&self.hidden, &model.normed(&x, model.layout.norm)?)?;
            Ok(())
        })
    }

    /// Returns the importance, as so many tokens were added.
    pub(crate) fn finish(&self, config: &Config, tokens: u64) -> Result<Importance, TchError> {
        let mean = |sums: &Tensor| -> Result<Vec<f64>, TchError> {
            let mean = f32_values(&sums.f_div_scalar(tokens.max(1) as i64)?)?;
            Ok(mean.into_iter().map(f64::from).collect())
        };
        let mut out = zeros(config);
        out.hidden = mean(&self.hidden)?;
        for (index, within) in out.within.iter_mut().enumerate() {
            out.layers[index] = mean(&self.layers[index])?[0];
            within.neurons = mean(&self.neurons[index])?;
            within.heads = mean(&self.heads[index])?;
        }
        Ok(out)
    }
}

/// Adds the sum of the sizes of `[.., units]` over all but the last dimension.
fn add_sizes(sums: &Tensor, values: &Tensor) -> Result<(), TchError> {
    let units = sums.size()[0];
    let sizes = values.f_abs()?.f_reshape([-1, units])?;
    let _ = sums.shallow_clone().f_add_(&sizes.f_sum_dim_intlist(
        [0_i64].as_slice(),
        false,
        Kind::Double,
    )?)?;
    Ok(())
}
