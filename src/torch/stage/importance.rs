//! `model.importance`: how much each unit of a model matters to some data.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, TchError, Tensor};
use tlm::data::dataset::read_json;
use tlm::data::mix::{shuffled, splitmix};
use tlm::stage::{Context, StageError};

use crate::nn::config::Config;
use crate::nn::importance::{Activations, taylor};
use crate::nn::llama::Llama;
use crate::nn::runtime::fault;
use crate::nn::select::{Importance, LayerImportance};
use crate::nn::sequences::{Rows, Sequences};
use crate::stage::inherit::{Shapes, Written};
use crate::stage::sums::SavedSums;
use crate::stage::{Attention, check_not_empty, load, micro_batch, open_data};

#[derive(Deserialize)]
struct Params {
    criterion: Criterion,
    layers: LayerCriterion,
    tokens: u64,
    dtype: String,
    seed: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Criterion {
    Taylor,
    Activation,
}

/// How layers are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerCriterion {
    /// As other units are.
    Units,
    /// By how much the loss rises without them.
    Skip,
}

/// `importance.json`: a number for each unit, in the order of `selection.json`'s indices.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    criterion: String,
    donor: Shapes,
    layers: Vec<f64>,
    hidden: Vec<f64>,
    heads: Vec<Vec<f64>>,
    kv_heads: Vec<Vec<f64>>,
    neurons: Vec<Vec<f64>>,
}

/// Writes `importance.json`.
pub(crate) fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let model = load(context, "donor", &params.dtype)?;
    let data = open_data(context, &model, Attention::Sequence)?;
    check_not_empty(&data)?;
    let sweep = Sweep::new(&params, &model, &data);
    let importance = match params.criterion {
        Criterion::Taylor => by_gradient(context, &sweep)?,
        Criterion::Activation => by_activation(context, &sweep)?,
    };
    let criterion = format!("{:?}", params.criterion).to_lowercase();
    write(&context.out_dir("out")?, criterion, &model.config, importance)
}

/// Writes `importance.json` into a folder.
pub(crate) fn write(
    out: &Path,
    criterion: String,
    donor: &Config,
    importance: Importance,
) -> Result<(), StageError> {
    let each = |get: fn(&LayerImportance) -> &Vec<f64>| {
        importance.within.iter().map(get).cloned().collect::<Vec<_>>()
    };
    let finite = |numbers: &[f64]| numbers.iter().all(|number| number.is_finite());
    let all_finite = |layers: &[Vec<f64>]| layers.iter().all(|numbers| finite(numbers));
    let stored = Stored {
        format: 1,
        criterion,
        donor: Shapes::of(donor),
        heads: each(|layer| &layer.heads),
        kv_heads: each(|layer| &layer.kv_heads),
        neurons: each(|layer| &layer.neurons),
        layers: importance.layers,
        hidden: importance.hidden,
    };
    if !(finite(&stored.hidden)
        && finite(&stored.layers)
        && all_finite(&stored.neurons)
        && all_finite(&stored.heads))
    {
        return Err(StageError::input(
            "an importance came out as no number: the model has diverged",
        )
        .help("use a model that has not diverged"));
    }
    let path = out.join("importance.json");
    let text = serde_json::to_string(&stored).expect("plain data");
    fs::write(&path, text + "\n").map_err(|e| StageError::io("write", &path, &e))
}

/// Which sequences to look at, and where they go through the model.
struct Sweep<'a> {
    params: &'a Params,
    model: &'a Llama,
    data: &'a Sequences,
    /// How many sequences.
    count: u64,
}

impl<'a> Sweep<'a> {
    fn new(params: &'a Params, model: &'a Llama, data: &'a Sequences) -> Self {
        let count = params.tokens.div_ceil(data.length).min(data.count);
        Self { params, model, data, count }
    }

    fn tokens(&self) -> u64 {
        self.count * self.data.length
    }

    /// Calls `add` with batches of sequences, drawn without repetition, until there are as many tokens as wanted, from the state
    /// folder's position if it has one. `sums` is what is added to.
    fn run(
        &self,
        context: &mut Context,
        sums: &[&Tensor],
        mut add: impl FnMut(&Rows) -> Result<(), TchError>,
    ) -> Result<(), StageError> {
        let (model, data) = (self.model, self.data);
        let seed = splitmix(u64::from_le_bytes(self.params.seed.to_le_bytes()));
        let mut position = SavedSums::start(context, micro_batch(context, data, model), sums)?;
        while position.done < self.count {
            position.rest(context, position.done * data.length, sums)?;
            let (start, before) = (Instant::now(), position.done);
            let end = (position.done + position.micro_batch).min(self.count);
            let indices: Vec<u64> =
                (position.done..end).map(|at| shuffled(at, data.count, seed)).collect();
            add(&data.batch(&indices, model.device())?).map_err(fault)?;
            position.done = end;
            let speed = ((end - before) * data.length) as f64 / start.elapsed().as_secs_f64();
            context.progress(end * data.length, Some(self.tokens()), "tokens");
            context.metric("tokens_per_s", speed.round());
        }
        Ok(())
    }
}

/// Summed losses of a model without each of its layers, and with all.
struct Skips {
    models: Vec<Llama>,
    sums: Tensor,
}

impl Skips {
    fn of(sweep: &Sweep) -> Result<Self, TchError> {
        let depth = match sweep.params.layers {
            LayerCriterion::Units => 0,
            LayerCriterion::Skip => sweep.model.config.depth,
        };
        let models = (0..depth).map(|layer| sweep.model.without(layer as usize));
        let models = models.collect::<Result<_, _>>()?;
        Ok(Self { models, sums: Tensor::f_zeros([depth + 1], (Kind::Double, Device::Cpu))? })
    }

    fn add(&self, model: &Llama, rows: &Rows) -> Result<(), TchError> {
        if self.models.is_empty() {
            return Ok(());
        }
        for (at, model) in self.models.iter().chain([model]).enumerate() {
            let nll = model.nll(rows)?.f_sum(Kind::Double)?.f_to_device(Device::Cpu)?;
            let _ = self.sums.f_get(at as i64)?.f_add_(&nll)?;
        }
        Ok(())
    }

    /// Puts how much the mean loss rises without each layer in the place of what else says how it matters.
    fn finish(&self, importance: &mut Importance, tokens: u64) -> Result<(), StageError> {
        let sums = Vec::<f64>::try_from(&self.sums).map_err(fault)?;
        if let Some((whole, without)) = sums.split_last().filter(|_| !self.models.is_empty()) {
            importance.layers = without.iter().map(|sum| (sum - whole) / tokens as f64).collect();
        }
        Ok(())
    }
}

fn by_gradient(context: &mut Context, sweep: &Sweep) -> Result<Importance, StageError> {
    let gradient = sweep.model.flat.f_zeros_like().map_err(fault)?;
    let skips = Skips::of(sweep).map_err(fault)?;
    let scale = 1.0 / sweep.tokens() as f64;
    sweep.run(context, &[&gradient, &skips.sums], |rows| {
        // The same numbers by another handle.
        let mut gradient = gradient.shallow_clone();
        sweep.model.backward(rows, scale, &mut gradient, None)?;
        skips.add(sweep.model, rows)
    })?;
    let mut importance = taylor(sweep.model, &gradient)?;
    skips.finish(&mut importance, sweep.tokens())?;
    Ok(importance)
}

fn by_activation(context: &mut Context, sweep: &Sweep) -> Result<Importance, StageError> {
    let sums = Activations::new(sweep.model).map_err(fault)?;
    let skips = Skips::of(sweep).map_err(fault)?;
    let all = [&sums.all()[..], &[&skips.sums]].concat();
    sweep.run(context, &all, |rows| {
        sums.add(sweep.model, &rows.ids)?;
        skips.add(sweep.model, rows)
    })?;
    let mut importance = sums.finish(&sweep.model.config, sweep.tokens()).map_err(fault)?;
    skips.finish(&mut importance, sweep.tokens())?;
    Ok(importance)
}

/// Reads an importance of this donor: `importance.json`, or a `selection.json` that is to be repeated, in which what was kept has
/// one and all else zero.
pub(crate) fn read(folder: &Path, donor: &Config) -> Result<Importance, StageError> {
    let selection = folder.join("selection.json");
    let (path, stored) = if selection.exists() {
        let written: Written = read_json(&selection)?;
        let repeated = repeated(&written, donor);
        (selection, repeated)
    } else {
        let path = folder.join("importance.json");
        let stored = read_json(&path)?;
        (path, Some(stored))
    };
    let help = "measure it on this donor with `model.importance`";
    let stored = stored.filter(|stored| stored.donor == Shapes::of(donor)).ok_or_else(|| {
        StageError::input(format!("`{}` is of a donor of another shape", path.display())).help(help)
    })?;
    let count = |layers: &[Vec<f64>], each: i64| {
        layers.len() as i64 == donor.depth && layers.iter().all(|one| one.len() as i64 == each)
    };
    let whole = stored.hidden.len() as i64 == donor.width
        && stored.layers.len() as i64 == donor.depth
        && count(&stored.neurons, donor.ffn)
        && count(&stored.heads, donor.heads)
        && count(&stored.kv_heads, donor.kv_heads);
    if !whole {
        return Err(StageError::input(format!(
            "`{}` does not have a number for each unit of the donor",
            path.display()
        ))
        .help(help));
    }
    let layers = stored.neurons.into_iter().zip(stored.kv_heads).zip(stored.heads);
    let within =
        layers.map(|((neurons, kv_heads), heads)| LayerImportance { neurons, kv_heads, heads });
    Ok(Importance { hidden: stored.hidden, layers: stored.layers, within: within.collect() })
}

/// Returns a selection as an importance; none if it has indices that the donor has not.
fn repeated(written: &Written, donor: &Config) -> Option<Stored> {
    let marks = |kept: &[i64], count: i64| -> Option<Vec<f64>> {
        let mut marks = vec![0.0; count as usize];
        for &index in kept {
            *marks.get_mut(usize::try_from(index).ok()?)? = 1.0;
        }
        Some(marks)
    };
    // Of layers that are not kept nothing is.
    let spread = |kept: &[Vec<i64>], count: i64| -> Option<Vec<Vec<f64>>> {
        let mut all = vec![vec![0.0; count as usize]; donor.depth as usize];
        for (&layer, kept) in written.layers.iter().zip(kept) {
            *all.get_mut(usize::try_from(layer).ok()?)? = marks(kept, count)?;
        }
        Some(all)
    };
    Some(Stored {
        format: 1,
        criterion: "selection".to_owned(),
        donor: written.donor.clone(),
        layers: marks(&written.layers, donor.depth)?,
        hidden: marks(&written.hidden, donor.width)?,
        heads: spread(&written.heads, donor.heads)?,
        kv_heads: spread(&written.kv_heads, donor.kv_heads)?,
        neurons: spread(&written.neurons, donor.ffn)?,
    })
}
