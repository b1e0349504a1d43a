//! The tokenizer rebuilt from the donor's metadata against `tests/reference/tokenizer_ids.json`, the original's ids.

mod pieces;

use std::error::Error;
use std::path::Path;

use serde::Deserialize;
use tlm::data::tokenizer::gguf::tokenizer_from_gguf;
use tlm::data::{Gguf, Tokenizer};

use crate::donor::donor;

/// Bytes of UTF-8 without a token; `SmolLM2` drops them.
const LOST: [u8; 8] = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1d, 0xf1, 0xf2];

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizer_ids.json");
    let json = std::fs::read(path).expect("readable");
    serde_json::from_slice(&json).expect("texts and ids")
}

fn rebuilt() -> Result<Tokenizer, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    tokenizer_from_gguf(&Gguf::open(donor())?, folder.path())?;
    Ok(Tokenizer::open(folder.path())?)
}

#[test]
fn the_rebuilt_tokenizer_has_the_ids_of_the_original() {
    let tokenizer = rebuilt().unwrap();
    for Case { text, ids } in cases() {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn decoding_returns_every_text_whose_bytes_have_tokens() {
    let tokenizer = rebuilt().unwrap();
    for Case { text, ids } in cases() {
        let whole = !text.bytes().any(|byte| LOST.contains(&byte));
        let decoded = tokenizer.decode(&ids).unwrap();
        assert_eq!(decoded == text, whole, "{text:?} became {decoded:?}");
    }
}
