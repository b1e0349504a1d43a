//! The one integration test binary.

mod base;
mod parse;
mod store;
