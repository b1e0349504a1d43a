//! The one integration test binary.

mod base;
mod parse;
mod plan;
mod report;
mod store;
mod worker;
