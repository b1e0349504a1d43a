//! Level 8: what a run looks like. Terminal lines, JSON lines, tables and the HTML page.
//!
//! Everything here consumes events, plans and records; nothing here decides what runs. Reading (`html::curves`,
//! `table::resolve`), the data model (`html::Page`, `table::Table`) and drawing (`html::*`, `draw`) are apart, so
//! that each can be tested alone.

mod course;
pub mod draw;
mod export;
pub mod failure;
mod going;
pub mod html;
pub mod jsonl;
mod live;
pub mod names;
mod now;
pub mod number;
mod plain;
pub mod progress;
mod results;
mod scatter;
pub mod summary;
pub mod table;
pub mod terminal;
pub mod trace;
mod watch;

pub use going::{Going, InProgress, Teller};
pub use names::StepFacts;
pub use now::Now;
pub use results::Results;
pub use scatter::Correlation;
pub use table::{Found, Shown, Source, Spread, Table, resolve};
pub use terminal::Terminal;
pub use trace::Trace;
pub use watch::Watch;
