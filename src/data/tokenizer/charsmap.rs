//! SentencePiece's compiled replacements: a u32 that says how many bytes of a double array follow, the array, and the texts, each
//! ended by a zero byte. The tokenizers library believes them, so what leads out of them is found here.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::data::error::DataError;

/// Tells whether no text leads a reader out of the replacements.
///
/// # Errors
/// When one does, or they are no such bytes. `path` is where they were read.
pub(super) fn check_charsmap(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    parts(bytes).filter(|(units, texts)| stays_inside(units, texts)).map(drop).ok_or_else(|| {
        DataError::invalid(path, "its compiled replacements (`precompiled_charsmap`) are damaged")
            .help("fetch the file again, or convert the tokenizer again")
    })
}

/// Tells the same of all normalizers of a `tokenizer.json`.
pub(super) fn check_normalizer(path: &Path, normalizer: &Value) -> Result<(), DataError> {
    if normalizer.get("precompiled_charsmap").is_some() {
        let text = normalizer["precompiled_charsmap"].as_str().unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
        check_charsmap(path, &bytes)?;
    }
    let mut parts = normalizer["normalizers"].as_array().into_iter().flatten();
    parts.try_for_each(|part| check_normalizer(path, part))
}

/// Returns the normalizer that replaces so.
pub(super) fn replacing(charsmap: &[u8]) -> Value {
    json!({"type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(charsmap)})
}

fn parts(bytes: &[u8]) -> Option<(Vec<u32>, &str)> {
    let (size, rest) = bytes.split_first_chunk()?;
    let units = u32::from_le_bytes(*size) as usize / 4;
    let (array, texts) = rest.split_at_checked(units * 4)?;
    let (array, _) = array.as_chunks();
    let units = array.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    Some((units, std::str::from_utf8(texts).ok()?))
}

/// Goes through all states that a text can lead to.
fn stays_inside(units: &[u32], texts: &str) -> bool {
    let Some(&root) = units.first() else { return false };
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(root)];
    while let Some(state) = open.pop() {
        // The next byte is any, and changes the lowest eight bits.
        if state | 0xff >= units.len() {
            return false;
        }
        if std::mem::replace(&mut seen[state], true) {
            continue;
        }
        for byte in 1..=255 {
            let place = state ^ byte;
            let unit = units[place];
            // The highest bit marks what is no transition.
            if unit & (1 << 31 | 0xff) != byte as u32 {
                continue;
            }
            let next = place ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let start = units.get(next).map(|value| (value & !(1 << 31)) as usize);
                if !start.is_some_and(|start| texts.is_char_boundary(start)) {
                    return false;
                }
            }
            open.push(next);
        }
    }
    true
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::sentencepiece::read_sentencepiece;

    #[test]
    fn no_changed_byte_leads_outside() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/sentencepiece");
        let whole = read_sentencepiece(&root.join("unigram.model")).unwrap().charsmap;
        let path = Path::new("t");
        check_charsmap(path, &whole).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            if check_charsmap(path, &bytes).is_ok() {
                let read = tokenizers::normalizers::Precompiled::from(&bytes).unwrap();
                for c in (1..0x600).chain(0x3000..0x3100).chain(0xfb00..0x10000) {
                    let _ = char::from_u32(c)
                        .map(|c| read.transform(c.encode_utf8(&mut [0; 4])).map(str::len));
                }
            }
        }
        for len in 0..whole.len() {
            let error = check_charsmap(path, &whole[..len]).err().map(|error| error.to_string());
            assert!(
                error.is_none_or(|error| error.contains("`precompiled_charsmap`) are damaged"))
            );
        }
        assert!(check_charsmap(path, &whole[..40]).is_err());
    }
}
