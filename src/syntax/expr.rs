//! Productions of expressions, weakest operator first.

use crate::base::source::Spanned;
use crate::base::{Span, text, units};
use crate::diag::Diagnostic;
use crate::syntax::ast::{BinaryOp, Call, Expr, ExprKind, Name, UnaryOp};
use crate::syntax::lexer::TokenKind;
use crate::syntax::parser::{DEPTH_MAX, ITEM_WORDS, Parser};

/// Words that can't be names.
const RESERVED: [&str; 8] = ["if", "then", "else", "and", "or", "not", "vary", "in"];

const SUM: &[(&str, BinaryOp)] = &[("+", BinaryOp::Add), ("-", BinaryOp::Sub)];
const PRODUCT: &[(&str, BinaryOp)] = &[("*", BinaryOp::Mul), ("/", BinaryOp::Div)];
const COMPARISON: &[(&str, BinaryOp)] = &[
    ("==", BinaryOp::Eq),
    ("!=", BinaryOp::Ne),
    ("<=", BinaryOp::Le),
    (">=", BinaryOp::Ge),
    ("<", BinaryOp::Lt),
    (">", BinaryOp::Gt),
];

impl Parser<'_> {
    pub(super) fn expr(&mut self) -> Option<Expr> {
        self.depth += 1;
        let expr = if self.depth > DEPTH_MAX { self.too_deep() } else { self.any() };
        self.depth -= 1;
        expr
    }

    fn any(&mut self) -> Option<Expr> {
        if !self.at("if") {
            return self.chain(&[("or", BinaryOp::Or)], |p| {
                p.chain(&[("and", BinaryOp::And)], |p| p.chain(COMPARISON, Self::sum))
            });
        }
        let start = self.here();
        self.advance();
        let condition = self.expr()?;
        self.expect("then")?;
        let yes = self.expr()?;
        self.expect("else")?;
        let no = self.expr()?;
        Some(spanned(start.to(self.before()), ExprKind::If(Box::new([condition, yes, no]))))
    }

    pub(super) fn sum(&mut self) -> Option<Expr> {
        self.chain(SUM, |p| p.chain(PRODUCT, Self::unary))
    }

    /// Parses operands joined by operators of one strength, leftmost first.
    fn chain(
        &mut self,
        operators: &[(&str, BinaryOp)],
        operand: impl Fn(&mut Self) -> Option<Expr>,
    ) -> Option<Expr> {
        let mut left = operand(self)?;
        while let Some((_, op)) = operators.iter().find(|(sign, _)| self.at(sign)) {
            self.advance();
            let right = operand(self)?;
            let span = left.span.to(right.span);
            left = spanned(span, ExprKind::Binary(*op, Box::new(left), Box::new(right)));
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Expr> {
        let start = self.here();
        let op = match self.peek_text() {
            Some("-") => UnaryOp::Neg,
            Some("not") => UnaryOp::Not,
            _ => return self.postfix(),
        };
        self.advance();
        self.depth += 1;
        let operand = if self.depth > DEPTH_MAX { self.too_deep() } else { self.unary() };
        self.depth -= 1;
        let operand = operand?;
        Some(spanned(start.to(operand.span), ExprKind::Unary(op, Box::new(operand))))
    }

    fn postfix(&mut self) -> Option<Expr> {
        let mut expr = self.primary()?;
        loop {
            let start = expr.span;
            let kind = if self.at(".") {
                self.advance();
                ExprKind::Field(Box::new(expr), self.name("a field")?)
            } else if self.at("(") && self.same_line() {
                ExprKind::Call(Box::new(self.call(expr)?))
            } else if self.at("[") && self.same_line() {
                ExprKind::At(Box::new(expr), self.delimited("[", "]", Self::field)?)
            } else {
                return Some(expr);
            };
            expr = spanned(start.to(self.before()), kind);
        }
    }

    fn call(&mut self, callee: Expr) -> Option<Call> {
        let mut inputs = Vec::new();
        let mut params = Vec::new();
        self.delimited("(", ")", |p| {
            if p.peek_second() == Some(":") {
                params.push(p.field()?);
            } else {
                inputs.push(p.expr()?);
            }
            Some(())
        })?;
        let run = match self.at("run") && self.peek_second() == Some("{") {
            true => {
                self.advance();
                self.delimited("{", "}", Self::field)?
            }
            false => Vec::new(),
        };
        Some(Call { callee, inputs, params, run })
    }

    fn field(&mut self) -> Option<(Name, Expr)> {
        let name = self.name("a name")?;
        self.expect(":")?;
        Some((name, self.expr()?))
    }

    fn primary(&mut self) -> Option<Expr> {
        let start = self.here();
        let Some(token) = self.peek() else {
            self.unexpected("a value");
            return None;
        };
        let word = self.peek_text()?;
        let kind = match token.kind {
            TokenKind::Number => self.number(),
            TokenKind::Str => self.string()?,
            TokenKind::Word
                if RESERVED.contains(&word) || (token.new_line && ITEM_WORDS.contains(&word)) =>
            {
                self.unexpected("a value");
                return None;
            }
            TokenKind::Word => {
                self.advance();
                match word {
                    "true" => ExprKind::Bool(true),
                    "false" => ExprKind::Bool(false),
                    "none" => ExprKind::None,
                    name => ExprKind::Name(name.to_owned()),
                }
            }
            TokenKind::Punct if word == "[" => {
                ExprKind::List(self.delimited("[", "]", Self::expr)?)
            }
            TokenKind::Punct if word == "{" => {
                ExprKind::Record(self.delimited("{", "}", Self::field)?)
            }
            TokenKind::Punct if word == "(" => return self.parenthesised(),
            _ => {
                self.unexpected("a value");
                return None;
            }
        };
        Some(spanned(start.to(self.before()), kind))
    }

    fn parenthesised(&mut self) -> Option<Expr> {
        let start = self.here();
        let known = self.diagnostics.len();
        let mut inner = self.delimited("(", ")", Self::expr)?;
        let span = start.to(self.before());
        match (inner.pop(), inner.is_empty()) {
            (Some(expr), true) => Some(Expr { span, ..expr }),
            _ if self.diagnostics.len() > known => None,
            _ => {
                self.report(
                    Diagnostic::error(
                        "tlm::parse::unexpected",
                        "expected one value in parentheses",
                    )
                    .label(span, "not one value")
                    .help("write a list as `[a, b]`"),
                );
                None
            }
        }
    }

    fn number(&mut self) -> ExprKind {
        let digits = self.peek_text().unwrap_or_default().replace('_', "");
        self.advance();
        let mut units = Vec::new();
        while let Some(unit) = self.unit() {
            units.push(unit);
        }
        ExprKind::Number { digits, units }
    }

    /// Takes a unit word: one that touches the number, or a known one after a space.
    fn unit(&mut self) -> Option<Name> {
        let word = self.peek_text()?;
        let known = units::UNITS.iter().any(|(unit, _, _)| *unit == word);
        let is_word = self.peek().is_some_and(|token| token.kind == TokenKind::Word);
        if !(known && self.same_line() || is_word && self.touches()) {
            return None;
        }
        let span = self.here();
        self.advance();
        if !known {
            self.unknown_unit(word, span);
        }
        Some(Spanned { node: word.to_owned(), span })
    }

    fn unknown_unit(&mut self, word: &str, span: Span) {
        let known = units::UNITS.iter().map(|(unit, _, _)| *unit);
        let help = match text::did_you_mean(word, known.clone().filter(|unit| unit.len() > 1)) {
            Some(unit) => format!("write `{unit}`"),
            None => format!("units are `{}`", known.collect::<Vec<_>>().join("` `")),
        };
        let diagnostic =
            Diagnostic::error("tlm::parse::unknown_unit", format!("unknown unit `{word}`"));
        self.report(diagnostic.label(span, "not a unit").help(help));
    }

    fn string(&mut self) -> Option<ExprKind> {
        let token = self.peek()?;
        let quoted = self.peek_text()?;
        self.advance();
        if let Some(raw) = quoted.strip_prefix("\"\"\"") {
            return Some(ExprKind::Str(raw.trim_end_matches("\"\"\"").to_owned()));
        }
        let mut out = String::new();
        let body = &quoted[1..quoted.len() - 1];
        let mut chars = body.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = chars.next().map_or(' ', |(_, c)| c);
            match escaped {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'f' => out.push('\u{c}'),
                '"' | '\\' => out.push(escaped),
                _ => {
                    let start = token.start + 1 + at;
                    self.report(
                        Diagnostic::error(
                            "tlm::parse::bad_escape",
                            format!("unknown escape `\\{escaped}`"),
                        )
                        .label(
                            Span::new(self.file, start, start + 1 + escaped.len_utf8()),
                            "not an escape",
                        )
                        .help("escapes are `\\n` `\\t` `\\r` `\\f` `\\\"` and `\\\\`"),
                    );
                }
            }
        }
        Some(ExprKind::Str(out))
    }
}

fn spanned(span: Span, kind: ExprKind) -> Expr {
    Expr { span, kind }
}
