//! What has to run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use petgraph::Outgoing;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::base::{Digest, Encoder, FastMap, Value, in_chunks};
use crate::diag::{Checked, Diagnostic};
use crate::graph::{key, sources};
use crate::sema::late::Late;
use crate::sema::steps::{self, Cell, Expansion, Input, OutputRef, Step, StepId};
use crate::store::{Elsewhere, Output, Record, Store};

/// Whether a step has to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// The store has it under its recipe key.
    Fresh,
    /// The store has it under its content key: another recipe led to the same inputs.
    Same(Box<Record>),
    /// Another store has it under its recipe key: which, by its place among those.
    Elsewhere(usize),
    /// It has to run, and can.
    Stale,
    /// What its inputs come out as is not known, or was not looked at yet; the store may have it for those.
    Waiting,
}

impl Status {
    /// Returns whether a store has the step's outputs.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Fresh | Self::Same(_) | Self::Elsewhere(_))
    }
}

/// A step with its key and status.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'p> {
    /// The step's number in the expansion.
    pub id: StepId,
    /// The step.
    pub step: &'p Step,
    /// The recipe key.
    pub recipe: Digest,
    /// Whether it has to run.
    pub status: &'p Status,
}

/// The steps that goals and reports need, inputs first.
#[derive(Debug, Default)]
pub struct Plan {
    /// The class of results that tensor stages give on this machine.
    pub numerics: String,
    /// What was asked for, with all steps.
    pub expansion: Expansion,
    /// Key and status by step; none of those that are not needed.
    keyed: Vec<Option<Keyed>>,
    /// How many are needed, and how many of them are done.
    count: usize,
    done: usize,
    files: BTreeMap<StepId, LocalFiles>,
    due: BTreeSet<StepId>,
    /// Edges lead from a step to those that use it; made when something has to run, or is drawn.
    graph: OnceLock<DiGraph<StepId, ()>>,
}

#[derive(Clone, Debug)]
struct Keyed {
    recipe: Digest,
    status: Status,
}

/// Local files as a step takes them.
#[derive(Clone, Copy, Debug)]
pub struct Source<'p> {
    /// How the recipe names them.
    pub files: &'p steps::Files,
    /// What that names, in order.
    pub paths: &'p [PathBuf],
    /// Their digests.
    pub digests: &'p [Digest],
}

/// What steps have made, by step.
type Outputs = FastMap<StepId, BTreeMap<String, Output>>;

/// The local files of a step, by input.
#[derive(Debug, Default)]
struct LocalFiles {
    /// In the order of their digests.
    paths: BTreeMap<String, Vec<PathBuf>>,
    digests: BTreeMap<String, Vec<Digest>>,
}

/// Computes the recipe keys of all needed steps and looks them up. Touches no artifact.
///
/// The findings are local files that are missing or unreadable.
pub fn plan(expansion: Expansion, store: &Store, numerics: &str) -> Checked<Plan> {
    let needed = steps::needed(&expansion.steps, targets(&expansion));
    let mut planner = Planner {
        plan: Plan {
            numerics: numerics.to_owned(),
            keyed: vec![None; needed.len()],
            expansion,
            ..Plan::default()
        },
        store,
        found: Vec::new(),
    };
    let needed = needed.into_iter().enumerate().filter(|(_, needed)| *needed);
    let needed: Vec<_> = needed.map(|(index, _)| StepId(index as u32)).collect();
    planner.plan.count = needed.len();
    planner.read_files(&needed);
    planner.find_keys(&needed);
    planner.look_up(&needed);
    let (mut plan, diagnostics) = (planner.plan, planner.found);
    plan.count_up();
    store.keep_sources();
    Checked { value: plan, diagnostics }
}

/// A plan on its way.
struct Planner<'s> {
    plan: Plan,
    store: &'s Store,
    found: Vec<Diagnostic>,
}

impl Planner<'_> {
    fn read_files(&mut self, needed: &[StepId]) {
        let has_files = |(_, input): (&str, &Input)| matches!(input, Input::Files(_));
        for id in needed {
            if self.plan.step(*id).inputs().any(has_files) {
                let files = local_files(self.plan.step(*id), self.store, &mut self.found);
                self.plan.files.insert(*id, files);
            }
        }
    }

    /// Computes the recipe keys, in parallel those that do not need each other.
    fn find_keys(&mut self, needed: &[StepId]) {
        for layer in layers(&self.plan.expansion.steps, needed) {
            let recipes = in_chunks(&layer, |part| self.plan.recipes(part));
            for (id, recipe) in layer.iter().zip(recipes.into_iter().flatten()) {
                let status = Status::Waiting;
                self.plan.keyed[id.0 as usize] = Some(Keyed { recipe, status });
            }
        }
    }

    fn look_up(&mut self, needed: &[StepId]) {
        let keyed = &self.plan.keyed;
        let recipes = needed.iter().filter_map(|id| Some(keyed[id.0 as usize].as_ref()?.recipe));
        let found = self.store.find_all(&recipes.collect::<Vec<_>>());
        for (id, found) in needed.iter().zip(found) {
            if found {
                self.plan.set(*id, Status::Fresh);
            }
        }
    }
}

impl Plan {
    /// Looks up by content what the store does not have under its recipe key, as far as what it uses is done. A run need
    /// not: it does that when a step's turn comes.
    pub fn settle(&mut self, store: &Store) {
        let waiting: Vec<_> = self.due.iter().copied().collect();
        let mut outputs = Outputs::default();
        for layer in layers(&self.expansion.steps, &waiting) {
            let is_done = |used| self.get(used).is_some_and(|used| used.status.is_done());
            let able = |id: &StepId| self.inputs(*id).all(is_done);
            let able: Vec<_> = layer.into_iter().filter(able).collect();
            self.read_outputs(&able, store, &mut outputs);
            let key = |id: &StepId| {
                self.content_key(*id, |used| outputs.get(&used.step)?.get(&*used.output).cloned())
            };
            let keys = in_chunks(&able, |part| part.iter().map(key).collect::<Vec<_>>());
            for (id, key) in able.iter().zip(keys.into_iter().flatten()) {
                let Some(key) = key else { continue };
                let status = match store.lookup(key) {
                    Some(record) => Status::Same(Box::new(record)),
                    None => Status::Stale,
                };
                self.set(*id, status);
            }
        }
        self.count_up();
    }

    /// Looks up in other stores what the own one does not have, in the first of them that has it.
    pub fn look_elsewhere(&mut self, others: &[Elsewhere]) {
        for (place, other) in others.iter().enumerate() {
            let missing: Vec<_> = self.needed(|status| !status.is_done()).into_iter().collect();
            let recipe = |id: &StepId| self.get(*id).map(|planned| planned.recipe);
            let recipes: Vec<_> = missing.iter().filter_map(recipe).collect();
            for (id, is_there) in missing.iter().zip(other.find_all(&recipes)) {
                if is_there {
                    self.set(*id, Status::Elsewhere(place));
                }
            }
        }
        self.count_up();
    }

    /// Returns what lies in other stores and is to be taken over: what goals and reports name, and what steps to run use.
    pub fn to_take(&self) -> Vec<(StepId, usize)> {
        let used = self.due.iter().flat_map(|id| self.inputs(*id));
        let wanted: BTreeSet<_> = targets(&self.expansion).chain(used).collect();
        let place = |id| match self.get(id)?.status {
            Status::Elsewhere(place) => Some((id, *place)),
            _ => None,
        };
        wanted.into_iter().filter_map(place).collect()
    }

    /// Notes which steps were taken over; the others have to run.
    pub fn take(&mut self, steps: impl IntoIterator<Item = (StepId, bool)>) {
        for (id, is_taken) in steps {
            self.set(id, if is_taken { Status::Fresh } else { Status::Waiting });
        }
        self.count_up();
    }

    /// Reads what the steps have made that some others use.
    fn read_outputs(&self, users: &[StepId], store: &Store, outputs: &mut Outputs) {
        let used: BTreeSet<_> = users.iter().flat_map(|id| self.inputs(*id)).collect();
        let mut fresh = Vec::new();
        for planned in used.into_iter().filter_map(|id| self.get(id)) {
            match planned.status {
                Status::Same(record) => {
                    outputs.insert(planned.id, record.outputs.clone());
                }
                _ if outputs.contains_key(&planned.id) => {}
                _ => fresh.push((planned.id, planned.recipe)),
            }
        }
        let (ids, recipes): (Vec<_>, Vec<_>) = fresh.into_iter().unzip();
        let read = ids.into_iter().zip(store.outputs(&recipes));
        outputs.extend(read.filter_map(|(id, read)| Some((id, read?))));
    }

    fn set(&mut self, id: StepId, status: Status) {
        if let Some(keyed) = &mut self.keyed[id.0 as usize] {
            keyed.status = status;
        }
    }

    fn count_up(&mut self) {
        self.done = self.steps().filter(|planned| planned.status.is_done()).count();
        self.due = self.needed(|status| !status.is_done());
    }

    /// Returns how many steps there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns how many steps have their outputs in the store.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Returns the steps, inputs first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = Planned<'_>> {
        (0..self.keyed.len()).filter_map(|index| self.get(StepId(index as u32)))
    }

    /// Returns a step of the plan.
    pub fn get(&self, id: StepId) -> Option<Planned<'_>> {
        let keyed = self.keyed.get(id.0 as usize)?.as_ref()?;
        Some(Planned { id, step: self.step(id), recipe: keyed.recipe, status: &keyed.status })
    }

    /// Returns the steps to run: those without record that a target needs, of a plan that was not settled perhaps more. What
    /// only steps with records use stays as it is.
    pub fn due(&self) -> &BTreeSet<StepId> {
        &self.due
    }

    /// Returns the steps that are due and those that the store has under their content keys alone.
    pub fn unrecorded(&self) -> BTreeSet<StepId> {
        self.needed(|status| !matches!(status, Status::Fresh | Status::Elsewhere(_)))
    }

    /// Returns what the store has of a step, if it has it.
    pub fn record(&self, id: StepId, store: &Store) -> Option<Record> {
        let planned = self.get(id)?;
        match planned.status {
            Status::Fresh => store.lookup(planned.recipe),
            Status::Same(record) => Some((**record).clone()),
            Status::Elsewhere(_) | Status::Stale | Status::Waiting => None,
        }
    }

    /// Returns the local files of an input, in the order of their digests.
    pub fn files(&self, id: StepId, input: &str) -> &[PathBuf] {
        self.files.get(&id).and_then(|files| files.paths.get(input)).map_or(&[], Vec::as_slice)
    }

    /// Returns what the steps take of local files.
    pub fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        self.files.iter().flat_map(|(id, local)| {
            self.step(*id).inputs().filter_map(|(name, input)| {
                let Input::Files(files) = input else { return None };
                let (paths, digests) = (local.paths.get(name)?, local.digests.get(name)?);
                Some(Source { files, paths, digests })
            })
        })
    }

    /// Returns the steps of the plan that use an output of this one.
    pub fn users(&self, id: StepId) -> impl Iterator<Item = StepId> {
        let graph = self.graph();
        graph.neighbors_directed(NodeIndex::new(id.0 as usize), Outgoing).map(|user| graph[user])
    }

    /// Returns the steps that this one uses an output of, each once, in order.
    pub fn inputs(&self, id: StepId) -> impl Iterator<Item = StepId> {
        let mut inputs: Vec<_> = self.step(id).uses().map(|output| output.step).collect();
        inputs.sort();
        inputs.dedup();
        inputs.into_iter()
    }

    /// Returns what the recipe key of a step is made of.
    pub fn manifest(&self, id: StepId) -> Value {
        let mut encoder = Encoder::default();
        self.write_manifest(id, &mut encoder);
        encoder.decoded()
    }

    /// Returns the content key of a step, once all outputs it uses are known.
    pub fn content_key(
        &self,
        id: StepId,
        mut output: impl FnMut(&OutputRef) -> Option<Output>,
    ) -> Option<Digest> {
        // Each is asked for once.
        let used = self.step(id).uses().map(|used| Some((used.clone(), output(used)?)));
        let mut by_content = ByContent { outputs: used.collect::<Option<_>>()?, complete: true };
        let mut encoder = Encoder::default();
        encoder.begin(key::CONTENT);
        self.write(id, &mut encoder, &mut by_content);
        by_content.complete.then(|| encoder.digest())
    }

    fn step(&self, id: StepId) -> &Step {
        &self.expansion.steps[id.0 as usize]
    }

    fn write_manifest(&self, id: StepId, encoder: &mut Encoder) {
        encoder.begin(key::RECIPE);
        self.write(id, encoder, &mut ByRecipe { keyed: &self.keyed });
    }

    fn write(&self, id: StepId, encoder: &mut Encoder, resolve: &mut impl key::Resolve) {
        static NONE: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
        let digests = match self.files.is_empty() {
            true => &NONE,
            false => self.files.get(&id).map_or(&NONE, |files| &files.digests),
        };
        key::manifest(encoder, self.step(id), &self.numerics, digests, resolve);
    }

    fn recipes(&self, steps: &[StepId]) -> Vec<Digest> {
        let mut encoder = Encoder::default();
        let recipe = |id: &StepId| {
            self.write_manifest(*id, &mut encoder);
            encoder.digest()
        };
        steps.iter().map(recipe).collect()
    }

    /// Returns the steps of some statuses that a target needs, by way of such steps alone.
    fn needed(&self, is_one: impl Fn(&Status) -> bool) -> BTreeSet<StepId> {
        let mut needed = BTreeSet::new();
        let is_one = |id: &StepId| self.get(*id).is_some_and(|planned| is_one(planned.status));
        let mut next: Vec<StepId> = targets(&self.expansion).filter(is_one).collect();
        while let Some(id) = next.pop() {
            if needed.insert(id) {
                next.extend(self.inputs(id).filter(is_one));
            }
        }
        needed
    }

    /// Returns the steps as a graph; each has its own number, whether it is needed or not.
    pub(super) fn graph(&self) -> &DiGraph<StepId, ()> {
        self.graph.get_or_init(|| {
            let count = self.keyed.len();
            let mut graph = DiGraph::with_capacity(count, 2 * count);
            for index in 0..count {
                graph.add_node(StepId(index as u32));
            }
            for to in self.steps() {
                for from in self.inputs(to.id) {
                    let [from, to] = [from, to.id].map(|id| NodeIndex::new(id.0 as usize));
                    graph.add_edge(from, to, ());
                }
            }
            graph
        })
    }
}

struct ByRecipe<'p> {
    keyed: &'p [Option<Keyed>],
}

impl key::Resolve for ByRecipe<'_> {
    fn output(&mut self, out: &mut Encoder, output: &OutputRef) {
        let maker = self.keyed[output.step.0 as usize].as_ref();
        let maker = maker.expect("inputs come before their users");
        key::by_recipe(out, &maker.recipe, &output.output);
    }

    fn late(&mut self, out: &mut Encoder, late: &Late) {
        key::late_by_recipe(out, late, &mut |out, output| self.output(out, output));
    }
}

struct ByContent {
    outputs: BTreeMap<OutputRef, Output>,
    /// Whether all late values have one.
    complete: bool,
}

impl key::Resolve for ByContent {
    fn output(&mut self, out: &mut Encoder, output: &OutputRef) {
        if let Some(output) = self.outputs.get(output) {
            key::by_content(out, output);
        }
    }

    fn late(&mut self, out: &mut Encoder, late: &Late) {
        match late.value(&|output| self.outputs.get(output)?.scalar().cloned()) {
            Ok(value) => out.value(&value),
            Err(_) => self.complete = false,
        }
    }
}

fn local_files(step: &Step, store: &Store, found: &mut Vec<Diagnostic>) -> LocalFiles {
    let mut local = LocalFiles::default();
    for (name, input) in step.inputs() {
        let Input::Files(files) = input else { continue };
        let result = sources::find(&files.pattern, &files.base, files.span).and_then(|paths| {
            sources::digests(&paths, files.span, store).map(|digests| (paths, digests))
        });
        match result {
            Ok((paths, digests)) => {
                local.paths.insert(name.to_owned(), paths);
                local.digests.insert(name.to_owned(), digests);
            }
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    local
}

/// Returns the steps in layers: each needs only what lies in layers before its own.
fn layers(steps: &[Step], needed: &[StepId]) -> Vec<Vec<StepId>> {
    let mut depths = vec![0u32; steps.len()];
    let mut layers: Vec<Vec<StepId>> = Vec::new();
    for id in needed {
        let mut depth = 0;
        let mut deepen = |used: &OutputRef| depth = depth.max(depths[used.step.0 as usize] + 1);
        steps[id.0 as usize].each_use(&mut deepen);
        depths[id.0 as usize] = depth;
        layers.resize_with(layers.len().max(depth as usize + 1), Vec::new);
        layers[depth as usize].push(*id);
    }
    layers
}

/// Returns the steps that goals and report cells name.
fn targets(expansion: &Expansion) -> impl Iterator<Item = StepId> {
    let goals = expansion.goals.iter().flat_map(|goal| &goal.outputs);
    let cells = expansion.reports.iter().flat_map(|report| &report.rows).flat_map(|row| &row.cells);
    let cells = cells.flatten().flat_map(Cell::outputs);
    goals.chain(cells).map(|output| output.step)
}
