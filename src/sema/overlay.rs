//! What the command line changes: a profile, values of params, axes, and which points count. The last one counts.

use crate::base::source::Spanned;
use crate::base::text::did_you_mean;
use crate::base::{SourceMap, Span};
use crate::diag::Diagnostic;
use crate::sema::Overlay;
use crate::syntax::ast::{Expr, ExprKind, File, ItemKind, Name, TypeKind};
use crate::syntax::parse_expr;

/// An overlay, parsed; axes are in the tree already.
#[derive(Debug, Default)]
pub(super) struct Overlaid {
    /// Values of params, later ones first.
    pub(super) values: Vec<(Name, Expr)>,
    /// Axes that `--axis` named: plans go over them though they do not say so.
    pub(super) swept: Vec<String>,
    /// For an axis, the values that count, as a list.
    pub(super) only: Vec<(Name, Expr)>,
}

/// Parses an overlay, and changes the tree where it says more than another value.
pub(super) fn apply(
    file: &mut File,
    overlay: &Overlay,
    sources: &mut SourceMap,
    found: &mut Vec<Diagnostic>,
) -> Overlaid {
    let mut overlaid = Overlaid::default();
    for (name, text) in overlay.set.iter().rev() {
        overlaid.values.push(value(file, "-s", name, text, sources, found));
    }
    if let Some(name) = &overlay.profile {
        profile(file, name, &mut overlaid, found);
    }
    for (name, text) in &overlay.axes {
        let (name, list) = list(file, "--axis", name, text, sources, found);
        overlaid.values.retain(|(other, _)| other.node != name.node);
        overlaid.swept.push(name.node.clone());
        set_axis(file, &name, list, found);
    }
    for (name, text) in &overlay.only {
        overlaid.only.push(list(file, "--only", name, text, sources, found));
    }
    overlaid
}

/// Takes over the values of a profile.
fn profile(file: &mut File, name: &str, overlaid: &mut Overlaid, found: &mut Vec<Diagnostic>) {
    let profiles = file.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Profile(profile) => Some(profile),
        _ => None,
    });
    let known: Vec<_> = profiles.clone().map(|profile| profile.name.node.clone()).collect();
    let Some(profile) = profiles.clone().find(|profile| profile.name.node == name).cloned() else {
        let help = match did_you_mean(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("add one: `profile {name} = {{ param: value }}`"),
            None => format!("profiles are {}", known.join(", ")),
        };
        let message = format!("the recipe has no profile `{name}`");
        found.push(Diagnostic::error("tlm::sema::unknown_profile", message).help(help));
        return;
    };
    for (name, value) in profile.values {
        match is_axis(file, &name.node) {
            true => set_axis(file, &name, value, found),
            false => overlaid.values.push((name, value)),
        }
    }
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

/// Parses a value.
fn value(
    file: &File,
    flag: &str,
    name: &str,
    text: &str,
    sources: &mut SourceMap,
    found: &mut Vec<Diagnostic>,
) -> (Name, Expr) {
    let id = sources.add(format!("{flag} {name}"), text);
    let span = Span::new(id, 0, text.len());
    let expr = match takes_text(file, name) && !text.starts_with('"') {
        true => Expr { span, kind: ExprKind::Str(text.to_owned()) },
        false => {
            let (expr, errors) = parse_expr(id, text);
            found.extend(errors);
            expr
        }
    };
    (Spanned { node: name.to_owned(), span: expr.span }, expr)
}

/// Parses values with commas between them.
fn list(
    file: &File,
    flag: &str,
    name: &str,
    text: &str,
    sources: &mut SourceMap,
    found: &mut Vec<Diagnostic>,
) -> (Name, Expr) {
    if takes_text(file, name) && !text.starts_with('"') {
        let items: Vec<_> =
            text.split(',').map(|item| value(file, flag, name, item, sources, found).1).collect();
        let span = items.first().map_or(Span::new(crate::base::FileId(0), 0, 0), |item| item.span);
        let name = Spanned { node: name.to_owned(), span };
        return (name, Expr { span, kind: ExprKind::List(items) });
    }
    let id = sources.add(format!("{flag} {name}"), format!("[{text}]"));
    let (expr, errors) = parse_expr(id, sources.text(id));
    found.extend(errors);
    (Spanned { node: name.to_owned(), span: expr.span }, expr)
}

/// Returns whether a param or axis takes texts, which need no quotes on the command line.
fn takes_text(file: &File, name: &str) -> bool {
    let is_text = |expr: &Expr| matches!(expr.kind, ExprKind::Str(_));
    file.items.iter().any(|item| match &item.kind {
        ItemKind::Param(binding) | ItemKind::Axis(binding) if binding.name.node == name => {
            match (&binding.ty, &binding.value.kind) {
                (Some(ty), _) => {
                    matches!(&ty.kind, TypeKind::Named(name) if name == "Str" || name == "Path")
                }
                (None, ExprKind::List(items)) => items.first().is_some_and(is_text),
                (None, _) => is_text(&binding.value),
            }
        }
        _ => false,
    })
}
