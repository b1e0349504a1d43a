//! The `tlm` program: recipes, store, scheduler, and the worker of stages without tensors.

use std::io::{Write, stderr, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use tlm::base::World;
use tlm::cli;

fn main() -> ExitCode {
    let world = match World::of_process() {
        Ok(world) => world,
        Err(error) => {
            let message = format!("can't find the current folder: {error}");
            return fail(cli::ENVIRONMENT, &message, "change to a folder that is there");
        }
    };
    let run = || cli::run(std::env::args_os(), &world, &mut stdout(), &mut stderr());
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(code) => ExitCode::from(code),
        Err(_) => fail(cli::INTERNAL, "this is a bug in tlm", "report it with the lines above"),
    }
}

fn fail(code: u8, message: &str, help: &str) -> ExitCode {
    // A closed standard error leaves the code.
    let _ = writeln!(stderr(), "error: {message}\nhelp: {help}");
    ExitCode::from(code)
}
