//! Level 4: steps as a graph. What each step's key is, what has to run and why, what it will compute, and drawings of it.

mod cost;
mod draw;
pub mod key;
mod plan;
mod sources;
mod why;

pub use cost::{Costs, Heads, Known, Shape, Unknown, costs};
pub use draw::{dot, mermaid};
pub use plan::{Plan, Planned, Source, Status, plan};
pub use sources::finds;
pub use why::{Change, Fields, History, Why, changes, fields, place};
