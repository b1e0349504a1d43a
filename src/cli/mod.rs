//! Level 9: the command line. One file a command once there is more to one than a few lines.

mod explain;
mod recipe;
mod run;
mod stored;

use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::base::World;
use crate::stage::{self, worker};
use crate::store::StoreError;

/// Everything went well.
pub const DONE: u8 = 0;
/// A step failed: on what the recipe gave it, by a crash, or by its time limit.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The recipe has errors.
pub const PROGRAM: u8 = 3;
/// The store or the machine failed.
pub const ENVIRONMENT: u8 = 4;
/// A bug in tlm.
pub const INTERNAL: u8 = 70;
/// Stopped by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(name = "tlm", version, about = "A build tool for language-model experiments")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a recipe: syntax, names, types, values; runs nothing
    Check {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Prints the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows which steps would run, and why
    Plan {
        #[command(flatten)]
        planned: PlanArgs,
    },
    /// Runs what is not in the store, and shows the reports
    Run {
        #[command(flatten)]
        planned: PlanArgs,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Explains why a step has to run, or where its result came from
    Why {
        #[command(flatten)]
        recipe: RecipeArgs,
        #[command(flatten)]
        store: StoreArgs,
        /// The step, as `r1` or `r2[rate=50%]`
        step: String,
    },
    /// Draws the steps of a recipe as a graph
    Graph {
        #[command(flatten)]
        planned: PlanArgs,
        /// The language to draw in
        #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
        format: GraphFormat,
    },
    /// Lists what the store holds
    Ls {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Shows what a step made: parameters, outputs, paths
    Show {
        #[command(flatten)]
        store: StoreArgs,
        /// The step's name, or the first digits of its key
        step: String,
    },
    /// Prints the log of a step
    Log {
        #[command(flatten)]
        store: StoreArgs,
        /// The step's name, or the first digits of its key
        step: String,
    },
    /// Hashes everything in the store again
    Verify {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Runs stages for a scheduler: actions on standard input, events on standard output
    #[command(hide = true)]
    Worker,
}

#[derive(ClapArgs)]
struct RecipeArgs {
    /// The recipe
    recipe: PathBuf,
    /// Gives a param another value
    #[arg(short = 's', long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

#[derive(ClapArgs)]
struct StoreArgs {
    /// The store; by default `$TLM_STORE`, or `.tlm` beside the recipe, or where there is none, here
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(ClapArgs)]
struct PlanArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The plans to run; by default the plan `default`, or all when there is none
    plans: Vec<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// The worker of tensor stages; by default `$TLM_TORCH`, or `tlm-torch` beside this program
    #[arg(long, value_name = "PROGRAM")]
    torch: Option<PathBuf>,
}

#[derive(ClapArgs)]
struct RunArgs {
    /// Prints events as JSON lines instead of tables (docs/events.md)
    #[arg(long)]
    json: bool,
    /// Where to write the HTML report; by default into the store
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum GraphFormat {
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
}

/// Where a command writes, and what it may know.
struct Console<'c> {
    world: &'c World,
    out: &'c mut dyn Write,
    err: &'c mut dyn Write,
}

/// Why a command ends early.
enum Exit {
    /// All is told already.
    Code(u8),
    /// Standard output or standard error is closed.
    Closed(io::Error),
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        Self::Closed(error)
    }
}

impl Console<'_> {
    /// Tells an error with its remedy and returns how to end.
    fn fail(&mut self, code: u8, message: impl std::fmt::Display, help: &str) -> Exit {
        match writeln!(self.err, "error: {message}\nhelp: {help}") {
            Ok(()) => Exit::Code(code),
            Err(error) => Exit::Closed(error),
        }
    }

    fn store_error(&mut self, error: &StoreError) -> Exit {
        self.fail(ENVIRONMENT, error, &error.help())
    }
}

/// Runs a command line, its program's name first, and returns the exit code.
///
/// # Errors
/// When standard output or standard error is closed.
pub fn run(
    args: impl IntoIterator<Item = std::ffi::OsString>,
    world: &World,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            write!(err, "{error}")?;
            return Ok(USAGE);
        }
        Err(help) => {
            write!(out, "{help}")?;
            return Ok(DONE);
        }
    };
    let mut console = Console { world, out, err };
    let done = match args.command {
        Command::Check { recipe, json } => recipe::check(&recipe, json, &mut console),
        Command::Plan { planned } => explain::plan(&planned, &mut console),
        Command::Run { planned, run } => run::run(&planned, &run, &mut console),
        Command::Why { recipe, store, step } => explain::why(&recipe, &store, &step, &mut console),
        Command::Graph { planned, format } => explain::graph(&planned, format, &mut console),
        Command::Ls { store } => stored::ls(&store, &mut console),
        Command::Show { store, step } => stored::show(&store, &step, &mut console),
        Command::Log { store, step } => stored::log(&store, &step, &mut console),
        Command::Verify { store } => stored::verify(&store, &mut console),
        Command::Worker => return serve(),
    };
    match done {
        Ok(()) => Ok(DONE),
        Err(Exit::Code(code)) => Ok(code),
        Err(Exit::Closed(error)) => Err(error),
    }
}

fn serve() -> io::Result<u8> {
    let stop = Arc::new(AtomicBool::new(false));
    worker::stop_on_signals(&stop)?;
    worker::serve(stage::REGISTRY, BufReader::new(io::stdin()), &worker::Stdout, &stop);
    Ok(DONE)
}
