//! `tlm run`

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write, stderr};
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::base::text;
use crate::cli::answer::{Heard, Question};
use crate::cli::explain::{facts, local, told};
use crate::cli::recipe::{self, Session, tell};
use crate::cli::{
    Console, ENVIRONMENT, Exit, FAILED, INTERNAL, INTERRUPTED, PROGRAM, PlanArgs, RunArgs,
    elsewhere, lock, report,
};
use crate::exec::{self, Machine, OnFailure, Outcome, Stop};
use crate::report::draw::draw;
use crate::report::html::{self, HtmlError};
use crate::report::{Results, Table, Teller, Terminal, Trace, Watch, jsonl};
use crate::stage::FailureKind;
use crate::store::RunMark;

/// How often a run is planned again because the store is not what it was.
const REPEATS: usize = 2;

pub(super) fn run(
    args: &PlanArgs,
    options: &RunArgs,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let question = Question::of(args, options, console);
    if let Some(question) = &question
        && question.answer(console)?
    {
        return Ok(());
    }
    let heard = Heard::default();
    let [mut out, mut err] = heard.of(console.out, console.err);
    let mut noting =
        Console { world: console.world, out: &mut out, err: &mut err, unheard: console.unheard };
    let ended = run_until_whole(args, options, &mut noting);
    console.unheard = noting.unheard;
    let ended = ended?;
    if let (Some(question), Some((run, report))) = (question, ended.idle) {
        question.remember(&ended.session, &run, report, &heard);
    }
    // The process ends; giving back the memory of each step would only take time.
    mem::forget(ended.session);
    Ok(())
}

/// A run that ended well.
struct Ended {
    session: Session,
    /// Its mark and its report, if there was nothing to do.
    idle: Option<(RunMark, (PathBuf, String))>,
}

/// Runs, and again while the store turns out not to be what it was.
fn run_until_whole(
    args: &PlanArgs,
    options: &RunArgs,
    console: &mut Console<'_>,
) -> Result<Ended, Exit> {
    let trace = options.trace.as_deref().map(|path| trace(path, console)).transpose()?;
    let (mut kept, mut repeats) = (Kept { stop: None, trace }, 0);
    loop {
        if let Some(ended) = run_once(args, options, &mut kept, repeats < REPEATS, console)? {
            return Ok(ended);
        }
        repeats += 1;
    }
}

/// What goes on when a run is planned again.
struct Kept {
    stop: Option<Stop>,
    trace: Option<Trace>,
}

/// Plans and runs; returns nothing if that is to be done again, as far as it may be: what turned out damaged or was collected
/// is gone now, so a new plan has the steps that make it.
fn run_once(
    args: &PlanArgs,
    options: &RunArgs,
    kept: &mut Kept,
    may_repeat: bool,
    console: &mut Console<'_>,
) -> Result<Option<Ended>, Exit> {
    let mut session = recipe::open(args, console)?;
    let lock = lock::hold(&session, options.locked, console)?;
    let others = elsewhere::open(&options.elsewhere, &session, console)?;
    session.plan.look_elsewhere(&others);
    check_fit(&mut session, console)?;
    let keys = session.plan.steps().map(|planned| planned.recipe);
    let mark = session.store.begin_run(keys, console.world.now());
    let mark = mark.map_err(|error| console.store_error(&error))?;
    if mark.is_late && may_repeat {
        return Ok(None);
    }
    if !others.is_empty() {
        elsewhere::take(&mut session, &others, console)?;
        check_fit(&mut session, console)?;
    }
    let stop = match &mut kept.stop {
        Some(stop) => stop,
        stop => {
            stop.insert(Stop::on_signals(INTERRUPTED).map_err(|error| console.no_signals(&error))?)
        }
    };
    let estimates = exec::estimates(&session.plan, &session.store);
    let (began, trace) = (Instant::now(), kept.trace.as_mut());
    let origins = session.source.origins(console.world);
    let run = exec::Run {
        plan: &session.plan,
        store: &session.store,
        machine: &session.machine,
        origins: &origins,
        stop,
        on_failure: if options.fail_fast { OnFailure::Stop } else { OnFailure::GoOn },
        estimates: &estimates,
    };
    // Why each step runs takes longer to find than the first one to start.
    let begun = || {
        console.say(told(&session, &estimates));
        let (facts, resume) = (facts(&session, &estimates), resume(args, options));
        let terminal = match console.world.stderr_is_terminal() {
            true => Terminal::live(facts, &resume),
            false => Terminal::plain(facts, Box::new(stderr()), &resume),
        };
        let json: Option<&mut dyn Write> = match options.json {
            true => Some(&mut *console.out),
            false => None,
        };
        let telling = match session.plan.due().is_empty() {
            true => None,
            false => session.store.tell(&mark).ok().flatten(),
        };
        let teller = telling.map(|telling| Teller::new(telling, console.world.process()));
        Watch::new(&session.plan, terminal, json, trace, teller)
    };
    let (outcome, watch) = run.go(begun, Watch::hear);
    let seconds = began.elapsed().as_secs_f64();
    session.store.keep_checked();
    if may_repeat && session.store.has_damage() && !outcome.interrupted {
        let text = watch.close(false).text;
        console.say(format_args!("{text}what was damaged is made again\n"));
        return Ok(None);
    }
    let results = session.results(&outcome);
    let tables = results.tables();
    let closed = watch.close(outcome.interrupted);
    console.say(closed.text);
    let traced = kept.trace.take().map_or(Ok(()), Trace::close);
    let traced = traced.map_err(|error| no_trace(options.trace.as_deref(), &error, console));
    let report = write_report(&results, &session, options.report.as_deref(), &tables, console);
    // The last, as it may be closed, or wait for its reader.
    let written = closed.json.and_then(|()| match options.json {
        true => jsonl::close(console.out, &outcome, &tables, seconds),
        false => show(&tables, console),
    });
    let written = written.and_then(|()| console.out.flush()).map_err(|e| console.closed(&e));
    let locked =
        lock.check(&session, |planned| results.record(planned.id).map(Cow::into_owned), console);
    let (report, unreported) = report.map_or_else(|code| (None, Some(code)), |ok| (ok, None));
    let (failed, is_idle) = (code(&outcome), outcome.is_idle());
    let codes = [failed, locked.err(), unreported, traced.err(), written.err()];
    if let Some(code) = codes.into_iter().flatten().next() {
        mem::forget(session);
        return Err(Exit::Code(code));
    }
    let idle = report.filter(|_| is_idle).map(|report| (mark, report));
    Ok(Some(Ended { session, idle }))
}

/// Refuses a plan with a step that has to run but never can.
fn check_fit(session: &mut Session, console: &mut Console<'_>) -> Result<(), Exit> {
    if exec::fits(&session.plan, &session.machine).is_empty() {
        return Ok(());
    }
    // Perhaps that need not run: the store may have it by content.
    session.plan.settle(&session.store);
    let never = exec::fits(&session.plan, &session.machine);
    if never.is_empty() {
        return Ok(());
    }
    tell(&session.source.sources, &never, console);
    Err(Exit::Code(PROGRAM))
}

fn trace(path: &Path, console: &mut Console<'_>) -> Result<Trace, Exit> {
    match File::create(console.world.cwd().join(path)) {
        Ok(file) => Ok(Trace::new(Box::new(BufWriter::new(file)))),
        Err(error) => Err(Exit::Code(no_trace(Some(path), &error, console))),
    }
}

/// Tells that the trace can't be written and returns the exit code.
fn no_trace(path: Option<&Path>, error: &io::Error, console: &mut Console<'_>) -> u8 {
    let path = path.unwrap_or(Path::new("")).display();
    let message = format!("can't write the trace `{path}`: {error}");
    console.fail(ENVIRONMENT, message, "name another place with `--trace FILE`");
    ENVIRONMENT
}

/// Prints the tables: ruled for people, Markdown for files.
fn show(tables: &[Table], console: &mut Console<'_>) -> io::Result<()> {
    let format = report::default_format(console);
    tables.iter().try_for_each(|table| writeln!(console.out, "{}", draw(table, format)))
}

/// Writes the HTML report, unless the one that is there tells the same, and returns where it is, and its mark; none of one that
/// could not be written, but need not be. The error is an exit code.
fn write_report(
    results: &Results<'_>,
    session: &Session,
    chosen: Option<&Path>,
    tables: &[Table],
    console: &mut Console<'_>,
) -> Result<Option<(PathBuf, String)>, u8> {
    let recipe = &session.source.path;
    let path = match chosen {
        Some(path) => console.world.cwd().join(path),
        None => default_report(session, recipe),
    };
    let (machine, source) = (machine_text(&session.machine), session.source.text());
    let mark = results.mark(recipe, source, &machine, tables);
    if results.outcome.is_idle() && html::mark_of(&path).as_deref() == Some(&*mark) {
        console.say(format_args!("report: {}\n", path.display()));
        return Ok(Some((path, mark)));
    }
    let ran = results.outcome.ran.len();
    let now = jiff::Timestamp::try_from(console.world.now()).unwrap_or_default();
    let facts = vec![
        ("when".to_owned(), local(now)),
        ("steps".to_owned(), format!("{}, {ran} ran now", session.plan.len())),
        ("machine".to_owned(), machine),
        ("tlm".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let page = results.page(recipe, source, facts, tables.to_vec(), mark.clone());
    let (error, code, help) = match html::write(&page, &path) {
        Ok(()) => {
            console.say(format_args!("report: {}\n", path.display()));
            return Ok(Some((path, mark)));
        }
        Err(HtmlError::Write { path, source }) => {
            let help = match source.kind() {
                io::ErrorKind::StorageFull => "free some space, then run the same command again",
                _ => "name another place with `--report FILE`; all results are kept",
            };
            (HtmlError::Write { path, source }, ENVIRONMENT, help)
        }
        Err(error) => (error, INTERNAL, "this is a bug in tlm; please report it"),
    };
    // A store that can only be read answers all the same.
    if code == ENVIRONMENT && ran == 0 && chosen.is_none() {
        console.say(format_args!("warning: {error}\nhelp: {help}\n"));
        return Ok(None);
    }
    console.fail(code, error, help);
    Err(code)
}

fn default_report(session: &Session, recipe: &Path) -> PathBuf {
    let name = recipe.file_stem().unwrap_or_default().to_string_lossy();
    session.store.report_path(&name)
}

/// Returns what a report says of the machine.
pub(super) fn machine_text(machine: &Machine) -> String {
    let mut parts = vec![text::plural(machine.cpus as usize, "core")];
    if machine.gpus > 0 {
        parts.push(text::plural(machine.gpus as usize, "GPU"));
    }
    parts.extend(machine.mem.map(text::bytes));
    parts.push(machine.numerics());
    parts.join(", ")
}

/// Returns the command that goes on from here.
fn resume(args: &PlanArgs, options: &RunArgs) -> String {
    let mut words =
        vec!["tlm run".to_owned(), text::shell_word(&args.recipe.recipe.to_string_lossy())];
    words.extend(args.plans.iter().map(|plan| text::shell_word(plan)));
    words.extend(args.recipe.change.words());
    words.extend(
        args.recipe.profile.iter().map(|name| format!("--profile {}", text::shell_word(name))),
    );
    let store = args.store.store.iter();
    words.extend(
        store.map(|store| format!("--store {}", text::shell_word(&store.to_string_lossy()))),
    );
    let paths = args.torch.iter().map(|path| ("--torch", path));
    let paths = paths.chain(options.elsewhere.from.iter().map(|path| ("--from", path)));
    words.extend(
        paths.map(|(flag, path)| format!("{flag} {}", text::shell_word(&path.to_string_lossy()))),
    );
    words.join(" ")
}

/// Returns a word as a shell takes it.
fn code(outcome: &Outcome) -> Option<u8> {
    let is = |kind| outcome.failed.values().any(|failure| failure.kind == kind);
    match () {
        () if is(FailureKind::Internal) => Some(INTERNAL),
        () if outcome.interrupted => Some(INTERRUPTED),
        () if is(FailureKind::Environment) => Some(ENVIRONMENT),
        () if !outcome.failed.is_empty() => Some(FAILED),
        () => None,
    }
}
