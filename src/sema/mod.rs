//! Level 3: meaning. Loads modules, resolves names, checks types and dimensions, and evaluates what
//! a plan asks for into [`steps::Expansion`]. Knows stages only by their declarations in `stdlib/`.

pub mod steps;
