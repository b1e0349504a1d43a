//! The worker protocol: one JSON action per line in, JSON-line events out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::base::{Digest, Value};

/// The protocol's version; bumped when a field is added.
pub const PROTOCOL: u32 = 4;

/// One stage call for a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// [`PROTOCOL`]
    pub protocol: u32,
    /// The step's recipe key.
    pub key: Digest,
    /// `train.run`
    pub stage: String,
    /// All parameters by name.
    pub params: BTreeMap<String, Value>,
    /// Input paths by parameter name: one path for an artifact, any number for local files and lists.
    pub inputs: BTreeMap<String, Vec<PathBuf>>,
    /// An empty folder; output `model` is written as the file or folder `out/model`.
    pub out: PathBuf,
    /// A folder that outlives interruption, for resume states; may hold an earlier attempt's. The worker locks it.
    pub state: PathBuf,
    /// Derived from the content key, so that equal inputs give equal seeds.
    pub seed: u64,
    /// Threads to use.
    pub threads: u32,
    /// `cpu` or `cuda:N`
    pub device: String,
    /// Sequences at once, if the recipe says.
    pub micro_batch: Option<u32>,
    /// Whether a backward pass computes each layer again instead of keeping what it made.
    pub recompute: bool,
    /// What a stage that a recipe declares runs.
    pub shell: Option<Shell>,
}

/// A command of a recipe, with all values in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shell {
    /// For `sh -c`.
    pub command: String,
    /// The folder to run it in: the recipe's.
    pub folder: PathBuf,
    /// What it has to write, by output name.
    pub outputs: BTreeMap<String, ShellOutput>,
}

/// An output of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShellOutput {
    /// A file or folder of an artifact type.
    Artifact(String),
    /// The tokenizer in a model folder, which is an output of the command.
    TokenizerOf(String),
    /// A file that holds one number, text or truth value as JSON.
    Scalar,
}

/// What a worker says while it works on an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How far it is.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all; none when unknown.
        total: Option<u64>,
        /// `tokens`, `bytes`, `documents`
        unit: String,
    },
    /// A live number: `loss`.
    Metric {
        /// Its name.
        name: String,
        /// Its value now; null in JSON when it is not finite.
        #[serde(deserialize_with = "number")]
        value: f64,
    },
    /// A line for the log.
    Log {
        /// The line.
        line: String,
    },
    /// A scalar output.
    Output {
        /// The output's name.
        name: String,
        /// Its value.
        value: Value,
    },
    /// The state folder now holds this much work.
    Checkpointed {
        /// Units done.
        done: u64,
    },
    /// What the action took, told before its end.
    Used {
        /// Processor time of the worker and all it started, in seconds.
        cpu_seconds: f64,
        /// The most memory that the worker had in use, where that is known.
        peak_bytes: Option<u64>,
    },
    /// The action is done; outputs are complete.
    Done,
    /// It stopped on request; the state folder has all there is.
    Interrupted,
    /// It failed.
    Failed(Failure),
}

/// Why an action failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind, for retries and exit codes.
    pub kind: FailureKind,
    /// What is wrong: names file and place.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// What kind of failure, for retries and exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The input is wrong; trying again won't help.
    Input,
    /// Disk, network or memory; trying again may help.
    Environment,
    /// A bug in tlm.
    Internal,
    /// The worker died: signal, exit code.
    Crashed,
    /// The worker was killed, as the system does when memory runs out.
    Killed,
    /// The step's time limit passed.
    TimedOut,
    /// The step said and did nothing for longer than its `stall`.
    Stalled,
}

/// Reads a number that JSON has none for as NaN.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}
