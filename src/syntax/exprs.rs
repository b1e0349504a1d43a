//! Expressions, by precedence climbing.

use super::ast::{BinaryOp, Call, Expr, ExprKind, Fold, Name, Text, TextPart, UnaryOp, Units};
use super::lexer::lex_from;
use super::parser::{Element, Parser};
use super::token::{Kind, StrPart, Symbol};
use crate::base::Span;
use crate::base::text::did_you_mean;
use crate::base::units::{UNITS, Unit};
use crate::diag::Diagnostic;

/// The words that cannot be names in an expression, as they continue or end one.
pub(super) const RESERVED: [&str; 7] = ["if", "then", "else", "and", "or", "not", "vary"];

/// The words that mean a value of their own.
pub(super) const CONSTANTS: [&str; 3] = ["true", "false", "none"];

/// The words that may follow a number and are no units.
const AFTER_NUMBER: [&str; 11] =
    ["since", "place", "run", "version", "over", "each", "where", "with", "at", "for", "in"];

/// How strongly `??` binds; see [`Parser::operator`].
const COALESCE: u8 = 4;

/// How strongly `+` and `-` bind.
const SUM: u8 = 5;

/// What stands between two operands.
#[derive(Clone, Copy)]
enum Operator {
    Binary(BinaryOp),
    Coalesce,
}

fn node(span: Span, kind: ExprKind) -> Expr {
    Expr { span, kind }
}

/// Returns what a text without holes says, or the parts of one with holes.
pub(super) fn plain(mut parts: Vec<StrPart>) -> Result<String, Vec<StrPart>> {
    match (parts.pop(), parts.len()) {
        (None, _) => Ok(String::new()),
        (Some(StrPart::Literal(text)), 0) => Ok(text),
        (Some(last), _) => {
            parts.push(last);
            Err(parts)
        }
    }
}

impl Parser<'_> {
    pub(super) fn expr(&mut self) -> Expr {
        self.binary(1)
    }

    /// Parses an expression without comparison: an end of a range.
    pub(super) fn sum(&mut self) -> Expr {
        self.binary(SUM)
    }

    pub(super) fn error(&self) -> Expr {
        let end = self.previous().end as usize;
        node(Span::new(self.span().file, end, end), ExprKind::Error)
    }

    /// Returns the operator at the cursor with its strength.
    fn operator(&self) -> Option<(u8, Operator)> {
        let (strength, op) = match self.peek().kind {
            Kind::Word => match self.word() {
                "or" => (1, BinaryOp::Or),
                "and" => (2, BinaryOp::And),
                _ => return None,
            },
            Kind::Symbol(symbol) => match symbol {
                Symbol::Coalesce => return Some((COALESCE, Operator::Coalesce)),
                Symbol::EqEq => (3, BinaryOp::Eq),
                Symbol::NotEq => (3, BinaryOp::Ne),
                Symbol::Less => (3, BinaryOp::Lt),
                Symbol::LessEq => (3, BinaryOp::Le),
                Symbol::Greater => (3, BinaryOp::Gt),
                Symbol::GreaterEq => (3, BinaryOp::Ge),
                Symbol::Plus => (SUM, BinaryOp::Add),
                Symbol::Minus => (SUM, BinaryOp::Sub),
                Symbol::Star => (6, BinaryOp::Mul),
                Symbol::Slash => (6, BinaryOp::Div),
                _ => return None,
            },
            _ => return None,
        };
        Some((strength, Operator::Binary(op)))
    }

    fn binary(&mut self, weakest: u8) -> Expr {
        let start = self.span();
        let Some(mut left) = self.deeper(Self::unary) else { return self.error() };
        let mut length = 0;
        while let Some((strength, op)) = self.operator().filter(|(s, _)| *s >= weakest) {
            if !self.chain() {
                break;
            }
            length += 1;
            self.bump();
            let (one, other) = (Box::new(left), Box::new(self.binary(strength + 1)));
            let kind = match op {
                Operator::Binary(op) => ExprKind::Binary(op, one, other),
                Operator::Coalesce => ExprKind::Else(one, other),
            };
            left = node(self.since(start), kind);
        }
        self.unchain(length);
        left
    }

    fn unary(&mut self) -> Expr {
        let start = self.span();
        let (op, weakest) = match (self.peek().kind, self.word()) {
            (Kind::Symbol(Symbol::Minus), _) => (UnaryOp::Neg, 7),
            // `not a == b` is `not (a == b)`.
            (Kind::Word, "not") => (UnaryOp::Not, 3),
            (Kind::Word, "if") => return self.conditional(),
            (Kind::Word, "fold") if self.peek_nth(1).kind == Kind::Word => return self.fold(),
            _ => return self.postfix(),
        };
        self.bump();
        let operand = self.binary(weakest);
        node(self.since(start), ExprKind::Unary(op, Box::new(operand)))
    }

    fn conditional(&mut self) -> Expr {
        let start = self.bump();
        let condition = self.expr();
        let mut branch = |word: &str| {
            if self.eat_word(word) {
                return self.expr();
            }
            self.unexpected(&format!("`{word}`"));
            self.error()
        };
        let (yes, no) = (branch("then"), branch("else"));
        node(self.since(start), ExprKind::If(Box::new([condition, yes, no])))
    }

    fn fold(&mut self) -> Expr {
        let start = self.bump();
        match self.fold_parts() {
            Some(fold) => node(self.since(start), ExprKind::Fold(Box::new(fold))),
            None => self.error(),
        }
    }

    /// Parses what follows `fold`: `r = init for i in low .. high { body }`.
    fn fold_parts(&mut self) -> Option<Fold> {
        let name = self.name("a name")?;
        if !self.expect(Symbol::Eq) {
            return None;
        }
        let init = self.expr();
        self.expect_word("for")?;
        let index = self.name("a name for the turn")?;
        self.expect_word("in")?;
        let low = self.sum();
        if !self.expect(Symbol::Range) {
            return None;
        }
        let high = self.sum();
        if !self.at(Symbol::OpenBrace) {
            self.unexpected("`{`");
            return None;
        }
        let body = self.enclosed();
        Some(Fold { name, init, index, low, high, body })
    }

    fn bad_number(&mut self, span: Span, help: &str) {
        self.report(
            Diagnostic::error("tlm::parse::bad_number", "a number begins and ends with a digit")
                .label(span, "not a number")
                .help(help),
        );
    }

    fn postfix(&mut self) -> Expr {
        let start = self.span();
        let mut expr = self.primary();
        let mut length = 0;
        loop {
            let same_line = !self.peek().first;
            let braced = self.peek_nth(1).kind == Kind::Symbol(Symbol::OpenBrace);
            let kind = match self.peek().kind {
                Kind::Symbol(Symbol::Dot)
                    if matches!(expr.kind, ExprKind::Number { .. })
                        && self.peek_nth(1).kind != Kind::Word =>
                {
                    let span = expr.span.to(self.span());
                    self.bad_number(span, "add the digits behind the point: `5.0`");
                    self.bump();
                    break;
                }
                Kind::Symbol(Symbol::Dot) => {
                    self.bump();
                    let Some(name) = self.name("a field") else { break };
                    ExprKind::Field(Box::new(expr), name)
                }
                // On a line of its own, `[` or `(` starts something else.
                Kind::Symbol(Symbol::OpenParen) if same_line => self.call(expr),
                Kind::Symbol(Symbol::OpenBracket) if same_line => {
                    ExprKind::At(Box::new(expr), self.path_values("an axis"))
                }
                Kind::Word
                    if self.at_word("at") && self.word_of(self.peek_nth(1)) == "baseline" =>
                {
                    self.bump();
                    self.bump();
                    ExprKind::AtBaseline(Box::new(expr))
                }
                Kind::Word if braced && self.at_word("with") => {
                    self.bump();
                    ExprKind::With(Box::new(expr), self.named_values("a field"))
                }
                Kind::Word if braced && self.at_word("run") => {
                    let ExprKind::Call(call) = &mut expr.kind else { break };
                    self.bump();
                    call.run.extend(self.named_values("a setting"));
                    expr.kind
                }
                _ => break,
            };
            expr = node(self.since(start), kind);
            if !self.chain() {
                break;
            }
            length += 1;
        }
        self.unchain(length);
        expr
    }

    fn call(&mut self, callee: Expr) -> ExprKind {
        let (mut inputs, mut params) = (Vec::new(), Vec::new());
        self.list(false, |parser| {
            if parser.at_named() {
                params.extend(parser.named_value("a parameter"));
                return Element::Item;
            }
            let input = parser.expr();
            if let Some((name, _)) = params.last().filter(|_| !parser.has_reported()) {
                parser.positional_after_named(&input, name);
            }
            inputs.push(input);
            Element::Item
        });
        ExprKind::Call(Box::new(Call { callee, inputs, params, run: Vec::new() }))
    }

    fn positional_after_named(&mut self, input: &Expr, named: &Name) {
        self.report_past(
            Diagnostic::error(
                "tlm::parse::positional_after_named",
                "an argument without a name stands after a named one",
            )
            .label(input.span, "no name")
            .label(named.span, "named")
            .help("put artifacts first, and give each parameter its name: `name: value`"),
        );
    }

    pub(super) fn named_values(&mut self, what: &str) -> Vec<(Name, Expr)> {
        let mut values = Vec::new();
        self.list(false, |parser| {
            values.extend(parser.named_value(what));
            Element::Item
        });
        values
    }

    /// Parses `{ b0.rate: value }`: names may be those of another recipe.
    pub(super) fn path_values(&mut self, what: &str) -> Vec<(Name, Expr)> {
        let mut values = Vec::new();
        self.list(false, |parser| {
            let name = parser.path(what);
            values.extend(name.and_then(|name| parser.value_of(name)));
            Element::Item
        });
        values
    }

    fn named_value(&mut self, what: &str) -> Option<(Name, Expr)> {
        let name = self.name(what)?;
        self.value_of(name)
    }

    fn value_of(&mut self, name: Name) -> Option<(Name, Expr)> {
        if !self.expect(Symbol::Colon) {
            return None;
        }
        Some((name, self.expr()))
    }

    fn primary(&mut self) -> Expr {
        let start = self.span();
        if let Some(digits) = self.digits() {
            self.bump();
            let kind = ExprKind::Number { digits, units: self.units() };
            return node(self.since(start), kind);
        }
        if let Some(parts) = self.take_parts() {
            self.bump();
            let kind = self.text(parts);
            return node(self.since(start), kind);
        }
        let kind = match self.peek().kind {
            Kind::Word if !self.at_item() && !RESERVED.contains(&self.word()) => {
                let word = self.word();
                self.bump();
                match word {
                    "true" => ExprKind::Bool(true),
                    "false" => ExprKind::Bool(false),
                    "none" => ExprKind::None,
                    _ => ExprKind::Name(word.to_owned()),
                }
            }
            Kind::Symbol(Symbol::OpenBracket) => {
                let mut values = Vec::new();
                self.list(false, |parser| {
                    values.push(parser.expr());
                    Element::Item
                });
                ExprKind::List(values)
            }
            Kind::Symbol(Symbol::OpenBrace) => ExprKind::Record(self.named_values("a field")),
            Kind::Symbol(Symbol::OpenParen) => return self.enclosed(),
            Kind::Symbol(Symbol::Dot) if matches!(self.peek_nth(1).kind, Kind::Number { .. }) => {
                let span = start.to(self.span_of(self.peek_nth(1)));
                self.bad_number(span, "add the digit before the point: `0.5`");
                self.bump();
                self.bump();
                return self.error();
            }
            _ => {
                self.unexpected("an expression");
                return self.error();
            }
        };
        node(self.since(start), kind)
    }

    /// Returns a text; holes in it are parsed.
    pub(super) fn text(&mut self, parts: Vec<StrPart>) -> ExprKind {
        let parts = match plain(parts) {
            Ok(text) => return ExprKind::Str(text),
            Err(parts) => parts,
        };
        let part = |part| match part {
            StrPart::Literal(text) => TextPart::Literal(text),
            StrPart::Hole { start, end } => TextPart::Hole(self.hole(start, end)),
        };
        ExprKind::Text(Text { parts: parts.into_iter().map(part).collect() })
    }

    fn hole(&mut self, start: usize, end: usize) -> Expr {
        let (file, text) = self.source();
        let text = &text[..end];
        let (tokens, found) = lex_from(file, text, start);
        let mut inner = Parser::new(file, text, tokens, found);
        let expr = inner.expr();
        if !inner.is_end() && !inner.has_reported() {
            inner.unexpected("`}`");
        }
        self.extend(inner.into_diagnostics());
        expr
    }

    /// Parses one expression between delimiters.
    fn enclosed(&mut self) -> Expr {
        let start = self.span();
        let mut values = Vec::new();
        self.list(false, |parser| {
            values.push(parser.expr());
            Element::Item
        });
        let span = self.since(start);
        if values.len() != 1 {
            self.report_past(
                Diagnostic::error("tlm::parse::parentheses", "expected one expression")
                    .label(span, format!("{} expressions", values.len()))
                    .help("write a list as `[a, b]`"),
            );
        }
        let kind = values.pop().map_or(ExprKind::Error, |value| value.kind);
        node(span, kind)
    }

    /// Parses the units of a number: a scale, a dimension, or both.
    fn units(&mut self) -> Units {
        let mut units = Units::new();
        let mut is_scale = true;
        while is_scale && units.len() < 2 && !self.peek().first {
            let attached = self.span().start == self.previous().end && units.is_empty();
            let word = match self.peek().kind {
                Kind::Symbol(Symbol::Percent) if units.is_empty() => "%",
                _ => self.word(),
            };
            if word.is_empty() {
                break;
            }
            let Some(unit) = Unit::named(word) else {
                self.unknown_unit(word, attached);
                break;
            };
            is_scale = unit.dim.is_none();
            // After a scale only a dimension may follow: `4k tokens`.
            if is_scale && !units.is_empty() {
                break;
            }
            units.push(unit);
            self.bump();
        }
        units
    }

    /// Reports and skips a word that stands where a unit would and can be nothing else.
    fn unknown_unit(&mut self, word: &str, attached: bool) {
        let continues = RESERVED.contains(&word) || AFTER_NUMBER.contains(&word);
        if (continues && !attached) || self.at_named() {
            return;
        }
        let meant =
            did_you_mean(word, UNITS.iter().map(|unit| unit.name).filter(|unit| unit.len() > 1));
        if meant.is_none() && !attached {
            return;
        }
        let help = match meant {
            Some(unit) => format!("did you mean `{unit}`?"),
            None => {
                let names: Vec<String> =
                    UNITS.iter().map(|unit| format!("`{}`", unit.name)).collect();
                format!("use one of {}", names.join(" "))
            }
        };
        self.report(
            Diagnostic::error("tlm::parse::unknown_unit", format!("unknown unit `{word}`"))
                .label(self.span(), "not a unit")
                .help(help),
        );
        self.bump();
    }
}
