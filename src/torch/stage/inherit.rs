//! `model.inherit`: a smaller model cut out of a larger one, tensor by tensor.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tlm::data::mix::splitmix;
use tlm::data::tokenizer::files::Vocabulary;
use tlm::graph::Heads;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::runtime::{self, fault};
use crate::nn::select::{Criterion, LayerSelection, Layers, Selection, Selector, layers};
use crate::nn::weights::{Safetensors, Weights};
use crate::stage::write_checkpoint;

#[derive(Deserialize)]
struct Params {
    shape: Shape,
    criterion: Criterion,
    #[serde(flatten)]
    depth: Depth,
    seed: i64,
}

/// Which layers of a donor to keep.
#[derive(Deserialize)]
pub(crate) struct Depth {
    layers: Layers,
    /// These; `layers` doesn't count then.
    keep_layers: Option<Vec<i64>>,
}

impl Depth {
    /// Completes a shape whose depth follows from the layers.
    ///
    /// # Errors
    /// When the layers aren't some of the donor's, or not as many as the shape has.
    pub(crate) fn complete(&self, shape: &mut Shape, donor: &Config) -> Result<(), StageError> {
        let Some(kept) = &self.keep_layers else { return Ok(()) };
        let fails = |what: String, help: &str| Err(StageError::input(what).help(help));
        if kept.is_empty() || !kept.is_sorted_by(|a, b| a < b) {
            return fails(
                format!("`keep_layers` is {kept:?}, not a list of rising numbers"),
                "give at least one layer, each once, the first one first",
            );
        }
        if let Some(layer) = kept.iter().find(|&&layer| layer >= donor.depth) {
            return fails(
                format!("`keep_layers` has layer {layer}, but the donor has {}", donor.depth),
                "count layers from 0",
            );
        }
        let depth = kept.len() as i64;
        if let Some(other) = shape.depth.filter(|&other| other != depth) {
            return fails(
                format!("`keep_layers` has {depth} layers, but `shape.depth` is {other}"),
                "leave `depth` out of `shape`",
            );
        }
        shape.depth = Some(depth);
        Ok(())
    }

    /// Returns the layers, `scores` being how much each of the donor's matters.
    pub(crate) fn layers(&self, donor: &Config, keep: i64, scores: &[f64]) -> Vec<i64> {
        match &self.keep_layers {
            Some(kept) => kept.clone(),
            None => layers(self.layers, donor.depth, keep, scores),
        }
    }
}

/// What is given of a new shape.
#[derive(Deserialize)]
pub(crate) struct Shape {
    depth: Option<i64>,
    width: Option<i64>,
    heads: Option<i64>,
    kv_heads: Option<i64>,
    ffn: Option<i64>,
}

/// Writes the checkpoint and `selection.json`.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let mut params: Params = context.params()?;
    runtime::prepare(context.action())?;
    let (donor_folder, tokens) =
        (context.input("donor").to_path_buf(), context.input("tokenizer").to_path_buf());
    let donor = Config::read(&donor_folder)?;
    params.depth.complete(&mut params.shape, &donor)?;
    let vocabulary = Vocabulary::open(&tokens)?;
    let rows = embedding_rows(&vocabulary, &Vocabulary::open(&donor_folder)?, &donor)?;
    let target = with_tokens(target(&params.shape, &donor)?, &vocabulary, rows.as_deref());
    let weights = Safetensors::open(&donor_folder)?;
    let selector = Selector {
        donor: &donor,
        target: &target,
        weights: &weights,
        criterion: params.criterion,
        seed: splitmix(u64::from_le_bytes(params.seed.to_le_bytes())),
    };
    let layers = params.depth.layers(&donor, target.depth, &[]);
    let selection = selector.select(layers, &mut |layer| {
        context.progress(layer as u64, Some(target.depth as u64), "layers");
        if context.interrupted() { Err(StageError::Interrupted) } else { Ok(()) }
    })?;
    let criterion = format!("{:?}", params.criterion).to_lowercase();
    let cutter = Cutter::new(&donor, &weights, &selection, rows);
    cutter.tell(context, "out", &criterion, &target)?;
    write_checkpoint(context, "out", &target, &tokens, |name, _| cutter.cut(name))
}

/// Returns the donor's embedding row of each token, by the tokens' texts; none where all rows stay as they are.
fn embedding_rows(
    tokens: &Vocabulary,
    donor_tokens: &Vocabulary,
    donor: &Config,
) -> Result<Option<Vec<i64>>, StageError> {
    if donor_tokens.size() as i64 > donor.vocab {
        return Err(StageError::input(format!(
            "the donor's tokenizer has {} ids, but the donor has embeddings for {}",
            donor_tokens.size(),
            donor.vocab
        ))
        .help("give a donor whose tokenizer is its own"));
    }
    if tokens.same_as(donor_tokens) {
        return Ok(None);
    }
    Ok(Some(tokens.ids_in(donor_tokens)?.into_iter().map(i64::from).collect()))
}

/// Puts the new vocabulary into a config: the donor's special ids as they are now, or else the tokenizer's own.
fn with_tokens(donor: Config, tokens: &Vocabulary, rows: Option<&[i64]>) -> Config {
    let now = |old: i64| match rows {
        Some(rows) => rows.iter().position(|&row| row == old).map(|id| id as i64),
        None => Some(old),
    };
    let own = |name: &str| tokens.special(name).map(i64::from);
    let mut eos: Vec<i64> = donor.eos.iter().copied().filter_map(now).collect();
    if eos.is_empty() {
        eos.extend(own("eos_token"));
    }
    Config {
        vocab: rows.map_or(donor.vocab, |rows| rows.len() as i64),
        bos: donor.bos.and_then(now).or_else(|| own("bos_token")),
        eos,
        pad: donor.pad.and_then(now),
        ..donor
    }
}

/// Returns the donor's config in the new shape, with what that leaves open.
pub(crate) fn target(shape: &Shape, donor: &Config) -> Result<Config, StageError> {
    let width = shape.width.unwrap_or(donor.width);
    let scaled = |size: i64| {
        ((size as f64 * width as f64 / donor.width as f64).round() as i64).clamp(1, size)
    };
    let own = Heads { queries: donor.heads, keys: donor.kv_heads };
    let heads =
        shape.heads.unwrap_or_else(|| own.default_queries(scaled(donor.heads), shape.kv_heads));
    let kv_heads = shape.kv_heads.unwrap_or_else(|| own.default_keys(heads));
    let ffn = shape.ffn.unwrap_or_else(|| scaled(donor.ffn));
    let depth = shape.depth.unwrap_or(donor.depth);
    let sizes = [
        ("depth", depth, donor.depth, "layers"),
        ("width", width, donor.width, "hidden dimensions"),
        ("heads", heads, donor.heads, "query heads"),
        ("kv_heads", kv_heads, donor.kv_heads, "key-value heads"),
        ("ffn", ffn, donor.ffn, "neurons per layer"),
    ];
    for (name, size, limit, what) in sizes {
        if !(1..=limit).contains(&size) {
            return Err(StageError::input(format!(
                "`shape.{name}` is {size}, but the donor has {limit} {what}"
            ))
            .help(format!("choose `{name}` between 1 and {limit}")));
        }
    }
    let group = donor.heads / donor.kv_heads;
    if !own.fit(heads, kv_heads) {
        return Err(StageError::input(format!(
            "`shape.heads` is {heads} and `shape.kv_heads` {kv_heads}, but the donor has {group} query heads \
             for each of its {} key-value heads",
            donor.kv_heads
        ))
        .help(format!("make `heads` a multiple of `kv_heads`, at most {group} times as many")));
    }
    Ok(Config { width, depth, heads, kv_heads, ffn, ..donor.clone() })
}

/// Cuts the new model's tensors out of the donor's.
pub(crate) struct Cutter<'a> {
    donor: &'a Config,
    weights: &'a dyn Weights,
    selection: &'a Selection,
    /// Embedding rows to keep; none for all.
    rows: Option<Vec<i64>>,
    /// Shapes of the donor's tensors.
    shapes: BTreeMap<String, Vec<i64>>,
}

impl<'a> Cutter<'a> {
    pub(crate) fn new(
        donor: &'a Config,
        weights: &'a dyn Weights,
        selection: &'a Selection,
        rows: Option<Vec<i64>>,
    ) -> Self {
        let shapes = donor.tensors().into_iter().collect();
        Self { donor, weights, selection, rows, shapes }
    }

    /// Returns the new model's tensor of this name.
    pub(crate) fn cut(&self, name: &str) -> Result<Tensor, StageError> {
        let (donor_name, within) = self.donor_name(name);
        let shape = self.donor_shape(&donor_name);
        let mut tensor = self.weights.load(&donor_name, shape)?;
        for (over, (kept, &size)) in self.kept(name, within).iter().zip(shape).enumerate() {
            if let Some(kept) = kept.as_ref().filter(|kept| chooses(kept, size)) {
                let index = Tensor::f_from_slice(kept).map_err(fault)?;
                tensor = tensor.f_index_select(over as i64, &index).map_err(fault)?;
            }
        }
        Ok(tensor)
    }

    /// Returns what becomes of the donor's tensor.
    fn origin(&self, name: &str, shape: &[i64]) -> Origin {
        let (donor_name, within) = self.donor_name(name);
        let donor_shape = self.donor_shape(&donor_name).to_vec();
        let kept = self.kept(name, within);
        let mut each = kept.iter().zip(&donor_shape);
        let sliced =
            each.any(|(kept, &size)| kept.as_ref().is_some_and(|kept| chooses(kept, size)));
        let how = if sliced { How::Sliced } else { How::Copied };
        Origin { how, donor: donor_name, donor_shape, shape: shape.to_vec() }
    }

    fn donor_shape(&self, donor_name: &str) -> &[i64] {
        self.shapes.get(donor_name).expect("the donor has all tensors of the target")
    }

    /// Returns the donor's name of a tensor, and what is kept of its layer.
    fn donor_name(&self, name: &str) -> (String, Option<&LayerSelection>) {
        let rest = name.strip_prefix("model.layers.");
        let Some((layer, rest)) = rest.and_then(|rest| rest.split_once('.')) else {
            return (name.to_owned(), None);
        };
        let layer: usize = layer.parse().expect("layers are numbered");
        let from = self.selection.layers[layer];
        (format!("model.layers.{from}.{rest}"), Some(&self.selection.within[layer]))
    }

    /// Returns the rows and columns kept of a tensor; none for all.
    fn kept(&self, name: &str, within: Option<&LayerSelection>) -> [Option<Vec<i64>>; 2] {
        let hidden = || Some(self.selection.hidden.clone());
        let Some(within) = within else {
            let rows = if name == "model.norm.weight" { hidden() } else { self.rows.clone() };
            return [rows, hidden()];
        };
        let spread = |heads: &[i64]| {
            let size = self.donor.head_dim;
            Some(heads.iter().flat_map(|head| head * size..(head + 1) * size).collect())
        };
        let has = |part: &str| name.contains(part);
        if has(".q_proj") {
            [spread(&within.heads), hidden()]
        } else if has(".k_proj") || has(".v_proj") {
            [spread(&within.kv_heads), hidden()]
        } else if has(".o_proj") {
            [hidden(), spread(&within.heads)]
        } else if has(".gate_proj") || has(".up_proj") {
            [Some(within.neurons.clone()), hidden()]
        } else if has(".down_proj") {
            [hidden(), Some(within.neurons.clone())]
        } else if has(".series.") {
            [None, Some(within.neurons.clone())]
        } else if has(".shortcut.reduce") {
            [None, hidden()]
        } else {
            [hidden(), None]
        }
    }

    /// Writes `selection.json` of the new model and tells how many tensors are what.
    pub(crate) fn tell(
        &self,
        context: &mut Context,
        output: &str,
        criterion: &str,
        target: &Config,
    ) -> Result<(), StageError> {
        let tensors: BTreeMap<_, _> = target
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let origin = self.origin(&name, &shape);
                (name, origin)
            })
            .collect();
        let sliced = tensors.values().filter(|origin| origin.how == How::Sliced).count();
        let copied = tensors.len() - sliced;
        context
            .log(format!("of the tensors {copied} are copied, {sliced} sliced, none initialised"));
        let each = |get: fn(&LayerSelection) -> &Vec<i64>| {
            self.selection.within.iter().map(get).cloned().collect::<Vec<_>>()
        };
        let written = Written {
            format: 2,
            criterion: criterion.to_owned(),
            donor: Shapes::of(self.donor),
            layers: self.selection.layers.clone(),
            hidden: self.selection.hidden.clone(),
            heads: each(|layer| &layer.heads),
            kv_heads: each(|layer| &layer.kv_heads),
            neurons: each(|layer| &layer.neurons),
            tensors,
        };
        // By way of a value, whose fields are in order of name.
        let json = serde_json::to_value(&written).expect("plain data");
        let path = context.out_dir(output)?.join("selection.json");
        fs::write(&path, format!("{json}\n")).map_err(|e| StageError::io("write", &path, &e))
    }
}

/// Returns whether the kept indices are other than all `size` in order.
fn chooses(kept: &[i64], size: i64) -> bool {
    kept.len() as i64 != size || kept.iter().zip(0..).any(|(&index, at)| index != at)
}

/// Sizes that a selection or importance goes with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shapes {
    depth: i64,
    width: i64,
    heads: i64,
    kv_heads: i64,
    ffn: i64,
    vocab: i64,
}

impl Shapes {
    pub(crate) fn of(config: &Config) -> Self {
        let Config { depth, width, heads, kv_heads, ffn, vocab, .. } = *config;
        Self { depth, width, heads, kv_heads, ffn, vocab }
    }
}

/// `selection.json`: what was kept, so that the choice can be looked at and repeated. Indices into the donor, ascending; those of
/// heads and neurons for each kept layer.
#[derive(Serialize, Deserialize)]
pub(crate) struct Written {
    format: u32,
    criterion: String,
    pub(crate) donor: Shapes,
    pub(crate) layers: Vec<i64>,
    pub(crate) hidden: Vec<i64>,
    pub(crate) heads: Vec<Vec<i64>>,
    pub(crate) kv_heads: Vec<Vec<i64>>,
    pub(crate) neurons: Vec<Vec<i64>>,
    /// Where each tensor of the new model comes from; all do.
    #[serde(default)]
    tensors: BTreeMap<String, Origin>,
}

/// The donor's tensor that one of the new model's was made of.
#[derive(Serialize, Deserialize)]
struct Origin {
    how: How,
    donor: String,
    donor_shape: Vec<i64>,
    shape: Vec<i64>,
}

/// What was done to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    Copied,
    Sliced,
}

#[cfg(test)]
mod tests {
    use super::{Shape, target};
    use crate::nn::config::Config;
    use crate::nn::tests::reference;

    /// The donor has SmolLM2-135M's heads.
    #[test]
    fn what_is_not_given_fits_any_width() {
        let donor = Config::read(&reference("model_plain")).unwrap();
        let donor = Config { width: 576, heads: 9, kv_heads: 3, head_dim: 64, ffn: 1536, ..donor };
        let of = |width: i64, kv_heads: Option<i64>| {
            let shape = Shape { depth: None, width: Some(width), heads: None, kv_heads, ffn: None };
            target(&shape, &donor).unwrap()
        };
        for width in 1..=576 {
            of(width, None);
            let kv_heads = 1 + width % 3;
            assert_eq!(of(width, Some(kv_heads)).kv_heads, kv_heads);
        }
        let heads = |width: i64| (of(width, None).heads, of(width, None).kv_heads);
        assert_eq!(
            [64, 192, 256, 320, 384, 576].map(heads),
            [(1, 1), (3, 3), (4, 2), (6, 3), (6, 3), (9, 3)]
        );
    }
}
