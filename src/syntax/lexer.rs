//! Text to tokens. Total: what is no token becomes [`TokenKind::Error`], and the spans tile the text.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::{char, digit1, one_of, satisfy};
use nom::combinator::{opt, recognize};
use nom::sequence::{pair, preceded, terminated};
use nom::{IResult, Parser};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A name or keyword.
    Word,
    /// Digits, a fraction, an exponent; `_` between digits.
    Number,
    /// `"text"` or `"""text"""`, with its quotes.
    Str,
    /// A string without its closing quotes.
    OpenStr,
    /// An operator or delimiter.
    Punct,
    /// `## text`
    Doc,
    /// A character that starts no token.
    Error,
}

/// A token, as a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether a line ends between the token before and this one.
    pub(super) new_line: bool,
}

/// Returns the tokens of a text, without white space and plain comments.
pub(super) fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut new_line = true;
    while let Some(first) = rest.chars().next() {
        let start = text.len() - rest.len();
        if first.is_whitespace() {
            new_line |= first == '\n';
            rest = &rest[first.len_utf8()..];
        } else if rest.starts_with('#') && !rest.starts_with("##") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else {
            let (kind, len) = token(rest, first);
            tokens.push(Token { kind, start, end: start + len, new_line });
            new_line = false;
            rest = &rest[len..];
        }
    }
    tokens
}

fn token(rest: &str, first: char) -> (TokenKind, usize) {
    let length = |result: IResult<&str, &str>| result.ok().map(|(_, found)| found.len());
    if rest.starts_with("##") {
        return (TokenKind::Doc, rest.find('\n').unwrap_or(rest.len()));
    }
    if first == '"' {
        return string(rest);
    }
    if let Some(len) = length(number(rest)) {
        return (TokenKind::Number, len);
    }
    if let Some(len) = length(word(rest)) {
        return (TokenKind::Word, len);
    }
    match length(punctuation(rest)) {
        Some(len) => (TokenKind::Punct, len),
        None => (TokenKind::Error, first.len_utf8()),
    }
}

fn word(input: &str) -> IResult<&str, &str> {
    let first = take_while1(|c: char| c.is_alphabetic() || c == '_');
    recognize(pair(first, take_while(|c: char| c.is_alphanumeric() || c == '_'))).parse(input)
}

fn number(input: &str) -> IResult<&str, &str> {
    let digits =
        |i| recognize(pair(digit1, take_while(|c: char| c.is_ascii_digit() || c == '_'))).parse(i);
    let fraction = preceded(char('.'), digits);
    let exponent = (one_of("eE"), opt(one_of("+-")), digit1);
    recognize((digits, opt(recognize(fraction)), opt(recognize(exponent)))).parse(input)
}

fn punctuation(input: &str) -> IResult<&str, &str> {
    alt((
        alt((tag("->"), tag("=="), tag("!="), tag("<="), tag(">="), tag(".."))),
        recognize(one_of("+-*/<>=(){}[],;:.|?%")),
    ))
    .parse(input)
}

fn string(rest: &str) -> (TokenKind, usize) {
    if let Some(body) = rest.strip_prefix("\"\"\"") {
        return match body.find("\"\"\"") {
            Some(end) => (TokenKind::Str, end + 6),
            None => (TokenKind::OpenStr, rest.len()),
        };
    }
    let escape = |i| recognize(pair(char('\\'), satisfy(|c| c != '\n'))).parse(i);
    let plain = take_while1(|c| !matches!(c, '"' | '\\' | '\n'));
    let body = recognize(nom::multi::many0_count(alt((plain, escape))));
    let quoted: IResult<&str, &str> =
        recognize(terminated(preceded(char('"'), body), char('"'))).parse(rest);
    match quoted {
        Ok((_, found)) => (TokenKind::Str, found.len()),
        Err(_) => (TokenKind::OpenStr, rest.find('\n').unwrap_or(rest.len())),
    }
}
