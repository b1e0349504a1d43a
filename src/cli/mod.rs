//! Level 9: the command line. One file a command once there is more to one than a few lines.

mod answer;
mod change;
mod codes;
mod compare;
mod diff;
mod doc;
mod elsewhere;
mod explain;
mod fmt;
mod gc;
mod lock;
mod outline;
mod pages;
mod recipe;
mod report;
mod run;
mod sample;
mod samples;
mod serve;
mod stored;
mod verify;

use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::base::World;
use crate::base::text;
use crate::stage::{self, worker};
use crate::store::StoreError;

/// Everything went well.
pub const DONE: u8 = 0;
/// A step failed: on what the recipe gave it, by a crash, or by its time limit. Or `fmt --check`
/// found a file that is not formatted, or `diff` a difference.
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
    /// Writes recipes in the one style
    Fmt {
        /// The recipes; `-` formats standard input to standard output
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Writes nothing, lists the files that would change, and ends with code 1 if there are any
        #[arg(long)]
        check: bool,
    },
    /// Shows which steps would run, and why
    Plan {
        #[command(flatten)]
        planned: PlanArgs,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Runs what is not in the store, and shows the reports
    Run {
        #[command(flatten)]
        planned: PlanArgs,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Shows the reports of what the store holds; runs nothing
    Report {
        #[command(flatten)]
        planned: PlanArgs,
        /// Shows only this report; may be given several times
        #[arg(long = "name", value_name = "REPORT")]
        names: Vec<String>,
        /// The form; by default `text` on a terminal, else `markdown`
        #[arg(long, value_enum)]
        format: Option<ReportFormat>,
        /// Also writes each figure into this folder, as SVG; Markdown shows them
        #[arg(long, value_name = "DIR")]
        figures: Option<PathBuf>,
    },
    /// Shows the HTML report in a browser on this machine, and follows what runs; runs nothing
    Serve {
        #[command(flatten)]
        planned: PlanArgs,
        /// The port; by default 8717, or the next one that is free
        #[arg(long, value_name = "N")]
        port: Option<u16>,
    },
    /// Writes the keys of the steps and what they made into `RECIPE.lock`, for `--locked`
    Lock {
        #[command(flatten)]
        planned: PlanArgs,
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
    /// Shows what a step made: parameters, outputs, paths, and some of its texts and tokens
    Show {
        #[command(flatten)]
        store: StoreArgs,
        /// The step's name, or the first digits of its key
        step: String,
    },
    /// Compares two steps of the store, two recipes, or a recipe with what `-s` makes of it: where they first differ, and the
    /// results; ends with code 1 if they do
    Diff(DiffArgs),
    /// Prints the log of a step
    Log {
        #[command(flatten)]
        store: StoreArgs,
        /// The step's name, or the first digits of its key
        step: String,
    },
    /// Lets a checkpoint continue a prompt, to look at it
    Sample {
        #[command(flatten)]
        sample: SampleArgs,
    },
    /// Hashes everything in the store again, and tells what is damaged
    Verify {
        #[command(flatten)]
        store: StoreArgs,
        /// Moves damaged objects to `quarantine` in the store, so that the next run makes them again
        #[arg(long)]
        repair: bool,
    },
    /// Shows what no pin and no recent run needs; removes it with `--delete`
    Gc {
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        options: GcArgs,
    },
    /// Keeps what a step made until it is unpinned; without a step, lists the pins
    Pin {
        #[command(flatten)]
        store: StoreArgs,
        /// The step's name, or the first digits of its key
        step: Option<String>,
        /// The pin's name; by default the step's
        #[arg(long = "as", value_name = "NAME", requires = "step")]
        name: Option<String>,
    },
    /// Takes a pin away
    Unpin {
        #[command(flatten)]
        store: StoreArgs,
        /// The pin's name
        name: String,
    },
    /// Shows the reference of the standard library, or of a part of it
    Doc {
        /// A module, stage or artifact type, as `train`, `train.run`, `Checkpoint`, or a recipe, as `b0.tlm`; by default a
        /// list of all
        name: Option<String>,
        /// Prints the whole reference as Markdown
        #[arg(long, conflicts_with = "name")]
        markdown: bool,
    },
    /// Explains the code of an error or warning
    Explain {
        /// The code, as `tlm::sema::circle` or `circle`; by default a list of all
        code: Option<String>,
    },
    /// Runs stages for a scheduler: actions on standard input, events on standard output
    #[command(hide = true)]
    Worker,
    /// Runs a worker, and ends whatever it leaves behind
    #[command(hide = true)]
    Guard,
}

#[derive(ClapArgs, Debug, Default)]
struct RecipeArgs {
    /// The recipe
    recipe: PathBuf,
    #[command(flatten)]
    change: ChangeArgs,
    /// Takes params and axes from a profile of the recipe; `-s` and `--axis` count more
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

#[derive(ClapArgs, Debug)]
struct DiffArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// A step's name, the first digits of its key, a pin; or a recipe
    #[arg(value_name = "A")]
    before: String,
    /// The other
    #[arg(value_name = "B")]
    now: Option<String>,
    /// Takes params and axes of both recipes from a profile
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The form of what differs between recipes; by default `text` on a terminal, else `markdown`
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<ReportFormat>,
    /// Prints the differences of two steps as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "What B is changed by")]
    change: ChangeArgs,
}

/// What makes another recipe of one.
#[derive(ClapArgs, Clone, Debug, Default)]
struct ChangeArgs {
    /// Gives a param another value
    #[arg(short = 's', long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Makes a param an axis with these values, or gives an axis others; plans go over it
    #[arg(long, value_name = "NAME=VALUE,VALUE")]
    axis: Vec<String>,
    /// Leaves only the points at which an axis has one of these values
    #[arg(long, value_name = "NAME=VALUE,VALUE")]
    only: Vec<String>,
}

impl ChangeArgs {
    /// Returns the words of a command line that say the same.
    fn words(&self) -> Vec<String> {
        let flags = [("-s", &self.set), ("--axis", &self.axis), ("--only", &self.only)];
        let each =
            flags.into_iter().flat_map(|(flag, values)| values.iter().map(move |v| (flag, v)));
        each.map(|(flag, value)| format!("{flag} {}", text::shell_word(value))).collect()
    }
}

#[derive(ClapArgs, Debug)]
struct StoreArgs {
    /// The store; by default `$TLM_STORE`, or `.tlm` beside the recipe, or where there is none, here
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(ClapArgs, Debug)]
struct PlanArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The plans to run, or values of the recipe: `r1`, and `r1+` with all that plans make of it. By default the plan
    /// `default`, or all when there is none
    plans: Vec<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// The worker of tensor stages; by default `$TLM_TORCH`, or `tlm-torch` beside this program
    #[arg(long, value_name = "PROGRAM")]
    torch: Option<PathBuf>,
}

#[derive(ClapArgs)]
struct ShowArgs {
    #[command(flatten)]
    elsewhere: FromArgs,
    /// Prints the steps as JSON lines (docs/events.md)
    #[arg(long)]
    json: bool,
    /// How many floating-point operations a second a GPU does, as `400T`: tells the GPU-hours of the steps to run
    #[arg(long, value_name = "NUMBER")]
    flops_per_s: Option<String>,
    /// Refuses keys that `RECIPE.lock` does not have
    #[arg(long)]
    locked: bool,
}

#[derive(ClapArgs, Debug)]
struct FromArgs {
    /// Another store to take results from that this one lacks; it is only read. May be given several times; by default those
    /// in `$TLM_FROM`, parted by `:`
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
}

#[derive(ClapArgs, Debug)]
struct RunArgs {
    #[command(flatten)]
    elsewhere: FromArgs,
    /// Prints events as JSON lines instead of tables (docs/events.md)
    #[arg(long)]
    json: bool,
    /// Where to write the HTML report; by default into the store
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where to write a trace of the run, for `chrome://tracing` and Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Starts nothing more once a step failed, and stops what runs
    #[arg(long)]
    fail_fast: bool,
    /// Refuses keys that `RECIPE.lock` does not have, and tells outputs that differ from those in it
    #[arg(long)]
    locked: bool,
}

#[derive(ClapArgs, Debug)]
struct SampleArgs {
    /// A model's folder, or a step of the store that made one: its name, the first digits of its key, or a pin
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: String,
    /// The text to continue
    prompt: String,
    #[command(flatten)]
    store: StoreArgs,
    /// The tensor worker; by default `$TLM_TORCH`, or `tlm-torch` beside this program
    #[arg(long, value_name = "PROGRAM")]
    torch: Option<PathBuf>,
    /// Writes at most so many tokens
    #[arg(long, value_name = "N", default_value_t = 100)]
    tokens: u32,
    /// How freely to draw: 0 always takes the likeliest token, 1 draws as the model says
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f64,
    /// Draws one of so many likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Draws one of the likeliest tokens that have this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Another seed draws other tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u32,
}

#[derive(ClapArgs)]
struct GcArgs {
    /// Keeps all steps of runs that began in the last so many days
    #[arg(long, value_name = "N", default_value_t = 30)]
    keep_days: u32,
    /// Of what else there is, removes only as much as is needed to get the objects down to this, as `200GiB`; the longest
    /// unused first
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Removes it
    #[arg(long)]
    delete: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum GraphFormat {
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReportFormat {
    /// Ruled tables
    Text,
    /// Markdown
    Markdown,
    /// Comma-separated values with all digits; of logs all points
    Csv,
    /// JSON, with the keys of the steps behind each cell
    Json,
    /// LaTeX, for the package `booktabs`
    Latex,
}

/// Where a command writes, and what it may know.
struct Console<'c> {
    world: &'c World,
    out: &'c mut dyn Write,
    err: &'c mut dyn Write,
    /// Whether something could not be written to standard error.
    unheard: bool,
}

/// Why a command ends early.
enum Exit {
    /// All is told already.
    Code(u8),
    /// Standard output can't be written.
    Closed(io::Error),
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        Self::Closed(error)
    }
}

impl Console<'_> {
    /// Writes a text to standard error. What is to be done is done even if nobody can read of it.
    fn say(&mut self, text: impl std::fmt::Display) {
        self.unheard |= write!(self.err, "{text}").is_err();
    }

    /// Tells an error with its remedy and returns how to end.
    fn fail(&mut self, code: u8, message: impl std::fmt::Display, help: &str) -> Exit {
        self.say(format_args!("error: {message}\nhelp: {help}\n"));
        Exit::Code(code)
    }

    fn store_error(&mut self, error: &StoreError) -> Exit {
        self.fail(ENVIRONMENT, error, &error.help())
    }

    fn no_signals(&mut self, error: &io::Error) -> Exit {
        let message = format!("can't listen for signals: {error}");
        self.fail(ENVIRONMENT, message, "run the same command again")
    }

    /// Tells that standard output can't be written and returns the exit code.
    fn closed(&mut self, error: &io::Error) -> u8 {
        let message = format!("can't write to standard output: {error}");
        self.fail(
            ENVIRONMENT,
            message,
            "check the pipe or file it goes to, then run the same command again",
        );
        ENVIRONMENT
    }
}

/// Runs a command line, its program's name first, and returns the exit code.
pub fn run(
    args: impl IntoIterator<Item = std::ffi::OsString>,
    world: &World,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let mut console = Console { world, out, err, unheard: false };
    let done = match Args::try_parse_from(args) {
        Ok(args) => obey(args.command, &mut console),
        Err(error) if error.use_stderr() => {
            console.say(error);
            Err(Exit::Code(USAGE))
        }
        Err(help) => write!(console.out, "{help}").map_err(Exit::Closed),
    };
    let done = done.and_then(|()| console.out.flush().map_err(Exit::Closed));
    match done {
        Ok(()) if console.unheard => ENVIRONMENT,
        Ok(()) => DONE,
        Err(Exit::Code(code)) => code,
        Err(Exit::Closed(error)) => console.closed(&error),
    }
}

fn obey(command: Command, console: &mut Console<'_>) -> Result<(), Exit> {
    match command {
        Command::Check { recipe, json } => recipe::check(&recipe, json, console),
        Command::Fmt { files, check } => fmt::fmt(&files, check, console),
        Command::Plan { planned, show } => explain::plan(&planned, &show, console),
        Command::Lock { planned } => lock::lock(&planned, console),
        Command::Report { planned, names, format, figures } => {
            report::report(&planned, &names, format, figures.as_deref(), console)
        }
        Command::Run { planned, run } => run::run(&planned, &run, console),
        Command::Serve { planned, port } => serve::serve(&planned, port, console),
        Command::Why { recipe, store, step } => explain::why(&recipe, &store, &step, console),
        Command::Graph { planned, format } => explain::graph(&planned, format, console),
        Command::Ls { store } => stored::ls(&store, console),
        Command::Show { store, step } => stored::show(&store, &step, console),
        Command::Sample { sample: args } => sample::sample(&args, console),
        Command::Diff(args) if args.before.ends_with(".tlm") => compare::compare(&args, console),
        Command::Diff(args) => diff::diff(&args, console),
        Command::Log { store, step } => stored::log(&store, &step, console),
        Command::Verify { store, repair } => verify::verify(&store, repair, console),
        Command::Gc { store, options } => gc::gc(&store, &options, console),
        Command::Pin { store, step, name } => {
            gc::pin(&store, step.as_deref(), name.as_deref(), console)
        }
        Command::Unpin { store, name } => gc::unpin(&store, &name, console),
        Command::Doc { name: Some(name), .. } if name.ends_with(".tlm") => {
            let recipe = PathBuf::from(name);
            outline::recipe(&RecipeArgs { recipe, ..RecipeArgs::default() }, console)
        }
        Command::Doc { name, markdown } => doc::doc(name.as_deref(), markdown, console),
        Command::Explain { code } => codes::explain(code.as_deref(), console),
        Command::Worker => work(console),
        Command::Guard => guard(console),
    }
}

fn guard(console: &mut Console<'_>) -> Result<(), Exit> {
    match stage::guard::run() {
        Ok(DONE) => Ok(()),
        Ok(code) => Err(Exit::Code(code)),
        Err(error) => {
            let message = format!("can't start a worker: {error}");
            Err(console.fail(ENVIRONMENT, message, "run the same command again"))
        }
    }
}

fn work(console: &mut Console<'_>) -> Result<(), Exit> {
    let stop = Arc::new(AtomicBool::new(false));
    if let Err(error) = worker::stop_on_signals(&stop) {
        return Err(console.no_signals(&error));
    }
    worker::serve(stage::REGISTRY, BufReader::new(io::stdin()), &worker::Stdout, &stop);
    Ok(())
}
