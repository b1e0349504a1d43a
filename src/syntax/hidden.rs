//! What a text must not hold anywhere: characters that show another text than the one that is read, and two spellings
//! of what looks the same.

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::token::{Kind, Tokens};
use crate::base::text::{is_bidirectional, is_control};
use crate::base::{FileId, Span};
use crate::diag::Diagnostic;

/// How many characters of a spelling are looked at: as many as are written over one letter at most (Unicode's
/// stream-safe format).
const SPELLING_MAX: usize = 32;

/// Returns whether a character is told wherever it stands.
pub(super) fn is_hidden(c: char) -> bool {
    // Nearly all characters of a recipe are printable ASCII.
    !matches!(c, ' '..='~') && (is_bidirectional(c) || is_control(c))
}

/// Finds hidden characters, each run of the same kind once.
pub(super) fn characters(file: FileId, text: &str) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_hidden) {
        let run = &rest[at..];
        let is_same = if run.starts_with(is_control) { is_control } else { is_bidirectional };
        let length = run.find(|c| !is_same(c)).unwrap_or(run.len());
        let start = text.len() - run.len();
        found.push(hidden(&run[..length], Span::new(file, start, start + length)));
        rest = &run[length..];
    }
    found
}

fn hidden(run: &str, place: Span) -> Diagnostic {
    let first: String = run.chars().take(1).flat_map(char::escape_unicode).collect();
    let finding = match run.starts_with(is_control) {
        true => Diagnostic::error("tlm::parse::control_character", "a control character")
            .label(place, format!("`{first}`")),
        false => Diagnostic::error(
            "tlm::parse::bidirectional",
            "a character that changes the order in which text is shown",
        )
        .label(place, format!("`{first}` stands here")),
    };
    finding.help(format!("remove it; a text that needs it has the escape `{first}`"))
}

/// Finds names and texts that are not in Unicode's normal form C: others may look the same, yet differ.
pub(super) fn spellings(file: FileId, text: &str, tokens: &Tokens) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if text.is_ascii() {
        return found;
    }
    for token in &tokens.all {
        let written = &text[token.range()];
        if !matches!(token.kind, Kind::Word | Kind::Str) || is_nfc(written) {
            continue;
        }
        let same = written.chars().zip(written.nfc()).take_while(|(own, normal)| own == normal);
        let at: usize = same.map(|(own, _)| own.len_utf8()).sum();
        let spelling = spelling(&written[at..]);
        let start = token.start as usize + at;
        let composed: String = spelling.nfc().collect();
        let escaped = spelling.escape_default();
        let help = match token.kind {
            Kind::Word => "",
            _ => "; a text that needs the other, as the name of a file may, has escapes",
        };
        found.push(
            Diagnostic::error("tlm::parse::not_nfc", format!("`{spelling}` has another spelling"))
                .label(Span::new(file, start, start + spelling.len()), format!("`{escaped}`"))
                .help(format!("write `{}` (Unicode NFC){help}", composed.escape_default())),
        );
    }
    found
}

/// Returns the letter at the start of a text that is not in normal form there, with all that is written over it.
fn spelling(text: &str) -> &str {
    let mut ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).take(SPELLING_MAX);
    let end = ends.find(|end| !is_nfc(&text[..*end])).unwrap_or(text.len());
    let over = text[end..].chars().take(SPELLING_MAX);
    let over = over.take_while(|c| canonical_combining_class(*c) != 0);
    &text[..end + over.map(char::len_utf8).sum::<usize>()]
}
