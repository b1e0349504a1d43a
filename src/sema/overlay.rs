//! What the command line changes: a profile, values of params, axes, and which points count. The last one counts.

use std::collections::BTreeSet;

use crate::base::source::Spanned;
use crate::base::text::did_you_mean;
use crate::base::{SourceMap, Span};
use crate::diag::Diagnostic;
use crate::sema::Overlay;
use crate::sema::files::{Files, Recipe};
use crate::syntax::ast::{Binding, Expr, ExprKind, File, ItemKind, Name, TypeKind};
use crate::syntax::parse_expr;

/// An overlay, parsed; values of params and axes are in the files already.
#[derive(Debug, Default)]
pub(super) struct Overlaid {
    /// Axes that `--axis` named: plans go over them though they do not say so.
    pub(super) swept: Vec<String>,
    /// For an axis, the values that count, as a list.
    pub(super) only: Vec<(Name, Expr)>,
}

/// Parses an overlay, and changes the files where it says more than another value.
pub(super) fn apply(
    files: &mut Files,
    overlay: &Overlay,
    sources: &mut SourceMap,
    found: &mut Vec<Diagnostic>,
) -> Overlaid {
    let mut overlaid = Overlaid::default();
    let mut reader = Reader { sources, found };
    for (name, text) in overlay.set.iter().rev() {
        if let Some((recipe, own)) = reader.place("-s", name, files) {
            let given = reader.value(recipe, "-s", own, text);
            recipe.values.push(given);
        }
    }
    if let Some(name) = &overlay.profile {
        reader.profile(files, name);
    }
    for (name, text) in &overlay.axes {
        let Some((recipe, own)) = reader.place("--axis", name, files) else { continue };
        let (own, list) = reader.list(recipe, "--axis", own, text);
        recipe.values.retain(|(other, _)| other.node != own.node);
        overlaid.swept.push(name.clone());
        set_axis(&mut recipe.file, &own, list, reader.found);
    }
    for (name, text) in &overlay.only {
        if let Some((recipe, own)) = reader.place("--only", name, files) {
            let (own, list) = reader.list(recipe, "--only", own, text);
            overlaid.only.push((Name { node: name.clone(), span: own.span }, list));
        }
    }
    overlaid
}

fn is_axis(file: &File, name: &str) -> bool {
    let is_it = |kind: &ItemKind| matches!(kind, ItemKind::Axis(axis) if axis.name.node == name);
    file.items.iter().any(|item| is_it(&item.kind))
}

/// Gives an axis other values, or makes a param one.
fn set_axis(file: &mut File, name: &Name, list: Expr, found: &mut Vec<Diagnostic>) {
    for item in &mut file.items {
        match &mut item.kind {
            ItemKind::Axis(axis) if axis.name.node == name.node => {
                axis.value = list;
                return;
            }
            ItemKind::Param(param) if param.name.node == name.node => {
                let mut axis = param.clone();
                axis.value = list;
                item.kind = ItemKind::Axis(axis);
                return;
            }
            _ => {}
        }
    }
    found.push(unknown(file, name));
}

fn unknown(file: &File, name: &Name) -> Diagnostic {
    let names = file.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Param(binding) | ItemKind::Axis(binding) => Some(binding.name.node.as_str()),
        _ => None,
    });
    let message = format!("the recipe has no param or axis `{}`", name.node);
    let finding =
        Diagnostic::error("tlm::sema::unknown_param", message).label(name.span, "no such name");
    match did_you_mean(&name.node, names) {
        Some(near) => finding.help(format!("did you mean `{near}`?")),
        None => finding.help("name a param or an axis of the recipe"),
    }
}

/// Reads what the command line says.
struct Reader<'o> {
    sources: &'o mut SourceMap,
    found: &'o mut Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Returns the file that a name on the command line leads to, and the name there.
    fn place<'f, 'n>(
        &mut self,
        flag: &str,
        name: &'n str,
        files: &'f mut Files,
    ) -> Option<(&'f mut Recipe, &'n str)> {
        if let Some((at, own)) = files.resolve(name) {
            return Some((&mut files.all[at], own));
        }
        let id = self.sources.add(format!("{flag} {name}"), name);
        let message = format!("the recipe imports nothing that `{name}` could be in");
        self.found.push(
            Diagnostic::error("tlm::sema::unknown_param", message)
                .label(Span::new(id, 0, name.len()), "no such name")
                .help("before the `.` stands what an import is called: `use \"b0.tlm\" as b0`"),
        );
        None
    }

    /// Takes over the values of a profile, in each file that has it.
    fn profile(&mut self, files: &mut Files, name: &str) {
        let (mut known, mut has) = (BTreeSet::new(), false);
        for at in 0..files.all.len() {
            let profiles = files.all[at].file.items.iter().filter_map(|item| match &item.kind {
                ItemKind::Profile(profile) => Some(profile),
                _ => None,
            });
            known.extend(profiles.clone().map(|profile| profile.name.node.clone()));
            let mut profiles = profiles.filter(|profile| profile.name.node == name);
            let Some(profile) = profiles.next().cloned() else { continue };
            has = true;
            for (name, value) in profile.values {
                // What leads nowhere is told where all profiles are checked.
                let Some((to, own)) = files.resolve_from(at, &name.node) else { continue };
                let own = Name { node: own.to_owned(), span: name.span };
                let recipe = &mut files.all[to];
                match is_axis(&recipe.file, &own.node) {
                    true => set_axis(&mut recipe.file, &own, value, self.found),
                    false => recipe.values.push((own, value)),
                }
            }
        }
        if !has {
            let known = known.iter().map(String::as_str);
            let help = match did_you_mean(name, known.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.clone().next().is_none() => {
                    format!("add one: `profile {name} = {{ param: value }}`")
                }
                None => format!("profiles are {}", known.collect::<Vec<_>>().join(", ")),
            };
            let message = format!("the recipe has no profile `{name}`");
            self.found.push(Diagnostic::error("tlm::sema::unknown_profile", message).help(help));
        }
    }

    /// Parses a value.
    fn value(&mut self, recipe: &Recipe, flag: &str, name: &str, text: &str) -> (Name, Expr) {
        let id = self.sources.add(format!("{flag} {name}"), text);
        let span = Span::new(id, 0, text.len());
        let is_bare = declared(&recipe.file, name).is_some_and(|binding| {
            let is_none = text == "none" && takes_none(binding);
            takes_text(binding) && !text.starts_with('"') && !is_none
        });
        let expr = match is_bare {
            true => Expr { span, kind: ExprKind::Str(text.to_owned()) },
            false => {
                let (expr, errors) = parse_expr(id, text);
                self.found.extend(errors);
                expr
            }
        };
        (Spanned { node: name.to_owned(), span: expr.span }, expr)
    }

    /// Parses values with commas between them.
    fn list(&mut self, recipe: &Recipe, flag: &str, name: &str, text: &str) -> (Name, Expr) {
        let takes_text = declared(&recipe.file, name).is_some_and(takes_text);
        if takes_text && !text.starts_with('"') {
            let items: Vec<_> =
                text.split(',').map(|item| self.value(recipe, flag, name, item).1).collect();
            let span = items.first().map_or(Span::new(recipe.id, 0, 0), |item| item.span);
            let name = Spanned { node: name.to_owned(), span };
            return (name, Expr { span, kind: ExprKind::List(items) });
        }
        let id = self.sources.add(format!("{flag} {name}"), format!("[{text}]"));
        let (expr, errors) = parse_expr(id, self.sources.text(id));
        self.found.extend(errors);
        (Spanned { node: name.to_owned(), span: expr.span }, expr)
    }
}

/// Returns the param or axis of a name.
fn declared<'f>(file: &'f File, name: &str) -> Option<&'f Binding> {
    file.items.iter().find_map(|item| match &item.kind {
        ItemKind::Param(binding) | ItemKind::Axis(binding) if binding.name.node == name => {
            Some(binding)
        }
        _ => None,
    })
}

/// Returns whether a param or axis takes texts, which need no quotes on the command line.
fn takes_text(binding: &Binding) -> bool {
    let is_text = |expr: &Expr| matches!(expr.kind, ExprKind::Str(_));
    match (&binding.ty, &binding.value.kind) {
        (Some(ty), _) => is_text_type(&ty.kind),
        (None, ExprKind::List(items)) => items.first().is_some_and(is_text),
        (None, _) => is_text(&binding.value),
    }
}

/// Returns whether a param or axis may be `none`.
fn takes_none(binding: &Binding) -> bool {
    matches!(&binding.ty, Some(ty) if matches!(ty.kind, TypeKind::Optional(_)))
}

fn is_text_type(kind: &TypeKind) -> bool {
    match kind {
        TypeKind::Named(name) => name == "Str" || name == "Path",
        TypeKind::Optional(inner) => is_text_type(&inner.kind),
        _ => false,
    }
}
