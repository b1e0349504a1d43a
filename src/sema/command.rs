//! Stages that a recipe declares: what their commands hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Span;
use crate::base::text::did_you_mean;
use crate::diag::Diagnostic;
use crate::sema::lower::Lower;
use crate::sema::node::{Slot, Stage};
use crate::sema::scope::{Def, Origin};
use crate::sema::steps::{Body, OutputKind, Shell, ShellPart, StageDecl};
use crate::sema::ty::Ty;
use crate::syntax::ast::{self, Expr, ExprKind, TextPart};

/// Artifact types whose numbers the worker reads off the files; those of a recipe's own types are for the command to write.
const KNOWN: [&str; 6] = ["Corpus", "Tokenizer", "Counts", "Dataset", "Losses", "Checkpoint"];

impl<'r> Lower<'r> {
    /// Declares a stage of a recipe.
    pub(super) fn own_stage(&mut self, item: &'r ast::Stage) -> Def {
        let mut stage = self.library.stage(&item.name.node, item, &mut self.found);
        let Some(command) = &item.shell else {
            self.bad_command(
                item.name.span,
                "no command",
                "add `shell \"...\"` behind its version",
            );
            return Def::Broken;
        };
        let kinds = kinds(&stage.result);
        let (mut parts, before) = (Vec::new(), self.found.len());
        for part in &command.node.parts {
            match part {
                TextPart::Literal(text) => parts.push(ShellPart::Text(text.clone())),
                TextPart::Hole(hole) => parts.extend(self.hole(hole, &stage)),
            }
        }
        if self.is_right(before) {
            self.all_written(&stage, &kinds, &parts, command.span);
        }
        let Origin::Recipe(recipe) = self.scopes[self.scope].origin else { return Def::Broken };
        let folder = self.files.all[recipe].folder.clone();
        let (span, version_span) = (command.span, item.version.span);
        let body = Body::Command(Shell { parts, folder, kinds, span, version_span });
        stage.decl = Arc::new(StageDecl { body, ..StageDecl::clone(&stage.decl) });
        Def::Stage(Arc::new(stage))
    }

    /// Returns what stands in a command for `{name}`.
    fn hole(&mut self, hole: &Expr, stage: &Stage) -> Option<ShellPart> {
        let Some(path) = hole.path() else {
            if hole.kind != ExprKind::Error {
                let help = "compute it where the stage is called, and pass it as a parameter";
                self.bad_command(hole.span, "not a name", help);
            }
            return None;
        };
        let (name, whole) = (path[0], path.join("."));
        let (inputs, params) = (&stage.signature.inputs, &stage.signature.params);
        let input = inputs.iter().any(|slot| slot.name == *whole);
        let param = params.iter().find(|slot| slot.name == *name);
        let output = stage.decl.outputs.contains_key(&whole);
        match (input, param, output) {
            (true, None, false) => Some(ShellPart::Input(whole)),
            (false, None, true) => Some(ShellPart::Output(whole)),
            (false, Some(slot), false) => {
                let names = path.iter().map(|name| (*name).to_owned()).collect();
                self.has_field(slot, &path[1..], hole.span).then_some(ShellPart::Param(names))
            }
            (false, None, false) => {
                let known = inputs.iter().chain(params).map(|slot| &*slot.name);
                let known = known.chain(stage.decl.outputs.keys().map(String::as_str));
                let help = match did_you_mean(&whole, known.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it can hold {}", known.collect::<Vec<_>>().join(", ")),
                };
                self.bad_command(hole.span, "neither input, parameter nor output", &help);
                None
            }
            _ => {
                let help = "give the input, the parameter or the output another name";
                self.bad_command(hole.span, "stands for two things", help);
                None
            }
        }
    }

    /// Returns whether a parameter, or a field of it, is something that can stand in a command.
    fn has_field(&mut self, slot: &Slot, fields: &[&str], span: Span) -> bool {
        let mut ty = &slot.ty;
        for field in fields {
            let inner = match ty {
                Ty::Record(known) => known.get(*field),
                _ => None,
            };
            let Some(inner) = inner else {
                let what = format!("{ty} has no field `{field}`");
                self.bad_command(span, &what, "name the parameter, or a field of it");
                return false;
            };
            ty = &inner.ty;
        }
        let item = match ty {
            Ty::List(item) => item,
            other => other,
        };
        let fits = item.is_scalar() || *item == Ty::Unknown;
        if !fits {
            let what = format!("{ty} can't stand in a command");
            self.bad_command(span, &what, "choose a field of it");
        }
        fits
    }

    /// Checks that the command names every output it has to write.
    fn all_written(
        &mut self,
        stage: &Stage,
        kinds: &BTreeMap<String, String>,
        parts: &[ShellPart],
        span: Span,
    ) {
        for (name, kind) in &stage.decl.outputs {
            let derived = name.split_once('.').and_then(|(artifact, _)| kinds.get(artifact));
            let derived = derived.is_some_and(|kind| KNOWN.contains(&kind.as_str()));
            let named = parts.contains(&ShellPart::Output(name.clone()));
            if !named && !derived {
                let what = match kind {
                    OutputKind::Artifact => "the file or folder",
                    OutputKind::Scalar => "the file for the number, as JSON,",
                };
                let help = format!("`{{{name}}}` in the command is the path of {what} to write");
                self.bad_command(span, &format!("never writes `{name}`"), &help);
            }
        }
    }

    fn bad_command(&mut self, span: Span, what: &str, help: &str) {
        self.found.push(
            Diagnostic::error("tlm::sema::bad_command", "this is no command for the stage")
                .label(span, what)
                .help(help),
        );
    }
}

/// Returns the artifact types of a result by output name.
fn kinds(result: &Ty) -> BTreeMap<String, String> {
    let kind = |name: &str, ty: &Ty| match ty {
        Ty::Artifact(kind) => Some((name.to_owned(), kind.to_string())),
        _ => None,
    };
    match result {
        Ty::Record(fields) => {
            fields.iter().filter_map(|(name, field)| kind(name, &field.ty)).collect()
        }
        one => kind("out", one).into_iter().collect(),
    }
}
