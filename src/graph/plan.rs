//! What has to run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, Reversed};

use crate::base::{Digest, Value};
use crate::diag::{Checked, Diagnostic};
use crate::graph::{key, sources};
use crate::sema::steps::{Cell, Expansion, Input, OutputRef, Step, StepId};
use crate::store::{Output, Record, Store};

/// Whether a step has to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// The store has it under its recipe key.
    Fresh(Box<Record>),
    /// The store has it under its content key: another recipe led to the same inputs.
    Same(Box<Record>),
    /// It has to run, and can.
    Stale,
    /// An input has to be made first; it may turn out the same as before.
    Waiting,
}

impl Status {
    /// Returns the record of a step that need not run.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Fresh(record) | Self::Same(record) => Some(record),
            Self::Stale | Self::Waiting => None,
        }
    }
}

/// A step with its key and status.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The step's number in the expansion.
    pub id: StepId,
    /// The step.
    pub step: Step,
    /// Local files by input, in the order of their digests.
    pub files: BTreeMap<String, Vec<PathBuf>>,
    /// Their digests.
    pub digests: BTreeMap<String, Vec<Digest>>,
    /// What the recipe key is made of.
    pub manifest: Value,
    /// The recipe key.
    pub recipe: Digest,
    /// Whether it has to run.
    pub status: Status,
}

/// The steps that goals and reports need, inputs first.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The class of results that tensor stages give on this machine.
    pub numerics: String,
    /// The steps.
    pub steps: Vec<Planned>,
    /// The steps that goals and reports name.
    targets: Vec<StepId>,
    by_id: BTreeMap<StepId, usize>,
    graph: DiGraph<StepId, ()>,
}

/// Computes the keys of all needed steps and looks them up. Touches no artifact.
///
/// The findings are local files that are missing or unreadable.
pub fn plan(expansion: &Expansion, store: &Store, numerics: &str) -> Checked<Plan> {
    let graph = build(&expansion.steps);
    let targets = targets(expansion);
    let needed = needed(&targets, &graph);
    let mut plan = Plan { numerics: numerics.to_owned(), targets, graph, ..Plan::default() };
    let mut diagnostics = Vec::new();
    for (index, step) in expansion.steps.iter().enumerate() {
        if needed[index] {
            let planned = plan.look_up(StepId(index as u32), step, store, &mut diagnostics);
            plan.by_id.insert(planned.id, plan.steps.len());
            plan.steps.push(planned);
        }
    }
    store.keep_sources();
    Checked { value: plan, diagnostics }
}

impl Plan {
    /// Returns a step of the plan.
    pub fn get(&self, id: StepId) -> Option<&Planned> {
        self.by_id.get(&id).map(|at| &self.steps[*at])
    }

    /// Returns the steps to run: those without record that a target needs. What only steps with records use stays as it is.
    pub fn due(&self) -> BTreeSet<StepId> {
        let mut due = BTreeSet::new();
        let mut next = self.targets.clone();
        while let Some(id) = next.pop() {
            let has_record = self.get(id).is_none_or(|step| step.status.record().is_some());
            if !has_record && due.insert(id) {
                next.extend(self.inputs(id));
            }
        }
        due
    }

    /// Returns the steps of the plan that use an output of this one.
    pub fn users(&self, id: StepId) -> impl Iterator<Item = StepId> {
        let users =
            self.graph.neighbors_directed(NodeIndex::new(id.0 as usize), Direction::Outgoing);
        users.map(|node| self.graph[node]).filter(|id| self.by_id.contains_key(id))
    }

    /// Returns the steps that this one uses an output of.
    pub fn inputs(&self, id: StepId) -> impl Iterator<Item = StepId> {
        let inputs =
            self.graph.neighbors_directed(NodeIndex::new(id.0 as usize), Direction::Incoming);
        inputs.map(|node| self.graph[node])
    }

    /// Returns what the content key of a step is made of, once all outputs it uses are known.
    pub fn content_manifest(
        &self,
        id: StepId,
        mut output: impl FnMut(&OutputRef) -> Option<Output>,
    ) -> Option<Value> {
        let planned = self.get(id)?;
        let mut complete = true;
        let manifest =
            key::manifest(&planned.step, &self.numerics, &planned.digests, |reference| {
                let found = output(reference);
                complete &= found.is_some();
                found.as_ref().map_or(Value::Null, key::by_content)
            });
        complete.then_some(manifest)
    }

    fn look_up(
        &self,
        id: StepId,
        step: &Step,
        store: &Store,
        found: &mut Vec<Diagnostic>,
    ) -> Planned {
        let (files, digests) = local_files(step, store, found);
        let manifest = key::manifest(step, &self.numerics, &digests, |reference| {
            let maker = self.get(reference.step).expect("inputs come before their users");
            key::by_recipe(maker.recipe, &reference.output)
        });
        let recipe = key::recipe(&manifest);
        let mut planned = Planned {
            id,
            step: step.clone(),
            files,
            digests,
            manifest,
            recipe,
            status: Status::Waiting,
        };
        planned.status = self.status(&planned, store);
        planned
    }

    fn status(&self, planned: &Planned, store: &Store) -> Status {
        if let Some(record) = store.lookup(planned.recipe) {
            return Status::Fresh(Box::new(record));
        }
        let mut ready = true;
        let manifest =
            key::manifest(&planned.step, &self.numerics, &planned.digests, |reference| {
                let record = self.get(reference.step).and_then(|maker| maker.status.record());
                let output = record.and_then(|record| record.outputs.get(&reference.output));
                ready &= output.is_some();
                output.map_or(Value::Null, key::by_content)
            });
        match ready {
            false => Status::Waiting,
            true => match store.lookup(key::content(&manifest)) {
                Some(record) => Status::Same(Box::new(record)),
                None => Status::Stale,
            },
        }
    }
}

type Files = (BTreeMap<String, Vec<PathBuf>>, BTreeMap<String, Vec<Digest>>);

fn local_files(step: &Step, store: &Store, found: &mut Vec<Diagnostic>) -> Files {
    let (mut files, mut digests) = Files::default();
    for (name, input) in &step.inputs {
        let Input::Files { pattern, base, span } = input else { continue };
        let result = sources::find(pattern, base, *span).and_then(|paths| {
            sources::digests(&paths, *span, store).map(|digests| (paths, digests))
        });
        match result {
            Ok((paths, sums)) => {
                files.insert(name.clone(), paths);
                digests.insert(name.clone(), sums);
            }
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    (files, digests)
}

fn build(steps: &[Step]) -> DiGraph<StepId, ()> {
    let mut graph = DiGraph::with_capacity(steps.len(), 2 * steps.len());
    for index in 0..steps.len() {
        graph.add_node(StepId(index as u32));
    }
    for (index, step) in steps.iter().enumerate() {
        let used: BTreeSet<StepId> = step.uses().map(|output| output.step).collect();
        for step in used {
            graph.add_edge(NodeIndex::new(step.0 as usize), NodeIndex::new(index), ());
        }
    }
    graph
}

/// Returns the steps that goals and report cells name.
fn targets(expansion: &Expansion) -> Vec<StepId> {
    let goals = expansion.goals.iter().flat_map(|goal| &goal.outputs);
    let cells = expansion.reports.iter().flat_map(|report| &report.rows).flat_map(|row| &row.cells);
    let cells = cells.filter_map(|cell| match cell {
        Some(Cell::Output(output)) => Some(output),
        Some(Cell::Value(_)) | None => None,
    });
    goals.chain(cells).map(|output| output.step).collect()
}

/// Returns which steps the targets need.
fn needed(targets: &[StepId], graph: &DiGraph<StepId, ()>) -> Vec<bool> {
    let mut needed = vec![false; graph.node_count()];
    let reversed = Reversed(graph);
    let mut search = Dfs::empty(reversed);
    for target in targets {
        search.move_to(NodeIndex::new(target.0 as usize));
        while let Some(node) = search.next(reversed) {
            needed[node.index()] = true;
        }
    }
    needed
}
