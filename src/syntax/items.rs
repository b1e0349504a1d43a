//! Productions of items and types.

use crate::base::source::Spanned;
use crate::diag::Diagnostic;
use crate::syntax::ast::{
    Artifact, Binding, Expr, Fn, Name, Parameter, Plan, RecordField, Stage, Type, TypeKind, Use,
    UseNames,
};
use crate::syntax::parser::{DEPTH_MAX, Parser};

impl Parser<'_> {
    pub(super) fn use_item(&mut self) -> Option<Use> {
        self.advance();
        let mut path = vec![self.name("a module")?];
        while self.eat(".") {
            let span = self.here();
            if self.eat("*") {
                return Some(Use { path, names: UseNames::All(span) });
            }
            if self.at("{") {
                let names = self.delimited("{", "}", |p| p.name("a name"))?;
                return Some(Use { path, names: UseNames::Some(names) });
            }
            path.push(self.name("a module")?);
        }
        let alias = if self.eat("as") { Some(self.name("a name")?) } else { None };
        Some(Use { path, names: UseNames::Module(alias) })
    }

    pub(super) fn binding(&mut self) -> Option<Binding> {
        self.advance();
        let name = self.name("a name")?;
        let ty = if self.eat(":") { Some(self.ty()?) } else { None };
        self.expect("=")?;
        Some(Binding { name, ty, value: self.expr()? })
    }

    pub(super) fn plan(&mut self) -> Option<Plan> {
        self.advance();
        let name = self.name("a name")?;
        self.expect("=")?;
        let target = self.expr()?;
        let mut vary = Vec::new();
        if self.eat("vary") {
            vary.push(self.name("an axis")?);
            while self.eat(",") {
                vary.push(self.name("an axis")?);
            }
        }
        Some(Plan { name, target, vary })
    }

    pub(super) fn function(&mut self) -> Option<Fn> {
        self.advance();
        let name = self.name("a name")?;
        let (inputs, params) = self.parameters()?;
        let result = if self.eat("->") { Some(self.ty()?) } else { None };
        self.expect("=")?;
        Some(Fn { name, inputs, params, result, body: self.expr()? })
    }

    pub(super) fn stage(&mut self) -> Option<Stage> {
        self.advance();
        let name = self.name("a name")?;
        let (inputs, params) = self.parameters()?;
        self.expect("->")?;
        let result = self.ty()?;
        self.expect("version")?;
        let version = self.version()?;
        let tensor = self.eat("tensor");
        Some(Stage { name, inputs, params, result, version, tensor })
    }

    fn version(&mut self) -> Option<Spanned<u32>> {
        let span = self.here();
        match self.peek_text().and_then(|digits| digits.parse().ok()) {
            Some(node) => {
                self.advance();
                Some(Spanned { node, span })
            }
            None => {
                self.unexpected("a version number");
                None
            }
        }
    }

    pub(super) fn artifact(&mut self) -> Option<Artifact> {
        self.advance();
        let name = self.name("a name")?;
        let fields = match self.at("{") {
            true => self.delimited("{", "}", |p| {
                let name = p.name("a field")?;
                p.expect(":")?;
                Some((name, p.ty()?))
            })?,
            false => Vec::new(),
        };
        Some(Artifact { name, fields })
    }

    /// Parses `(inputs; params)`. The `;` may stand where a parameter starts or ends.
    fn parameters(&mut self) -> Option<(Vec<Parameter>, Vec<Parameter>)> {
        let mut named = false;
        let all = self.separated("(", ")", &[",", ";"], |p| {
            named |= p.eat(";");
            let is_param = named;
            if p.at(")") {
                return Some((is_param, None));
            }
            let parameter = p.parameter()?;
            named |= p.at(";");
            Some((is_param, Some(parameter)))
        })?;
        let (params, inputs): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(is_param, _)| *is_param);
        let only = |list: Vec<(bool, Option<Parameter>)>| {
            list.into_iter().filter_map(|(_, p)| p).collect()
        };
        Some((only(inputs), only(params)))
    }

    fn parameter(&mut self) -> Option<Parameter> {
        let doc = self.doc();
        let name = self.name("a parameter")?;
        self.expect(":")?;
        let ty = self.ty()?;
        let range = if self.eat("in") { Some(self.range()?) } else { None };
        let default = if self.eat("=") { Some(self.expr()?) } else { None };
        let since = if self.eat("since") { Some(self.version()?.node) } else { None };
        let place = self.eat("place");
        Some(Parameter { doc, name, ty, default, range, since, place })
    }

    fn range(&mut self) -> Option<(Option<Expr>, Option<Expr>)> {
        let low = if self.at("..") { None } else { Some(self.sum()?) };
        self.expect("..")?;
        let ends = ["=", ",", ";", ")", "since", "place"].iter().any(|end| self.at(end));
        let high = if ends { None } else { Some(self.sum()?) };
        Some((low, high))
    }

    pub(super) fn ty(&mut self) -> Option<Type> {
        self.depth += 1;
        let ty = if self.depth > DEPTH_MAX { self.too_deep() } else { self.ty_inner() };
        self.depth -= 1;
        ty
    }

    fn ty_inner(&mut self) -> Option<Type> {
        let start = self.here();
        let kind = if self.at("{") {
            TypeKind::Record(self.delimited("{", "}", Self::record_field)?)
        } else if self.eat("[") {
            let item = self.ty()?;
            self.expect("]")?;
            TypeKind::List(Box::new(item))
        } else {
            self.named_or_enum()?
        };
        let mut ty = Type { span: start.to(self.before()), kind };
        if self.eat("?") {
            ty = Type { span: start.to(self.before()), kind: TypeKind::Optional(Box::new(ty)) };
        }
        Some(ty)
    }

    fn named_or_enum(&mut self) -> Option<TypeKind> {
        let first = self.name("a type")?;
        if !self.at("|") {
            return Some(TypeKind::Named(first.node));
        }
        let mut variants: Vec<Name> = vec![first];
        while self.eat("|") {
            variants.push(self.name("a variant")?);
        }
        Some(TypeKind::Enum(variants))
    }

    fn record_field(&mut self) -> Option<RecordField> {
        let doc = self.doc();
        let name = self.name("a field")?;
        self.expect(":")?;
        let ty = self.ty()?;
        let default = if self.eat("=") { Some(self.expr()?) } else { None };
        Some(RecordField { doc, name, ty, default })
    }

    pub(super) fn too_deep<T>(&mut self) -> Option<T> {
        let span = self.here();
        self.report(
            Diagnostic::error("tlm::parse::too_deep", "nested too deeply")
                .label(span, format!("more than {DEPTH_MAX} levels"))
                .help("name a part with `let` and use the name"),
        );
        None
    }
}
