//! The tokens of the language. Words are never reserved here: what is a keyword depends on where it stands.

use std::fmt;

/// A token with its place and what stood before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// First byte.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
    /// Whether it is the first token on its line.
    pub(super) first: bool,
    /// Whether it stands in the first column.
    pub(super) flush: bool,
    /// The doc comment directly above it.
    pub(super) doc: Option<String>,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Word,
    /// Digits without `_`; unit words follow as tokens of their own.
    Number(String),
    Str(Vec<StrPart>),
    Symbol(Symbol),
    /// Already reported by the lexer.
    Error,
    /// Always the last token.
    End,
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
            /// Every symbol, longer ones first.
            pub(super) const ALL: &[Symbol] = &[$(Symbol::$name),*];

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
