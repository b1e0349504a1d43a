//! Level 2: text to tree. Lexing and parsing are pure and total; they never fail, only find.

pub mod ast;
