//! `model.inherit`: a smaller model cut out of a larger one, tensor by tensor.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use tch::{TchError, Tensor};
use tlm::base::Value;
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::runtime::{self, fault};
use crate::nn::select::{Criterion, LayerSelection, Layers, Selection, Selector};
use crate::nn::sequences::mix;
use crate::nn::weights::{Safetensors, Weights, Writer};
use crate::stage::tokenizer::{self, TokenizerInfo};

#[derive(Deserialize)]
struct Params {
    shape: Shape,
    criterion: Criterion,
    layers: Layers,
    seed: i64,
}

#[derive(Deserialize)]
struct Shape {
    depth: Option<i64>,
    width: Option<i64>,
    heads: Option<i64>,
    kv_heads: Option<i64>,
    ffn: Option<i64>,
}

/// Writes the checkpoint and `selection.json`.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    runtime::prepare(context.action())?;
    let (donor_folder, tokens) =
        (context.input("donor").to_path_buf(), context.input("tokenizer").to_path_buf());
    let donor = Config::read(&donor_folder)?;
    let info = TokenizerInfo::read(&tokens)?;
    let rows = embedding_rows(&info, &donor)?;
    let target = target(&params.shape, &donor, &info)?;
    let weights = Safetensors::open(&donor_folder)?;
    let total = target.depth as u64 * 2;
    let selector = Selector {
        donor: &donor,
        target: &target,
        weights: &weights,
        criterion: params.criterion,
        seed: mix(u64::from_le_bytes(params.seed.to_le_bytes())),
    };
    let selection = selector.select(params.layers, &mut |layer| {
        context.progress(layer as u64, Some(total), "layers");
        if context.interrupted() { Err(StageError::Interrupted) } else { Ok(()) }
    })?;
    let out = context.out_dir("out")?;
    target.write(&out)?;
    let cutter = Cutter { donor: &donor, weights: &weights, selection: &selection, rows };
    let mut writer =
        Writer::create(&out.join("model.safetensors"), target.tensors(), ("format", "pt"))?;
    for (done, (name, _)) in target.tensors().iter().enumerate() {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        writer.push(name, &cutter.cut(name)?)?;
        let part = (done + 1) * target.depth as usize / target.tensors().len();
        context.progress(target.depth as u64 + part as u64, Some(total), "layers");
    }
    writer.finish()?;
    write_selection(&out, context, &donor, &selection)?;
    tokenizer::copy(&tokens, &out)?;
    context.output("out.params", Value::Int(target.params()));
    Ok(())
}

/// Returns the donor's embedding row of each token; none where the vocabulary stays as it is.
fn embedding_rows(info: &TokenizerInfo, donor: &Config) -> Result<Option<Vec<i64>>, StageError> {
    let largest =
        info.id_map.as_ref().map_or(info.size, |ids| ids.iter().max().map_or(0, |last| last + 1));
    if largest > donor.vocab {
        return Err(StageError::input(format!(
            "the tokenizer has ids up to {}, but the donor has embeddings for {}",
            largest - 1,
            donor.vocab
        ))
        .help("prune the donor's own tokenizer (`donor.tokenizer`)"));
    }
    Ok(info.id_map.clone())
}

/// Returns the new model's config, with what the shape leaves open.
fn target(shape: &Shape, donor: &Config, info: &TokenizerInfo) -> Result<Config, StageError> {
    let width = shape.width.unwrap_or(donor.width);
    let scaled = |size: i64| {
        ((size as f64 * width as f64 / donor.width as f64).round() as i64).clamp(1, size)
    };
    let heads = shape.heads.unwrap_or_else(|| scaled(donor.heads));
    let kv_heads = shape.kv_heads.unwrap_or_else(|| default_kv_heads(heads, donor));
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
    if heads % kv_heads != 0 || heads / kv_heads > group {
        return Err(StageError::input(format!(
            "`shape.heads` is {heads} and `shape.kv_heads` {kv_heads}, but the donor has {group} query heads \
             for each of its {} key-value heads",
            donor.kv_heads
        ))
        .help(format!("make `heads` a multiple of `kv_heads`, at most {group} times as many")));
    }
    let vocab = if info.id_map.is_some() { info.size } else { donor.vocab };
    let (bos, eos) = (info.bos.or(donor.bos), info.eos.or(donor.eos));
    let known = |id: &i64| *id < vocab;
    Ok(Config {
        vocab,
        width,
        depth,
        heads,
        kv_heads,
        ffn,
        bos: bos.filter(known),
        eos: eos.filter(known),
        ..donor.clone()
    })
}

/// Returns the largest number of the donor's key-value heads that `heads` query heads can share.
fn default_kv_heads(heads: i64, donor: &Config) -> i64 {
    let group = donor.heads / donor.kv_heads;
    let fits = |kv: &i64| heads % kv == 0 && heads / kv <= group;
    (1..=donor.kv_heads).rev().find(fits).unwrap_or(donor.kv_heads)
}

/// Cuts the new model's tensors out of the donor's.
struct Cutter<'a> {
    donor: &'a Config,
    weights: &'a dyn Weights,
    selection: &'a Selection,
    /// Embedding rows to keep; none for all.
    rows: Option<Vec<i64>>,
}

impl Cutter<'_> {
    /// Returns the new model's tensor of this name.
    fn cut(&self, name: &str) -> Result<Tensor, StageError> {
        let (donor_name, within) = self.donor_name(name);
        let shape = self.shape(&donor_name);
        let matrix = self.weights.load(&donor_name, &shape)?;
        let (rows, columns) = self.kept(name, within);
        let take =
            |tensor: Tensor, over: i64, kept: Option<Vec<i64>>| -> Result<Tensor, TchError> {
                match kept {
                    Some(kept)
                        if kept.len() as i64 != tensor.size()[over as usize]
                            || kept.iter().zip(0..).any(|(&index, at)| index != at) =>
                    {
                        tensor.f_index_select(over, &Tensor::f_from_slice(&kept)?)
                    }
                    Some(_) | None => Ok(tensor),
                }
            };
        let cut = take(matrix, 0, rows);
        let cut = if shape.len() == 2 { cut.and_then(|cut| take(cut, 1, columns)) } else { cut };
        cut.map_err(fault)
    }

    fn shape(&self, donor_name: &str) -> Vec<i64> {
        let all = self.donor.tensors();
        let found = all.into_iter().find(|(name, _)| name == donor_name);
        found.expect("the donor's config has all tensors of the target's").1
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
    fn kept(
        &self,
        name: &str,
        within: Option<&LayerSelection>,
    ) -> (Option<Vec<i64>>, Option<Vec<i64>>) {
        let hidden = || Some(self.selection.hidden.clone());
        let Some(within) = within else {
            let rows = if name == "model.norm.weight" { hidden() } else { self.rows.clone() };
            return (rows, hidden());
        };
        let spread = |heads: &[i64]| {
            let size = self.donor.head_dim;
            Some(heads.iter().flat_map(|head| head * size..(head + 1) * size).collect())
        };
        let has = |part: &str| name.contains(part);
        if has(".q_proj") {
            (spread(&within.heads), hidden())
        } else if has(".k_proj") || has(".v_proj") {
            (spread(&within.kv_heads), hidden())
        } else if has(".o_proj") {
            (hidden(), spread(&within.heads))
        } else if has(".gate_proj") || has(".up_proj") {
            (Some(within.neurons.clone()), hidden())
        } else if has(".down_proj") {
            (hidden(), Some(within.neurons.clone()))
        } else {
            (hidden(), None)
        }
    }
}

/// Writes down what was kept, so that the choice can be looked at and repeated.
fn write_selection(
    out: &Path,
    context: &Context,
    donor: &Config,
    selection: &Selection,
) -> Result<(), StageError> {
    let each = |get: fn(&LayerSelection) -> &Vec<i64>| -> Vec<&Vec<i64>> {
        selection.within.iter().map(get).collect()
    };
    let json = json!({
        "format": 1,
        "criterion": context.raw_params().get("criterion"),
        "donor": {
            "depth": donor.depth,
            "width": donor.width,
            "heads": donor.heads,
            "kv_heads": donor.kv_heads,
            "ffn": donor.ffn,
            "vocab": donor.vocab,
        },
        "layers": selection.layers,
        "hidden": selection.hidden,
        "heads": each(|layer| &layer.heads),
        "kv_heads": each(|layer| &layer.kv_heads),
        "neurons": each(|layer| &layer.neurons),
    });
    let path = out.join("selection.json");
    fs::write(&path, format!("{json}\n")).map_err(|e| StageError::io("write", &path, &e))
}
