//! What steps will compute, told before they run: floating-point operations by step (`docs/cost.md`).
//!
//! Facts flow along the edges of the graph: the shape of a model, the size of a tokenizer, the sequences of a dataset. Of a step
//! that is done they are taken from what it made, of others from the recipe. What neither tells stays unknown, and says until when.

mod heads;
mod rules;
mod shape;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use crate::base::{Digest, FastMap, Value};
use crate::graph::plan::Plan;
use crate::sema::late::Late;
use crate::sema::steps::{Arg, Body, Input, OutputRef, Step, StepId};
use crate::store::{Output, Record, Store};

pub use heads::Heads;
pub use shape::Shape;

/// What is known, or why it is not.
pub type Known<T> = Result<T, Unknown>;

/// Why something is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is once this step ran.
    Until(StepId),
    /// Nothing tells it beforehand.
    Never,
}

/// Floating-point operations by step.
pub type Costs = BTreeMap<StepId, Known<f64>>;

/// Returns the floating-point operations of all steps to run.
pub fn costs(plan: &Plan, store: &Store) -> Costs {
    let mut flow = Flow {
        plan,
        store,
        facts: FastMap::default(),
        records: RefCell::default(),
        shapes: RefCell::default(),
    };
    // Inputs have smaller numbers than their users.
    plan.due().iter().map(|id| (*id, flow.add(*id))).collect()
}

/// What is known of the outputs of a step, each of which has some of it.
#[derive(Clone, Debug)]
struct Facts {
    /// Of a model.
    shape: Known<Rc<Shape>>,
    /// Tokens of a tokenizer.
    vocab: Known<f64>,
    /// Tokens that a sequence of a dataset trains.
    seq: Known<f64>,
    /// Sequences of a dataset.
    sequences: Known<f64>,
    /// Sequences that a loss is of; none if it is of a document.
    unit: Known<Option<f64>>,
}

impl Facts {
    /// Nothing is known.
    fn all(why: Unknown) -> Self {
        let number = Err(why);
        Self { shape: Err(why), vocab: number, seq: number, sequences: number, unit: Err(why) }
    }

    /// Returns what is the same of both; the rest is not known, for that reason.
    fn common(self, other: Self, why: Unknown) -> Self {
        fn same<T: PartialEq>(one: Known<T>, other: Known<T>, why: Unknown) -> Known<T> {
            one.ok()
                .zip(other.ok())
                .filter(|(one, other)| one == other)
                .map(|(one, _)| one)
                .ok_or(why)
        }
        Self {
            shape: same(self.shape, other.shape, why),
            vocab: same(self.vocab, other.vocab, why),
            seq: same(self.seq, other.seq, why),
            sequences: same(self.sequences, other.sequences, why),
            unit: same(self.unit, other.unit, why),
        }
    }
}

/// Facts on their way through a plan.
struct Flow<'f> {
    plan: &'f Plan,
    store: &'f Store,
    /// Of the steps to run so far.
    facts: FastMap<StepId, Facts>,
    /// Of steps that are done.
    records: RefCell<FastMap<StepId, Option<Rc<Record>>>>,
    /// Of models in the store.
    shapes: RefCell<FastMap<Digest, Known<Rc<Shape>>>>,
}

impl Flow<'_> {
    /// Adds a step to run and returns its operations.
    fn add(&mut self, id: StepId) -> Known<f64> {
        let (facts, cost) = rules::rule(&Call { flow: self, id, is_done: false });
        self.facts.insert(id, facts);
        cost
    }

    fn step(&self, id: StepId) -> &Step {
        &self.plan.expansion.steps[id.0 as usize]
    }

    /// Returns what is known of an output.
    fn output(&self, id: StepId, output: &str) -> Facts {
        match self.facts.get(&id) {
            None => self.made(id, output),
            Some(_) if self.step(id).stage().body == Body::Best => self.best(id, output),
            Some(facts) => facts.clone(),
        }
    }

    /// Returns what all candidates have in common.
    fn best(&self, id: StepId, output: &str) -> Facts {
        let why = Unknown::Until(id);
        let candidates = self.step(id).inputs().filter_map(|(name, input)| match input {
            Input::Output(candidate) if name.rsplit_once('.')?.0 == output => {
                Some(self.output(candidate.step, &candidate.output))
            }
            _ => None,
        });
        candidates.reduce(|one, other| one.common(other, why)).unwrap_or(Facts::all(why))
    }

    /// Returns what is known of an output of a step that is done: what the record tells, or else the call.
    fn made(&self, id: StepId, output: &str) -> Facts {
        let known = rules::rule(&Call { flow: self, id, is_done: true }).0;
        let Some(record) = self.record(id) else { return known };
        let number =
            |field: &str| record.outputs.get(&format!("{output}.{field}"))?.scalar().and_then(real);
        let tokens = number("tokens").zip(number("sequences"));
        let seq = tokens.map(|(tokens, sequences)| tokens / sequences).filter(|seq| *seq > 0.0);
        Facts {
            shape: self.shape(&record, output).unwrap_or(known.shape),
            vocab: number("size").map_or(known.vocab, Ok),
            seq: seq.map_or(known.seq, Ok),
            sequences: number("sequences").map_or(known.sequences, Ok),
            unit: known.unit,
        }
    }

    /// Returns the shape of a model in the store; none if the output is no model, and no other one of the step.
    fn shape(&self, record: &Record, output: &str) -> Option<Known<Rc<Shape>>> {
        let is_model = |name: &str| record.outputs.contains_key(&format!("{name}.params"));
        // What else a training makes is of its model too.
        let mut names = record.outputs.keys().map(String::as_str);
        let model = if is_model(output) { output } else { names.find(|name| is_model(name))? };
        let Output::Object { digest, .. } = record.outputs.get(model)? else { return None };
        let mut shapes = self.shapes.borrow_mut();
        let read = || local_shape(&self.store.object_path(*digest)).ok_or(Unknown::Never);
        Some(shapes.entry(*digest).or_insert_with(read).clone())
    }

    fn record(&self, id: StepId) -> Option<Rc<Record>> {
        let mut records = self.records.borrow_mut();
        let read = || self.plan.record(id, self.store).map(Rc::new);
        records.entry(id).or_insert_with(read).clone()
    }

    /// Returns a number or text that a step tells.
    fn scalar(&self, output: &OutputRef) -> Known<Value> {
        if !self.facts.contains_key(&output.step) {
            let record = self.record(output.step).ok_or(Unknown::Never)?;
            let told = record.outputs.get(&*output.output).and_then(Output::scalar);
            return told.cloned().ok_or(Unknown::Never);
        }
        let Some((artifact, field)) = output.output.rsplit_once('.') else {
            return Err(Unknown::Until(output.step));
        };
        let facts = self.output(output.step, artifact);
        let number = match field {
            "params" => facts.shape?.params(),
            "sequences" => facts.sequences?,
            "size" => facts.vocab?,
            "tokens" => facts.sequences? * facts.seq?,
            _ => return Err(Unknown::Until(output.step)),
        };
        Ok(Value::Int(number as i64))
    }
}

/// A step and what is known of its arguments.
struct Call<'c> {
    flow: &'c Flow<'c>,
    id: StepId,
    /// Whether the step is done: then its inputs are of no interest, however many steps made them.
    is_done: bool,
}

impl<'c> Call<'c> {
    fn step(&self) -> &'c Step {
        self.flow.step(self.id)
    }

    /// Returns whether there is such an input.
    fn has(&self, input: &str) -> bool {
        self.input(input).is_some()
    }

    /// Returns what is known of an input.
    fn facts(&self, input: &str) -> Facts {
        match self.input(input) {
            Some(Input::Output(output)) if !self.is_done => {
                self.flow.output(output.step, &output.output)
            }
            _ => Facts::all(Unknown::Never),
        }
    }

    /// Returns whether one input comes from the same step as another.
    fn is_own(&self, input: &str, of: &str) -> bool {
        match (self.input(input), self.input(of)) {
            (Some(Input::Output(own)), Some(Input::Output(of))) => own.step == of.step,
            _ => false,
        }
    }

    /// Returns the shape of a model in a local folder.
    fn local_model(&self) -> Known<Rc<Shape>> {
        let shape = match self.flow.plan.files(self.id, "source") {
            [folder] if !self.is_done => local_shape(folder),
            _ => None,
        };
        shape.ok_or(Unknown::Until(self.id))
    }

    /// Returns a shape that a rule came to; it turns out when the step runs why there is none.
    fn shape(&self, shape: Option<Shape>) -> Known<Rc<Shape>> {
        shape.map(Rc::new).ok_or(Unknown::Until(self.id))
    }

    /// Returns a parameter that is a number.
    fn number(&self, param: &str) -> Known<f64> {
        real(&self.value(param)?).ok_or(Unknown::Never)
    }

    /// The same, or another number where the parameter is left out of the key.
    fn number_or(&self, param: &str, default: f64) -> Known<f64> {
        if self.step().param(param).is_some() { self.number(param) } else { Ok(default) }
    }

    /// Returns a parameter.
    fn value(&self, param: &str) -> Known<Value> {
        match self.step().param(param) {
            Some(Arg::Value(value)) => Ok(value.clone()),
            Some(Arg::Late(late)) => self.late(late),
            None => {
                let mut unkeyed = self.step().unkeyed();
                let found = unkeyed.find(|(name, _)| *name == param);
                found.map(|(_, value)| value.clone()).ok_or(Unknown::Never)
            }
        }
    }

    fn late(&self, late: &Late) -> Known<Value> {
        let why = Cell::new(Unknown::Never);
        let find =
            |output: &OutputRef| self.flow.scalar(output).map_err(|unknown| why.set(unknown)).ok();
        late.value(&find).map_err(|_| why.get())
    }

    fn input(&self, name: &str) -> Option<&'c Input> {
        self.step().inputs().find(|(input, _)| *input == name).map(|(_, input)| input)
    }
}

/// Returns the shape of the model in a folder, if it is one of the Llama family.
fn local_shape(folder: &Path) -> Option<Rc<Shape>> {
    let config = fs::read(folder.join("config.json")).ok()?;
    Shape::of_config(&serde_json::from_slice(&config).ok()?).map(Rc::new)
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}
