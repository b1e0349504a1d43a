//! Text to tokens. Total: what is no token becomes an error token with a diagnostic.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::{digit1, one_of, satisfy};
use nom::combinator::{opt, recognize};
use nom::{IResult, Parser};

use super::token::{Kind, StrPart, Symbol, Token};
use crate::base::{FileId, Span};
use crate::diag::Diagnostic;

/// Decimal exponents beyond this are surely slips, and exact arithmetic on them would not end.
const EXPONENT_MAX: u32 = 300;

/// Returns the tokens of a text, the last one being [`Kind::End`].
pub(super) fn lex(file: FileId, text: &str) -> (Vec<Token>, Vec<Diagnostic>) {
    lex_from(file, text, 0)
}

/// Returns the tokens of the rest of a text.
pub(super) fn lex_from(file: FileId, text: &str, at: usize) -> (Vec<Token>, Vec<Diagnostic>) {
    let mut lexer =
        Lexer { file, text, at, tokens: Vec::new(), found: Vec::new(), line: Line::default() };
    while lexer.skip_blank() {
        let start = lexer.at;
        let kind = lexer.token();
        lexer.push(kind, start);
    }
    let end = text.len();
    lexer.push(Kind::End, end);
    (lexer.tokens, lexer.found)
}

/// What was seen since the last token.
#[derive(Default)]
struct Line {
    docs: Vec<String>,
    newlines: usize,
}

struct Lexer<'t> {
    file: FileId,
    text: &'t str,
    at: usize,
    tokens: Vec<Token>,
    found: Vec<Diagnostic>,
    line: Line,
}

fn word(input: &str) -> IResult<&str, &str> {
    recognize((satisfy(is_word_start), take_while(is_word))).parse(input)
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Digits with underscores anywhere after the first; a fraction only where a digit follows the
/// point, as `0..1` is a range; an exponent only where digits follow the `e`, as `e` may begin a unit.
fn number(input: &str) -> IResult<&str, &str> {
    let exponent = (one_of("eE"), opt(one_of("+-")), digit1);
    recognize((digits, opt((tag("."), digits)), opt(exponent))).parse(input)
}

fn digits(input: &str) -> IResult<&str, &str> {
    recognize((digit1, take_while(|c: char| c.is_ascii_digit() || c == '_'))).parse(input)
}

fn symbol(input: &str) -> IResult<&str, Symbol> {
    match Symbol::ALL.iter().find(|symbol| input.starts_with(symbol.text())) {
        Some(symbol) => Ok((&input[symbol.text().len()..], *symbol)),
        None => Err(nom::Err::Error(nom::error::Error::new(input, nom::error::ErrorKind::Tag))),
    }
}

/// Returns the parts of a text with a literal behind them, if there is something in it.
fn with_literal(mut parts: Vec<StrPart>, literal: String) -> Vec<StrPart> {
    if !literal.is_empty() {
        parts.push(StrPart::Literal(literal));
    }
    parts
}

fn blank(input: &str) -> IResult<&str, &str> {
    take_while1(|c: char| c.is_whitespace() || c == '\u{feff}').parse(input)
}

fn comment(input: &str) -> IResult<&str, &str> {
    recognize((tag("#"), take_while(|c| c != '\n'))).parse(input)
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    fn push(&mut self, kind: Kind, start: usize) {
        let line = std::mem::take(&mut self.line);
        let first = line.newlines > 0 || self.tokens.is_empty();
        let flush = start == 0 || self.text[..start].ends_with('\n');
        let doc = (!line.docs.is_empty()).then(|| line.docs.join("\n"));
        self.tokens.push(Token { kind, start, end: self.at, first, flush, doc });
    }

    /// Skips blanks and comments; returns whether text is left.
    fn skip_blank(&mut self) -> bool {
        while let Ok((_, skipped)) = alt((comment, blank)).parse(self.rest()) {
            let skipped = skipped.to_owned();
            self.at += skipped.len();
            // Behind code on the same line it is no doc comment.
            let alone = self.line.newlines > 0 || self.tokens.is_empty();
            let doc = skipped.strip_prefix("##").filter(|text| alone && !text.starts_with('#'));
            if let Some(text) = doc {
                let text = text.trim_end();
                self.line.docs.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
            } else if !skipped.starts_with('#') {
                let newlines = skipped.matches('\n').count();
                self.line.newlines += newlines;
                // An empty line parts a comment from what follows: it was about the file.
                if newlines > 1 {
                    self.line.docs.clear();
                }
            }
        }
        self.at < self.text.len()
    }

    fn token(&mut self) -> Kind {
        let rest = self.rest();
        if rest.starts_with('"') {
            return self.string();
        }
        if let Ok((_, text)) = word(rest) {
            self.at += text.len();
            return Kind::Word;
        }
        if let Ok((_, text)) = number(rest) {
            let text = text.to_owned();
            return self.number(&text);
        }
        if let Ok((_, symbol)) = symbol(rest) {
            self.at += symbol.text().len();
            return Kind::Symbol(symbol);
        }
        self.unknown()
    }

    /// Reports a run of characters that begin no token, once.
    fn unknown(&mut self) -> Kind {
        let start = self.at;
        let is_known = |c: char| {
            c.is_whitespace()
                || is_word(c)
                || "\"#".contains(c)
                || symbol(c.encode_utf8(&mut [0; 4])).is_ok()
        };
        let rest = self.rest();
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let length = rest[first..].find(is_known).map_or(rest.len(), |i| i + first);
        self.at += length;
        let text = &self.text[start..self.at];
        let mut diagnostic = Diagnostic::error(
            "tlm::parse::unexpected_character",
            format!("unexpected `{}`", text.escape_debug()),
        )
        .label(self.span(start, self.at), "no token begins like this");
        if text.contains(['“', '”', '‘', '’', '\'']) {
            diagnostic = diagnostic.help("write texts in straight double quotes: `\"text\"`");
        } else if text.starts_with('!') {
            diagnostic = diagnostic.help("write `not x`, or `a != b`");
        }
        self.found.push(diagnostic);
        Kind::Error
    }

    fn number(&mut self, text: &str) -> Kind {
        let start = self.at;
        self.at += text.len();
        // `1.2.3` is one slip, not a number and a field.
        if text.contains('.') {
            let mut again = recognize((tag("."), digit1::<&str, nom::error::Error<&str>>));
            while let Ok((_, more)) = again.parse(&self.text[self.at..]) {
                self.at += more.len();
            }
        }
        let exponent = text.split_once(['e', 'E']).map(|(_, e)| e.trim_start_matches(['+', '-']));
        let problem = if self.at > start + text.len() {
            Some("a number has one decimal point")
        } else if text.contains("__")
            || text.ends_with('_')
            || text.contains("_.")
            || text.contains("_e")
            || text.contains("_E")
        {
            Some("write each `_` between two digits")
        } else if exponent.is_some_and(|e| e.parse::<u32>().map_or(true, |e| e > EXPONENT_MAX)) {
            Some("write an exponent between -300 and 300")
        } else {
            None
        };
        if let Some(help) = problem {
            let written = &self.text[start..self.at];
            self.found.push(
                Diagnostic::error("tlm::parse::bad_number", format!("bad number `{written}`"))
                    .label(self.span(start, self.at), "not a number")
                    .help(help),
            );
            return Kind::Number("0".to_owned());
        }
        Kind::Number(text.replace('_', ""))
    }

    fn string(&mut self) -> Kind {
        let start = self.at;
        let triple = self.rest().starts_with("\"\"\"");
        let quote = if triple { "\"\"\"" } else { "\"" };
        self.at += quote.len();
        if triple {
            let rest = self.rest();
            let line =
                if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with('\n')) };
            self.at += line;
        }
        let (mut parts, mut value) = (Vec::new(), String::new());
        loop {
            let rest = &self.text[self.at..];
            if rest.starts_with(quote) {
                self.at += quote.len();
                return Kind::Str(with_literal(parts, value));
            }
            match rest.chars().next() {
                Some('\\') => self.escape(&mut value),
                Some('\n') if !triple => break,
                Some(brace @ ('{' | '}')) if rest[1..].starts_with(brace) => {
                    value.push(brace);
                    self.at += 2;
                }
                Some('{') => match self.hole() {
                    Some(hole) => {
                        parts = with_literal(parts, std::mem::take(&mut value));
                        parts.push(hole);
                    }
                    None => value.push('{'),
                },
                Some(c) => {
                    value.push(c);
                    self.at += c.len_utf8();
                }
                None => break,
            }
        }
        let help = match triple {
            true => "close it with `\"\"\"`",
            false => "close it with `\"`; a text over several lines stands in `\"\"\"`",
        };
        // A long text is pointed at by its beginning.
        let end = if triple { start + quote.len() } else { self.at };
        self.found.push(
            Diagnostic::error("tlm::parse::unterminated_string", "unterminated text")
                .label(self.span(start, end), format!("missing `{quote}`"))
                .help(help),
        );
        Kind::Str(with_literal(parts, value))
    }

    /// Passes over `{expression}` in a text; none where it is not closed, which is reported.
    fn hole(&mut self) -> Option<StrPart> {
        let start = self.at + 1;
        let length = self.text[start..].find(['}', '{', '"', '\n']);
        if let Some(end) = length.map(|length| start + length)
            && self.text[end..].starts_with('}')
        {
            self.at = end + 1;
            return Some(StrPart::Hole { start, end });
        }
        self.found.push(
            Diagnostic::error("tlm::parse::bad_hole", "`{` begins a value that is not closed")
                .label(self.span(self.at, start), "missing `}`")
                .help("close it with `}`; a plain brace is written `{{`"),
        );
        self.at = start;
        None
    }

    fn escape(&mut self, value: &mut String) {
        let start = self.at;
        let mut rest = self.text[start + 1..].chars();
        let escaped = rest.next();
        let known = match escaped {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('f') => Some('\u{c}'),
            Some('r') => Some('\r'),
            Some(c @ ('\\' | '"')) => Some(c),
            _ => None,
        };
        self.at = self.text.len() - rest.as_str().len();
        if let Some(c) = known {
            value.push(c);
            return;
        }
        if escaped == Some('u')
            && let Some((hex, _)) = rest
                .as_str()
                .strip_prefix('{')
                .and_then(|r| r.split_at_checked(r.find('}')?.min(8)))
            && rest.as_str()[1 + hex.len()..].starts_with('}')
        {
            self.at += hex.len() + 2;
            if let Some(c) = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32) {
                value.push(c);
                return;
            }
        }
        // The end of the line belongs to the string, which is unterminated then.
        if escaped == Some('\n') || escaped.is_none() {
            self.at = start + 1;
        }
        let written = &self.text[start..self.at];
        self.found.push(
            Diagnostic::error(
                "tlm::parse::bad_escape",
                format!("unknown escape `\\{}`", written[1..].escape_debug()),
            )
            .label(self.span(start, self.at), "not an escape")
            .help("use one of `\\n` `\\t` `\\r` `\\f` `\\\\` `\\\"` `\\u{1F600}`"),
        );
    }
}
