//! What a step's keys are made of (`docs/cache.md`).
//!
//! One function builds the manifest for both levels, and the manifest is what is hashed, stored and explained, so
//! an explanation can't drift from a key. Labels, spans, axis points and `run { }` have no way in,
//! but for the device, as results differ between classes of devices.

use std::collections::BTreeMap;

use crate::base::{Digest, Value};
use crate::sema::steps::{Arg, Input, OutputRef, Step};
use crate::store::Output;

/// The version of the manifest's form; a new one makes every key new.
pub const FORMAT: i64 = 1;

/// What a step is made of: `resolve` says what stands for an output of another step, `files` has the digests of local files by
/// input, and `numerics` is the class of results that tensor stages give on this machine, as `cpu/libtorch-2.11.0`.
pub fn manifest(
    step: &Step,
    numerics: &str,
    files: &BTreeMap<String, Vec<Digest>>,
    mut resolve: impl FnMut(&OutputRef) -> Value,
) -> Value {
    let mut params = BTreeMap::new();
    for (name, arg) in &step.params {
        let value = match arg {
            Arg::Value(value) => value.clone(),
            Arg::Late(output) => resolve(output),
        };
        params.insert(name.clone(), value);
    }
    let mut inputs = BTreeMap::new();
    for (name, input) in &step.inputs {
        let value = match input {
            Input::Output(output) => resolve(output),
            Input::Files { .. } => {
                let digests = files.get(name).map_or(&[][..], Vec::as_slice);
                Value::List(digests.iter().copied().map(Value::Digest).collect())
            }
        };
        inputs.insert(name.clone(), value);
    }
    let mut fields = vec![
        ("format", Value::Int(FORMAT)),
        ("stage", Value::Str(step.stage.name.clone())),
        ("version", Value::Int(i64::from(step.stage.version))),
        ("params", Value::Map(params)),
        ("inputs", Value::Map(inputs)),
    ];
    if let Some(shell) = &step.stage.shell {
        fields.push(("shell", Value::Str(shell.template())));
    }
    if step.stage.tensor {
        fields.push(("numerics", Value::Str(class(step, numerics))));
    }
    Value::map(fields)
}

/// Returns the class of a step's results: the machine's, but on the device that the step's `run { }` chooses.
fn class(step: &Step, numerics: &str) -> String {
    match (&step.run.device, numerics.split_once('/')) {
        (Some(device), Some((_, version))) => format!("{device}/{version}"),
        _ => numerics.to_owned(),
    }
}

/// Returns the key by what the inputs are made of.
pub fn recipe(manifest: &Value) -> Digest {
    manifest.digest("tlm recipe key")
}

/// Returns the key by the inputs' contents.
pub fn content(manifest: &Value) -> Digest {
    manifest.digest("tlm content key")
}

/// What stands for an output in a recipe key: the step that makes it, and its name.
pub fn by_recipe(step: Digest, output: &str) -> Value {
    Value::map([("step", Value::Digest(step)), ("output", Value::Str(output.to_owned()))])
}

/// What stands for an output in a content key: its digest or value.
pub fn by_content(output: &Output) -> Value {
    match output {
        Output::Object { digest, .. } => Value::Digest(*digest),
        Output::Scalar(value) => value.clone(),
    }
}
