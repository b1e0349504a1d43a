//! Level 2: text to tree. Lexing and parsing are pure and total; they never fail, only find.

pub mod ast;
mod expr;
mod items;
mod lexer;
mod parser;

use crate::base::FileId;
use crate::diag::Diagnostic;

/// A tree with all that was found on the way to it.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The tree, of the items that could be parsed.
    pub file: ast::File,
    /// The findings, in source order.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses a text. Never fails: what can't be parsed is left out and reported.
pub fn parse(file: FileId, text: &str) -> Parsed {
    let mut parser = parser::Parser::new(file, text);
    let items = parser.items();
    Parsed { file: ast::File { items }, diagnostics: parser.diagnostics }
}
