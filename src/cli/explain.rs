//! `tlm plan`, `tlm why`, `tlm graph`: what would run, and why.

use std::cell::LazyCell;
use std::collections::BTreeMap;

use crate::base::text;
use crate::cli::recipe::{self, Plans, Session};
use crate::cli::{Console, Exit, GraphFormat, PlanArgs, RecipeArgs, StoreArgs, USAGE};
use crate::exec::{Estimates, Machine, estimates};
use crate::graph::{self, Change, History, Planned, Why};
use crate::report::StepFacts;
use crate::report::names::name_at;
use crate::report::summary::{PlanLine, PlanState, summary};
use crate::sema::steps::StepId;
use crate::store::Record;

/// `tlm plan`
pub(super) fn plan(args: &PlanArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    let session = recipe::open(args, console)?;
    let estimates = estimates(&session.plan, &session.store);
    write!(console.out, "{}", told(&session, &estimates))?;
    Ok(())
}

/// `tlm graph`
pub(super) fn graph(
    args: &PlanArgs,
    format: GraphFormat,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let session = recipe::open(args, console)?;
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
    let session = recipe::plan(recipe, &Plans::All, store, machine, console)?;
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
    let history = History::of(&session.store);
    for planned in steps {
        write!(console.out, "{}", reasons(planned, &session, &history))?;
    }
    Ok(())
}

/// Returns the plan's summary: what will run, and why.
pub(super) fn told(session: &Session, estimates: &Estimates) -> String {
    let due = session.plan.due();
    let history = LazyCell::new(|| History::of(&session.store));
    let line = |planned: Planned<'_>| PlanLine {
        name: planned.step.name(),
        stage: planned.step.stage().name.clone(),
        state: state(planned, &history.why(&session.plan, planned), session),
        is_blocked: session.plan.inputs(planned.id).any(|input| due.contains(&input)),
        expected: estimates.get(&planned.id).copied(),
    };
    let lines = due.iter().filter_map(|id| session.plan.get(*id)).map(line);
    summary(session.plan.len(), &lines.collect::<Vec<_>>())
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
    let own: Vec<_> = why.changes.iter().filter(|change| !is_upstream(change)).collect();
    if why.nearest.is_some() && !own.is_empty() {
        let changes: Vec<_> = own.iter().map(|change| change_text(change)).collect();
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

/// Returns whether a field of the manifest only says that a step before has another key.
fn is_upstream(change: &Change) -> bool {
    change.field.ends_with(".step")
}

fn change_text(change: &Change) -> String {
    let name = change.field.strip_prefix("params.").unwrap_or(&change.field);
    let value = |value: &Option<serde_json::Value>| match value {
        None => "nothing".to_owned(),
        Some(serde_json::Value::Array(items)) => text::plural(items.len(), "file"),
        Some(serde_json::Value::String(text)) if text.len() == 64 => text[..12].to_owned(),
        Some(serde_json::Value::String(text)) if !text.contains(char::is_control) => text.clone(),
        Some(other) => other.to_string(),
    };
    let (before, now) = (value(&change.before), value(&change.now));
    match before == now {
        true => format!("{name}: another content"),
        false => format!("{name}: {before} -> {now}"),
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
    let mut out = format!(
        "{head}: has to run; compared with {}, {}:\n",
        name_at(&nearest.label, &nearest.point),
        made(nearest)
    );
    if why.changes.is_empty() {
        out += "  nothing changed, but its outputs are gone from the store\n";
    }
    for change in &why.changes {
        let text = match (is_upstream(change), input_of(change, planned, session)) {
            (true, Some(input)) => format!("comes from another {input}"),
            _ => change_text(change),
        };
        out += &format!("  {text}{}\n", place(change, session));
    }
    out
}

/// Returns the name of the step behind a changed input.
fn input_of(change: &Change, planned: Planned<'_>, session: &Session) -> Option<String> {
    let field = change.field.split('.').nth(1)?;
    let (_, input) = planned.step.inputs().find(|(name, _)| *name == field)?;
    match input {
        crate::sema::steps::Input::Output(output) => {
            session.plan.get(output.step).map(|step| step.step.name())
        }
        crate::sema::steps::Input::Files(_) => None,
    }
}

fn place(change: &Change, session: &Session) -> String {
    let Some(span) = change.span else { return String::new() };
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
