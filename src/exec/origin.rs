//! Where and how a step is made: for people, and no part of any key.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::base::{SourceMap, Span, Value, World};
use crate::graph::Planned;

/// How long git may take to tell about the recipe's repository.
const GIT_PATIENCE: Duration = Duration::from_secs(5);

/// What the steps of a run come from.
#[derive(Debug)]
pub struct Origins<'r> {
    world: &'r World,
    sources: &'r SourceMap,
    /// The recipe's folder.
    folder: PathBuf,
    repository: OnceLock<Option<Repository>>,
}

/// What a step took of the machine, as far as its worker told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) peak_bytes: Option<u64>,
}

/// A git repository, as it was when the run began.
#[derive(Debug)]
struct Repository {
    root: PathBuf,
    /// None before the first commit, and when git can't tell.
    commit: Option<String>,
    /// Whether a file that git knows differs from the commit.
    is_changed: bool,
}

impl<'r> Origins<'r> {
    /// Returns the origins of a recipe's steps; `folder` is the recipe's.
    pub fn new(world: &'r World, sources: &'r SourceMap, folder: &Path) -> Self {
        Self { world, sources, folder: folder.to_owned(), repository: OnceLock::new() }
    }

    /// Returns the world that the run sees.
    pub(super) fn world(&self) -> &'r World {
        self.world
    }

    /// Looks at the recipe's repository, if it has one: once a run, however many steps ask.
    pub(super) fn look(&self) {
        self.repository();
    }

    fn repository(&self) -> Option<&Repository> {
        self.repository.get_or_init(|| Repository::of(&self.folder)).as_ref()
    }

    /// Returns where and how a step was made: at which attempt, and what its worker took.
    pub(super) fn of(
        &self,
        planned: Planned<'_>,
        attempt: u32,
        usage: Usage,
    ) -> BTreeMap<String, Value> {
        let text = |text: &str| Value::Str(text.to_owned());
        let repository = self.repository();
        let commit = repository.and_then(|repository| repository.commit.as_deref());
        let is_changed = repository.filter(|_| commit.is_some()).map(|it| it.is_changed);
        let bytes = usage.peak_bytes.map(|bytes| Value::Int(bytes as i64));
        let facts = [
            ("recipe", Some(Value::Str(self.place(planned.step.span())))),
            ("commit", commit.map(text)),
            ("changed", is_changed.map(Value::Bool)),
            ("host", self.world.host().map(Value::Str)),
            ("tlm", Some(text(env!("CARGO_PKG_VERSION")))),
            ("attempt", Some(Value::Int(i64::from(attempt)))),
            ("cpu_seconds", usage.cpu_seconds.map(Value::Float)),
            ("peak_bytes", bytes),
        ];
        facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect()
    }

    /// Returns `r.tlm:5:12`: relative to the repository, or else to the recipe's folder.
    fn place(&self, span: Span) -> String {
        let shown = self.sources.path(span.file);
        let (line, column) = self.sources.line_column(span);
        let root = self.repository().map_or(&*self.folder, |repository| &repository.root);
        // The standard library is no file.
        let path = self.world.cwd().join(shown).canonicalize().ok().zip(root.canonicalize().ok());
        let relative = path.as_ref().and_then(|(path, root)| path.strip_prefix(root).ok());
        format!("{}:{line}:{column}", relative.unwrap_or(shown).display())
    }
}

impl Repository {
    /// Returns the repository that a folder lies in.
    fn of(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        let root =
            folder.ancestors().find(|folder| fs::exists(folder.join(".git")).ok() == Some(true))?;
        let told = git_status(root).unwrap_or_default();
        let oid = told.lines().find_map(|line| line.strip_prefix("# branch.oid "));
        Some(Self {
            root: root.to_owned(),
            commit: oid.filter(|oid| *oid != "(initial)").map(str::to_owned),
            is_changed: told.lines().any(|line| !line.starts_with('#')),
        })
    }
}

/// Returns what git tells of the files it knows; none without git, and when it takes too long. It takes no lock.
fn git_status(root: &Path) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).env("GIT_OPTIONAL_LOCKS", "0");
    git.args(["status", "--porcelain=v2", "--branch", "--untracked-files=no"]);
    git.stdin(Stdio::null()).stderr(Stdio::null());
    let (sender, receiver) = channel();
    // Nobody may be left to hear it.
    thread::spawn(move || drop(sender.send(git.output())));
    let output = receiver.recv_timeout(GIT_PATIENCE).ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
