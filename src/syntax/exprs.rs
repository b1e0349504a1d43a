//! Expressions, by precedence climbing.

use super::ast::{BinaryOp, Call, Expr, ExprKind, Name, UnaryOp};
use super::parser::{Element, Parser};
use super::token::{Kind, Symbol};
use crate::base::Span;
use crate::base::source::Spanned;
use crate::base::text::did_you_mean;
use crate::base::units::UNITS;
use crate::diag::Diagnostic;

/// The words that cannot be names in an expression, as they continue or end one.
pub(super) const RESERVED: [&str; 7] = ["if", "then", "else", "and", "or", "not", "vary"];

/// The words that mean a value of their own.
pub(super) const CONSTANTS: [&str; 3] = ["true", "false", "none"];

/// How strongly `+` and `-` bind; see [`Parser::operator`].
const SUM: u8 = 4;

fn node(span: Span, kind: ExprKind) -> Expr {
    Expr { span, kind }
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
    fn operator(&self) -> Option<(u8, BinaryOp)> {
        Some(match (&self.peek().kind, self.word()) {
            (Kind::Word, "or") => (1, BinaryOp::Or),
            (Kind::Word, "and") => (2, BinaryOp::And),
            (Kind::Symbol(symbol), _) => match symbol {
                Symbol::EqEq => (3, BinaryOp::Eq),
                Symbol::NotEq => (3, BinaryOp::Ne),
                Symbol::Less => (3, BinaryOp::Lt),
                Symbol::LessEq => (3, BinaryOp::Le),
                Symbol::Greater => (3, BinaryOp::Gt),
                Symbol::GreaterEq => (3, BinaryOp::Ge),
                Symbol::Plus => (SUM, BinaryOp::Add),
                Symbol::Minus => (SUM, BinaryOp::Sub),
                Symbol::Star => (5, BinaryOp::Mul),
                Symbol::Slash => (5, BinaryOp::Div),
                _ => return None,
            },
            _ => return None,
        })
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
            let right = self.binary(strength + 1);
            left = node(self.since(start), ExprKind::Binary(op, Box::new(left), Box::new(right)));
        }
        self.unchain(length);
        left
    }

    fn unary(&mut self) -> Expr {
        let start = self.span();
        let (op, weakest) = match (&self.peek().kind, self.word()) {
            (Kind::Symbol(Symbol::Minus), _) => (UnaryOp::Neg, 6),
            // `not a == b` is `not (a == b)`.
            (Kind::Word, "not") => (UnaryOp::Not, 3),
            (Kind::Word, "if") => return self.conditional(),
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

    fn postfix(&mut self) -> Expr {
        let start = self.span();
        let mut expr = self.primary();
        let mut length = 0;
        loop {
            let same_line = !self.peek().first;
            let is_run = self.at_word("run")
                && self.peek_nth(1).kind == Kind::Symbol(Symbol::OpenBrace)
                && matches!(expr.kind, ExprKind::Call(_));
            let kind = match self.peek().kind {
                Kind::Symbol(Symbol::Dot) => {
                    self.bump();
                    let Some(name) = self.name("a field") else { break };
                    ExprKind::Field(Box::new(expr), name)
                }
                // On a line of its own, `[` or `(` starts something else.
                Kind::Symbol(Symbol::OpenParen) if same_line => self.call(expr),
                Kind::Symbol(Symbol::OpenBracket) if same_line => {
                    ExprKind::At(Box::new(expr), self.named_values("an axis"))
                }
                Kind::Word if is_run => {
                    self.bump();
                    let more = self.named_values("a setting");
                    match expr.kind {
                        ExprKind::Call(mut call) => {
                            call.run.extend(more);
                            ExprKind::Call(call)
                        }
                        other => other,
                    }
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

    fn named_values(&mut self, what: &str) -> Vec<(Name, Expr)> {
        let mut values = Vec::new();
        self.list(false, |parser| {
            values.extend(parser.named_value(what));
            Element::Item
        });
        values
    }

    fn named_value(&mut self, what: &str) -> Option<(Name, Expr)> {
        let name = self.name(what)?;
        if !self.expect(Symbol::Colon) {
            return None;
        }
        Some((name, self.expr()))
    }

    fn primary(&mut self) -> Expr {
        let start = self.span();
        let kind = match self.peek().kind.clone() {
            Kind::Number(digits) => {
                self.bump();
                ExprKind::Number { digits, units: self.units() }
            }
            Kind::Str(text) => {
                self.bump();
                ExprKind::Str(text)
            }
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
            Kind::Symbol(Symbol::OpenParen) => return self.parenthesised(),
            _ => {
                self.unexpected("an expression");
                return self.error();
            }
        };
        node(self.since(start), kind)
    }

    fn parenthesised(&mut self) -> Expr {
        let start = self.span();
        let mut values = Vec::new();
        self.list(false, |parser| {
            values.push(parser.expr());
            Element::Item
        });
        let span = self.since(start);
        if values.len() != 1 {
            self.report_past(
                Diagnostic::error("tlm::parse::parentheses", "expected one expression in `(...)`")
                    .label(span, format!("{} expressions", values.len()))
                    .help("write a list as `[a, b]`"),
            );
        }
        let kind = values.pop().map_or(ExprKind::Error, |value| value.kind);
        node(span, kind)
    }

    /// Parses the unit words of a number: a scale, a dimension, or both.
    fn units(&mut self) -> Vec<Name> {
        let mut units: Vec<Name> = Vec::new();
        let mut is_scale = true;
        while is_scale && units.len() < 2 && !self.peek().first {
            let attached = self.span().start == self.previous().end && units.is_empty();
            let word = match self.peek().kind {
                Kind::Symbol(Symbol::Percent) if units.is_empty() => "%",
                _ => self.word(),
            };
            let known = UNITS.iter().find(|(unit, ..)| *unit == word);
            match known {
                // After a scale only a dimension may follow: `4k tokens`.
                Some((_, None, _)) if !units.is_empty() => break,
                Some((_, dim, _)) => is_scale = dim.is_none(),
                None => {
                    self.unknown_unit(word, attached);
                    break;
                }
            }
            units.push(Spanned { node: word.to_owned(), span: self.bump() });
        }
        units
    }

    /// Reports and skips a word that stands where a unit would and can be nothing else.
    fn unknown_unit(&mut self, word: &str, attached: bool) {
        let continues =
            RESERVED.contains(&word) || ["since", "place", "run", "version"].contains(&word);
        let meant =
            did_you_mean(word, UNITS.iter().map(|(unit, ..)| *unit).filter(|unit| unit.len() > 1));
        let is_unit = attached || (meant.is_some() && !continues);
        if word.is_empty() || !is_unit || self.at_named() {
            return;
        }
        let help = match meant {
            Some(unit) => format!("did you mean `{unit}`?"),
            None => {
                let names: Vec<String> =
                    UNITS.iter().map(|(unit, ..)| format!("`{unit}`")).collect();
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
