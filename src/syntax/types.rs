//! Types and parameters.

use super::ast::{Name, Parameter, Range, RecordField, Type, TypeKind};
use super::parser::{Element, Parser};
use super::token::{Kind, Symbol};
use crate::base::Span;
use crate::diag::Diagnostic;

impl Parser<'_> {
    /// Parses `: Type` if there is one.
    pub(super) fn annotation(&mut self) -> Option<Type> {
        if self.eat(Symbol::Colon) { self.ty() } else { None }
    }

    pub(super) fn ty(&mut self) -> Option<Type> {
        let start = self.span();
        let kind = self.deeper(Self::ty_kind)??;
        let mut ty = Type { span: self.since(start), kind };
        if self.eat(Symbol::Question) {
            ty = Type { span: self.since(start), kind: TypeKind::Optional(Box::new(ty)) };
        }
        Some(ty)
    }

    fn ty_kind(&mut self) -> Option<TypeKind> {
        match self.peek().kind {
            Kind::Symbol(Symbol::OpenBrace) => {
                let mut fields = Vec::new();
                self.list(false, |parser| {
                    fields.extend(parser.record_field());
                    Element::Item
                });
                Some(TypeKind::Record(fields))
            }
            Kind::Symbol(Symbol::OpenBracket) => self.list_type(),
            _ => {
                let name = self.name("a type")?;
                if !self.at(Symbol::Bar) {
                    return Some(TypeKind::Named(name.node));
                }
                let mut variants = vec![name];
                while self.eat(Symbol::Bar) {
                    variants.extend(self.name("a variant"));
                }
                Some(TypeKind::Enum(variants))
            }
        }
    }

    fn list_type(&mut self) -> Option<TypeKind> {
        let start = self.span();
        let mut elements: Vec<Option<Type>> = Vec::new();
        self.list(false, |parser| {
            elements.push(parser.ty());
            Element::Item
        });
        if elements.len() != 1 {
            self.report_past(
                Diagnostic::error("tlm::parse::list_type", "expected one type in `[...]`")
                    .label(self.since(start), format!("{} types", elements.len()))
                    .help("write a list of counts as `[Count]`"),
            );
        }
        Some(TypeKind::List(Box::new(elements.into_iter().next()??)))
    }

    fn record_field(&mut self) -> Option<RecordField> {
        let doc = self.doc();
        let (name, ty) = self.typed_name("a field")?;
        let default = self.eat(Symbol::Eq).then(|| self.expr());
        Some(RecordField { doc, name, ty, default })
    }

    pub(super) fn typed_name(&mut self, what: &str) -> Option<(Name, Type)> {
        let name = self.name(what)?;
        if !self.expect(Symbol::Colon) {
            return None;
        }
        Some((name, self.ty()?))
    }

    /// Parses `(inputs; params)`.
    pub(super) fn parameters(&mut self) -> Option<(Vec<Parameter>, Vec<Parameter>)> {
        if !self.at(Symbol::OpenParen) {
            self.unexpected("`(`");
            return None;
        }
        let (mut inputs, mut params, mut named) = (Vec::new(), Vec::new(), false);
        self.list(true, |parser| {
            if parser.at(Symbol::Semicolon) {
                if named {
                    parser.unexpected("a parameter");
                }
                named = true;
                parser.bump();
                return Element::Section;
            }
            let into = if named { &mut params } else { &mut inputs };
            into.extend(parser.parameter());
            Element::Item
        });
        Some((inputs, params))
    }

    /// Parses `name: Type in low .. high = default since N place`.
    fn parameter(&mut self) -> Option<Parameter> {
        let doc = self.doc();
        let (name, ty) = self.typed_name("a parameter")?;
        let range = if self.eat_word("in") { self.range() } else { None };
        let default = self.eat(Symbol::Eq).then(|| self.expr());
        let since = if self.eat_word("since") { self.whole().map(|(n, _)| n) } else { None };
        let place = self.eat_word("place");
        Some(Parameter { doc, name, ty, default, range, since, place })
    }

    pub(super) fn range(&mut self) -> Option<Range> {
        let low = (!self.at(Symbol::Range)).then(|| self.sum());
        if !self.expect(Symbol::Range) {
            return None;
        }
        let ends = matches!(
            self.peek().kind,
            Kind::Symbol(Symbol::Comma | Symbol::Semicolon | Symbol::Eq | Symbol::CloseParen)
                | Kind::End
        ) || ["since", "place"].contains(&self.word());
        let high = (!ends).then(|| self.sum());
        Some(Range { low, high })
    }

    /// Parses a plain whole number.
    pub(super) fn whole(&mut self) -> Option<(u32, Span)> {
        let number = self.digits().and_then(|digits| digits.parse().ok());
        if number.is_none() {
            self.unexpected("a whole number");
        }
        Some((number?, self.bump()))
    }
}
