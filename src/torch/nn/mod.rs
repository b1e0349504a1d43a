//! Networks: the Llama family, its optimiser, and the formats its weights come in.

pub(crate) mod adamw;
pub(crate) mod backward;
pub(crate) mod config;
pub(crate) mod cpu;
pub(crate) mod decode;
pub(crate) mod gguf;
pub(crate) mod importance;
pub(crate) mod internevo;
pub(crate) mod layout;
pub(crate) mod llama;
pub(crate) mod masks;
pub(crate) mod quant;
pub(crate) mod runtime;
pub(crate) mod select;
pub(crate) mod sequences;
pub(crate) mod weights;

#[cfg(test)]
pub(crate) mod tests;
