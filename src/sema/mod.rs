//! Level 3: meaning. Resolves names, checks types and dimensions, and evaluates what a plan asks for into
//! [`steps::Expansion`]. Knows stages only by their declarations in `stdlib/`.
//!
//! Two passes: `lower` (with `exprs` and `calls`) turns the tree into a [`Program`], finding everything that is wrong whatever
//! the values; `eval` and `expand` compute values at the points that are asked for. Nothing is evaluated twice.

mod best;
mod calls;
mod command;
mod declare;
mod demand;
mod eval;
mod expand;
mod exprs;
mod files;
mod forms;
mod identity;
mod import;
pub mod late;
mod lint;
mod lower;
mod make;
mod memo;
mod node;
mod outline;
mod overlay;
mod points;
mod scope;
mod settle;
pub mod steps;
mod ty;
mod value;

use std::path::Path;

use crate::base::{FileId, SourceMap};
use crate::diag::{Checked, Diagnostic, Severity};

use files::Files;

pub use best::least;
pub use declare::STDLIB;
pub use node::Program;
pub use outline::{Outline, outline};
pub use steps::Expansion;

/// What the command line changes about a recipe: names with values as texts.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// `--profile smoke`
    pub profile: Option<String>,
    /// `-s name=value`: params.
    pub set: Vec<(String, String)>,
    /// `--axis name=a,b`: params that become axes, or axes with other values.
    pub axes: Vec<(String, String)>,
    /// `--only name=a,b`: the points that count.
    pub only: Vec<(String, String)>,
}

/// Checks the recipe `file` as the command line changes it. Paths in it are relative to `folder`.
pub fn load(
    sources: &mut SourceMap,
    file: FileId,
    folder: &Path,
    overlay: &Overlay,
) -> Checked<Program> {
    let mut found = Vec::new();
    let mut files = Files::load(sources, file, folder, &mut found);
    let parsed = files.all.iter().map(|recipe| &recipe.file);
    let mut library = declare::stdlib(parsed, sources, &mut found);
    library.add_artifacts(files.all.iter().map(|recipe| &recipe.file), &mut found);
    let overlaid = overlay::apply(&mut files, overlay, sources, &mut found);
    let (mut program, mut errors) = lower::lower(sources, &library, &files, &overlaid);
    settle::settle(&mut program, &mut errors);
    lower::once(&mut errors);
    found.extend(errors);
    if found.iter().all(|finding| finding.severity != Severity::Error) {
        found.extend(lint::lint(&files.all[0].file, &program));
    }
    Checked { value: program, diagnostics: found }
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
