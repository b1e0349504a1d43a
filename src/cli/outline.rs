//! `tlm doc RECIPE`: what a recipe takes, what it gives, and which axes each value differs along.

use std::fmt::Write;

use crate::base::SourceMap;
use crate::cli::doc::about;
use crate::cli::recipe::{checked, read};
use crate::cli::{Console, Exit, RecipeArgs};
use crate::sema::{Outline, outline};
use crate::syntax::ast::{Item, ItemKind, Parameter};
use crate::syntax::parse;

/// Prints the outline of a recipe; its mistakes are told first.
pub(super) fn recipe(args: &RecipeArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    let mut source = read(args, console)?;
    let program = checked(&mut source, console)?;
    let known = outline(&program);
    let file = parse(source.file, source.text()).file;
    let writer = Writer { sources: &source.sources, known: &known };
    let mut out = about(source.text());
    for (head, kind) in SECTIONS {
        let lines: Vec<_> = file
            .items
            .iter()
            .filter(|item| kind(&item.kind))
            .map(|item| writer.line(item))
            .collect();
        if !lines.is_empty() {
            let gap = if out.is_empty() { "" } else { "\n\n" };
            write!(out, "{gap}{head}\n{}", lines.join("\n")).expect("text takes text");
        }
    }
    writeln!(console.out, "{out}")?;
    Ok(())
}

type Section = (&'static str, fn(&ItemKind) -> bool);

/// The parts of an outline in their order.
const SECTIONS: [Section; 8] = [
    ("params", |kind| matches!(kind, ItemKind::Param(_))),
    ("axes", |kind| matches!(kind, ItemKind::Axis(_))),
    ("values", |kind| matches!(kind, ItemKind::Let(_))),
    ("functions", |kind| matches!(kind, ItemKind::Fn(_))),
    ("stages", |kind| matches!(kind, ItemKind::Stage(_))),
    ("plans", |kind| matches!(kind, ItemKind::Plan(_))),
    ("reports", |kind| matches!(kind, ItemKind::Report(_))),
    ("profiles", |kind| matches!(kind, ItemKind::Profile(_))),
];

struct Writer<'w> {
    sources: &'w SourceMap,
    known: &'w [Outline],
}

impl Writer<'_> {
    fn line(&self, item: &Item) -> String {
        let written = match &item.kind {
            ItemKind::Param(binding) => {
                let value = self.sources.snippet(binding.value.span);
                self.typed(&binding.name.node, &format!(" = {value}"))
            }
            ItemKind::Axis(binding) => {
                let name = &binding.name.node;
                let values = self.find(name).map_or(String::new(), |found| found.values.join(", "));
                self.typed(name, &format!(" = [{values}]"))
            }
            ItemKind::Let(binding) => self.typed(&binding.name.node, ""),
            ItemKind::Fn(function) => {
                let name = &function.name.node;
                let (ty, over) = self.meaning(name);
                format!("{name}({}) -> {ty}{over}", self.takes(&function.inputs, &function.params))
            }
            ItemKind::Stage(stage) => {
                let result = self.sources.snippet(stage.result.span);
                let takes = self.takes(&stage.inputs, &stage.params);
                format!("{}({takes}) -> {result}", stage.name.node)
            }
            ItemKind::Plan(_) | ItemKind::Report(_) | ItemKind::Profile(_) => {
                let whole = self.sources.snippet(item.span);
                whole.split_once(' ').map_or(whole, |(_, rest)| rest.trim_start()).to_owned()
            }
            ItemKind::Use(_) | ItemKind::Artifact(_) => String::new(),
        };
        let written = written.split_whitespace().collect::<Vec<_>>().join(" ");
        let doc = item.doc.as_deref().unwrap_or_default();
        doc.lines().fold(format!("  {written}"), |all, line| format!("{all}\n      {line}"))
    }

    fn find(&self, name: &str) -> Option<&Outline> {
        self.known.iter().find(|known| known.name == name)
    }

    /// Returns the type of a name, and the axes that its value differs along.
    fn meaning(&self, name: &str) -> (String, String) {
        let Some(found) = self.find(name) else { return ("?".to_owned(), String::new()) };
        let over = match found.over.is_empty() {
            true => String::new(),
            false => format!(" over {}", found.over.join(", ")),
        };
        (found.ty.clone(), over)
    }

    fn typed(&self, name: &str, value: &str) -> String {
        let (ty, over) = self.meaning(name);
        format!("{name} : {ty}{value}{over}")
    }

    /// Returns what stands between the parentheses of a declaration.
    fn takes(&self, inputs: &[Parameter], params: &[Parameter]) -> String {
        let parts = [inputs, params].map(|params| self.params(params));
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("; ")
    }

    fn params(&self, params: &[Parameter]) -> String {
        let param = |param: &Parameter| {
            let ty = self.sources.snippet(param.ty.span);
            let default = param.default.as_ref().map(|value| self.sources.snippet(value.span));
            let default = default.map_or(String::new(), |value| format!(" = {value}"));
            format!("{}: {ty}{default}", param.name.node)
        };
        params.iter().map(param).collect::<Vec<_>>().join(", ")
    }
}
