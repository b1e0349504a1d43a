//! Level 2: text to tree. Lexing and parsing are pure and total; they never fail, only find. What is no text at all is
//! found by [`read`].
//!
//! [`parse`] keeps three rules. Every production consumes a token or reports one; at one token at
//! most one thing is reported; and who reports leaves the parser at a sync point: a `,`, a closing
//! delimiter, or the start of an item.

pub mod ast;
mod exprs;
mod format;
mod hidden;
mod items;
mod layout;
mod lexer;
mod parser;
mod print;
mod read;
mod token;
mod types;

use crate::base::FileId;
use crate::diag::Diagnostic;

pub use format::format;
pub use read::{Unread, read, read_from};

/// A tree with what was found on the way. Parts that could not be parsed are left out, or are
/// [`ast::ExprKind::Error`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Parsed {
    /// The tree.
    pub file: ast::File,
    /// What was found, in source order.
    pub diagnostics: Vec<Diagnostic>,
}

/// Returns a parser of a text, with what is wrong with its characters and tokens.
fn parser(file: FileId, text: &str) -> parser::Parser<'_> {
    let (tokens, mut found) = lexer::lex(file, text);
    found.extend(hidden::characters(file, text));
    found.extend(hidden::spellings(file, text, &tokens));
    parser::Parser::new(file, text, tokens, found)
}

/// Parses a recipe or a stdlib file.
pub fn parse(file: FileId, text: &str) -> Parsed {
    let mut parser = parser(file, text);
    let items = parser.items();
    let mut diagnostics = parser.into_diagnostics();
    diagnostics.sort_by_key(|d| d.labels.first().map(|label| label.span));
    Parsed { file: ast::File { items }, diagnostics }
}

/// Parses a text that is one expression, as a value given on the command line.
pub fn parse_expr(file: FileId, text: &str) -> (ast::Expr, Vec<Diagnostic>) {
    let mut parser = parser(file, text);
    let expr = parser.expr();
    if !parser.is_end() && !parser.has_reported() {
        parser.unexpected("the end of the value");
    }
    (expr, parser.into_diagnostics())
}

/// Parses any bytes and checks what must hold of every parse; for fuzzing.
///
/// # Panics
/// When a place lies outside the text or within a character.
pub fn fuzz_entry(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let parsed = parse(FileId(0), &text);
    let labels = parsed.diagnostics.iter().flat_map(|d| &d.labels).map(|label| label.span);
    for span in labels.chain(parsed.file.items.iter().map(|item| item.span)) {
        assert!(
            text.get(span.start as usize..span.end as usize).is_some(),
            "the place {span:?} is not within the text"
        );
    }
}
