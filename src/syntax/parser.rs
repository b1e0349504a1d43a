//! The cursor over the tokens, and how it recovers.

use super::ast::Name;
use super::token::{Kind, StrPart, Symbol, Token, Tokens};
use crate::base::source::Spanned;
use crate::base::{FileId, Span};
use crate::diag::Diagnostic;

/// How deep expressions and types may nest, and how long a chain of operators may be. Bounds the stack of every
/// later walk over the tree.
pub(super) const DEPTH_MAX: usize = 100;

/// The words that start an item.
pub(super) const ITEMS: [&str; 10] =
    ["use", "param", "axis", "let", "fn", "stage", "artifact", "plan", "report", "profile"];

pub(super) struct Parser<'t> {
    file: FileId,
    text: &'t str,
    tokens: Tokens,
    at: usize,
    /// The delimiters open around the cursor, by what closes them.
    open: Vec<Symbol>,
    depth: usize,
    found: Vec<Diagnostic>,
    /// The token at which something was reported last.
    reported: Option<usize>,
}

/// What a list element was, for the search for the comma after it.
#[derive(PartialEq)]
pub(super) enum Element {
    /// A comma or the end must follow.
    Item,
    /// The `;` between inputs and parameters.
    Section,
}

impl<'t> Parser<'t> {
    pub(super) fn new(file: FileId, text: &'t str, tokens: Tokens, found: Vec<Diagnostic>) -> Self {
        Self { file, text, tokens, at: 0, open: Vec::new(), depth: 0, found, reported: None }
    }

    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.found
    }

    // ---- looking

    pub(super) fn peek(&self) -> &Token {
        &self.tokens.all[self.at]
    }

    pub(super) fn peek_nth(&self, n: usize) -> &Token {
        &self.tokens.all[(self.at + n).min(self.tokens.all.len() - 1)]
    }

    /// Returns the doc comment above the cursor.
    pub(super) fn doc(&self) -> Option<String> {
        self.tokens.doc(self.at).map(str::to_owned)
    }

    /// Returns the number at the cursor without `_`; zero in the place of what is none.
    pub(super) fn digits(&self) -> Option<String> {
        let token = self.peek();
        let Kind::Number { valid } = token.kind else { return None };
        let written = if valid { &self.text[token.range()] } else { "0" };
        Some(written.replace('_', ""))
    }

    /// Takes the parts of the text at the cursor.
    pub(super) fn take_parts(&mut self) -> Option<Vec<StrPart>> {
        (self.peek().kind == Kind::Str).then(|| self.tokens.take_text(self.at))
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn is_end(&self) -> bool {
        self.peek().kind == Kind::End
    }

    pub(super) fn at(&self, symbol: Symbol) -> bool {
        self.peek().kind == Kind::Symbol(symbol)
    }

    /// Returns the word at the cursor, or an empty text.
    pub(super) fn word(&self) -> &'t str {
        self.word_of(self.peek())
    }

    pub(super) fn word_of(&self, token: &Token) -> &'t str {
        if token.kind == Kind::Word { &self.text[token.range()] } else { "" }
    }

    pub(super) fn at_word(&self, word: &str) -> bool {
        self.word() == word
    }

    /// Returns whether the cursor is at `name:`.
    pub(super) fn at_named(&self) -> bool {
        self.peek().kind == Kind::Word && self.peek_nth(1).kind == Kind::Symbol(Symbol::Colon)
    }

    /// Returns whether an item starts here for certain: even within a delimiter that was not closed.
    pub(super) fn at_item(&self) -> bool {
        let (token, next) = (self.peek(), self.peek_nth(1));
        if !token.first || next.first {
            return false;
        }
        let named = next.kind == Kind::Word || (self.word() == "use" && next.kind == Kind::Str);
        named && ITEMS.contains(&self.word())
    }

    pub(super) fn span(&self) -> Span {
        self.span_of(self.peek())
    }

    pub(super) fn span_of(&self, token: &Token) -> Span {
        Span { file: self.file, start: token.start, end: token.end }
    }

    /// Returns the span of what was consumed last.
    pub(super) fn previous(&self) -> Span {
        match self.at.checked_sub(1) {
            Some(before) => self.span_of(&self.tokens.all[before]),
            None => Span::new(self.file, 0, 0),
        }
    }

    /// Returns the span from `start` to what was consumed last.
    pub(super) fn since(&self, start: Span) -> Span {
        if self.previous().end < start.end { start } else { start.to(self.previous()) }
    }

    // ---- moving

    pub(super) fn bump(&mut self) -> Span {
        let span = self.span();
        if !self.is_end() {
            self.at += 1;
        }
        span
    }

    pub(super) fn eat(&mut self, symbol: Symbol) -> bool {
        let found = self.at(symbol);
        if found {
            self.bump();
        }
        found
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.bump();
        }
        found
    }

    /// Consumes the symbol or reports its absence; returns whether it was there.
    pub(super) fn expect(&mut self, symbol: Symbol) -> bool {
        let found = self.eat(symbol);
        if !found {
            self.unexpected(&symbol.to_string());
        }
        found
    }

    /// Consumes the word or reports its absence.
    pub(super) fn expect_word(&mut self, word: &str) -> Option<()> {
        let found = self.eat_word(word);
        if !found {
            self.unexpected(&format!("`{word}`"));
        }
        found.then_some(())
    }

    /// Returns the text of the file and the tree's file.
    pub(super) fn source(&self) -> (FileId, &'t str) {
        (self.file, self.text)
    }

    /// Adds what was found elsewhere.
    pub(super) fn extend(&mut self, found: Vec<Diagnostic>) {
        self.found.extend(found);
    }

    /// Consumes a name. Any word is one, but not the word that starts the next item.
    pub(super) fn name(&mut self, what: &str) -> Option<Name> {
        if self.peek().kind == Kind::Word && !self.at_item() {
            let node = self.word().to_owned();
            return Some(Spanned { node, span: self.bump() });
        }
        self.unexpected(what);
        None
    }

    /// Consumes a name, perhaps one of another recipe: `b0.rate`.
    pub(super) fn path(&mut self, what: &str) -> Option<Name> {
        let mut path = self.name(what)?;
        while self.at(Symbol::Dot) {
            self.bump();
            let part = self.name("a name")?;
            path.node = format!("{}.{}", path.node, part.node);
            path.span = path.span.to(part.span);
        }
        Some(path)
    }

    // ---- reporting

    /// Adds a diagnostic, unless something was reported at this token already.
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        // The lexer has reported error tokens.
        if self.reported != Some(self.at) && self.peek().kind != Kind::Error {
            self.found.push(diagnostic);
        }
        self.reported = Some(self.at);
    }

    pub(super) fn unexpected(&mut self, expected: &str) {
        let found = self.describe();
        self.report(
            Diagnostic::error(
                "tlm::parse::unexpected",
                format!("expected {expected}, found {found}"),
            )
            .label(self.span(), format!("expected {expected}")),
        );
    }

    /// Adds a diagnostic about something already consumed.
    pub(super) fn report_past(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Returns the token at the cursor in words.
    pub(super) fn describe(&self) -> String {
        let token = self.peek();
        match token.kind {
            Kind::End => "the end of the file".to_owned(),
            Kind::Str => "a text".to_owned(),
            Kind::Word if ITEMS.contains(&self.word()) && token.first => {
                format!("the next `{}`", self.word())
            }
            _ => format!("`{}`", &self.text[token.range()]),
        }
    }

    /// Returns whether something was reported at the cursor.
    pub(super) fn has_reported(&self) -> bool {
        self.reported == Some(self.at)
    }

    // ---- recovering

    /// Goes on to the next `,` or closer of the innermost open delimiter, or the next item.
    pub(super) fn skip_element(&mut self) {
        let mut inner: Vec<Symbol> = Vec::new();
        while !self.is_end() && !self.at_item() {
            if let Kind::Symbol(symbol) = self.peek().kind {
                if let Some(closer) = symbol.closer() {
                    inner.push(closer);
                } else if symbol.is_closer() {
                    if inner.is_empty() {
                        return;
                    }
                    inner.pop();
                } else if inner.is_empty() && matches!(symbol, Symbol::Comma | Symbol::Semicolon) {
                    return;
                }
            }
            self.bump();
        }
    }

    /// Goes on to the next item, or to a line that begins like one.
    pub(super) fn skip_item(&mut self) {
        self.bump();
        while !self.is_end() && !self.at_item() {
            let next = self.peek_nth(1);
            if self.peek().flush
                && !self.word().is_empty()
                && !self.word_of(next).is_empty()
                && !next.first
            {
                return;
            }
            self.bump();
        }
    }

    /// Parses `open element, element, ... close`; the cursor is at `open`. Elements consume
    /// something or report.
    pub(super) fn list(&mut self, sections: bool, mut element: impl FnMut(&mut Self) -> Element) {
        let Kind::Symbol(opener) = self.peek().kind else { return };
        let Some(closer) = opener.closer() else { return };
        let opened = self.bump();
        self.open.push(closer);
        let mut closed = false;
        while !closed {
            closed = self.eat(closer) || self.list_end(closer, opener, opened);
            if closed {
                break;
            }
            let before = self.at;
            if element(self) == Element::Section || self.eat(Symbol::Comma) || self.at(closer) {
                continue;
            }
            if sections && self.at(Symbol::Semicolon) && !self.has_reported() {
                continue;
            }
            self.list_recover(closer, before);
        }
        self.open.pop();
    }

    /// Returns whether the list ends here though its closer is missing, and reports that.
    fn list_end(&mut self, closer: Symbol, opener: Symbol, opened: Span) -> bool {
        let stray = matches!(self.peek().kind, Kind::Symbol(symbol) if symbol.is_closer());
        if !stray && !self.is_end() && !self.at_item() {
            return false;
        }
        let end = self.previous().end as usize;
        let place = if stray { self.span() } else { Span::new(self.file, end, end) };
        let diagnostic = Diagnostic::error("tlm::parse::unclosed", format!("unclosed {opener}"))
            .label(place, format!("missing {closer}"))
            .label(opened, "opened here");
        self.report(diagnostic);
        // A closer that belongs to no outer list was meant for this one.
        if let Kind::Symbol(symbol) = self.peek().kind
            && stray
            && !self.open.contains(&symbol)
        {
            self.bump();
        }
        true
    }

    fn list_recover(&mut self, closer: Symbol, before: usize) {
        if self.is_end()
            || self.at_item()
            || matches!(self.peek().kind, Kind::Symbol(s) if s.is_closer())
        {
            return;
        }
        let fresh = !self.has_reported();
        if fresh {
            self.unexpected(&format!("`,` or {closer}"));
        }
        // After a whole element, a missing comma is all that is wrong: go on with the next one.
        let begins = matches!(self.peek().kind, Kind::Word | Kind::Number { .. } | Kind::Str);
        if fresh && begins && self.at > before {
            return;
        }
        self.skip_element();
        // A closer is left to the loop, which knows whose it is.
        let is_closer = matches!(self.peek().kind, Kind::Symbol(s) if s.is_closer());
        if self.at(Symbol::Comma) || (self.at == before && !is_closer) {
            self.bump();
        }
    }

    /// Runs `inner` one level deeper; reports and returns none where that is too deep.
    pub(super) fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.is_too_deep(self.depth + 1) {
            return None;
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        Some(result)
    }

    /// Lengthens a chain such as `a + b + c` by one; the caller gives the length back at its end.
    pub(super) fn chain(&mut self) -> bool {
        let ok = !self.is_too_deep(self.depth + 1);
        self.depth += usize::from(ok);
        ok
    }

    pub(super) fn unchain(&mut self, length: usize) {
        self.depth -= length;
    }

    fn is_too_deep(&mut self, depth: usize) -> bool {
        if depth <= DEPTH_MAX {
            return false;
        }
        let diagnostic = Diagnostic::error(
            "tlm::parse::too_deep",
            format!("nested deeper than {DEPTH_MAX} levels"),
        )
        .label(self.span(), "too deep from here")
        .help("name a part of it with `let`");
        self.report(diagnostic);
        // Nothing near here can be made sense of.
        while !self.is_end() && !self.at_item() {
            self.bump();
        }
        self.reported = Some(self.at);
        true
    }
}
