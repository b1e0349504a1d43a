//! How pieces spell what is no character of theirs: blanks and bytes.

use crate::base::FastMap;

/// What stands for a blank in the pieces of SentencePiece.
pub(super) const MARK: char = '\u{2581}';

/// Returns the characters that `ByteLevel` has for bytes: printable ones of Latin-1 as they are, the others from U+0100.
pub(super) fn byte_chars() -> [char; 256] {
    let mut others = '\u{100}'..;
    let mut chars = ['\0'; 256];
    for byte in 0..=255u8 {
        let is_kept = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
        let other = if is_kept { None } else { others.next() };
        chars[usize::from(byte)] = other.unwrap_or(char::from(byte));
    }
    chars
}

/// Returns the byte that each of these characters stands for.
pub(super) fn char_bytes() -> FastMap<char, u8> {
    byte_chars().into_iter().zip(0..=255).collect()
}

/// Returns the piece that stands for a byte.
pub(super) fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Returns whether a piece stands for a byte.
pub(super) fn is_byte_piece(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}
