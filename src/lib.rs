//! `tlm` is a build tool for language-model experiments.
//!
//! A `.tlm` recipe goes through one pipeline, a module a phase:
//!
//! ```text
//!  text --syntax--> ast --sema--> steps --graph--> plan --exec--> records --report--> table, HTML
//!                                            |               |
//!                                          store           worker processes (stage, src/torch)
//! ```
//!
//! Modules are listed in reading order; each imports only modules above it
//! (`tests/it/tidy.rs` holds the rule, `docs/architecture.md` explains it).

pub mod base;
pub mod cli;
pub mod data;
pub mod diag;
pub mod exec;
pub mod graph;
pub mod report;
pub mod sema;
pub mod stage;
pub mod store;
pub mod syntax;
