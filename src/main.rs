//! The `tlm` program: recipes, store, scheduler, and the worker of stages without tensors.

fn main() {}
