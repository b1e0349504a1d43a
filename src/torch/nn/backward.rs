//! Gradients by hand, layer by layer: products by `product`, and what lies between two of them by small graphs of their own. What
//! `Llama::backward_by_graph` does, which is the reference, without one graph of everything.

use tch::{Kind, TchError, Tensor};

use crate::nn::layout::{LayerLeaves, Projection};
use crate::nn::llama::Llama;
use crate::nn::product::{add_product, product, rows};

/// Something computed with a graph of its own.
struct Piece {
    input: Tensor,
    out: Tensor,
}

impl Piece {
    fn of(
        input: &Tensor,
        compute: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Self, TchError> {
        let input = input.f_detach()?.f_set_requires_grad(true)?;
        let out = tch::with_grad(|| compute(&input))?;
        Ok(Self { input, out })
    }

    fn out(&self) -> Result<Tensor, TchError> {
        self.out.f_detach()
    }
}

/// What a layer's backward pass needs.
struct Kept {
    /// The residual stream to attention's input.
    attention_norm: Piece,
    /// Queries, keys and values to what attention makes of them.
    attention: Piece,
    /// Inside the augmented shortcut.
    shortcut: Option<Piece>,
    mlp_norm: Piece,
    gated: Gated,
}

/// Gate and up projection to the inner neurons.
enum Gated {
    /// SwiGLU, whose gradient is written out: the two projections, and the neurons.
    Plain {
        both: Tensor,
        inner: Tensor,
    },
    Series(Piece),
}

impl Llama {
    /// Adds `scale` times the gradient of the summed loss to `gradient` and returns the summed loss, in nats; in f32.
    pub(crate) fn backward_by_hand(
        &self,
        ids: &Tensor,
        targets: &Tensor,
        scale: f64,
        gradient: &Tensor,
    ) -> Result<f64, TchError> {
        tch::no_grad(|| {
            let turns = self.turns(0, ids.size()[1])?;
            let mut x = self.embedded(ids)?;
            let mut kept = Vec::with_capacity(self.layout.layers.len());
            for layer in &self.layout.layers {
                let (next, piece) = self.forward(layer, &x, &turns)?;
                kept.push(piece);
                x = next;
            }
            let last = Piece::of(&x, |x| self.normed(x, self.layout.norm))?;
            let (nll, d) = self.head_backward(
                &rows(&last.out()?)?,
                &targets.f_reshape([-1, 1])?,
                scale,
                gradient,
            )?;
            let mut d =
                self.pull(&last, &d.f_view_as(&last.out)?, &[self.layout.norm], gradient)?;
            for layer in self.layout.layers.iter().rev() {
                let Some(piece) = kept.pop() else { break };
                d = self.layer_backward(layer, &piece, &d, gradient)?;
            }
            let mut embedding = self.slot(gradient, 0)?;
            let _ = embedding.f_index_add_(0, &ids.f_flatten(0, -1)?, &rows(&d)?)?;
            Ok(nll)
        })
    }

    fn forward(
        &self,
        layer: &LayerLeaves,
        x: &Tensor,
        turns: &Tensor,
    ) -> Result<(Tensor, Kept), TchError> {
        let attention_norm = Piece::of(x, |x| self.normed(x, layer.attention_norm))?;
        let z = attention_norm.out()?;
        let attention =
            Piece::of(&self.project(&z, layer.qkv)?, |qkv| self.attended(qkv, turns, None))?;
        let mut x = x.f_add(&self.project(&attention.out()?, layer.out)?)?;
        let mut shortcut = None;
        if let Some([reduce, expand]) = layer.shortcut {
            let inner = Piece::of(&self.project(&z, reduce)?, |z| z.f_gelu("none"))?;
            x = x.f_add_(&self.project(&inner.out()?, expand)?)?;
            shortcut = Some(inner);
        }
        let mlp_norm = Piece::of(&x, |x| self.normed(x, layer.mlp_norm))?;
        let both = self.project(&mlp_norm.out()?, layer.gate_up)?;
        let gated = match layer.series {
            None => Gated::Plain { inner: self.gate(layer, &both)?, both },
            Some(_) => Gated::Series(Piece::of(&both, |both| self.gate(layer, both))?),
        };
        let inner = match &gated {
            Gated::Plain { inner, .. } => inner.shallow_clone(),
            Gated::Series(piece) => piece.out()?,
        };
        let x = x.f_add(&self.project(&inner, layer.down)?)?;
        Ok((x, Kept { attention_norm, attention, shortcut, mlp_norm, gated }))
    }

    /// Returns the gradient by a layer's input from that by its output, and adds those by its leaves.
    fn layer_backward(
        &self,
        layer: &LayerLeaves,
        kept: &Kept,
        d: &Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor, TchError> {
        let d_both = match &kept.gated {
            Gated::Plain { both, inner } => {
                let d_inner = self.project_backward(inner, layer.down, d, gradient)?;
                gate_backward(both, &d_inner)?
            }
            Gated::Series(piece) => {
                let d_inner = self.project_backward(&piece.out()?, layer.down, d, gradient)?;
                self.pull(piece, &d_inner, &layer.series.unwrap_or_default(), gradient)?
            }
        };
        let z = kept.mlp_norm.out()?;
        let d_z = self.project_backward(&z, layer.gate_up, &d_both, gradient)?;
        let d = self.pull(&kept.mlp_norm, &d_z, &[layer.mlp_norm], gradient)?.f_add_(d)?;

        let mixed = kept.attention.out()?;
        let d_mixed = self.project_backward(&mixed, layer.out, &d, gradient)?;
        let d_qkv = self.pull(&kept.attention, &d_mixed, &[], gradient)?;
        let z = kept.attention_norm.out()?;
        let mut d_z = self.project_backward(&z, layer.qkv, &d_qkv, gradient)?;
        if let (Some([reduce, expand]), Some(piece)) = (layer.shortcut, &kept.shortcut) {
            let d_inner = self.project_backward(&piece.out()?, expand, &d, gradient)?;
            let d_reduced = self.pull(piece, &d_inner, &[], gradient)?;
            d_z = d_z.f_add_(&self.project_backward(&z, reduce, &d_reduced, gradient)?)?;
        }
        self.pull(&kept.attention_norm, &d_z, &[layer.attention_norm], gradient)?.f_add_(&d)
    }

    /// Returns the gradient by a projection's input from that by its output, and adds those by its leaves.
    fn project_backward(
        &self,
        x: &Tensor,
        with: Projection,
        d: &Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor, TchError> {
        let d = rows(d)?;
        add_product(&mut self.slot(gradient, with.weight)?, &d.f_tr()?, &rows(x)?)?;
        if let Some(bias) = with.bias {
            let sums = d.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Float)?;
            let _ = self.slot(gradient, bias)?.f_add_(&sums)?;
        }
        product(&d, &self.leaf(with.weight)?)?.f_view_as(x)
    }

    /// Returns the gradient by a piece's input from that by its output, and adds those by these leaves.
    fn pull(
        &self,
        piece: &Piece,
        d: &Tensor,
        leaves: &[usize],
        gradient: &Tensor,
    ) -> Result<Tensor, TchError> {
        // The gradient of this product is the one wanted.
        let whole = tch::with_grad(|| piece.out.f_mul(d)?.f_sum(Kind::Float))?;
        let leaf = |index: &usize| self.graph_leaf(*index);
        let inputs: Vec<&Tensor> =
            std::iter::once(&piece.input).chain(leaves.iter().map(leaf)).collect();
        let mut found = Tensor::f_run_backward(&[&whole], &inputs, false, false)?.into_iter();
        let by_input = found.next().ok_or(TchError::Shape("no gradient".to_owned()))?;
        for (index, by_leaf) in leaves.iter().zip(found) {
            let _ = self.slot(gradient, *index)?.f_add_(&by_leaf)?;
        }
        Ok(by_input)
    }
}

/// Returns the gradient by gate and up projection, end to end, from that by `silu(gate) * up`.
fn gate_backward(both: &Tensor, d: &Tensor) -> Result<Tensor, TchError> {
    let ffn = d.size().last().copied().unwrap_or_default();
    let [gate, up] = [0, ffn].map(|start| both.f_narrow(-1, start, ffn));
    let (gate, up) = (gate?, up?);
    let out = both.f_empty_like()?;
    out.f_narrow(-1, ffn, ffn)?.f_copy_(&gate.f_silu()?.f_mul_(d)?)?;
    let d_gate = d.f_mul(&up)?;
    let _ = gate.f_silu_backward_grad_input(&out.f_narrow(-1, 0, ffn)?, &d_gate)?;
    Ok(out)
}
