//! From a recipe's path to its plan, with everything that is wrong told on the way; and `tlm check`.

use std::path::{Path, PathBuf};
use std::thread;

use crate::base::{Digest, FileId, SourceMap, World, text};
use crate::cli::{Console, ENVIRONMENT, Exit, PROGRAM, PlanArgs, RecipeArgs, StoreArgs, USAGE};
use crate::diag::{self, Checked, Diagnostic, Severity};
use crate::exec::{Machine, Origins, Outcome};
use crate::graph::{self, Plan};
use crate::report::Results;
use crate::sema::{self, Expansion, Overlay, Program};
use crate::store::Store;
use crate::syntax::{self, Unread};

/// How wide findings are drawn.
const WIDTH: usize = 100;

/// How many findings are drawn; nobody reads more, and drawing one takes as long as its file is.
const DRAWN_MAX: usize = 100;

/// A recipe that was read.
pub(super) struct Source {
    pub(super) sources: SourceMap,
    pub(super) file: FileId,
    /// As the user wrote it.
    pub(super) path: PathBuf,
    folder: PathBuf,
    overlay: Overlay,
    /// The files that it was read from, once it is.
    files: Vec<(FileId, PathBuf)>,
}

/// A recipe with its plan against a store.
pub(super) struct Session {
    pub(super) source: Source,
    pub(super) store: Store,
    pub(super) plan: Plan,
    pub(super) machine: Machine,
}

/// `tlm check`
pub(super) fn check(args: &RecipeArgs, json: bool, console: &mut Console<'_>) -> Result<(), Exit> {
    let mut source = read_for(args, json, console)?;
    let found = match source.load().finish() {
        Ok((program, mut found)) => {
            found.extend(sema::check(&program));
            Checked { value: (), diagnostics: found }.finish().map_or_else(|found| found, |ok| ok.1)
        }
        Err(found) => found,
    };
    if json {
        writeln!(console.out, "{}", diag::to_json(&source.sources, &found))?;
    } else {
        tell(&source.sources, &found, console);
    }
    match errors(&found) {
        0 => Ok(()),
        _ => Err(Exit::Code(PROGRAM)),
    }
}

/// Returns the program of a recipe without mistakes.
pub(super) fn checked(source: &mut Source, console: &mut Console<'_>) -> Result<Program, Exit> {
    let loaded = source.load();
    let program = gate(loaded, &source.sources, console)?;
    let name = |id| source.sources.path(id).file_name().unwrap_or_default();
    source.files = program.files().map(|(id, folder)| (id, folder.join(name(id)))).collect();
    Ok(program)
}

/// Reads the recipe's file and what the command line changes about it.
pub(super) fn read(args: &RecipeArgs, console: &mut Console<'_>) -> Result<Source, Exit> {
    read_for(args, false, console)
}

/// The same; that the file is no recipe is told as JSON where that is wanted.
fn read_for(args: &RecipeArgs, json: bool, console: &mut Console<'_>) -> Result<Source, Exit> {
    let overlay = Overlay {
        profile: args.profile.clone(),
        set: named("-s", &args.change.set, console)?,
        axes: named("--axis", &args.change.axis, console)?,
        only: named("--only", &args.change.only, console)?,
    };
    let path = console.world.cwd().join(&args.recipe);
    if path.to_str().is_none() {
        // Workers hear of files as JSON, and so does whoever reads the store.
        let message = format!("the recipe's path `{}` is not UTF-8", path.display());
        return Err(console.fail(PROGRAM, message, "rename the folder or the file"));
    }
    let mut sources = SourceMap::default();
    let file = read_text(&mut sources, &path, &args.recipe, json, console)?;
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let path = args.recipe.clone();
    Ok(Source { sources, file, path, folder, overlay, files: Vec::new() })
}

/// Splits `name=value`.
fn named(
    flag: &str,
    texts: &[String],
    console: &mut Console<'_>,
) -> Result<Vec<(String, String)>, Exit> {
    let mut pairs = Vec::new();
    for text in texts {
        let Some((name, value)) = text.split_once('=') else {
            let message = format!("`{flag} {text}` gives no value");
            return Err(console.fail(USAGE, message, &format!("write `{flag} name=value`")));
        };
        pairs.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(pairs)
}

/// Reads the text of a recipe, which the user called `shown`.
pub(super) fn read_text(
    sources: &mut SourceMap,
    path: &Path,
    shown: &Path,
    json: bool,
    console: &mut Console<'_>,
) -> Result<FileId, Exit> {
    syntax::read(sources, path, shown).map_err(|unread| match unread {
        Unread::Bad(finding) if json => {
            let told = writeln!(console.out, "{}", diag::to_json(sources, &[*finding]));
            told.map_or_else(Exit::from, |()| Exit::Code(PROGRAM))
        }
        Unread::Bad(finding) => bad(sources, *finding, console),
        Unread::Io(error) => {
            let message = format!("can't read `{}`: {error}", shown.display());
            let help = match text::near_file(path) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a recipe".to_owned(),
            };
            console.fail(ENVIRONMENT, message, &help)
        }
    })
}

/// Tells what is wrong with a file that is no recipe.
pub(super) fn bad(sources: &SourceMap, finding: Diagnostic, console: &mut Console<'_>) -> Exit {
    tell(sources, &[finding], console);
    Exit::Code(PROGRAM)
}

impl Source {
    fn load(&mut self) -> Checked<Program> {
        sema::load(&mut self.sources, self.file, &self.folder, &self.overlay)
    }

    /// Returns what the steps of the recipe come from.
    pub(super) fn origins<'s>(&'s self, world: &'s World) -> Origins<'s> {
        Origins::new(world, &self.sources, &self.folder)
    }

    /// Returns the files that it was read from, with their digests.
    pub(super) fn files(&self) -> impl Iterator<Item = (PathBuf, Digest)> {
        let digest = |id| Digest::of(self.sources.text(id).as_bytes());
        self.files.iter().map(move |(id, path)| (path.clone(), digest(*id)))
    }

    /// Returns the recipe's text.
    pub(super) fn text(&self) -> &str {
        self.sources.text(self.file)
    }
}

impl Session {
    /// Returns what there is to show, after a run that ended so.
    pub(super) fn results<'s>(&'s self, outcome: &'s Outcome) -> Results<'s> {
        Results { plan: &self.plan, outcome, store: &self.store, now: None }
    }

    /// Returns digests by the paths of their files from the recipe's folder.
    pub(super) fn named(&self, paths: &[PathBuf], digests: &[Digest]) -> Vec<(String, Digest)> {
        let folder = &self.source.folder;
        let name = |path: &PathBuf| {
            let path = path.strip_prefix(folder).unwrap_or(path);
            path.to_string_lossy().into_owned()
        };
        paths.iter().map(name).zip(digests.iter().copied()).collect()
    }
}

/// Which plans of a recipe are asked for.
pub(super) enum Plans<'a> {
    All,
    /// Those of the command line.
    Chosen(&'a [String]),
}

/// Reads a recipe and plans it against its store.
pub(super) fn open(args: &PlanArgs, console: &mut Console<'_>) -> Result<Session, Exit> {
    let machine = Machine::of(console.world, args.torch.clone());
    plan(&args.recipe, &Plans::Chosen(&args.plans), &args.store, machine, console)
}

/// Plans some plans of a recipe against its store, for a machine.
pub(super) fn plan(
    recipe: &RecipeArgs,
    plans: &Plans<'_>,
    store: &StoreArgs,
    machine: Machine,
    console: &mut Console<'_>,
) -> Result<Session, Exit> {
    let mut source = read(recipe, console)?;
    let root = store_of(store, &source.folder, console);
    let (expansion, store) = thread::scope(|scope| {
        // Meanwhile, as a large index takes a while; a recipe with mistakes makes no store.
        let store = Store::is_one(&root).then(|| scope.spawn(|| Store::open(&root)));
        let expansion = expanded(&mut source, plans, console)?;
        let store = match store {
            Some(opening) => opening.join().expect("opening a store does not panic"),
            None => Store::open(&root),
        };
        Ok::<_, Exit>((expansion, store.map_err(|error| console.store_error(&error))?))
    })?;
    let plan = graph::plan(expansion, &store, &machine.numerics());
    let plan = gate(plan, &source.sources, console)?;
    Ok(Session { source, store, plan, machine })
}

/// Returns what some plans of a recipe ask for.
fn expanded(
    source: &mut Source,
    plans: &Plans<'_>,
    console: &mut Console<'_>,
) -> Result<Expansion, Exit> {
    let program = checked(source, console)?;
    let names = match plans {
        Plans::All => program.plan_names(),
        Plans::Chosen(names) => names.to_vec(),
    };
    let expansion = gate(sema::expand(&program, &names), &source.sources, console)?;
    if expansion.goals.is_empty() && expansion.reports.iter().all(|report| report.rows.is_empty()) {
        let message = format!("`{}` asks for nothing", source.path.display());
        return Err(console.fail(PROGRAM, message, "add a plan: `plan default = ...`"));
    }
    Ok(expansion)
}

/// Returns the store of a recipe in a folder.
pub(super) fn store_of(args: &StoreArgs, folder: &Path, console: &Console<'_>) -> PathBuf {
    store_path(args, console).unwrap_or_else(|| folder.join(".tlm"))
}

/// Returns the store that the user chose, if any.
pub(super) fn store_path(args: &StoreArgs, console: &Console<'_>) -> Option<PathBuf> {
    let given = args.store.as_ref().map(|path| console.world.cwd().join(path));
    given.or_else(|| console.world.path_var("TLM_STORE"))
}

/// Tells what a phase found; passes its value on unless something is an error.
fn gate<T>(checked: Checked<T>, sources: &SourceMap, console: &mut Console<'_>) -> Result<T, Exit> {
    let (value, found) = match checked.finish() {
        Ok((value, warnings)) => (Some(value), warnings),
        Err(found) => (None, found),
    };
    tell(sources, &found, console);
    value.ok_or(Exit::Code(PROGRAM))
}

/// Draws findings on standard error.
pub(super) fn tell(sources: &SourceMap, found: &[Diagnostic], console: &mut Console<'_>) {
    if found.is_empty() {
        return;
    }
    let color = console.world.stderr_is_terminal() && console.world.var("NO_COLOR").is_none();
    let shown = &found[..found.len().min(DRAWN_MAX)];
    let drawn = diag::render(sources, shown, WIDTH, color);
    let counts = [(errors(found), "error"), (found.len() - errors(found), "warning")];
    let counts: Vec<_> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| text::plural(*n, noun)).collect();
    let rest = if found.len() > DRAWN_MAX { ", of which the first are shown" } else { "" };
    console.say(format_args!("{drawn}{}{rest}\n", counts.join(", ")));
}

fn errors(found: &[Diagnostic]) -> usize {
    found.iter().filter(|finding| finding.severity == Severity::Error).count()
}
