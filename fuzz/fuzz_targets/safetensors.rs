//! See `tests/it/fuzz.rs`, which holds what is checked.
#![no_main]

#[expect(dead_code, reason = "the other targets run the rest")]
#[path = "../../tests/it/fuzz.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::safetensors(bytes));
