//! Imports: which names of which module.

use std::path::Path;

use crate::base::text::did_you_mean;
use crate::diag::Diagnostic;
use crate::sema::declare::module_names;
use crate::sema::lower::Lower;
use crate::sema::scope::{Def, Origin, ScopeId};
use crate::syntax::ast::{self, Name, UseFrom, UseNames};

impl<'r> Lower<'r> {
    /// Puts what an import takes into scope. `place` is that of the item in its file.
    pub(super) fn import(&mut self, import: &'r ast::Use, place: usize) {
        match &import.from {
            UseFrom::File(path) => self.import_recipe(path, &import.names, place),
            UseFrom::Std(path) => self.import_std(path, &import.names),
        }
    }

    fn import_recipe(&mut self, path: &'r Name, names: &'r UseNames, place: usize) {
        let Origin::Recipe(own) = self.scopes[self.scope].origin else { return };
        let files = self.files;
        let Some(recipe) = files.all[own].imports.get(&place).copied().flatten() else {
            names_of(names).for_each(|name| self.define_import(name, Def::Broken));
            return;
        };
        let alias = match names {
            UseNames::Module(Some(alias)) => alias.node.as_str(),
            _ => Path::new(&path.node).file_stem().and_then(|stem| stem.to_str()).unwrap_or(""),
        };
        let prefix = format!("{}{alias}.", self.scopes[self.scope].prefix);
        let scope = self.base_scope(recipe, &prefix);
        match names {
            UseNames::Some(names) => self.take(scope, names),
            UseNames::Module(_) | UseNames::All(_) => {
                names_of(names).for_each(|name| self.define_import(name, Def::Scope(scope)));
            }
        }
    }

    fn take(&mut self, scope: ScopeId, names: &'r [Name]) {
        for name in names {
            let def = self.member_of(scope, &name.node);
            if def.is_none() {
                self.unknown_member(scope, name);
            }
            self.define_import(name, def.unwrap_or(Def::Broken));
        }
    }

    fn import_std(&mut self, path: &'r [Name], names: &'r UseNames) {
        let [std, rest @ ..] = path else { return };
        if std.node != "std" {
            names_of(names).for_each(|name| self.define_import(name, Def::Broken));
            self.unknown_module(std, ["std"].into_iter());
            return;
        }
        match (rest, names) {
            ([], UseNames::All(_)) => {
                for module in module_names() {
                    let def = self.std_scope(module).map_or(Def::Broken, Def::Scope);
                    self.put_at(module, std.span, def, false);
                }
            }
            ([], UseNames::Some(names)) => {
                names.iter().for_each(|name| self.use_module(name, name));
            }
            ([], UseNames::Module(alias)) => {
                self.define_import(alias.as_ref().unwrap_or(std), Def::Std);
            }
            ([module], UseNames::Module(alias)) => {
                self.use_module(module, alias.as_ref().unwrap_or(module));
            }
            ([module], names) => match self.module(module) {
                Some(scope) => self.use_members(module, scope, names),
                None => names_of(names).for_each(|name| self.define_import(name, Def::Broken)),
            },
            ([module, inner, ..], _) => self.module_in_module(module, inner),
        }
    }

    fn module_in_module(&mut self, module: &Name, inner: &Name) {
        let (module, name) = (&module.node, &inner.node);
        let message = format!("there is no module `{module}.{name}`");
        self.found.push(
            Diagnostic::error("tlm::sema::unknown_module", message)
                .label(inner.span, "not a module")
                .help(format!("take a stage of a module with `use std.{module}.{{{name}}}`")),
        );
    }

    fn use_module(&mut self, module: &'r Name, name: &'r Name) {
        let def = self.module(module).map_or(Def::Broken, Def::Scope);
        self.define_import(name, def);
    }

    /// Returns the scope of a module of the standard library; told when there is none.
    pub(super) fn module(&mut self, module: &Name) -> Option<ScopeId> {
        let scope = self.std_scope(&module.node);
        if scope.is_none() {
            self.unknown_module(module, module_names());
        }
        scope
    }

    fn use_members(&mut self, module: &'r Name, scope: ScopeId, names: &'r UseNames) {
        match names {
            UseNames::Some(names) => self.take(scope, names),
            UseNames::All(_) | UseNames::Module(_) => {
                for (name, def) in self.members(scope) {
                    self.put_at(name, module.span, def, false);
                }
            }
        }
    }

    fn unknown_module<'n>(&mut self, name: &Name, known: impl Iterator<Item = &'n str> + Clone) {
        let help = match did_you_mean(&name.node, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("modules are {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::unknown_module",
                format!("there is no module `{}`", name.node),
            )
            .label(name.span, "not a module")
            .help(help),
        );
    }
}

/// Returns the names that an import lists.
fn names_of(names: &UseNames) -> impl Iterator<Item = &Name> {
    match names {
        UseNames::Some(names) => names.as_slice(),
        UseNames::Module(Some(name)) => std::slice::from_ref(name),
        UseNames::Module(None) | UseNames::All(_) => &[],
    }
    .iter()
}
