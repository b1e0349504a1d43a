//! The one integration test binary.

mod base;
mod parse;
mod report;
mod store;
mod worker;
