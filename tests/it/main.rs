//! The one integration test binary.

mod base;
mod cli;
mod parse;
mod plan;
mod report;
mod store;
mod tidy;
#[cfg(feature = "torch")]
mod torch;
mod worker;
