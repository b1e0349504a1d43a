//! What the HTML report tells, as plain data.

use crate::report::html::curves::Curve;
use crate::report::table::Table;

/// The report of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The page's title: the recipe's name.
    pub title: String,
    /// The recipe's path as the user gave it.
    pub recipe: String,
    /// Name and text of what else stands in the head: when, machine, how many steps ran.
    pub facts: Vec<(String, String)>,
    /// The tables.
    pub tables: Vec<Table>,
    /// The loss curves of the training steps.
    pub curves: Vec<Curve>,
    /// Every step of the plan, inputs first.
    pub steps: Vec<StepCard>,
    /// The recipe's text.
    pub source: String,
}

/// A step on the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepCard {
    /// Its number in the plan.
    pub id: u32,
    /// `r2`
    pub label: String,
    /// `r2[rate=50%]`
    pub name: String,
    /// The axis values, as written.
    pub point: Vec<(String, String)>,
    /// `train.run`
    pub stage: String,
    /// How it ended.
    pub status: Status,
    /// Its recipe key, in full.
    pub key: String,
    /// How long it took when it ran.
    pub seconds: Option<f64>,
    /// Identity parameters by name.
    pub params: Vec<(String, String)>,
    /// Scalar outputs by name.
    pub scalars: Vec<(String, String)>,
    /// Artifacts by name.
    pub artifacts: Vec<Artifact>,
    /// Input name, step number and text: `init`, 4, `init.model`.
    pub inputs: Vec<(String, u32, String)>,
    /// The log's path.
    pub log: Option<String>,
}

/// An artifact of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artifact {
    /// The output's name.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// It ran now.
    Ran,
    /// It was there already.
    Reused,
    /// It failed.
    Failed,
    /// It did not come to run.
    #[default]
    NotRun,
}

impl Status {
    /// Returns the status as a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Reused => "reused",
            Self::Failed => "failed",
            Self::NotRun => "not run",
        }
    }
}
