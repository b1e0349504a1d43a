//! Text to tokens. Total: what is no token becomes an error token with a diagnostic.

use nom::bytes::complete::{tag, take_while, take_while_m_n, take_while1};
use nom::character::complete::{digit1, one_of, satisfy};
use nom::combinator::{opt, recognize};
use nom::sequence::delimited;
use nom::{IResult, Parser};
use unicode_normalization::char::is_combining_mark;

use super::hidden::is_hidden;
use super::token::{Kind, StrPart, Symbol, Token, Tokens};
use crate::base::{FileId, Span};
use crate::diag::Diagnostic;

/// Decimal exponents beyond this are surely slips, and exact arithmetic on them would not end.
const EXPONENT_MAX: u32 = 300;

/// How many bytes a token takes with the blanks around it, about.
const TOKEN_BYTES: usize = 4;

/// Returns the tokens of a text.
pub(super) fn lex(file: FileId, text: &str) -> (Tokens, Vec<Diagnostic>) {
    lex_from(file, text, 0)
}

/// Returns the tokens of the rest of a text.
pub(super) fn lex_from(file: FileId, text: &str, at: usize) -> (Tokens, Vec<Diagnostic>) {
    let all = Vec::with_capacity((text.len() - at) / TOKEN_BYTES);
    let tokens = Tokens { all, texts: Vec::new(), docs: Vec::new() };
    let (docs, found) = (Vec::new(), Vec::new());
    let mut lexer = Lexer { file, text, at, tokens, found, docs, newlines: 0 };
    while lexer.skip_blank() {
        let start = lexer.at;
        let kind = lexer.token();
        lexer.push(kind, start);
    }
    lexer.push(Kind::End, text.len());
    (lexer.tokens, lexer.found)
}

struct Lexer<'t> {
    file: FileId,
    text: &'t str,
    at: usize,
    tokens: Tokens,
    found: Vec<Diagnostic>,
    /// The lines of the doc comment since the last token.
    docs: Vec<&'t str>,
    /// The line ends since the last token.
    newlines: usize,
}

fn word(input: &str) -> IResult<&str, &str> {
    recognize((satisfy(is_word_start), take_while(is_word))).parse(input)
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || (!c.is_ascii() && is_combining_mark(c))
}

/// Hidden characters are told elsewhere.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}' || is_hidden(c)
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

/// Returns the parts of a text with a literal behind them, if there is something in it.
fn with_literal(mut parts: Vec<StrPart>, literal: String) -> Vec<StrPart> {
    if !literal.is_empty() {
        parts.push(StrPart::Literal(literal));
    }
    parts
}

fn blank(input: &str) -> IResult<&str, &str> {
    take_while1(is_blank).parse(input)
}

fn comment(input: &str) -> IResult<&str, &str> {
    recognize((tag("#"), take_while(|c| c != '\n'))).parse(input)
}

/// What stands in the braces of `\u{1F600}`; no longer than that, as the closing one may be far away.
fn braced(input: &str) -> IResult<&str, &str> {
    delimited(tag("{"), take_while_m_n(0, 8, |c| c != '}'), tag("}")).parse(input)
}

/// What a text says as it is: up to what ends it or means something else in it.
fn plain(input: &str) -> IResult<&str, &str> {
    take_while1(|c| !matches!(c, '"' | '\\' | '{' | '}' | '\n')).parse(input)
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    fn push(&mut self, kind: Kind, start: usize) {
        let first = self.newlines > 0 || self.tokens.all.is_empty();
        let flush = start == 0 || self.text.as_bytes()[start - 1] == b'\n';
        if !self.docs.is_empty() {
            self.tokens.docs.push((self.tokens.all.len(), self.docs.join("\n")));
            self.docs.clear();
        }
        self.newlines = 0;
        let (start, end) = (start as u32, self.at as u32);
        self.tokens.all.push(Token { start, end, kind, first, flush });
    }

    /// Skips blanks and comments; returns whether text is left.
    fn skip_blank(&mut self) -> bool {
        loop {
            let rest = self.rest();
            if let Ok((_, text)) = comment(rest) {
                self.at += text.len();
                self.comment(text);
            } else if let Ok((_, blank)) = blank(rest) {
                self.at += blank.len();
                let newlines = blank.bytes().filter(|byte| *byte == b'\n').count();
                self.newlines += newlines;
                // An empty line parts a comment from what follows: it was about the file.
                if newlines > 1 {
                    self.docs.clear();
                }
            } else {
                return !rest.is_empty();
            }
        }
    }

    /// Keeps a doc comment for the token below it.
    fn comment(&mut self, text: &'t str) {
        // Behind code on the same line it is no doc comment.
        let alone = self.newlines > 0 || self.tokens.all.is_empty();
        let doc = text.strip_prefix("##").filter(|text| alone && !text.starts_with('#'));
        if let Some(text) = doc {
            let text = text.trim_end();
            self.docs.push(text.strip_prefix(' ').unwrap_or(text));
        }
    }

    fn token(&mut self) -> Kind {
        let rest = self.rest();
        if let Ok((_, text)) = word(rest) {
            self.at += text.len();
            return Kind::Word;
        }
        if let Some(symbol) = Symbol::at_start(rest) {
            self.at += symbol.text().len();
            return Kind::Symbol(symbol);
        }
        if let Ok((_, text)) = number(rest) {
            return self.number(text);
        }
        if rest.starts_with('"') {
            return self.string();
        }
        self.unknown()
    }

    /// Reports a run of characters that begin no token, once.
    fn unknown(&mut self) -> Kind {
        let start = self.at;
        let is_known = |c: char| {
            is_blank(c)
                || is_word(c)
                || "\"#".contains(c)
                || Symbol::at_start(c.encode_utf8(&mut [0; 4])).is_some()
        };
        let rest = self.rest();
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let length = rest[first..].find(is_known).map_or(rest.len(), |i| i + first);
        // A text in single quotes is one mistake.
        let line = rest.lines().next().unwrap_or_default();
        let quoted = line.strip_prefix('\'').and_then(|inner| inner.find('\''));
        self.at += quoted.map_or(length, |inner| inner + 2);
        let text = &self.text[start..self.at];
        let mut diagnostic = Diagnostic::error(
            "tlm::parse::unexpected_character",
            format!("unexpected `{}`", text.escape_debug().to_string().replace("\\'", "'")),
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
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Kind::Number { valid: true };
        }
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
        }
        Kind::Number { valid: problem.is_none() }
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
        let parts = self.parts(start, quote);
        self.tokens.texts.push((self.tokens.all.len(), parts));
        Kind::Str
    }

    /// Returns what stands in a text, and passes over the quote that ends it.
    fn parts(&mut self, start: usize, quote: &str) -> Vec<StrPart> {
        let triple = quote.len() > 1;
        let (mut parts, mut value) = (Vec::new(), String::new());
        loop {
            let rest = self.rest();
            if let Ok((_, text)) = plain(rest) {
                value.push_str(text);
                self.at += text.len();
                continue;
            }
            if rest.starts_with(quote) {
                self.at += quote.len();
                return with_literal(parts, value);
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
        with_literal(parts, value)
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
            && let Ok((after, hex)) = braced(rest.as_str())
        {
            self.at = self.text.len() - after.len();
            let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
            let code = u32::from_str_radix(hex, 16).ok().filter(|_| is_hex);
            if let Some(c) = code.and_then(char::from_u32) {
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
