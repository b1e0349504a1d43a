//! Level 3: meaning. Resolves names, checks types and dimensions, and evaluates what a plan asks for into
//! [`steps::Expansion`]. Knows stages only by their declarations in `stdlib/`.
//!
//! Two passes: `lower` (with `exprs` and `calls`) turns the tree into a [`Program`], finding everything that is wrong whatever
//! the values; `eval` and `expand` compute values at the points that are asked for. Nothing is evaluated twice.

mod calls;
mod declare;
mod eval;
mod expand;
mod exprs;
mod lower;
mod node;
pub mod steps;
mod ty;
mod value;

use std::path::Path;

use crate::base::source::Spanned;
use crate::base::{FileId, SourceMap, Span};
use crate::diag::{Checked, Diagnostic};
use crate::syntax::ast::{self, Expr, ExprKind, ItemKind, TypeKind};
use crate::syntax::{parse, parse_expr};

pub use node::Program;
pub use steps::Expansion;

/// Checks the recipe `file`, with `-s name=value` overrides as (name, value) texts. Paths in it are relative to `folder`.
pub fn load(
    sources: &mut SourceMap,
    file: FileId,
    folder: &Path,
    overrides: &[(String, String)],
) -> Checked<Program> {
    let mut found = Vec::new();
    let library = declare::stdlib(sources, &mut found);
    let parsed = parse(file, sources.text(file));
    found.extend(parsed.diagnostics);
    let mut values = Vec::new();
    for (name, text) in overrides {
        let file = sources.add(format!("-s {name}"), text.clone());
        let (expr, errors) = match takes_text(&parsed.file, name) && !text.starts_with('"') {
            true => {
                let span = Span::new(file, 0, text.len());
                (Expr { span, kind: ExprKind::Str(text.clone()) }, Vec::new())
            }
            false => parse_expr(file, text),
        };
        found.extend(errors);
        values.push((Spanned { node: name.clone(), span: expr.span }, expr));
    }
    let (program, errors) = lower::lower(sources, &library, &parsed.file, &values, folder);
    found.extend(errors);
    Checked { value: program, diagnostics: found }
}

/// Returns whether a param takes a text, which needs no quotes on the command line.
fn takes_text(file: &ast::File, name: &str) -> bool {
    file.items.iter().any(|item| match &item.kind {
        ItemKind::Param(param) if param.name.node == name => match &param.ty {
            Some(ty) => {
                matches!(&ty.kind, TypeKind::Named(name) if name == "Str" || name == "Path")
            }
            None => matches!(param.value.kind, ExprKind::Str(_)),
        },
        _ => false,
    })
}

/// Evaluates every binding at the baseline and all plans, and returns what is wrong.
pub fn check(program: &Program) -> Vec<Diagnostic> {
    expand::check(program)
}

/// Evaluates what the named plans and the reports ask for; without names, the plan `default`, or all plans when there is
/// no `default`.
pub fn expand(program: &Program, plans: &[String]) -> Checked<Expansion> {
    expand::expand(program, plans)
}
