//! Imports: which names of which module.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::text::did_you_mean;
use crate::diag::Diagnostic;
use crate::sema::lower::{Def, Lower};
use crate::sema::node::Stage;
use crate::syntax::ast::{self, Name, UseNames};

impl Lower<'_> {
    pub(super) fn import(&mut self, import: &ast::Use) {
        let path = match &import.from {
            ast::UseFrom::Std(path) => path,
            ast::UseFrom::File(file) => {
                names_of(&import.names).for_each(|name| self.define(name, Def::Broken));
                self.found.push(
                    Diagnostic::error("tlm::sema::not_yet", "recipes can't be imported yet")
                        .label(file.span, "this tlm only reads it")
                        .help("copy what you need"),
                );
                return;
            }
        };
        let [std, rest @ ..] = &path[..] else { return };
        if std.node != "std" {
            names_of(&import.names).for_each(|name| self.define(name, Def::Broken));
            self.unknown_module(std, ["std"].into_iter());
            return;
        }
        let library = self.library;
        match (rest, &import.names) {
            ([], UseNames::All(_)) => {
                for module in library.modules.keys() {
                    let name = Name { node: module.clone(), span: std.span };
                    self.define(&name, Def::Module(module.clone()));
                }
            }
            ([], UseNames::Some(names)) => {
                names.iter().for_each(|name| self.use_module(name, name));
            }
            ([], UseNames::Module(alias)) => self.define(alias.as_ref().unwrap_or(std), Def::Std),
            ([module], UseNames::Module(alias)) => {
                self.use_module(module, alias.as_ref().unwrap_or(module));
            }
            ([module], names) => match library.modules.get(&module.node) {
                Some(stages) => self.use_stages(module, stages, names),
                None => {
                    names_of(names).for_each(|name| self.define(name, Def::Broken));
                    self.unknown_module(module, library.modules.keys().map(String::as_str));
                }
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

    fn use_module(&mut self, module: &Name, name: &Name) {
        let library = self.library;
        match library.modules.contains_key(&module.node) {
            true => self.define(name, Def::Module(module.node.clone())),
            false => {
                self.define(name, Def::Broken);
                self.unknown_module(module, library.modules.keys().map(String::as_str));
            }
        }
    }

    fn use_stages(
        &mut self,
        module: &Name,
        stages: &BTreeMap<String, Arc<Stage>>,
        names: &UseNames,
    ) {
        match names {
            UseNames::Some(names) => {
                for name in names {
                    match stages.get(&name.node) {
                        Some(stage) => self.define(name, Def::Stage(Arc::clone(stage))),
                        None => {
                            self.define(name, Def::Broken);
                            self.no_such_stage(&module.node, name);
                        }
                    }
                }
            }
            UseNames::All(_) | UseNames::Module(_) => {
                for (name, stage) in stages {
                    let name = Name { node: name.clone(), span: module.span };
                    self.define(&name, Def::Stage(Arc::clone(stage)));
                }
            }
        }
    }

    pub(super) fn unknown_module<'n>(
        &mut self,
        name: &Name,
        known: impl Iterator<Item = &'n str> + Clone,
    ) {
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

    pub(super) fn no_such_stage(&mut self, module: &str, name: &Name) {
        let stages = self.library.modules.get(module);
        let known = stages.into_iter().flat_map(BTreeMap::keys).map(String::as_str);
        let help = match did_you_mean(&name.node, known.clone()) {
            Some(near) => format!("did you mean `{module}.{near}`?"),
            None => format!("`{module}` has {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.found.push(
            Diagnostic::error(
                "tlm::sema::unknown_stage",
                format!("`{module}` has no stage `{}`", name.node),
            )
            .label(name.span, "not a stage")
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
