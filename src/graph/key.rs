//! What a step's keys are made of (`docs/cache.md`).
//!
//! One function writes the manifest for both levels. Its bytes are what is hashed, and what is stored and explained is read
//! back from them, so an explanation can't drift from a key. Labels, spans, axis points and `run { }` have no way in,
//! but for the device, as results differ between classes of devices.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::base::{Digest, Encoder, Value};
use crate::sema::late::Late;
use crate::sema::steps::{Arg, Input, OutputRef, Step};
use crate::store::Output;

/// The version of the manifest's form; a new one makes every key new.
pub const FORMAT: i64 = 1;

/// The domain of keys by what the inputs are made of.
pub const RECIPE: &str = "tlm recipe key";

/// The domain of keys by the inputs' contents.
pub const CONTENT: &str = "tlm content key";

/// What stands for outputs in a manifest.
pub trait Resolve {
    /// Writes what stands for an output of another step.
    fn output(&mut self, out: &mut Encoder, output: &OutputRef);
    /// Writes what stands for a value that is known once steps ran.
    fn late(&mut self, out: &mut Encoder, late: &Late);
}

/// Writes what a step is made of: `resolve` writes what stands for an output of another step, `files` has the digests of
/// local files by input, and `numerics` is the class of results that tensor stages give on this machine, as
/// `cpu/libtorch-2.11.0`. The order is that of the names.
pub fn manifest(
    out: &mut Encoder,
    step: &Step,
    numerics: &str,
    files: &BTreeMap<String, Vec<Digest>>,
    resolve: &mut impl Resolve,
) {
    let stage = step.stage();
    out.map(5 + usize::from(stage.tensor) + usize::from(stage.shell().is_some()));
    out.key("format");
    out.int(FORMAT);
    out.key("inputs");
    out.map(step.inputs_by_name().len());
    for (name, input) in step.inputs_by_name() {
        out.key(name);
        match input {
            Input::Output(output) => resolve.output(out, output),
            Input::Files(_) => {
                let digests = files.get(name).map_or(&[][..], Vec::as_slice);
                out.list(digests.len());
                digests.iter().for_each(|digest| out.digest_value(digest));
            }
        }
    }
    if stage.tensor {
        out.key("numerics");
        out.text(&class(step, numerics));
    }
    out.key("params");
    out.map(step.params().count());
    for (name, arg) in step.params() {
        out.key(name);
        match arg {
            Arg::Value(value) => out.value(value),
            Arg::Late(late) => resolve.late(out, late),
        }
    }
    if let Some(shell) = stage.shell() {
        out.key("shell");
        out.text(&shell.template());
    }
    out.key("stage");
    out.text(&stage.name);
    out.key("version");
    out.int(i64::from(stage.version));
}

/// Returns the class of a step's results: the machine's, but on the device that the step's `run { }` chooses.
fn class<'n>(step: &Step, numerics: &'n str) -> Cow<'n, str> {
    match (step.device(), numerics.split_once('/')) {
        (Some(device), Some((_, version))) => format!("{device}/{version}").into(),
        _ => numerics.into(),
    }
}

/// Writes what stands for an output in a recipe key: the step that makes it, and its name.
pub fn by_recipe(out: &mut Encoder, step: &Digest, output: &str) {
    out.map(2);
    out.key("output");
    out.text(output);
    out.key("step");
    out.digest_value(step);
}

/// Returns the outputs that a recipe key's manifest names: the steps that make them, and their names.
pub fn used(manifest: &Value) -> Vec<(Digest, &str)> {
    match manifest {
        Value::Map(fields) => match (fields.get("step"), fields.get("output")) {
            (Some(Value::Digest(step)), Some(Value::Str(output))) => vec![(*step, output)],
            _ => fields.values().flat_map(used).collect(),
        },
        Value::List(items) => items.iter().flat_map(used).collect(),
        _ => Vec::new(),
    }
}

/// Writes what stands for a late value in a recipe key: how it is computed.
pub fn late_by_recipe(
    out: &mut Encoder,
    late: &Late,
    output: &mut impl FnMut(&mut Encoder, &OutputRef),
) {
    match late {
        Late::Known(value) => out.value(value),
        Late::Output(made) => output(out, made),
        Late::Computed(op, parts) => {
            out.map(2);
            out.key("args");
            out.list(parts.len());
            parts.iter().for_each(|part| late_by_recipe(out, part, output));
            out.key("op");
            out.text(&op.name());
        }
        Late::List(parts) => {
            out.list(parts.len());
            parts.iter().for_each(|part| late_by_recipe(out, part, output));
        }
        Late::Record(fields) => {
            out.map(fields.len());
            for (name, part) in fields.iter() {
                out.key(name);
                late_by_recipe(out, part, output);
            }
        }
    }
}

/// Writes what stands for an output in a content key: its digest or value.
pub fn by_content(out: &mut Encoder, output: &Output) {
    match output {
        Output::Object { digest, .. } => out.digest_value(digest),
        Output::Scalar(value) => out.value(value),
    }
}
