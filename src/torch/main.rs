//! The `tlm-torch` program: the worker of tensor stages.

mod nn;
mod stage;

use std::io::{BufReader, stdin, stdout};
use std::process::ExitCode;

fn main() -> ExitCode {
    nn::runtime::load_cuda();
    match tlm::stage::serve(stage::REGISTRY, BufReader::new(stdin()), stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(4),
    }
}
