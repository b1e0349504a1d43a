//! The `tlm` program: recipes, store, scheduler, and the worker of stages without tensors.

use std::io::{stderr, stdout};
use std::process::ExitCode;

use tlm::base::World;
use tlm::cli;

fn main() -> ExitCode {
    let code = World::of_process()
        .and_then(|world| cli::run(std::env::args_os(), &world, &mut stdout(), &mut stderr()));
    ExitCode::from(code.unwrap_or(cli::ENVIRONMENT))
}
