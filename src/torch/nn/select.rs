//! What of a donor to keep (paper section 3.2): one set of hidden dimensions for the whole model, neurons of each layer,
//! key-value heads and query heads within them, and a set of layers.
//!
//! A unit's score is the norm of all weights that belong to it: for a hidden dimension, its column in what reads the
//! residual stream and its row in what writes to it; for a neuron, its rows of gate and up and its column of down; for
//! a head, its rows of q (k and v too, for a key-value head) and its columns of o. Kept units stay in the donor's order,
//! and weights are kept as they are: RMSNorm already rescales what a narrower stream carries.

use serde::Deserialize;
use tch::{Kind, TchError, Tensor};
use tlm::data::mix::splitmix;
use tlm::stage::StageError;

use crate::nn::config::Config;
use crate::nn::runtime::{f32_values, fault};
use crate::nn::weights::Weights;

/// What makes a unit worth keeping, of what needs no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Criterion {
    Random,
    L1,
    L2,
}

/// What a norm adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    Absolute,
    Square,
}

/// Which layers to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layers {
    /// Those of the highest scores; only where layers have some.
    Important,
    Ends,
    Even,
}

/// Indices into the donor, ascending.
pub(crate) struct Selection {
    pub(crate) layers: Vec<i64>,
    pub(crate) hidden: Vec<i64>,
    /// Per kept layer.
    pub(crate) within: Vec<LayerSelection>,
}

/// What is kept of one layer.
pub(crate) struct LayerSelection {
    pub(crate) neurons: Vec<i64>,
    pub(crate) kv_heads: Vec<i64>,
    /// Grouped by key-value head.
    pub(crate) heads: Vec<i64>,
}

/// Returns the layers kept of `from`: the first and last ones, the larger half first; evenly spread with both ends; or those of the
/// highest `scores`.
pub(crate) fn layers(how: Layers, from: i64, keep: i64, scores: &[f64]) -> Vec<i64> {
    match how {
        Layers::Important => best(scores, keep),
        Layers::Ends => (0..(keep + 1) / 2).chain(from - keep / 2..from).collect(),
        Layers::Even if keep == 1 => vec![0],
        Layers::Even => (0..keep).map(|i| (i * (from - 1) + (keep - 1) / 2) / (keep - 1)).collect(),
    }
}

/// How much each unit of a model matters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Importance {
    pub(crate) hidden: Vec<f64>,
    pub(crate) layers: Vec<f64>,
    /// Per layer.
    pub(crate) within: Vec<LayerImportance>,
}

/// How much each unit of a layer matters.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LayerImportance {
    pub(crate) neurons: Vec<f64>,
    /// Without their query heads.
    pub(crate) kv_heads: Vec<f64>,
    pub(crate) heads: Vec<f64>,
}

impl LayerImportance {
    pub(crate) fn zeros(config: &Config) -> Self {
        let zeros = |count: i64| vec![0.0; count as usize];
        Self {
            neurons: zeros(config.ffn),
            kv_heads: zeros(config.kv_heads),
            heads: zeros(config.heads),
        }
    }

    /// Returns the sum over all units, to each of which other weights belong.
    pub(crate) fn sum(&self) -> f64 {
        [&self.neurons, &self.kv_heads, &self.heads].into_iter().flatten().sum()
    }
}

/// Adds up the norms of all weights that belong to a unit.
pub(crate) struct Scorer<'a> {
    pub(crate) model: &'a Config,
    pub(crate) weights: &'a dyn Weights,
    pub(crate) norm: Norm,
}

impl Scorer<'_> {
    /// Adds embeddings and head to the hidden dimensions.
    pub(crate) fn add_embeddings(&self, hidden: &mut [f64]) -> Result<(), StageError> {
        let names = ["model.embed_tokens.weight", "lm_head.weight"];
        for name in &names[..if self.model.tied { 1 } else { 2 }] {
            let rows = self.weights.load(name, &[self.model.vocab, self.model.width])?;
            add(hidden, &self.sums(name, &rows, 0)?);
        }
        Ok(())
    }

    /// Adds a layer's feed-forward network.
    pub(crate) fn add_mlp(
        &self,
        layer: i64,
        scores: &mut LayerImportance,
        hidden: &mut [f64],
    ) -> Result<(), StageError> {
        for (name, writes) in [("mlp.gate", false), ("mlp.up", false), ("mlp.down", true)] {
            let name = projection(layer, name);
            let matrix = self.load(&name, self.model.ffn, writes)?;
            add(&mut scores.neurons, &self.sums(&name, &matrix, i64::from(!writes))?);
            add(hidden, &self.sums(&name, &matrix, i64::from(writes))?);
        }
        Ok(())
    }

    /// Adds a layer's attention.
    pub(crate) fn add_attention(
        &self,
        layer: i64,
        scores: &mut LayerImportance,
        hidden: &mut [f64],
    ) -> Result<(), StageError> {
        let Config { heads, kv_heads, head_dim, .. } = *self.model;
        for (part, count) in [("q", heads), ("k", kv_heads), ("v", kv_heads), ("o", heads)] {
            let writes = part == "o";
            let name = projection(layer, &format!("self_attn.{part}"));
            let matrix = self.load(&name, count * head_dim, writes)?;
            let per_row = self.sums(&name, &matrix, i64::from(!writes))?;
            let per_head = per_row.chunks(head_dim as usize).map(|head| head.iter().sum::<f64>());
            let per_head: Vec<f64> = per_head.collect();
            let own =
                if matches!(part, "q" | "o") { &mut scores.heads } else { &mut scores.kv_heads };
            add(own, &per_head);
            add(hidden, &self.sums(&name, &matrix, i64::from(writes))?);
        }
        Ok(())
    }

    /// Loads a projection between the residual stream and `inner` units; one that writes to the stream has it as rows.
    fn load(&self, name: &str, inner: i64, writes: bool) -> Result<Tensor, StageError> {
        let width = self.model.width;
        self.weights.load(name, &if writes { [width, inner] } else { [inner, width] })
    }

    /// Returns sums over a dimension of what the norm adds up, for each index of the other one.
    fn sums(&self, name: &str, matrix: &Tensor, over: i64) -> Result<Vec<f64>, StageError> {
        let reduce = || -> Result<Vec<f64>, TchError> {
            let parts = match self.norm {
                Norm::Absolute => matrix.f_abs()?,
                Norm::Square => matrix.f_square()?,
            };
            let sums = parts.f_sum_dim_intlist([over].as_slice(), false, Kind::Float)?;
            Ok(f32_values(&sums)?.into_iter().map(f64::from).collect())
        };
        let sums = reduce().map_err(fault)?;
        // Beside such a sum, no other one counts.
        if sums.iter().all(|sum| sum.is_finite()) {
            return Ok(sums);
        }
        Err(StageError::input(format!(
            "tensor `{name}` of the donor has numbers that are not finite"
        ))
        .help("use a donor that has not diverged; if this one was fetched, fetch it again"))
    }
}

/// Returns the name of a projection's weights.
fn projection(layer: i64, name: &str) -> String {
    format!("model.layers.{layer}.{name}_proj.weight")
}

/// Keeps the best units by what needs no data.
pub(crate) struct Selector<'a> {
    pub(crate) donor: &'a Config,
    pub(crate) target: &'a Config,
    pub(crate) weights: &'a dyn Weights,
    pub(crate) criterion: Criterion,
    pub(crate) seed: u64,
}

impl Selector<'_> {
    /// Returns the selection with these layers; `each` is called after each.
    pub(crate) fn select(
        &self,
        layers: Vec<i64>,
        each: &mut dyn FnMut(i64) -> Result<(), StageError>,
    ) -> Result<Selection, StageError> {
        let (donor, target) = (self.donor, self.target);
        let norm = if self.criterion == Criterion::L2 { Norm::Square } else { Norm::Absolute };
        let scorer = Scorer { model: donor, weights: self.weights, norm };
        let mut hidden = vec![0.0; donor.width as usize];
        let narrows = self.reads(donor.width, target.width);
        if narrows {
            scorer.add_embeddings(&mut hidden)?;
        }
        let mut within = Vec::new();
        for (done, &layer) in layers.iter().enumerate() {
            let mut scores = LayerImportance::zeros(donor);
            if narrows || self.reads(donor.ffn, target.ffn) {
                scorer.add_mlp(layer, &mut scores, &mut hidden)?;
            }
            let fewer = self.reads(donor.heads, target.heads);
            if narrows || fewer || self.reads(donor.kv_heads, target.kv_heads) {
                scorer.add_attention(layer, &mut scores, &mut hidden)?;
            }
            let salt = (layer as u64 + 1) << 8;
            let best = |scores: &[f64], keep: i64, more: u64| self.best(scores, keep, salt + more);
            within.push(keep_within(donor, target, &scores, &best));
            each(done as i64 + 1)?;
        }
        let hidden = self.best(&hidden, target.width, 0);
        Ok(Selection { layers, hidden, within })
    }

    /// Returns whether weights decide which `keep` of `from` units stay.
    fn reads(&self, from: i64, keep: i64) -> bool {
        self.criterion != Criterion::Random && keep < from
    }

    fn best(&self, scores: &[f64], keep: i64, salt: u64) -> Vec<i64> {
        if self.criterion != Criterion::Random {
            return best(scores, keep);
        }
        let chance = |index: usize| splitmix(splitmix(self.seed ^ splitmix(salt)) ^ index as u64);
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by_key(|&index| (chance(index), index));
        ascending(&order, keep)
    }
}

/// Returns the best units of some layers by their importance.
pub(crate) fn most_important(
    donor: &Config,
    target: &Config,
    importance: &Importance,
    layers: Vec<i64>,
) -> Selection {
    let keep = |&layer: &i64| {
        let scores = &importance.within[layer as usize];
        keep_within(donor, target, scores, &|scores, keep, _| best(scores, keep))
    };
    let within = layers.iter().map(keep).collect();
    Selection { hidden: best(&importance.hidden, target.width), within, layers }
}

/// Keeps so many units by their scores; the last argument tells calls for the same layer apart.
type Best<'b> = &'b dyn Fn(&[f64], i64, u64) -> Vec<i64>;

/// Returns what is kept of a layer: the key-value heads, and as many of each one's query heads as the target has.
fn keep_within(
    donor: &Config,
    target: &Config,
    scores: &LayerImportance,
    best: Best,
) -> LayerSelection {
    let neurons = best(&scores.neurons, target.ffn, 0);
    let group = (donor.heads / donor.kv_heads) as usize;
    let groups = scores.kv_heads.iter().zip(scores.heads.chunks(group));
    let groups: Vec<f64> = groups.map(|(key, queries)| key + queries.iter().sum::<f64>()).collect();
    let kv_heads = best(&groups, target.kv_heads, 1);
    let each = target.heads / target.kv_heads;
    let heads = kv_heads.iter().flat_map(|&head| {
        let first = head as usize * group;
        let kept = best(&scores.heads[first..first + group], each, 2 + head as u64);
        kept.into_iter().map(move |query| first as i64 + query)
    });
    let heads = heads.collect();
    LayerSelection { neurons, kv_heads, heads }
}

/// Returns the indices of the best scores, ascending; the first one wins a tie.
fn best(scores: &[f64], keep: i64) -> Vec<i64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    ascending(&order, keep)
}

fn ascending(order: &[usize], keep: i64) -> Vec<i64> {
    let mut kept: Vec<i64> = order.iter().take(keep as usize).map(|&i| i as i64).collect();
    kept.sort_unstable();
    kept
}

fn add(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests {
    use super::{Layers, layers};

    #[test]
    fn layers_are_both_ends_or_evenly_spread() {
        let check = |how, from, keep, expected: &[i64]| {
            assert_eq!(layers(how, from, keep, &[0.1, 0.4, 0.2, 0.3]), expected);
        };
        check(Layers::Ends, 30, 5, &[0, 1, 2, 28, 29]);
        check(Layers::Ends, 4, 4, &[0, 1, 2, 3]);
        check(Layers::Ends, 4, 1, &[0]);
        check(Layers::Even, 30, 4, &[0, 10, 19, 29]);
        check(Layers::Even, 4, 4, &[0, 1, 2, 3]);
        check(Layers::Even, 4, 1, &[0]);
        check(Layers::Important, 4, 2, &[1, 3]);
    }
}
