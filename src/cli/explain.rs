//! `tlm plan`, `tlm why`, `tlm graph`: what would run, and why.

use std::collections::BTreeMap;
use std::iter;

use crate::base::{Digest, Span, Value, in_chunks, text, units};
use crate::cli::recipe::{self, Plans, Session};
use crate::cli::{
    Console, Exit, GraphFormat, PlanArgs, RecipeArgs, ShowArgs, StoreArgs, USAGE, change,
    elsewhere, lock,
};
use crate::exec::{Estimates, Machine, estimates};
use crate::graph::{self, Change, History, Known, Planned, Unknown, Why, costs};
use crate::report::StepFacts;
use crate::report::jsonl::{self, Line, StepName};
use crate::report::summary::{self, Flops, PlanLine, PlanState, summary};
use crate::sema::steps::StepId;
use crate::store::Record;

/// `tlm plan`
pub(super) fn plan(
    args: &PlanArgs,
    options: &ShowArgs,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let rate = options.flops_per_s.as_deref().map(|rate| flops_per_s(rate, console)).transpose()?;
    let mut session = recipe::open(args, console)?;
    lock::hold(&session, options.locked, console)?;
    session.plan.settle(&session.store);
    let others = elsewhere::open(&options.elsewhere, &session, console)?;
    session.plan.look_elsewhere(&others);
    let estimates = estimates(&session.plan, &session.store);
    let (steps, lines) = (session.plan.len(), lines(&session, &estimates));
    if options.json {
        let elsewhere = session.plan.to_take().len();
        let plan = Line::Plan { steps, fresh: steps - lines.len(), elsewhere };
        let mut lines = iter::once(plan).chain(lines.iter().map(summary::json));
        lines.try_for_each(|line| writeln!(console.out, "{}", jsonl::json(&line)))?;
    } else {
        let elsewhere = elsewhere::told(&session, &others);
        write!(console.out, "{}{elsewhere}", summary(steps, &lines, rate))?;
    }
    Ok(())
}

fn flops_per_s(rate: &str, console: &mut Console<'_>) -> Result<f64, Exit> {
    units::number(rate).filter(|rate| *rate > 0.0).ok_or_else(|| {
        let message = format!("`--flops-per-s {rate}` is no number above zero");
        console.fail(USAGE, message, "write it as `--flops-per-s 400T`")
    })
}

/// `tlm graph`
pub(super) fn graph(
    args: &PlanArgs,
    format: GraphFormat,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let mut session = recipe::open(args, console)?;
    session.plan.settle(&session.store);
    let drawn = match format {
        GraphFormat::Dot => graph::dot(&session.plan),
        GraphFormat::Mermaid => graph::mermaid(&session.plan),
    };
    write!(console.out, "{drawn}")?;
    Ok(())
}

/// `tlm why`
pub(super) fn why(
    recipe: &RecipeArgs,
    store: &StoreArgs,
    wanted: &str,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let machine = Machine::of(console.world, None);
    let mut session = recipe::plan(recipe, &Plans::All, store, machine, console)?;
    session.plan.settle(&session.store);
    let is_wanted =
        |planned: &Planned<'_>| planned.step.label() == wanted || planned.step.name() == wanted;
    let steps: Vec<_> = session.plan.steps().filter(is_wanted).collect();
    if steps.is_empty() {
        let names: Vec<_> = session.plan.steps().map(|planned| planned.step.name()).collect();
        let help = match text::did_you_mean(wanted, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("steps are {}", names.join(", ")),
        };
        return Err(console.fail(USAGE, format!("the plan has no step `{wanted}`"), &help));
    }
    let history = History::of(&session.store, steps.iter().map(|planned| planned.step));
    for planned in steps {
        write!(console.out, "{}", reasons(planned, &session, &history))?;
    }
    Ok(())
}

/// Returns the plan's summary: what will run, and why.
pub(super) fn told(session: &Session, estimates: &Estimates) -> String {
    summary(session.plan.len(), &lines(session, estimates), None)
}

/// Returns a line for each step to run.
fn lines(session: &Session, estimates: &Estimates) -> Vec<PlanLine> {
    let plan = &session.plan;
    let due: Vec<_> = plan.due().iter().filter_map(|id| plan.get(*id)).collect();
    if due.is_empty() {
        return Vec::new();
    }
    let history = History::of(&session.store, due.iter().map(|planned| planned.step));
    let costs = costs(plan, &session.store);
    let line = |planned: &Planned<'_>| PlanLine {
        step: StepName::of(*planned),
        state: state(*planned, &history.why(plan, *planned), session),
        is_blocked: plan.inputs(planned.id).any(|input| plan.due().contains(&input)),
        expected: estimates.get(&planned.id).copied(),
        flops: flops(costs.get(&planned.id), session),
    };
    in_chunks(&due, |part| part.iter().map(line).collect::<Vec<_>>()).concat()
}

fn flops(cost: Option<&Known<f64>>, session: &Session) -> Flops {
    match cost {
        Some(Ok(flops)) => Flops::Known(*flops),
        Some(Err(Unknown::Until(step))) => {
            let step = session.plan.get(*step).map(|planned| planned.step.name());
            step.map_or(Flops::Unknown, Flops::Until)
        }
        Some(Err(Unknown::Never)) | None => Flops::Unknown,
    }
}

/// Returns what reporters need to know of every step to run.
pub(super) fn facts(session: &Session, estimates: &Estimates) -> BTreeMap<StepId, StepFacts> {
    let fact = |planned: Planned<'_>| {
        let seconds = estimates.get(&planned.id).map(|estimate| estimate.seconds);
        (planned.id, StepFacts::new(planned.step, seconds))
    };
    session.plan.due().iter().filter_map(|id| session.plan.get(*id)).map(fact).collect()
}

fn state(planned: Planned<'_>, why: &Why, session: &Session) -> PlanState {
    let own: Vec<_> = why.changes.iter().filter(|change| !change.is_upstream()).collect();
    if why.nearest.is_some() && !own.is_empty() {
        let changes: Vec<_> = own.iter().map(|change| change::told(change)).collect();
        return PlanState::Due { why: changes.join(", ") };
    }
    let on: Vec<_> = session
        .plan
        .inputs(planned.id)
        .filter(|input| session.plan.due().contains(input))
        .filter_map(|input| session.plan.get(input))
        .map(|input| input.step.name())
        .collect();
    match (on.is_empty(), why.nearest.is_some()) {
        (false, _) => PlanState::Waiting { on },
        (true, false) => PlanState::Due { why: "never ran".to_owned() },
        (true, true) if why.changes.is_empty() => {
            PlanState::Due { why: "its outputs are gone from the store".to_owned() }
        }
        (true, true) => PlanState::Due { why: "inputs changed".to_owned() },
    }
}

fn reasons(planned: Planned<'_>, session: &Session, history: &History) -> String {
    let name = planned.step.name();
    let stage = &planned.step.stage().name;
    let head = format!("{name} ({stage}), key {}", planned.recipe.short());
    if let Some(record) = session.plan.record(planned.id, &session.store) {
        return format!("{head}: fresh, {}\n", made(&record));
    }
    let why = history.why(&session.plan, planned);
    let Some(nearest) = &why.nearest else {
        return format!("{head}: has to run; no step of this stage ever ran\n");
    };
    let mut out =
        format!("{head}: has to run; compared with {}, {}:\n", nearest.name(), made(nearest));
    if why.changes.is_empty() {
        out += "  nothing changed, but its outputs are gone from the store\n";
    }
    let mut lines: Vec<String> = Vec::new();
    for change in why.changes.iter().filter(|change| !is_implied(change, &why.changes)) {
        let line = format!("  {}{}\n", reason(change, session), place(change, session));
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    out + &lines.concat()
}

fn reason(change: &Change, session: &Session) -> String {
    let key = |value: &Option<Value>| match value {
        Some(Value::Digest(key)) if change.field.ends_with(".step") => Some(*key),
        _ => None,
    };
    match (key(&change.before), key(&change.now)) {
        (None, None) => change::told(change),
        (Some(_), Some(now)) => format!("comes from another {}", maker(now, session)),
        (None, Some(now)) => format!("comes from {} too", maker(now, session)),
        (Some(before), None) => format!("no longer comes from {}", maker(before, session)),
    }
}

/// Returns whether a field only says which output it takes of a step that it did not take before, or no longer takes.
fn is_implied(change: &Change, all: &[Change]) -> bool {
    let Some(input) = change.field.strip_suffix(".output") else { return false };
    let is_step = |other: &Change| other.field.strip_suffix(".step") == Some(input);
    let step = all.iter().find(|other| is_step(other));
    step.is_some_and(|step| step.before.is_none() || step.now.is_none())
}

/// Returns the name of the step with a key, in the plan or as it was.
fn maker(key: Digest, session: &Session) -> String {
    let planned = session.plan.steps().find(|planned| planned.recipe == key);
    let stored = || {
        let record = session.store.lookup(key)?;
        Some(record.name())
    };
    planned.map(|planned| planned.step.name()).or_else(stored).unwrap_or_else(|| key.short())
}

fn place(change: &Change, session: &Session) -> String {
    change.span.map(|span| place_of(span, session)).unwrap_or_default()
}

/// Returns where something stands in the recipe, to be put behind it.
pub(super) fn place_of(span: Span, session: &Session) -> String {
    let sources = &session.source.sources;
    let (line, column) = sources.line_column(span);
    format!("   at {}:{line}:{column}", sources.path(span.file).display())
}

/// Returns a time as the user's clock shows it.
pub(super) fn local(time: jiff::Timestamp) -> String {
    let time = jiff::ZonedDateTime::new(time, jiff::tz::TimeZone::system());
    time.strftime("%Y-%m-%d %H:%M").to_string()
}

/// Returns when a record was made and how long it took.
pub(super) fn made(record: &Record) -> String {
    let when = jiff::Timestamp::from_second(record.finished_unix)
        .map_or_else(|_| "at an unknown time".to_owned(), local);
    format!("made {when} in {}", text::duration(record.seconds))
}
