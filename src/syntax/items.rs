//! Items: what stands at the top level of a file.

use super::ast::{
    Artifact, Binding, Expr, ExprKind, Fn, Item, ItemKind, Name, Plan, PlanTerm, Profile, Stage,
    Text, TextPart, Use, UseFrom, UseNames,
};
use super::exprs::{CONSTANTS, RESERVED, plain};
use super::parser::{Element, ITEMS, Parser};
use super::token::{Kind, Symbol};
use crate::base::source::Spanned;
use crate::base::text::did_you_mean;
use crate::diag::Diagnostic;

impl Parser<'_> {
    /// Parses the whole file.
    pub(super) fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        while !self.is_end() {
            let (doc, start, before) = (self.doc(), self.span(), self.position());
            match self.item() {
                Some(kind) => {
                    items.push(Item { doc, span: self.since(start), kind });
                    self.item_end();
                }
                None if self.position() == before || !self.at_item() => self.skip_item(),
                None => {}
            }
        }
        items
    }

    /// An item ends where the next one starts.
    fn item_end(&mut self) {
        let starts = self.peek().first;
        if self.is_end() || self.at_item() || (starts && self.peek().kind == Kind::Word) {
            return;
        }
        if ITEMS.contains(&self.word()) {
            self.unexpected("a new line before the next item");
            return;
        }
        if !self.has_reported() {
            self.unexpected("an operator or the next item");
        }
        self.skip_item();
    }

    fn item(&mut self) -> Option<ItemKind> {
        let keyword = match self.word() {
            word if ITEMS.contains(&word) => word,
            _ => self.unknown_item()?,
        };
        self.bump();
        match keyword {
            "use" => self.import().map(ItemKind::Use),
            "param" => self.binding(true).map(ItemKind::Param),
            "axis" => self.binding(true).map(ItemKind::Axis),
            "let" => self.binding(true).map(ItemKind::Let),
            "profile" => self.profile().map(ItemKind::Profile),
            "fn" => self.function().map(ItemKind::Fn),
            "stage" => self.stage().map(ItemKind::Stage),
            "artifact" => self.artifact().map(ItemKind::Artifact),
            "plan" => self.plan().map(ItemKind::Plan),
            _ => self.binding(false).map(ItemKind::Report),
        }
    }

    /// Reports what starts no item; returns the keyword it was surely meant to be.
    fn unknown_item(&mut self) -> Option<&'static str> {
        let word = self.word();
        let meant = did_you_mean(word, ITEMS).filter(|_| !word.is_empty());
        if word.is_empty() {
            self.unexpected("an item");
            return None;
        }
        let help = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if self.peek_nth(1).kind == Kind::Symbol(Symbol::Eq) => {
                format!("write `let {word} = ...`")
            }
            None => format!(
                "start a line with one of {}",
                ITEMS.map(|item| format!("`{item}`")).join(", ")
            ),
        };
        let diagnostic = Diagnostic::error(
            "tlm::parse::unknown_item",
            format!("expected an item, found `{word}`"),
        )
        .label(self.span(), "no item starts like this")
        .help(help);
        self.report(diagnostic);
        meant.filter(|_| self.peek_nth(1).kind == Kind::Word)
    }

    /// Parses `= expression`; what is missing becomes an error node, so that the name is known.
    fn value(&mut self) -> Expr {
        if self.expect(Symbol::Eq) { self.expr() } else { self.error() }
    }

    fn binding(&mut self, typed: bool) -> Option<Binding> {
        let name = self.defined_name()?;
        let ty = if typed { self.annotation() } else { None };
        let range = if ty.is_some() && self.eat_word("in") { self.range() } else { None };
        Some(Binding { name, ty, range, value: self.value() })
    }

    fn profile(&mut self) -> Option<Profile> {
        let name = self.defined_name()?;
        if !self.expect(Symbol::Eq) {
            return None;
        }
        if !self.at(Symbol::OpenBrace) {
            self.unexpected("`{`");
            return None;
        }
        Some(Profile { name, values: self.path_values("a param") })
    }

    /// Consumes a name that expressions can use.
    fn defined_name(&mut self) -> Option<Name> {
        let name = self.name("a name")?;
        if RESERVED.iter().chain(&CONSTANTS).any(|word| *word == name.node) {
            self.report_past(
                Diagnostic::error(
                    "tlm::parse::reserved",
                    format!("`{}` has a meaning of its own", name.node),
                )
                .label(name.span, "can't be a name")
                .help("choose another name"),
            );
        }
        Some(name)
    }

    fn import(&mut self) -> Option<Use> {
        if let Some(file) = self.plain_text() {
            let from = UseFrom::File(file);
            if self.eat(Symbol::Dot) {
                return Some(Use { from, names: UseNames::Some(self.names()) });
            }
            self.expect_word("as")?;
            let alias = self.defined_name()?;
            return Some(Use { from, names: UseNames::Module(Some(alias)) });
        }
        let mut path = vec![self.name("a module, such as `std`, or a file")?];
        while self.eat(Symbol::Dot) {
            if self.at(Symbol::Star) {
                let names = UseNames::All(self.bump());
                return Some(Use { from: UseFrom::Std(path), names });
            }
            if self.at(Symbol::OpenBrace) {
                let names = UseNames::Some(self.names());
                return Some(Use { from: UseFrom::Std(path), names });
            }
            path.push(self.name("a module, `*` or `{`")?);
        }
        let alias = if self.eat_word("as") { self.defined_name() } else { None };
        Some(Use { from: UseFrom::Std(path), names: UseNames::Module(alias) })
    }

    /// Consumes a text without holes, if there is one.
    fn plain_text(&mut self) -> Option<Name> {
        let node = plain(self.take_parts()?).unwrap_or_else(|_| {
            self.unexpected("a text without `{...}`");
            String::new()
        });
        Some(Spanned { node, span: self.bump() })
    }

    fn names(&mut self) -> Vec<Name> {
        let mut names = Vec::new();
        self.list(false, |parser| {
            names.extend(parser.name("a name"));
            Element::Item
        });
        names
    }

    fn function(&mut self) -> Option<Fn> {
        let name = self.name("a name")?;
        let (inputs, params) = self.parameters()?;
        let result = if self.eat(Symbol::Arrow) { self.ty() } else { None };
        Some(Fn { name, inputs, params, result, body: self.value() })
    }

    fn stage(&mut self) -> Option<Stage> {
        let name = self.name("a name")?;
        let (inputs, params) = self.parameters()?;
        if !self.expect(Symbol::Arrow) {
            return None;
        }
        let result = self.ty()?;
        if !self.eat_word("version") {
            self.unexpected("`version`");
            return None;
        }
        let (node, span) = self.whole()?;
        let tensor = self.eat_word("tensor");
        let version = Spanned { node, span };
        let one_of = self.one_of()?;
        let (uses, shell) = (self.uses(), self.shell());
        Some(Stage { name, inputs, params, result, version, tensor, one_of, uses, shell })
    }

    fn one_of(&mut self) -> Option<Vec<Name>> {
        let mut names = Vec::new();
        if self.eat_word("one") {
            self.expect_word("of")?;
            names.push(self.name("a parameter")?);
            while self.eat(Symbol::Comma) {
                names.push(self.name("a parameter")?);
            }
        }
        Some(names)
    }

    fn uses(&mut self) -> Vec<Name> {
        let mut files = Vec::new();
        if self.eat_word("uses") {
            loop {
                match self.plain_text() {
                    Some(file) => files.push(file),
                    None => self.unexpected("a file, such as `\"clean.py\"`"),
                }
                if !self.eat(Symbol::Comma) {
                    break;
                }
            }
        }
        files
    }

    fn shell(&mut self) -> Option<Spanned<Text>> {
        if !self.eat_word("shell") {
            return None;
        }
        let Some(parts) = self.take_parts() else {
            self.unexpected("a command, such as `\"python3 clean.py {raw} {out}\"`");
            return None;
        };
        let span = self.bump();
        let node = match self.text(parts) {
            ExprKind::Text(text) => text,
            ExprKind::Str(text) => Text { parts: vec![TextPart::Literal(text)] },
            _ => Text { parts: Vec::new() },
        };
        Some(Spanned { node, span })
    }

    fn artifact(&mut self) -> Option<Artifact> {
        let name = self.name("a name")?;
        let mut fields = Vec::new();
        if self.at(Symbol::OpenBrace) {
            self.list(false, |parser| {
                fields.extend(parser.typed_name("a field"));
                Element::Item
            });
        }
        Some(Artifact { name, fields })
    }

    fn plan(&mut self) -> Option<Plan> {
        let name = self.name("a name")?;
        let mut terms = vec![];
        let target = self.value();
        terms.push(self.plan_term(target));
        while self.eat(Symbol::Bar) {
            let target = self.expr();
            terms.push(self.plan_term(target));
        }
        Some(Plan { name, terms })
    }

    /// Parses what follows a plan's target: `vary a, b over c * d each e where f`.
    fn plan_term(&mut self, target: Expr) -> PlanTerm {
        let (vary, over, each) = (Vec::new(), Vec::new(), Vec::new());
        let mut term = PlanTerm { target, vary, over, each, filter: None };
        loop {
            let word = self.word();
            let (names, separator) = match word {
                "vary" => (&mut term.vary, Symbol::Comma),
                "over" => (&mut term.over, Symbol::Star),
                "each" => (&mut term.each, Symbol::Comma),
                "where" if term.filter.is_none() => {
                    self.bump();
                    term.filter = Some(self.expr());
                    continue;
                }
                _ => return term,
            };
            if !names.is_empty() || self.at_item() {
                return term;
            }
            self.bump();
            names.extend(self.path("an axis"));
            while self.eat(separator) && !self.at_item() && !self.is_end() {
                names.extend(self.path("an axis"));
            }
            if names.is_empty() {
                return term;
            }
        }
    }
}
