//! Tokens to tree, by descent, with recovery.
//!
//! Each production returns `Option`: `None` means that the finding is already reported and the caller may skip to a
//! place it knows (`,`, a closer, the next item). The parser always moves forward, so it ends.

use crate::base::source::Spanned;
use crate::base::{FileId, Span, text};
use crate::diag::Diagnostic;
use crate::syntax::ast::{Item, ItemKind, Name};
use crate::syntax::lexer::{Token, TokenKind, lex};

/// Words that start an item.
pub(super) const ITEM_WORDS: [&str; 9] =
    ["use", "param", "axis", "let", "fn", "stage", "artifact", "plan", "report"];

/// How deep expressions and types may nest.
pub(super) const DEPTH_MAX: usize = 64;

/// Where the parser stands, and what it found.
pub(super) struct Parser<'t> {
    pub(super) text: &'t str,
    pub(super) file: FileId,
    tokens: Vec<Token>,
    position: usize,
    pub(super) depth: usize,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl<'t> Parser<'t> {
    pub(super) fn new(file: FileId, text: &'t str) -> Self {
        Self { text, file, tokens: lex(text), position: 0, depth: 0, diagnostics: Vec::new() }
    }

    /// Parses the whole text as items.
    pub(super) fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        while self.peek().is_some() {
            let before = self.position;
            match self.item() {
                Some(item) => items.push(item),
                None => self.skip_to_item(before),
            }
        }
        items
    }

    fn item(&mut self) -> Option<Item> {
        let doc = self.doc();
        let start = self.here();
        let kind = match self.peek_text() {
            Some("use") => ItemKind::Use(self.use_item()?),
            Some("param") => ItemKind::Param(self.binding()?),
            Some("axis") => ItemKind::Axis(self.binding()?),
            Some("let") => ItemKind::Let(self.binding()?),
            Some("fn") => ItemKind::Fn(self.function()?),
            Some("stage") => ItemKind::Stage(self.stage()?),
            Some("artifact") => ItemKind::Artifact(self.artifact()?),
            Some("plan") => ItemKind::Plan(self.plan()?),
            Some("report") => ItemKind::Report(self.binding()?),
            found => return self.no_item(found.map(str::to_owned)),
        };
        self.end_of_item();
        Some(Item { doc, span: start.to(self.before()), kind })
    }

    fn no_item(&mut self, found: Option<String>) -> Option<Item> {
        // A doc comment at the end of the file says something about the file.
        let found = found?;
        let mut diagnostic = Diagnostic::error(
            "tlm::parse::expected_item",
            format!("expected an item, found `{found}`"),
        )
        .label(self.here(), "not the start of an item");
        diagnostic = match text::did_you_mean(&found, ITEM_WORDS) {
            Some(word) => diagnostic.help(format!("write `{word}`")),
            None => diagnostic.help(format!("start with one of `{}`", ITEM_WORDS.join("`, `"))),
        };
        self.diagnostics.push(diagnostic);
        None
    }

    fn end_of_item(&mut self) {
        if self.peek().is_some_and(|token| !token.new_line) {
            self.unexpected("the end of the item");
            self.skip_to_item(self.position);
        }
    }

    fn skip_to_item(&mut self, before: usize) {
        if self.position == before {
            self.position += 1;
        }
        while let Some(token) = self.peek() {
            let starts = token.kind == TokenKind::Doc || ITEM_WORDS.contains(&self.text_of(token));
            if token.new_line && starts {
                return;
            }
            self.position += 1;
        }
    }

    /// Joins the doc comments that stand here.
    pub(super) fn doc(&mut self) -> Option<String> {
        let mut lines = Vec::new();
        while let Some(token) = self.peek().filter(|token| token.kind == TokenKind::Doc) {
            let line = self.text_of(token)[2..].trim_end();
            lines.push(line.strip_prefix(' ').unwrap_or(line).to_owned());
            self.position += 1;
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    pub(super) fn peek(&self) -> Option<Token> {
        self.tokens.get(self.position).copied()
    }

    fn text_of(&self, token: Token) -> &'t str {
        &self.text[token.start..token.end]
    }

    /// Returns the text of the next token.
    pub(super) fn peek_text(&self) -> Option<&'t str> {
        self.peek().map(|token| self.text_of(token))
    }

    /// Returns the text of the token after the next.
    pub(super) fn peek_second(&self) -> Option<&'t str> {
        self.tokens.get(self.position + 1).map(|token| self.text_of(*token))
    }

    pub(super) fn advance(&mut self) {
        self.position += 1;
    }

    /// Returns the span of the next token, or the end of the text.
    pub(super) fn here(&self) -> Span {
        self.peek().map_or(Span::new(self.file, self.text.len(), self.text.len()), |token| {
            Span::new(self.file, token.start, token.end)
        })
    }

    /// Returns the span of the token before.
    pub(super) fn before(&self) -> Span {
        match self.position.checked_sub(1).and_then(|i| self.tokens.get(i)) {
            Some(token) => Span::new(self.file, token.start, token.end),
            None => Span::new(self.file, 0, 0),
        }
    }

    /// Returns whether the next token stands on the same line as the one before.
    pub(super) fn same_line(&self) -> bool {
        self.peek().is_some_and(|token| !token.new_line)
    }

    /// Returns whether the next token touches the one before.
    pub(super) fn touches(&self) -> bool {
        self.here().start == self.before().end && self.peek().is_some()
    }

    pub(super) fn at(&self, text: &str) -> bool {
        self.peek().is_some_and(|t| {
            matches!(t.kind, TokenKind::Punct | TokenKind::Word) && self.text_of(t) == text
        })
    }

    pub(super) fn eat(&mut self, text: &str) -> bool {
        let found = self.at(text);
        self.position += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, text: &str) -> Option<()> {
        if self.eat(text) {
            return Some(());
        }
        self.unexpected(&format!("`{text}`"));
        None
    }

    /// Reports that something else stands here.
    pub(super) fn unexpected(&mut self, expected: &str) {
        let found = match self.peek() {
            Some(token) if token.kind == TokenKind::OpenStr => return self.bad_string(),
            Some(token) if token.kind == TokenKind::Doc => "a doc comment".to_owned(),
            Some(token) => format!("`{}`", self.text_of(token)),
            None => "the end of the file".to_owned(),
        };
        let span = self.here();
        self.report(
            Diagnostic::error(
                "tlm::parse::unexpected",
                format!("expected {expected}, found {found}"),
            )
            .label(span, format!("expected {expected}")),
        );
    }

    fn bad_string(&mut self) {
        let span = self.here();
        self.report(
            Diagnostic::error("tlm::parse::bad_string", "string without an end")
                .label(span, "a string ends on its own line")
                .help("close it with `\"`, and write a backslash as `\\\\`"),
        );
    }

    /// Adds a finding unless its place already has one.
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        let place = |d: &Diagnostic| d.labels.first().map(|label| label.span.start);
        if self.diagnostics.iter().all(|known| place(known) != place(&diagnostic)) {
            self.diagnostics.push(diagnostic);
        }
    }

    pub(super) fn name(&mut self, what: &str) -> Option<Name> {
        let token = self.peek()?;
        if token.kind != TokenKind::Word || self.at_item() {
            self.unexpected(what);
            return None;
        }
        let span = self.here();
        self.position += 1;
        Some(Spanned { node: self.text_of(token).to_owned(), span })
    }

    fn at_item(&self) -> bool {
        let Some(token) = self.peek() else { return true };
        let follows = self.tokens.get(self.position + 1);
        token.new_line
            && ITEM_WORDS.contains(&self.text_of(token))
            && follows.is_some_and(|next| next.kind == TokenKind::Word)
    }

    /// Parses `open item, item, close` with an optional last comma; skips what is no item.
    pub(super) fn delimited<T>(
        &mut self,
        open: &str,
        close: &str,
        item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.separated(open, close, &[","], item)
    }

    /// The same with other separators.
    pub(super) fn separated<T>(
        &mut self,
        open: &str,
        close: &str,
        separators: &[&str],
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let opener = self.here();
        self.expect(open)?;
        let mut items = Vec::new();
        loop {
            if self.eat(close) {
                return Some(items);
            }
            if self.at_item() {
                return self.unclosed(opener, open, close);
            }
            let before = self.position;
            let found = item(self);
            if let Some(found) = found {
                items.push(found);
                if separators.iter().any(|separator| self.eat(separator)) || self.at(close) {
                    continue;
                }
                if self.at_item() {
                    return self.unclosed(opener, open, close);
                }
                self.unexpected(&format!("`,` or `{close}`"));
            }
            self.skip_in_list(before, close);
        }
    }

    fn unclosed<T>(&mut self, opener: Span, open: &str, close: &str) -> Option<T> {
        let end = self.before().end as usize;
        self.report(
            Diagnostic::error("tlm::parse::unclosed", format!("missing `{close}`"))
                .label(Span::new(self.file, end, end), format!("`{close}` expected here"))
                .label(opener, format!("`{open}` opened here")),
        );
        None
    }

    fn skip_in_list(&mut self, before: usize, close: &str) {
        let mut depth = 0;
        if self.position == before && !self.at(close) {
            self.position += usize::from(!self.at(","));
        }
        while !self.at_item() {
            match self.peek_text() {
                Some("(" | "[" | "{") => depth += 1,
                Some(closer) if closer == close && depth == 0 => return,
                Some(")" | "]" | "}") if depth > 0 => depth -= 1,
                Some(",") if depth == 0 => return self.advance(),
                _ => {}
            }
            self.advance();
        }
    }
}
