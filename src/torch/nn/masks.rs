//! Masks over the units of a model that are learned while it trains: hard-concrete gates (Louizos et al., arXiv 1712.01312)
//! held to a shape that shrinks to the one wanted by Lagrange multipliers (Sheared-LLaMA, arXiv 2310.06694; paper section 3.2,
//! "learned"). There the multipliers are learned too, and overshoot unless there are thousands of steps; here they are solved for.
//!
//! A gate multiplies what its unit writes: a hidden dimension's numbers in embeddings and in what layers add to the residual
//! stream, a neuron's column of down, a head's columns of o, all that a layer adds. So a model under masks is the model with
//! other weights, each a weight times its gates, and needs no code of its own: the gradient by those weights is handed on to
//! weights and gates by the chain rule.

use tch::{Device, Kind, TchError, Tensor};
use tlm::data::mix::splitmix;

use crate::nn::config::Config;
use crate::nn::llama::Llama;
use crate::nn::runtime::f32_values;
use crate::nn::select::{Importance, LayerImportance, Selection};

/// How soft gates are, and how far they are stretched beyond 0 and 1, where they are cut off (the values of both papers).
const BETA: f64 = 2.0 / 3.0;
const STRETCH: [f64; 2] = [-0.1, 1.1];
/// Log-odds stay where a gradient can still move them.
const LIMIT: f64 = 4.6;
/// Halvings of the range of a multiplier: as many as f32 can tell apart.
const HALVINGS: usize = 30;

/// What has gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Hidden,
    Layer,
    KvHead,
    /// Query heads within their key-value head.
    Head,
    Neuron,
}

impl Unit {
    /// Returns what their number is called in a shape.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hidden => "width",
            Self::Layer => "depth",
            Self::KvHead => "kv_heads",
            Self::Head => "heads_per_kv_head",
            Self::Neuron => "ffn",
        }
    }
}

/// Gates of one kind of unit: `rows` sets of `units`, of each of which `keep` are to stay.
#[derive(Clone, Copy, Debug)]
struct Group {
    unit: Unit,
    rows: i64,
    units: i64,
    keep: i64,
    /// Where its log-odds begin.
    start: i64,
}

impl Group {
    /// Returns this group's part of a number for each gate: `[rows, units]`.
    fn of(&self, all: &Tensor) -> Result<Tensor, TchError> {
        all.f_narrow(0, self.start, self.rows * self.units)?.f_view([self.rows, self.units])
    }
}

/// The gates of all kinds of units of which a shape has fewer than the donor.
pub(crate) struct Masks {
    groups: Vec<Group>,
    donor: Config,
    /// The log-odds of all gates.
    odds: Tensor,
}

/// A number between 0 and 1 for each unit.
struct Gates {
    /// `[width]`
    hidden: Tensor,
    /// `[depth]`
    layers: Tensor,
    /// `[depth, heads * head_dim]`
    heads: Tensor,
    /// `[depth, ffn]`
    neurons: Tensor,
}

/// A leaf whose rows and columns are multiplied by gates.
struct Gated {
    leaf: usize,
    rows: Option<Tensor>,
    columns: Option<Tensor>,
}

impl Masks {
    /// Returns open gates for what a shape has fewer of than the donor; none if that is nothing.
    pub(crate) fn new(
        donor: &Config,
        target: &Config,
        device: Device,
    ) -> Result<Option<Self>, TchError> {
        let of = |config: &Config| config.heads / config.kv_heads;
        let all = [
            (Unit::Hidden, 1, donor.width, target.width),
            (Unit::Layer, 1, donor.depth, target.depth),
            (Unit::KvHead, donor.depth, donor.kv_heads, target.kv_heads),
            (Unit::Head, donor.depth * donor.kv_heads, of(donor), of(target)),
            (Unit::Neuron, donor.depth, donor.ffn, target.ffn),
        ];
        let (mut gates, mut groups) = (0, Vec::new());
        for (unit, rows, units, keep) in all {
            if keep < units {
                groups.push(Group { unit, rows, units, keep, start: gates });
                gates += rows * units;
            }
        }
        if groups.is_empty() {
            return Ok(None);
        }
        let odds = Tensor::f_full([gates], LIMIT, (Kind::Float, device))?;
        Ok(Some(Self { groups, donor: donor.clone(), odds }))
    }

    /// Returns what a gate adds to its log-odds at a step: the log-odds of a number drawn between 0 and 1.
    fn noise(&self, seed: u64, step: u64) -> Result<Tensor, TchError> {
        let seed = splitmix(seed ^ splitmix(step));
        let drawn = |gate: i64| {
            let chance = (splitmix(seed ^ gate as u64) >> 11) as f64 + 0.5;
            let chance = chance / (1_u64 << 53) as f64;
            (chance / (1.0 - chance)).ln() as f32
        };
        let noise: Vec<f32> = (0..self.odds.numel() as i64).map(drawn).collect();
        Tensor::f_from_slice(&noise)?.f_to_device(self.odds.device())
    }

    /// Parts a flat list of gates by what they are of.
    fn gates(&self, flat: &Tensor) -> Result<Gates, TchError> {
        let Config { width, depth, heads, kv_heads, head_dim, ffn, .. } = self.donor;
        let of = |unit: Unit, shape: &[i64]| match self.group(unit) {
            Some(group) => flat.f_narrow(0, group.start, group.rows * group.units)?.f_view(shape),
            None => Tensor::f_ones(shape, (Kind::Float, flat.device())),
        };
        let queries = of(Unit::Head, &[depth, kv_heads, heads / kv_heads])?;
        let queries = queries.f_mul(&of(Unit::KvHead, &[depth, kv_heads, 1])?)?;
        Ok(Gates {
            hidden: of(Unit::Hidden, &[width])?,
            layers: of(Unit::Layer, &[depth])?,
            heads: queries
                .f_view([depth, heads])?
                .f_repeat_interleave_self_int(head_dim, 1, None)?,
            neurons: of(Unit::Neuron, &[depth, ffn])?,
        })
    }

    fn group(&self, unit: Unit) -> Option<&Group> {
        self.groups.iter().find(|group| group.unit == unit)
    }

    /// Moves the log-odds of each row by one amount, so that as many units are expected to stay as are wanted when `shrunk` of
    /// the way to the shape is done. That is the nearest point, by relative entropy, at which the constraint holds, and the
    /// amount its Lagrange multiplier.
    fn constrain(&self, shrunk: f64) -> Result<(), TchError> {
        for group in &self.groups {
            let wanted = group.units as f64 - (group.units - group.keep) as f64 * shrunk;
            let mut odds = group.of(&self.odds)?;
            let bound = |at| Tensor::f_full([group.rows, 1], at, (Kind::Float, odds.device()));
            let (mut low, mut high) = (bound(-2.0 * LIMIT)?, bound(2.0 * LIMIT)?);
            for _ in 0..HALVINGS {
                let middle = low.f_add(&high)?.f_mul_scalar(0.5)?;
                let moved = odds.f_sub(&middle)?.f_clamp(-LIMIT, LIMIT)?;
                let too_many = expected(&moved)?.f_unsqueeze(1)?.f_gt(wanted)?;
                low = middle.f_where_self(&too_many, &low)?;
                high = high.f_where_self(&too_many, &middle)?;
            }
            let _ = odds.f_sub_(&high)?.f_clamp_(-LIMIT, LIMIT)?;
        }
        Ok(())
    }

    /// Returns how many units of each kind are expected to stay, on average over rows.
    pub(crate) fn sizes(&self) -> Result<Vec<(Unit, f64)>, TchError> {
        let size = |group: &Group| {
            let mean = expected(&group.of(&self.odds)?)?.f_mean(Kind::Double)?;
            Ok((group.unit, mean.f_double_value(&[])?))
        };
        self.groups.iter().map(size).collect()
    }

    /// Returns the log-odds as importance; what has no gates is all alike.
    pub(crate) fn importance(&self) -> Result<Importance, TchError> {
        let odds = f32_values(&self.odds)?;
        let Config { width, depth, heads, kv_heads, ffn, .. } = self.donor;
        let of = |unit: Unit, count: i64| match self.group(unit) {
            Some(group) => {
                let all = &odds[group.start as usize..][..(group.rows * group.units) as usize];
                all.iter().map(|&odds| f64::from(odds)).collect()
            }
            None => vec![0.0; count as usize],
        };
        let each = |unit: Unit, count: i64| -> Vec<Vec<f64>> {
            of(unit, depth * count).chunks(count as usize).map(<[f64]>::to_vec).collect()
        };
        let (neurons, kv_heads, heads) =
            (each(Unit::Neuron, ffn), each(Unit::KvHead, kv_heads), each(Unit::Head, heads));
        let within = neurons.into_iter().zip(kv_heads).zip(heads);
        let within =
            within.map(|((neurons, kv_heads), heads)| LayerImportance { neurons, kv_heads, heads });
        Ok(Importance {
            hidden: of(Unit::Hidden, width),
            layers: of(Unit::Layer, depth),
            within: within.collect(),
        })
    }

    /// Returns the gates without chance, closed for what is not selected.
    fn settled(&self, selection: &Selection) -> Result<Tensor, TchError> {
        let mut open = vec![0.0_f32; self.odds.numel()];
        let mut keep = |unit: Unit, row: i64, units: &[i64]| {
            let Some(group) = self.group(unit) else { return };
            for unit in units {
                open[(group.start + row * group.units + unit) as usize] = 1.0;
            }
        };
        keep(Unit::Hidden, 0, &selection.hidden);
        keep(Unit::Layer, 0, &selection.layers);
        for (&layer, within) in selection.layers.iter().zip(&selection.within) {
            keep(Unit::Neuron, layer, &within.neurons);
            keep(Unit::KvHead, layer, &within.kv_heads);
            // The heads of a layer lie end to end, as its rows of heads do.
            keep(Unit::Head, layer * self.donor.kv_heads, &within.heads);
        }
        let open = Tensor::f_from_slice(&open)?.f_to_device(self.odds.device())?;
        opened(&self.odds)?.f_mul(&open)
    }
}

/// Returns gates by their log-odds.
fn opened(odds: &Tensor) -> Result<Tensor, TchError> {
    let [low, high] = STRETCH;
    odds.f_sigmoid()?.f_mul_scalar(high - low)?.f_add_scalar(low)?.f_clamp(0.0, 1.0)
}

/// Returns how many units of each row are expected to stay, by their log-odds: `[rows]`.
fn expected(odds: &Tensor) -> Result<Tensor, TchError> {
    let [low, high] = STRETCH;
    // How likely a gate is above zero.
    let open = odds.f_add_scalar(-BETA * (-low / high).ln())?.f_sigmoid()?;
    open.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Float)
}

impl Gates {
    /// Returns the leaves that are multiplied.
    fn gated(&self, model: &Llama) -> Result<Vec<Gated>, TchError> {
        let embedding = Gated { leaf: 0, rows: None, columns: Some(self.hidden.shallow_clone()) };
        let mut gated = vec![embedding];
        for (index, layer) in (0..).zip(&model.layout.layers) {
            // All that a layer writes goes to the residual stream.
            let written = self.hidden.f_mul(&self.layers.f_narrow(0, index, 1)?)?;
            let mut add = |leaf: usize, columns: Option<Tensor>| {
                gated.push(Gated { leaf, rows: Some(written.shallow_clone()), columns });
            };
            add(layer.out.weight, Some(self.heads.f_select(0, index)?));
            add(layer.down.weight, Some(self.neurons.f_select(0, index)?));
            [layer.out.bias, layer.down.bias]
                .into_iter()
                .flatten()
                .for_each(|leaf| add(leaf, None));
            if let Some([_, expand]) = layer.shortcut {
                add(expand.weight, None);
            }
        }
        Ok(gated)
    }
}

impl Gated {
    /// Multiplies this leaf's part of a buffer.
    fn multiply(&self, model: &Llama, buffer: &Tensor) -> Result<(), TchError> {
        let mut slot = model.slot(buffer, self.leaf)?;
        if let Some(columns) = &self.columns {
            let _ = slot.f_mul_(columns)?;
        }
        if let Some(rows) = &self.rows {
            let rows = if slot.dim() == 2 { rows.f_unsqueeze(1)? } else { rows.shallow_clone() };
            let _ = slot.f_mul_(&rows)?;
        }
        Ok(())
    }

    /// Returns what has the gates' gradient: the sum of the weights times their gradient times their gates.
    fn weighed(&self, model: &Llama, gradient: &Tensor) -> Result<Tensor, TchError> {
        let slot = |buffer: &Tensor| model.slot(buffer, self.leaf);
        let product = slot(gradient)?.f_mul(&slot(&model.flat)?)?;
        let by_row = match &self.columns {
            Some(columns) if self.rows.is_none() => {
                let sums = product.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Float)?;
                return sums.f_mul(columns)?.f_sum(Kind::Float);
            }
            Some(columns) => product.f_mv(columns)?,
            None if product.dim() == 2 => {
                product.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Float)?
            }
            None => product,
        };
        match &self.rows {
            Some(rows) => by_row.f_mul(rows)?.f_sum(Kind::Float),
            None => by_row.f_sum(Kind::Float),
        }
    }
}

/// Learns masks along with a model that trains.
pub(crate) struct Learner {
    masks: Masks,
    /// The model under the gates last drawn.
    masked: Llama,
    pub(crate) moments: Moments,
    drawn: Option<Drawn>,
    seed: u64,
}

/// Running means of the gradient by the log-odds and of its square.
pub(crate) struct Moments {
    pub(crate) mean: Tensor,
    pub(crate) square: Tensor,
}

const BETAS: [f64; 2] = [0.9, 0.95];

impl Moments {
    /// Does the update of a step, counted from zero, of Adam, but with one scale for all units of a row: a unit that matters twice as much moves twice as far.
    fn update(
        &mut self,
        masks: &Masks,
        gradient: &Tensor,
        step: u64,
        lr: f64,
    ) -> Result<(), TchError> {
        let [beta1, beta2] = BETAS;
        let power = i32::try_from(step + 1).unwrap_or(i32::MAX);
        let _ = self.mean.f_lerp_(gradient, 1.0 - beta1)?;
        let _ = self.square.f_lerp_(&gradient.f_square()?, 1.0 - beta2)?;
        for group in &masks.groups {
            let mean = group.of(&self.mean)?.f_div_scalar(1.0 - beta1.powi(power))?;
            let square = group.of(&self.square)?.f_div_scalar(1.0 - beta2.powi(power))?;
            let scale = square.f_mean_dim([1_i64].as_slice(), true, Kind::Float)?.f_sqrt()?;
            let step = mean.f_div(&scale.f_add_scalar(1e-12)?)?.f_mul_scalar(lr)?;
            let _ = group.of(&masks.odds)?.f_sub_(&step)?;
        }
        Ok(())
    }
}

/// Gates of one step, with their graph.
struct Drawn {
    step: u64,
    odds: Tensor,
    gated: Vec<Gated>,
    /// Part of the hidden dimensions that is open.
    part: f64,
}

impl Learner {
    /// Returns a learner that has learned nothing yet.
    pub(crate) fn new(model: &Llama, masks: Masks, seed: u64) -> Result<Self, TchError> {
        let zeros = || masks.odds.f_zeros_like();
        let moments = Moments { mean: zeros()?, square: zeros()? };
        Ok(Self { masked: model.twin()?, masks, moments, drawn: None, seed })
    }

    /// Returns the log-odds of all gates.
    pub(crate) fn odds(&self) -> &Tensor {
        &self.masks.odds
    }

    /// Returns the model under the gates last drawn.
    pub(crate) fn masked(&self) -> &Llama {
        &self.masked
    }

    /// Returns the masks.
    pub(crate) fn masks(&self) -> &Masks {
        &self.masks
    }

    /// Draws the gates of a step and puts the model under them.
    pub(crate) fn draw(&mut self, model: &Llama, step: u64) -> Result<(), TchError> {
        let odds = self.masks.odds.f_detach_copy()?.f_set_requires_grad(true)?;
        let noise = self.masks.noise(self.seed, step)?;
        let gates = tch::with_grad(|| {
            let soft = odds.f_add(&noise)?.f_div_scalar(BETA)?;
            self.masks.gates(&opened(&soft)?)
        })?;
        let open = gates.hidden.f_gt(0.0)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        let part = open.max(1.0) / self.masks.donor.width as f64;
        let gated = tch::with_grad(|| gates.gated(model))?;
        tch::no_grad(|| self.put(model, &gated, part))?;
        self.drawn = Some(Drawn { step, odds, gated, part });
        Ok(())
    }

    /// Puts the model under gates. A smaller model's RMSNorm takes the mean over the dimensions that are open, which gains and
    /// epsilon make up for.
    fn put(&mut self, model: &Llama, gated: &[Gated], part: f64) -> Result<(), TchError> {
        self.masked.flat.f_copy_(&model.flat)?;
        gated.iter().try_for_each(|gated| gated.multiply(&self.masked, &self.masked.flat))?;
        scale_norms(&self.masked, &self.masked.flat, part)?;
        self.masked.set_eps(model.config.eps * part);
        Ok(())
    }

    /// Learns from the gradient of the loss by the weights under masks, and makes it that by the model's own.
    ///
    /// # Panics
    /// When no gates were drawn (a bug).
    pub(crate) fn learn(
        &mut self,
        model: &Llama,
        gradient: &Tensor,
        shrunk: f64,
        lr: f64,
    ) -> Result<(), TchError> {
        let Drawn { step, odds, gated, part } = self.drawn.take().expect("gates were drawn");
        let objective = tch::with_grad(|| weighed(model, gradient, &gated))?;
        let by_odds = Tensor::f_run_backward(&[&objective], &[&odds], false, false)?;
        let by_odds =
            by_odds.into_iter().next().ok_or(TchError::Shape("no gradient".to_owned()))?;
        tch::no_grad(|| {
            gated.iter().try_for_each(|gated| gated.multiply(model, gradient))?;
            scale_norms(model, gradient, part)?;
            self.moments.update(&self.masks, &by_odds, step, lr)?;
            self.masks.constrain(shrunk)
        })
    }

    /// Returns the gradient by the log-odds.
    #[cfg(test)]
    pub(crate) fn slopes(&self, model: &Llama, gradient: &Tensor) -> Result<Tensor, TchError> {
        let Drawn { odds, gated, .. } = self.drawn.as_ref().expect("gates were drawn");
        let objective = tch::with_grad(|| weighed(model, gradient, gated))?;
        Ok(Tensor::f_run_backward(&[&objective], &[odds], true, false)?.remove(0))
    }

    /// Folds the gates of a selection into the model's weights, closing all others, so that what is cut out of it computes what it
    /// does under masks; the masked model is that.
    pub(crate) fn fold(&mut self, model: &Llama, selection: &Selection) -> Result<(), TchError> {
        tch::no_grad(|| {
            let gates = self.masks.gates(&self.masks.settled(selection)?)?;
            let gated = gates.gated(model)?;
            let part = selection.hidden.len() as f64 / model.config.width as f64;
            self.put(model, &gated, part)?;
            gated.iter().try_for_each(|gated| gated.multiply(model, &model.flat))
        })
    }
}

/// Returns what has the gradient of all gates.
fn weighed(model: &Llama, gradient: &Tensor, gated: &[Gated]) -> Result<Tensor, TchError> {
    let zero = Tensor::f_zeros([1], (Kind::Float, gradient.device()))?;
    gated.iter().try_fold(zero, |sum, gated| sum.f_add(&gated.weighed(model, gradient)?))
}

/// Scales the gains of all norms, for a mean over a part of the dimensions.
fn scale_norms(model: &Llama, buffer: &Tensor, part: f64) -> Result<(), TchError> {
    let layers = model.layout.layers.iter();
    let norms = layers.flat_map(|layer| [layer.attention_norm, layer.mlp_norm]);
    norms.chain([model.layout.norm]).try_for_each(|leaf| {
        let _ = model.slot(buffer, leaf)?.f_mul_scalar_(part.sqrt())?;
        Ok(())
    })
}
