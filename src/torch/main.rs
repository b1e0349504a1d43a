//! The `tlm-torch` program: the worker of tensor stages.

mod nn;
mod stage;

use std::io::{self, BufReader};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tlm::stage::worker;

fn main() -> io::Result<()> {
    nn::runtime::load_cuda();
    let stop = Arc::new(AtomicBool::new(false));
    worker::stop_on_signals(&stop)?;
    worker::serve(stage::REGISTRY, BufReader::new(io::stdin()), &worker::Stdout, &stop);
    Ok(())
}
