//! The tokens of the language. Words are never reserved here: what is a keyword depends on where it stands.

use std::fmt;
use std::ops::Range;

/// A token with its place and what stood before it. Small, as there are many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token {
    /// First byte.
    pub(super) start: u32,
    /// One past the last byte.
    pub(super) end: u32,
    pub(super) kind: Kind,
    /// Whether it is the first token on its line.
    pub(super) first: bool,
    /// Whether it stands in the first column.
    pub(super) flush: bool,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Word,
    /// Unit words follow as tokens of their own. One that is not valid is already reported.
    Number {
        valid: bool,
    },
    Str,
    Symbol(Symbol),
    /// Already reported by the lexer.
    Error,
    /// Always the last token.
    End,
}

/// The tokens of a text, and what only some of them have.
pub(super) struct Tokens {
    /// The last one is [`Kind::End`].
    pub(super) all: Vec<Token>,
    /// The parts of each [`Kind::Str`], by its number among the tokens.
    pub(super) texts: Vec<(usize, Vec<StrPart>)>,
    /// The doc comments, by the number of the token directly below.
    pub(super) docs: Vec<(usize, String)>,
}

impl Token {
    /// Returns its bytes.
    pub(super) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Tokens {
    /// Returns the doc comment above the token with this number.
    pub(super) fn doc(&self, at: usize) -> Option<&str> {
        let found = self.docs.binary_search_by_key(&at, |(token, _)| *token).ok()?;
        Some(&self.docs[found].1)
    }

    /// Takes the parts of the text with this number.
    pub(super) fn take_text(&mut self, at: usize) -> Vec<StrPart> {
        match self.texts.binary_search_by_key(&at, |(token, _)| *token) {
            Ok(found) => std::mem::take(&mut self.texts[found].1),
            Err(_) => Vec::new(),
        }
    }
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StrPart {
    /// Escapes resolved.
    Literal(String),
    /// The bytes between `{` and `}`.
    Hole { start: usize, end: usize },
}

/// Declares the symbols with their spelling; where one begins with another, the longer comes first.
macro_rules! symbols {
    ($($name:ident $text:literal),* $(,)?) => {
        /// A token made of punctuation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Symbol { $($name),* }

        impl Symbol {
            /// Returns the symbol that a text begins with.
            pub(super) fn at_start(text: &str) -> Option<Symbol> {
                $(if text.starts_with($text) { return Some(Symbol::$name); })*
                None
            }

            /// Returns how it is written.
            pub(super) fn text(self) -> &'static str {
                match self { $(Symbol::$name => $text),* }
            }
        }
    };
}

symbols! {
    Range "..", Arrow "->", Coalesce "??", EqEq "==", NotEq "!=", LessEq "<=", GreaterEq ">=",
    OpenParen "(", CloseParen ")", OpenBracket "[", CloseBracket "]", OpenBrace "{", CloseBrace "}",
    Comma ",", Semicolon ";", Colon ":", Dot ".", Eq "=", Less "<", Greater ">",
    Plus "+", Minus "-", Star "*", Slash "/", Bar "|", Question "?", Percent "%",
}

impl Symbol {
    /// Returns the delimiter that closes this one.
    pub(super) fn closer(self) -> Option<Symbol> {
        match self {
            Self::OpenParen => Some(Self::CloseParen),
            Self::OpenBracket => Some(Self::CloseBracket),
            Self::OpenBrace => Some(Self::CloseBrace),
            _ => None,
        }
    }

    /// Returns whether this closes a delimiter.
    pub(super) fn is_closer(self) -> bool {
        matches!(self, Self::CloseParen | Self::CloseBracket | Self::CloseBrace)
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.text())
    }
}
