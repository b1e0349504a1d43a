//! The files of a recipe: itself, and those it imports.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::{FileId, SourceMap, text};
use crate::diag::Diagnostic;
use crate::syntax::ast::{self, Expr, ItemKind, Name, UseFrom, UseNames};
use crate::syntax::{self, Unread, parse};

/// How many files one recipe may lead to.
const FILES_MAX: usize = 1000;

/// A recipe and those it imports, each once.
#[derive(Debug)]
pub(super) struct Files {
    /// The first is the recipe itself.
    pub(super) all: Vec<Recipe>,
}

/// One parsed file.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) file: ast::File,
    pub(super) id: FileId,
    /// What paths in it are relative to.
    pub(super) folder: PathBuf,
    /// What it imports, by the place of the item; none where that could not be read.
    pub(super) imports: BTreeMap<usize, Option<usize>>,
    /// What the command line says of its params, later words first.
    pub(super) values: Vec<(Name, Expr)>,
}

impl Files {
    /// Parses the recipe `file`, whose paths are relative to `folder`, and reads what it imports.
    pub(super) fn load(
        sources: &mut SourceMap,
        file: FileId,
        folder: &Path,
        found: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut loader =
            Loader { sources, found, all: Vec::new(), known: BTreeMap::new(), open: Vec::new() };
        loader.add(file, folder.to_owned());
        Self { all: loader.all }
    }

    /// Returns the file that a dotted name leads to, as the recipe's own imports call it, and the name there.
    pub(super) fn resolve<'n>(&self, name: &'n str) -> Option<(usize, &'n str)> {
        self.resolve_from(0, name)
    }

    /// The same for the imports of another file.
    pub(super) fn resolve_from<'n>(&self, file: usize, name: &'n str) -> Option<(usize, &'n str)> {
        let (mut at, mut rest) = (file, name);
        while let Some((alias, inner)) = rest.split_once('.') {
            at = self.all[at].import_called(alias)?;
            rest = inner;
        }
        let taken = self.all[at].import_taking(rest);
        Some((taken.unwrap_or(at), rest))
    }
}

impl Recipe {
    fn import_called(&self, alias: &str) -> Option<usize> {
        self.import(|names| matches!(names, UseNames::Module(Some(name)) if name.node == alias))
    }

    fn import_taking(&self, taken: &str) -> Option<usize> {
        self.import(|names| {
            matches!(names, UseNames::Some(names) if names.iter().any(|name| name.node == taken))
        })
    }

    fn import(&self, is_it: impl Fn(&UseNames) -> bool) -> Option<usize> {
        let named = |at: &usize| match &self.file.items[*at].kind {
            ItemKind::Use(import) => is_it(&import.names),
            _ => false,
        };
        self.imports.iter().find(|(at, _)| named(at)).and_then(|(_, file)| *file)
    }
}

struct Loader<'l> {
    sources: &'l mut SourceMap,
    found: &'l mut Vec<Diagnostic>,
    all: Vec<Recipe>,
    /// Files by their real paths.
    known: BTreeMap<PathBuf, usize>,
    /// Those whose imports are being read.
    open: Vec<usize>,
}

impl Loader<'_> {
    fn add(&mut self, id: FileId, folder: PathBuf) -> usize {
        let parsed = parse(id, self.sources.text(id));
        self.found.extend(parsed.diagnostics);
        let at = self.all.len();
        let own = folder.join(self.sources.path(id).file_name().unwrap_or_default());
        self.known.insert(fs::canonicalize(&own).unwrap_or(own), at);
        let recipe = Recipe {
            file: ast::File::default(),
            id,
            folder,
            imports: BTreeMap::new(),
            values: Vec::new(),
        };
        self.all.push(recipe);
        self.open.push(at);
        let items = parsed.file.items.iter().enumerate();
        let imports = items.filter_map(|(place, item)| match &item.kind {
            ItemKind::Use(ast::Use { from: UseFrom::File(path), .. }) => Some((place, path)),
            _ => None,
        });
        let imports = imports.map(|(place, path)| (place, self.import(at, path))).collect();
        self.open.pop();
        let recipe = &mut self.all[at];
        (recipe.file, recipe.imports) = (parsed.file, imports);
        at
    }

    fn import(&mut self, from: usize, name: &Name) -> Option<usize> {
        let path = self.all[from].folder.join(&name.node);
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(error) => return self.unreadable(name, &path, &error),
        };
        if let Some(known) = self.known.get(&real).copied() {
            return match self.open.contains(&known) {
                true => self.circle(known, name),
                false => Some(known),
            };
        }
        if self.all.len() == FILES_MAX {
            self.found.push(
                Diagnostic::error("tlm::sema::import", "the recipe imports too many files")
                    .label(name.span, format!("more than {FILES_MAX} files"))
                    .help("import fewer"),
            );
            return None;
        }
        let beside = self.sources.path(self.all[from].id).parent();
        let shown = beside.unwrap_or(Path::new("")).join(&name.node);
        match syntax::read(self.sources, &path, &shown) {
            Ok(id) => {
                let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
                Some(self.add(id, folder))
            }
            Err(Unread::Io(error)) => self.unreadable(name, &path, &error),
            Err(Unread::Bad(finding)) => {
                self.found.push(finding.label(name.span, "imported here"));
                None
            }
        }
    }

    fn unreadable(&mut self, name: &Name, path: &Path, error: &io::Error) -> Option<usize> {
        let help = match text::near_file(path) {
            Some(near) if error.kind() == io::ErrorKind::NotFound => {
                format!("there is `{near}` beside it")
            }
            _ => "paths are relative to the file that imports".to_owned(),
        };
        self.found.push(
            Diagnostic::error("tlm::sema::import", format!("can't import `{}`", name.node))
                .label(name.span, error.to_string())
                .help(help),
        );
        None
    }

    fn circle(&mut self, first: usize, name: &Name) -> Option<usize> {
        let from = self.open.iter().skip_while(|at| **at != first);
        let shown = |at: &usize| format!("`{}`", self.sources.path(self.all[*at].id).display());
        let circle: Vec<_> = from.chain([&first]).map(shown).collect();
        self.found.push(
            Diagnostic::error("tlm::sema::import_circle", "recipes import each other in a circle")
                .label(name.span, format!("{} here", circle.join(" imports ")))
                .help("move what both need into a file of its own"),
        );
        None
    }
}
