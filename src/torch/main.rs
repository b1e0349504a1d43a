//! The `tlm-torch` program: the worker of tensor stages.

fn main() {}
