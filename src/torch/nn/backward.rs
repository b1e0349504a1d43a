//! Gradients of the loss by all parameters: by `cpu`, or by libtorch's autograd below the output embedding.

use tch::{Device, Kind, TchError, Tensor};

use crate::nn::layout::LayerLeaves;
use crate::nn::llama::{Llama, Places, batch};
use crate::nn::runtime::{numbers, numbers_mut};
use crate::nn::sequences::Rows;

/// A model that another one learns from: `weight` times the divergence of its predictions from the model's is part of the loss,
/// both with logits divided by `temperature`, times the square of that, so that its gradient doesn't shrink with it (Hinton et
/// al., arXiv 1503.02531).
pub(crate) struct Teacher {
    pub(crate) model: Llama,
    pub(crate) weight: f64,
    /// Above zero.
    pub(crate) temperature: f64,
}

/// Losses summed over tokens, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Losses {
    /// Negative log-likelihood of the targets.
    pub(crate) nll: f64,
    /// Kullback-Leibler divergence from a teacher, times the square of the temperature; zero without one.
    pub(crate) divergence: f64,
}

/// The same sums on the model's device: nothing waits for a GPU until they are read.
pub(crate) struct Sums {
    nll: Tensor,
    divergence: Tensor,
}

impl Llama {
    /// Adds `scale` times the gradient of the summed loss to `gradient`, a buffer like [`Self::flat`], and returns the
    /// summed losses.
    ///
    /// The output embedding and the loss are done by chunks of rows, forward and backward at once, so that no more
    /// than one chunk of logits exists.
    pub(crate) fn backward(
        &self,
        rows: &Rows,
        scale: f64,
        gradient: &mut Tensor,
        teacher: Option<&Teacher>,
    ) -> Result<Sums, TchError> {
        if self.net().is_some() {
            self.backward_by_hand(rows, scale, gradient, teacher)
        } else {
            self.backward_by_graph(rows, scale, gradient, teacher)
        }
    }

    /// The same by [`crate::nn::cpu`], but for the head where there is a teacher.
    ///
    /// # Panics
    /// When the model isn't one of f32 on the CPU.
    pub(crate) fn backward_by_hand(
        &self,
        rows: &Rows,
        scale: f64,
        gradient: &mut Tensor,
        teacher: Option<&Teacher>,
    ) -> Result<Sums, TchError> {
        let net = self.net.as_ref().expect("a model of f32 on the CPU");
        let (ids, targets) = (rows.ids.f_contiguous()?, rows.targets.f_contiguous()?);
        let parameters = numbers(&self.flat);
        let room = (&mut *self.room.borrow_mut(), self.recompute);
        let batch = batch(&ids, rows.starts.as_deref());
        let Some(teacher) = teacher else {
            let (targets, gradient) = (numbers(&targets), numbers_mut(gradient));
            let nll = net.backward(parameters, batch, targets, scale as f32, gradient, room);
            return Ok(Sums { nll: Tensor::f_from_slice(&[nll])?, ..Sums::zero(Device::Cpu)? });
        };
        let taught = teacher.states(rows)?;
        let hidden = net.hidden_kept(parameters, batch, (&mut *room.0, room.1));
        let hidden = Tensor::f_from_slice(&hidden)?.f_view([-1, self.config.width])?;
        let (sums, d_hidden) =
            self.head_backward(&hidden, &targets, scale, gradient, Some((teacher, &taught)))?;
        let (d_hidden, gradient) = (numbers(&d_hidden), numbers_mut(gradient));
        net.backward_from(parameters, batch, d_hidden, gradient, room);
        Ok(sums)
    }

    /// The same by graphs of what is below the head, with a teacher or not.
    pub(crate) fn backward_by_graph(
        &self,
        rows: &Rows,
        scale: f64,
        gradient: &Tensor,
        teacher: Option<&Teacher>,
    ) -> Result<Sums, TchError> {
        let taught = teacher.map(|teacher| teacher.states(rows)).transpose()?;
        let taught = teacher.zip(taught.as_ref());
        if self.recompute {
            return self.backward_by_layers(rows, scale, gradient, taught);
        }
        let hidden = self.hidden(&rows.ids, rows.starts.as_deref())?;
        let (sums, d_hidden) =
            self.head_backward(&hidden, &rows.targets, scale, gradient, taught)?;
        let below: Vec<usize> = (0..self.leaves.len())
            .filter(|&index| index == 0 || index != self.layout.head)
            .collect();
        let _ = self.pull(&hidden, &d_hidden, None, &below, gradient)?;
        Ok(sums)
    }

    /// The same by one graph a layer, from the input that it had.
    fn backward_by_layers(
        &self,
        rows: &Rows,
        scale: f64,
        gradient: &Tensor,
        taught: Option<(&Teacher, &Tensor)>,
    ) -> Result<Sums, TchError> {
        let places = self.places(0, rows.ids.size()[1], rows.starts.as_deref())?;
        let mut inputs = self.inputs(&rows.ids, &places)?;
        let x = inputs.pop().expect("the last layer's output");
        let hidden = self.last(&x)?;
        let (sums, d_hidden) =
            self.head_backward(&hidden, &rows.targets, scale, gradient, taught)?;
        let mut d_x = self.pull(&hidden, &d_hidden, Some(&x), &[self.layout.norm], gradient)?;
        for layer in self.layout.layers.iter().rev() {
            let x = inputs.pop().expect("an input of each layer");
            let made = self.layer(layer, &x, &places, None)?;
            d_x = self.pull(&made, &d_x, Some(&x), &layer.all(), gradient)?;
        }
        let _ = self.pull(&self.embedded(&rows.ids)?, &d_x, None, &[0], gradient)?;
        Ok(sums)
    }

    /// Returns the input of each layer and the output of the last one, each the start of a graph.
    fn inputs(&self, ids: &Tensor, places: &Places) -> Result<Vec<Tensor>, TchError> {
        let mut inputs = vec![tch::no_grad(|| self.embedded(ids))?];
        for layer in &self.layout.layers {
            let x = &inputs[inputs.len() - 1];
            let made = tch::no_grad(|| self.layer(layer, x, places, None))?;
            inputs.push(made);
        }
        inputs.into_iter().map(|x| x.f_set_requires_grad(true)).collect()
    }

    /// Goes back through the graph of `made`: adds the gradient by leaves, and returns that by `x`, or an empty tensor.
    fn pull(
        &self,
        made: &Tensor,
        d_made: &Tensor,
        x: Option<&Tensor>,
        leaves: &[usize],
        gradient: &Tensor,
    ) -> Result<Tensor, TchError> {
        // The gradient of this product is the gradient that comes from above.
        let product = made.f_mul(d_made)?.f_sum(Kind::Float)?;
        let inputs = leaves.iter().map(|&index| &self.leaves[index]);
        let inputs: Vec<&Tensor> = inputs.chain(x).collect();
        let mut gradients = Tensor::f_run_backward(&[&product], &inputs, false, false)?;
        let d_x = if x.is_some() { gradients.pop() } else { None };
        tch::no_grad(|| {
            leaves.iter().zip(&gradients).try_for_each(|(&index, value)| {
                self.slot(gradient, index)?.f_add_(value).map(|_| ())
            })
        })?;
        Ok(d_x.unwrap_or_default())
    }

    /// Returns the summed losses of hidden states, one a row, and the gradient by them; adds that by the head.
    fn head_backward(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        scale: f64,
        gradient: &Tensor,
        taught: Option<(&Teacher, &Tensor)>,
    ) -> Result<(Sums, Tensor), TchError> {
        tch::no_grad(|| {
            let (hidden, targets) = (hidden.f_detach()?, targets.f_reshape([-1, 1])?);
            let head = self.leaves[self.layout.head].f_detach()?.f_to_kind(self.kind())?;
            let mut d_head = self.slot(gradient, self.layout.head)?;
            let d_hidden = hidden.f_empty_like()?;
            let mut sums = Sums::zero(self.device())?;
            for (start, count) in self.chunks(hidden.size()[0]) {
                let part = |of: &Tensor| of.f_narrow(0, start, count);
                let rows = part(&hidden)?;
                let log = self.log_probabilities(&rows, &head)?;
                let taught = match taught {
                    Some((teacher, states)) => Some((teacher, teacher.logits(&part(states)?)?)),
                    None => None,
                };
                let d_logits = sums.add(log, &part(&targets)?, taught)?.f_to_kind(self.kind())?;
                let d_rows = d_logits.f_mm(&head)?.f_to_kind(Kind::Float)?.f_mul_scalar(scale)?;
                part(&d_hidden)?.f_copy_(&d_rows)?;
                let scaled = rows.f_mul_scalar(scale)?.f_to_kind(self.kind())?;
                let _ = d_head.f_add_(&d_logits.f_tr()?.f_mm(&scaled)?)?;
            }
            Ok((sums, d_hidden))
        })
    }
}

impl Sums {
    /// Returns sums of no tokens.
    pub(crate) fn zero(device: Device) -> Result<Self, TchError> {
        let zero = || Tensor::f_zeros([1], (Kind::Double, device));
        Ok(Self { nll: zero()?, divergence: zero()? })
    }

    /// Adds other sums.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), TchError> {
        let _ = self.nll.f_add_(&other.nll)?;
        self.divergence.f_add_(&other.divergence).map(|_| ())
    }

    /// Adds the losses of rows of log-probabilities, which are used up, and returns the gradient by their logits.
    fn add(
        &mut self,
        mut log: Tensor,
        targets: &Tensor,
        taught: Option<(&Teacher, Tensor)>,
    ) -> Result<Tensor, TchError> {
        let picked = log.f_gather(1, targets, false)?;
        let _ = self.nll.f_sub_(&picked.f_sum(Kind::Double)?)?;
        let taught = match taught {
            Some((teacher, logits)) => {
                Some((teacher.weight, self.compare(&log, teacher, &logits)?))
            }
            None => None,
        };
        // The gradient by logits is the probabilities, less one at the target.
        let mut d_logits = log.f_exp_()?.f_scatter_add_(1, targets, &picked.f_full_like(-1.0)?)?;
        match taught {
            Some((weight, d_taught)) => d_logits.f_lerp_(&d_taught, weight),
            None => Ok(d_logits),
        }
    }

    /// Adds the divergence from a teacher, and returns its gradient by logits.
    fn compare(
        &mut self,
        log: &Tensor,
        teacher: &Teacher,
        logits: &Tensor,
    ) -> Result<Tensor, TchError> {
        let temperature = teacher.temperature;
        let softer =
            |logits: &Tensor| logits.f_div_scalar(temperature)?.f_log_softmax(-1, Kind::Float);
        let (own, taught) = (softer(log)?, softer(logits)?);
        let wanted = taught.f_exp()?;
        let divergence = taught.f_sub(&own)?.f_mul(&wanted)?.f_sum(Kind::Double)?;
        let _ = self.divergence.f_add_(&divergence.f_mul_scalar(temperature * temperature)?)?;
        own.f_exp()?.f_sub(&wanted)?.f_mul_scalar(temperature)
    }

    /// Reads them.
    pub(crate) fn read(&self) -> Result<Losses, TchError> {
        let [nll, divergence] = [&self.nll, &self.divergence].map(|sum| sum.f_double_value(&[0]));
        Ok(Losses { nll: nll?, divergence: divergence? })
    }
}

impl Teacher {
    /// Returns the last hidden states, one row per token.
    fn states(&self, rows: &Rows) -> Result<Tensor, TchError> {
        self.model.states(rows)
    }

    fn logits(&self, states: &Tensor) -> Result<Tensor, TchError> {
        self.model.logits_of(states)
    }
}

impl LayerLeaves {
    /// Returns all leaves of a layer.
    fn all(&self) -> Vec<usize> {
        let projections = [self.qkv, self.out, self.gate_up, self.down].into_iter();
        projections
            .chain(self.shortcut.into_iter().flatten())
            .flat_map(|projection| [Some(projection.weight), projection.bias])
            .flatten()
            .chain([self.attention_norm, self.mlp_norm])
            .chain(self.series.into_iter().flatten())
            .collect()
    }
}
