//! Warnings about what is no mistake but surely not meant: names that nothing uses, axes that reach nothing, names that hide
//! others. A name that starts with `_` is left alone, and one with a doc comment is there for recipes that import it.

use std::collections::BTreeSet;

use smallvec::{SmallVec, smallvec};

use crate::base::{FastMap, FastSet, Span};
use crate::diag::Diagnostic;
use crate::sema::node::{AxisId, Builtin, Kind, Node, Program};
use crate::syntax::ast::{self, Expr, ExprKind, Item, ItemKind, Name, UseFrom, UseNames};

/// Returns the warnings about a recipe that has no errors.
pub(super) fn lint(file: &ast::File, program: &Program) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    shadows(file, &mut found);
    let asks = |item: &Item| matches!(item.kind, ItemKind::Plan(_) | ItemKind::Report(_));
    // What only others import is theirs to use.
    if file.items.iter().any(asks) {
        let used = used(file);
        unused(file, &used, &mut found);
        unreached(file, program, &used, &mut found);
    }
    found.sort_by_key(|diagnostic| diagnostic.labels.first().map(|label| label.span));
    found
}

// ---- names that nothing uses

/// Returns every name that stands anywhere but where it is defined.
fn used(file: &ast::File) -> FastSet<&str> {
    let mut used = FastSet::default();
    for item in &file.items {
        each_expr(item, &mut |expr| {
            expr.walk(&mut |expr| match &expr.kind {
                ExprKind::Name(name) => drop(used.insert(name.as_str())),
                ExprKind::At(_, fixed) => used.extend(fixed.iter().map(|(name, _)| first(name))),
                _ => {}
            });
        });
        if let ItemKind::Plan(plan) = &item.kind {
            for term in &plan.terms {
                let axes = term.vary.iter().chain(&term.over).chain(&term.each);
                used.extend(axes.map(first));
            }
        }
    }
    used
}

/// Returns what stands before the first `.`.
fn first(name: &Name) -> &str {
    name.node.split('.').next().unwrap_or_default()
}

fn each_expr<'f>(item: &'f Item, visit: &mut dyn FnMut(&'f Expr)) {
    match &item.kind {
        ItemKind::Param(binding)
        | ItemKind::Axis(binding)
        | ItemKind::Let(binding)
        | ItemKind::Report(binding) => visit(&binding.value),
        ItemKind::Fn(function) => visit(&function.body),
        ItemKind::Plan(plan) => {
            for term in &plan.terms {
                visit(&term.target);
                term.filter.iter().for_each(&mut *visit);
            }
        }
        ItemKind::Profile(profile) => profile.values.iter().for_each(|(_, value)| visit(value)),
        ItemKind::Use(_) | ItemKind::Stage(_) | ItemKind::Artifact(_) => {}
    }
}

/// Names that an item defines, with what they are.
type Defined<'f> = SmallVec<[(&'static str, &'f Name); 1]>;

fn defined(item: &Item) -> Defined<'_> {
    match &item.kind {
        ItemKind::Param(binding) => smallvec![("param", &binding.name)],
        ItemKind::Axis(binding) => smallvec![("axis", &binding.name)],
        ItemKind::Let(binding) => smallvec![("value", &binding.name)],
        ItemKind::Fn(function) => smallvec![("function", &function.name)],
        ItemKind::Stage(stage) => smallvec![("stage", &stage.name)],
        ItemKind::Use(import) => match (&import.names, &import.from) {
            (UseNames::Some(names), _) => names.iter().map(|name| ("import", name)).collect(),
            (UseNames::Module(Some(alias)), _) => smallvec![("import", alias)],
            (UseNames::Module(None), UseFrom::Std(path)) => {
                path.last().map(|name| ("import", name)).into_iter().collect()
            }
            (UseNames::Module(None), UseFrom::File(_)) | (UseNames::All(_), _) => Defined::new(),
        },
        ItemKind::Artifact(_) | ItemKind::Plan(_) | ItemKind::Report(_) | ItemKind::Profile(_) => {
            Defined::new()
        }
    }
}

fn unused(file: &ast::File, used: &FastSet<&str>, found: &mut Vec<Diagnostic>) {
    let own = file.items.iter().filter(|item| item.doc.is_none());
    for (what, name) in own.flat_map(defined) {
        if !used.contains(name.node.as_str()) && !name.node.starts_with('_') {
            found.push(
                Diagnostic::warning(
                    "tlm::lint::unused",
                    format!("nothing uses the {what} `{}`", name.node),
                )
                .label(name.span, "defined here")
                .help(format!(
                    "use it, remove it, say in a `##` comment what it is for, or call it `_{}`",
                    name.node
                )),
            );
        }
    }
}

// ---- axes that reach nothing

fn unreached(
    file: &ast::File,
    program: &Program,
    used: &FastSet<&str>,
    found: &mut Vec<Diagnostic>,
) {
    let mut reached = reached(program);
    // Those that a plan names in vain are told there.
    let terms = program.plans.iter().flat_map(|plan| &plan.terms);
    reached.extend(terms.flat_map(|term| term.vary.iter().chain(&term.over).chain(&term.each)));
    for item in &file.items {
        let ItemKind::Axis(axis) = &item.kind else { continue };
        let name = &axis.name.node;
        let id = program.axes.iter().position(|axis| *axis.name == **name);
        let is_reached = id.is_none_or(|id| reached.contains(&id));
        if !is_reached && used.contains(name.as_str()) && !name.starts_with('_') {
            found.push(
                Diagnostic::warning(
                    "tlm::lint::unreached_axis",
                    format!("no plan or report depends on the axis `{name}`"),
                )
                .label(axis.name.span, "changes nothing that is asked for")
                .help("name a value that depends on it in a plan, or remove it"),
            );
        }
    }
}

/// Returns the axes that stand in what plans and reports ask for, or in what that is made of.
fn reached(program: &Program) -> BTreeSet<AxisId> {
    let terms = program.plans.iter().flat_map(|plan| &plan.terms);
    let targets = terms.flat_map(|term| term.targets.iter().map(|(_, target)| &target.node));
    let cells = program.reports.iter().flat_map(|report| &report.columns);
    let mut next: Vec<&Node> = targets.chain(cells.map(|(_, cell)| &cell.node)).collect();
    let (mut axes, mut bindings, mut functions) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    while let Some(node) = next.pop() {
        node.walk(&mut |node| match &node.kind {
            Kind::Axis(id) => drop(axes.insert(*id)),
            Kind::Binding(id) if bindings.insert(*id) => {
                next.push(&program.bindings[*id].typed.node);
            }
            Kind::Apply(apply) if functions.insert(apply.function) => {
                next.push(&program.functions[apply.function].body);
            }
            _ => {}
        });
    }
    axes
}

// ---- names that hide others

fn shadows(file: &ast::File, found: &mut Vec<Diagnostic>) {
    let outer: FastMap<&str, (&str, Span)> = file
        .items
        .iter()
        .flat_map(defined)
        .map(|(what, name)| (name.node.as_str(), (what, name.span)))
        .collect();
    for (_, name) in file.items.iter().flat_map(defined) {
        if Builtin::named(&name.node).is_some() {
            found.push(
                Diagnostic::warning(
                    "tlm::lint::shadowing",
                    format!("`{}` hides the function of that name", name.node),
                )
                .label(name.span, "the function can't be called in this file")
                .help("choose another name"),
            );
        }
    }
    let mut hides = |name: &Name, what: &str| {
        // A parameter may be called like the value that it mostly gets; what is called is missed in the body.
        let is_told =
            |hidden: &str| what != "parameter" || matches!(hidden, "import" | "function" | "stage");
        if let Some((hidden, first)) = outer.get(name.node.as_str())
            && is_told(hidden)
        {
            found.push(
                Diagnostic::warning(
                    "tlm::lint::shadowing",
                    format!("`{}` hides the {hidden} `{}`", name.node, name.node),
                )
                .label(name.span, format!("means this {what} from here on"))
                .label(*first, "hidden")
                .help("choose another name"),
            );
        }
    };
    for item in &file.items {
        if let ItemKind::Fn(function) = &item.kind {
            let params = function.inputs.iter().chain(&function.params);
            params.for_each(|param| hides(&param.name, "parameter"));
        }
        each_expr(item, &mut |expr| {
            expr.walk(&mut |expr| {
                if let ExprKind::Fold(fold) = &expr.kind {
                    hides(&fold.name, "value of the fold");
                    hides(&fold.index, "turn of the fold");
                }
            });
        });
    }
}
