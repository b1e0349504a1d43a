//! What `tlm run` told when it had nothing to do, told again while nothing changed: however large the plan, it is not made.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::{Digest, Encoder};
use crate::cli::recipe::{Session, store_of};
use crate::cli::run::machine_text;
use crate::cli::{Console, Exit, PlanArgs, RunArgs};
use crate::exec::Machine;
use crate::graph;
use crate::report::html;
use crate::store::{Answer, RunMark, Store};

/// What was asked: all that an answer depends on, but for files and the store.
pub(super) struct Question {
    root: PathBuf,
    digest: Digest,
}

/// What was told, and what else has to be as it was.
#[derive(Serialize, Deserialize)]
struct Told {
    out: String,
    err: String,
    /// What patterns of local files found: the folder they start from, the pattern, the files.
    found: Vec<(PathBuf, String, Vec<PathBuf>)>,
    /// The HTML report and its mark.
    report: (PathBuf, String),
}

impl Question {
    /// Returns what a command asks; none when it wants more than words, which each run has its own of.
    pub(super) fn of(args: &PlanArgs, options: &RunArgs, console: &Console<'_>) -> Option<Self> {
        let world = console.world;
        if options.json || options.trace.is_some() || options.locked {
            return None;
        }
        let recipe = world.cwd().join(&args.recipe.recipe);
        let root = store_of(&args.store, recipe.parent()?, console);
        let program = fs::metadata(world.program()).ok()?;
        let written = program.modified().ok()?;
        let mut out = Encoder::default();
        out.begin("tlm question");
        for text in [
            env!("CARGO_PKG_VERSION"),
            &format!("{} {written:?}", program.len()),
            world.cwd().to_str()?,
            &format!("{args:?} {options:?}"),
            &machine_text(&Machine::of(world, args.torch.clone())),
            &format!("{} {}", world.stdout_is_terminal(), world.stderr_is_terminal()),
            world.var("NO_COLOR").unwrap_or_default(),
        ] {
            out.text(text);
        }
        Some(Self { root, digest: out.digest() })
    }

    /// Tells the answer, if there is one; returns whether there was.
    pub(super) fn answer(&self, console: &mut Console<'_>) -> Result<bool, Exit> {
        let told = Store::recall(&self.root, self.digest, console.world.now(), is_same);
        let Some(told): Option<Told> = told else { return Ok(false) };
        console.say(told.err);
        console.out.write_all(told.out.as_bytes())?;
        Ok(true)
    }

    /// Remembers what was told of a run that had nothing to do, and where its report is.
    pub(super) fn remember(
        &self,
        session: &Session,
        run: &RunMark,
        report: (PathBuf, String),
        heard: &Heard,
    ) {
        let text = |bytes: &RefCell<Vec<u8>>| String::from_utf8(bytes.take()).ok();
        let (Some(out), Some(err)) = (text(&heard.out), text(&heard.err)) else { return };
        let mut files: BTreeMap<PathBuf, Digest> = session.source.files().collect();
        let mut found = BTreeMap::new();
        for source in session.plan.sources() {
            files.extend(source.paths.iter().cloned().zip(source.digests.iter().copied()));
            found.insert((source.files.base.clone(), source.files.pattern.clone()), source.paths);
        }
        let found = found.into_iter();
        let found = found.map(|((base, pattern), paths)| (base, pattern, paths.to_vec())).collect();
        let told = Told { out, err, found, report };
        let answer = Answer { files: files.into_iter().collect(), told };
        session.store.remember(self.digest, &answer, run);
    }
}

fn is_same(answer: &Answer<Told>) -> bool {
    let told = &answer.told;
    let (report, mark) = &told.report;
    let finds = |(base, pattern, paths): &(PathBuf, String, Vec<PathBuf>)| {
        graph::finds(pattern, base, paths)
    };
    told.found.iter().all(finds) && html::mark_of(report).as_ref() == Some(mark)
}

/// What was written to a console.
#[derive(Default)]
pub(super) struct Heard {
    out: RefCell<Vec<u8>>,
    err: RefCell<Vec<u8>>,
}

impl Heard {
    /// Returns writers that write there and note what.
    pub(super) fn of<'h>(
        &'h self,
        out: &'h mut dyn Write,
        err: &'h mut dyn Write,
    ) -> [Noting<'h>; 2] {
        [Noting { to: out, noted: &self.out }, Noting { to: err, noted: &self.err }]
    }
}

/// A writer that notes what it writes.
pub(super) struct Noting<'h> {
    to: &'h mut dyn Write,
    noted: &'h RefCell<Vec<u8>>,
}

impl Write for Noting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.noted.borrow_mut().extend(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
