//! Scopes: the names of a file. A recipe that is imported is one scope, and one more for each `with { }`; all that these
//! change is what some params and axes are.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use crate::base::text::did_you_mean;
use crate::base::{FastMap, Span, Value};
use crate::diag::Diagnostic;
use crate::sema::lower::{AxisItem, FunctionItem, Item, Lower, Role, State};
use crate::sema::node::{AxisId, BindingId, FunctionId, Kind, Node, Stage};
use crate::sema::ty::Ty;
use crate::sema::value::Val;
use crate::syntax::ast::{self, Expr, ExprKind, ItemKind, Name};

/// A scope by its place in [`Lower::scopes`].
pub(super) type ScopeId = usize;

/// The scope of the recipe itself.
pub(super) const MAIN: ScopeId = 0;

/// How many scopes there may be: recipes that change each other twice could ask for any number.
const SCOPES_MAX: usize = 2000;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Def {
    /// What could not be read; told already.
    Broken,
    /// `std`
    Std,
    /// A module of it, or another recipe.
    Scope(ScopeId),
    Stage(Arc<Stage>),
    Binding(BindingId),
    Function(FunctionId),
    Axis(AxisId),
}

/// The names of a file.
pub(super) struct Scope<'r> {
    pub(super) origin: Origin,
    /// What is before the names of what it makes: `b0.`.
    pub(super) prefix: String,
    names: FastMap<&'r str, Entry>,
    /// What `with` changes.
    given: Vec<Given<'r>>,
}

/// Where a scope's names come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// A module of the standard library.
    Std(&'static str),
    /// A file, by its place in `Files`.
    Recipe(usize),
}

#[derive(Clone, Debug)]
struct Entry {
    def: Def,
    span: Span,
    /// Whether it is defined here, not imported.
    own: bool,
}

/// A value for a param or an axis of another recipe.
#[derive(Clone, Copy)]
pub(super) struct Given<'r> {
    pub(super) name: &'r Name,
    pub(super) value: &'r Expr,
    /// What names in the value mean.
    pub(super) scope: ScopeId,
}

impl<'r> Lower<'r> {
    // ---- making scopes

    /// Returns the scope of a module of the standard library.
    pub(super) fn std_scope(&mut self, module: &str) -> Option<ScopeId> {
        let library = self.library;
        let (module, file) = library.files.iter().find(|(name, _)| *name == module)?;
        if let Some(known) = self.bases.get(&Origin::Std(module)) {
            return Some(*known);
        }
        Some(self.scope(Origin::Std(module), &file.items, String::new(), Vec::new()))
    }

    /// Returns the scope of another recipe as it is.
    pub(super) fn base_scope(&mut self, recipe: usize, prefix: &str) -> ScopeId {
        match self.bases.get(&Origin::Recipe(recipe)) {
            Some(known) => *known,
            None => self.recipe_scope(recipe, prefix.to_owned(), Vec::new()),
        }
    }

    pub(super) fn recipe_scope(
        &mut self,
        recipe: usize,
        prefix: String,
        given: Vec<Given<'r>>,
    ) -> ScopeId {
        let files = self.files;
        self.scope(Origin::Recipe(recipe), &files.all[recipe].file.items, prefix, given)
    }

    fn scope(
        &mut self,
        origin: Origin,
        items: &'r [ast::Item],
        prefix: String,
        given: Vec<Given<'r>>,
    ) -> ScopeId {
        let id = self.scopes.len();
        let base = self.bases.get(&origin).copied();
        if base.is_none() {
            self.bases.insert(origin, id);
        }
        self.scopes.push(Scope { origin, prefix, names: FastMap::default(), given });
        let from = self.items.len();
        self.within(id, |lower| lower.declare(items, base));
        // Of a recipe that is changed, only what is used is looked at.
        if base.is_none() {
            self.in_order(from..self.items.len());
        }
        id
    }

    /// Returns whether a scope is that of a file as it is.
    pub(super) fn is_base(&self, scope: ScopeId) -> bool {
        self.bases.get(&self.scopes[scope].origin) == Some(&scope)
    }

    /// Lowers with the names of a scope, and those alone.
    pub(super) fn within<T>(&mut self, scope: ScopeId, lower: impl FnOnce(&mut Self) -> T) -> T {
        let outer = mem::replace(&mut self.scope, scope);
        let locals = mem::take(&mut self.locals);
        let value = lower(self);
        (self.scope, self.locals) = (outer, locals);
        value
    }

    /// Puts every name of a file into scope. `base` is the scope of the same file as it is, if this one changes it.
    fn declare(&mut self, items: &'r [ast::Item], base: Option<ScopeId>) {
        let given = self.given();
        let base = base.map(|base| (base, Changed::new(items, &given)));
        for (place, item) in items.iter().enumerate() {
            match &item.kind {
                ItemKind::Use(import) => self.import(import, place),
                ItemKind::Param(param) => {
                    let value = given.iter().find(|given| given.name.node == param.name.node);
                    let (value, scope) = value
                        .map_or((&param.value, self.scope), |given| (given.value, given.scope));
                    self.add_binding(param, value, scope, Role::Param);
                }
                ItemKind::Let(binding) => {
                    self.add_binding(binding, &binding.value, self.scope, Role::Let);
                }
                ItemKind::Axis(axis) => {
                    let name = axis.name.node.as_str();
                    let value = given.iter().find(|given| given.name.node == name);
                    match (value, &base) {
                        (Some(given), _) => {
                            self.add_binding(axis, given.value, given.scope, Role::Fixed);
                        }
                        (None, Some((base, changed))) if !changed.reaches(&axis.value) => {
                            let shared = self.look_up_in(*base, name).unwrap_or(Def::Broken);
                            self.define(&axis.name, shared);
                        }
                        (None, _) => self.add_axis(axis),
                    }
                }
                ItemKind::Fn(function) => {
                    self.define(&function.name, Def::Function(self.function_items.len()));
                    self.function_items.push(FunctionItem { item: function, scope: self.scope });
                    self.functions.push(State::Todo);
                }
                ItemKind::Stage(stage) => self.add_stage(stage),
                ItemKind::Artifact(_)
                | ItemKind::Plan(_)
                | ItemKind::Report(_)
                | ItemKind::Profile(_) => {}
            }
        }
        for given in &given {
            let is_given = |kind: &ItemKind| match kind {
                ItemKind::Param(own) | ItemKind::Axis(own) => own.name.node == given.name.node,
                _ => false,
            };
            if !items.iter().any(|item| is_given(&item.kind)) {
                self.unknown_param(items, given.name);
            }
        }
    }

    /// Returns what params and axes of the scope get: first what `with` says, then what the command line does.
    fn given(&self) -> Vec<Given<'r>> {
        let scope = &self.scopes[self.scope];
        let mut given = scope.given.clone();
        if let Origin::Recipe(recipe) = scope.origin {
            let files = self.files;
            let values = files.all[recipe].values.iter();
            given.extend(values.map(|(name, value)| Given { name, value, scope: self.scope }));
        }
        given
    }

    fn add_binding(
        &mut self,
        item: &'r ast::Binding,
        value: &'r Expr,
        value_scope: ScopeId,
        role: Role,
    ) {
        self.define(&item.name, Def::Binding(self.items.len()));
        let name = self.full_name(&item.name);
        self.items.push(Item { name, item, scope: self.scope, value, value_scope, role });
        self.bindings.push(State::Todo);
    }

    fn add_axis(&mut self, item: &'r ast::Binding) {
        self.define(&item.name, Def::Axis(self.axis_items.len()));
        let name = self.full_name(&item.name);
        self.axis_items.push(AxisItem { name, item, scope: self.scope });
        self.axes.push(State::Todo);
    }

    /// Returns a name of the scope as the recipe itself calls it: `b0.m`.
    fn full_name(&self, name: &Name) -> String {
        format!("{}{}", self.scopes[self.scope].prefix, name.node)
    }

    fn add_stage(&mut self, stage: &'r ast::Stage) {
        let def = match self.scopes[self.scope].origin {
            Origin::Std(module) => {
                let stages = self.library.modules.get(module);
                let stage = stages.and_then(|stages| stages.get(&stage.name.node));
                stage.map_or(Def::Broken, |stage| Def::Stage(Arc::clone(stage)))
            }
            Origin::Recipe(_) => self.own_stage(stage),
        };
        self.define(&stage.name, def);
    }

    // ---- names

    pub(super) fn define(&mut self, name: &'r Name, def: Def) {
        self.put_at(&name.node, name.span, def, true);
    }

    /// Defines a name that is another scope's.
    pub(super) fn define_import(&mut self, name: &'r Name, def: Def) {
        self.put_at(&name.node, name.span, def, false);
    }

    /// Defines a name at a place where it is not written.
    pub(super) fn put_at(&mut self, name: &'r str, span: Span, def: Def, own: bool) {
        let names = &mut self.scopes[self.scope].names;
        if let Some(first) = names.get(name) {
            let first = first.span;
            self.found.push(
                Diagnostic::error("tlm::sema::duplicate", format!("`{name}` is defined twice"))
                    .label(span, "here again")
                    .label(first, "first here")
                    .help("give one of them another name"),
            );
            return;
        }
        names.insert(name, Entry { def, span, own });
    }

    /// Returns what a name stands for, without a word when it stands for nothing.
    pub(super) fn look_up(&self, name: &str) -> Option<Def> {
        self.look_up_in(self.scope, name)
    }

    pub(super) fn look_up_in(&self, scope: ScopeId, name: &str) -> Option<Def> {
        self.scopes[scope].names.get(name).map(|entry| entry.def.clone())
    }

    /// Returns all names of the scope, in order.
    pub(super) fn known_names(&self) -> Vec<&'r str> {
        let mut names: Vec<_> = self.scopes[self.scope].names.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// Returns all that a scope itself defines, by name.
    pub(super) fn members(&self, scope: ScopeId) -> Vec<(&'r str, Def)> {
        let own = self.scopes[scope].names.iter().filter(|(_, entry)| entry.own);
        let mut members: Vec<_> = own.map(|(name, entry)| (*name, entry.def.clone())).collect();
        members.sort_unstable_by_key(|(name, _)| *name);
        members
    }

    /// Returns what a scope itself defines under a name.
    pub(super) fn member_of(&self, scope: ScopeId, name: &str) -> Option<Def> {
        let entry = self.scopes[scope].names.get(name).filter(|entry| entry.own)?;
        Some(entry.def.clone())
    }

    /// Returns what a dotted name stands for.
    pub(super) fn resolve(&mut self, name: &str) -> Option<Def> {
        let mut parts = name.split('.');
        let mut def = self.look_up(parts.next()?)?;
        for part in parts {
            let scope = self.scope_behind(&def)?;
            def = self.member_of(scope, part)?;
        }
        Some(def)
    }

    /// Returns the scope of what a name stands for, if that has names in it.
    pub(super) fn scope_behind(&mut self, def: &Def) -> Option<ScopeId> {
        match def {
            Def::Scope(scope) => Some(*scope),
            Def::Binding(id) => match self.binding(*id).0 {
                Ty::Recipe(scope) => Some(scope),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the scope that an expression names; an error when it should name one and does not.
    pub(super) fn scope_of(&mut self, base: &Expr) -> Option<Result<ScopeId, ()>> {
        match &base.kind {
            ExprKind::Name(name) => {
                if self.is_local(name) {
                    return None;
                }
                match self.look_up(name) {
                    Some(Def::Scope(scope)) => Some(Ok(scope)),
                    Some(Def::Broken) => Some(Err(())),
                    _ => None,
                }
            }
            ExprKind::Field(inner, module) => match &inner.kind {
                ExprKind::Name(std) if matches!(self.look_up(std), Some(Def::Std)) => {
                    Some(self.module(module).ok_or(()))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Lowers `b0.name`.
    pub(super) fn member(&mut self, scope: ScopeId, name: &Name, span: Span) -> (Node, Ty) {
        match self.member_of(scope, &name.node) {
            Some(def) => self.meaning(def, &name.node, span),
            None => {
                self.unknown_member(scope, name);
                Self::error(span)
            }
        }
    }

    /// Returns a recipe as a value.
    pub(super) fn recipe_value(scope: ScopeId, span: Span) -> (Node, Ty) {
        (Node { span, kind: Kind::Const(Val::Plain(Value::Null)) }, Ty::Recipe(scope))
    }

    pub(super) fn unknown_member(&mut self, scope: ScopeId, name: &Name) {
        let known: Vec<_> = self.members(scope).into_iter().map(|(name, _)| name).collect();
        let (code, what, noun) = match self.scopes[scope].origin {
            Origin::Std(module) => ("tlm::sema::unknown_stage", module.to_owned(), "stage"),
            Origin::Recipe(recipe) => {
                let path = self.sources.path(self.files.all[recipe].id);
                ("tlm::sema::unknown_member", path.display().to_string(), "value")
            }
        };
        let help = match did_you_mean(&name.node, known.iter().copied()) {
            Some(near) if noun == "stage" => format!("did you mean `{what}.{near}`?"),
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("`{what}` defines nothing"),
            None => format!("`{what}` has {}", known.join(", ")),
        };
        self.found.push(
            Diagnostic::error(code, format!("`{what}` has no {noun} `{}`", name.node))
                .label(name.span, format!("not a {noun}"))
                .help(help),
        );
    }

    fn unknown_param(&mut self, items: &[ast::Item], name: &Name) {
        let params = items.iter().filter_map(|item| match &item.kind {
            ItemKind::Param(param) => Some(param.name.node.as_str()),
            ItemKind::Axis(axis) if self.scope != MAIN => Some(axis.name.node.as_str()),
            _ => None,
        });
        let params: BTreeSet<_> = params.collect();
        let is_axis = |item: &ast::Item| matches!(&item.kind, ItemKind::Axis(axis) if axis.name.node == name.node);
        let help = match did_you_mean(&name.node, params.iter().copied()) {
            _ if items.iter().any(is_axis) => {
                format!("it is an axis: give it values with `--axis {}=a,b`", name.node)
            }
            Some(near) => format!("did you mean `{near}`?"),
            None if params.is_empty() => "the recipe has no params".to_owned(),
            None => {
                let names: Vec<_> = params.into_iter().collect();
                format!("params are {}", names.join(", "))
            }
        };
        let message = format!("the recipe has no param `{}`", name.node);
        self.found.push(
            Diagnostic::error("tlm::sema::unknown_param", message)
                .label(name.span, "no such param")
                .help(help),
        );
    }

    // ---- recipes as values

    /// Lowers `b0 with { rate: 25% }`.
    pub(super) fn with_recipe(
        &mut self,
        base: ScopeId,
        fields: &'r [(Name, Expr)],
        span: Span,
    ) -> (Node, Ty) {
        let Origin::Recipe(recipe) = self.scopes[base].origin else { return Self::error(span) };
        if self.scopes.len() == SCOPES_MAX {
            self.found.push(
                Diagnostic::error("tlm::eval::too_much", "recipes are changed too often")
                    .label(span, format!("given up here, after {SCOPES_MAX} times"))
                    .help("change a recipe once, with an axis for what differs"),
            );
        }
        if self.scopes.len() >= SCOPES_MAX {
            return Self::error(span);
        }
        for (_, value) in fields {
            let mut local = None;
            value.walk(&mut |part| match &part.kind {
                ExprKind::Name(name) if self.is_local(name) => {
                    local = Some((name.clone(), part.span));
                }
                _ => {}
            });
            if let Some((name, place)) = local {
                self.local_in_recipe(&name, place);
                return Self::error(span);
            }
        }
        let scope = self.scope;
        let own = fields.iter().map(|(name, value)| Given { name, value, scope });
        let given = own.chain(self.scopes[base].given.iter().copied()).collect();
        let prefix = match &self.naming {
            Some(name) => format!("{name}."),
            None => self.scopes[base].prefix.clone(),
        };
        let scope = self.recipe_scope(recipe, prefix, given);
        Self::recipe_value(scope, span)
    }

    fn local_in_recipe(&mut self, name: &str, span: Span) {
        self.found.push(
            Diagnostic::error(
                "tlm::sema::local_in_recipe",
                "a recipe can't be changed by what a function takes",
            )
            .label(span, format!("`{name}` is known only in a call"))
            .help("change it outside with a param or an axis, and hand its values to the function"),
        );
    }
}

/// Names of a file whose values differ from the file as it is.
struct Changed<'a> {
    names: BTreeSet<&'a str>,
}

impl<'a> Changed<'a> {
    fn new(items: &'a [ast::Item], given: &[Given<'a>]) -> Self {
        let mut changed = Self { names: given.iter().map(|given| &*given.name.node).collect() };
        // What a changed name reaches is changed too.
        loop {
            let before = changed.names.len();
            for item in items {
                let (name, value) = match &item.kind {
                    ItemKind::Let(own) | ItemKind::Param(own) => (&own.name, &own.value),
                    ItemKind::Fn(function) => (&function.name, &function.body),
                    _ => continue,
                };
                if changed.reaches(value) {
                    changed.names.insert(&name.node);
                }
            }
            if changed.names.len() == before || changed.names.is_empty() {
                return changed;
            }
        }
    }

    fn reaches(&self, value: &Expr) -> bool {
        let mut found = false;
        value.walk(&mut |expr| {
            if let ExprKind::Name(name) = &expr.kind {
                found |= self.names.contains(name.as_str());
            }
        });
        found
    }
}
