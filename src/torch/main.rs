//! The `tlm-torch` program: the worker of tensor stages.

mod nn;
mod stage;

fn main() {
    nn::runtime::load_cuda();
    let _ = stage::REGISTRY;
}
