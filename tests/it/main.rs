//! The one integration test binary.

mod base;
mod browser;
mod check;
mod cli;
mod codes;
mod colours;
mod cost;
mod damage;
mod donor;
mod fmt;
mod frames;
mod fuzz;
mod gc;
mod imports;
mod keys;
mod libtorch;
#[cfg(feature = "torch")]
mod models;
mod own;
mod paper;
mod parse;
mod plan;
mod prune;
#[cfg(feature = "torch")]
mod quickstart;
mod reference;
mod report;
mod resample;
mod retrain;
mod run;
mod store;
mod tidy;
mod tokenizer;
#[cfg(feature = "torch")]
mod torch;
mod worker;
