//! `tlm diff` of two recipes, or of one as it is and as the command line changes it: which steps differ by themselves, and what
//! that does to the results that the store holds.

use std::collections::BTreeMap;

use crate::base::Value;
use crate::base::text::plural;
use crate::cli::recipe::{self, Plans, Session};
use crate::cli::report::{chosen_format, default_format};
use crate::cli::{Console, DiffArgs, Exit, FAILED, RecipeArgs, ReportFormat, USAGE, change};
use crate::exec::{Machine, Outcome};
use crate::graph::{Change, Planned, changes, fields};
use crate::report::draw::draw_all;
use crate::report::table::{Row, Shown, Table, TableCell};
use crate::sema::steps::{Column, View};

/// `tlm diff A.tlm B.tlm`, `tlm diff A.tlm -s lr=1e-3`
pub(super) fn compare(args: &DiffArgs, console: &mut Console<'_>) -> Result<(), Exit> {
    let changed = args.change.words();
    if args.now.is_none() && changed.is_empty() {
        let message = format!("there is nothing to compare `{}` with", args.before);
        let help = "name another recipe, or change this one: `-s name=value`";
        return Err(console.fail(USAGE, message, help));
    }
    let now = args.now.as_ref().unwrap_or(&args.before);
    let recipe = |path: &str| RecipeArgs {
        recipe: path.into(),
        profile: args.profile.clone(),
        ..RecipeArgs::default()
    };
    let before = recipe(&args.before);
    let now = RecipeArgs { change: args.change.clone(), ..recipe(now) };
    let a = open(&before, args, console)?;
    let b = open(&now, args, console)?;
    let comparison = Comparison::of(&a, &b);
    let shown =
        [args.before.clone(), [vec![now.recipe.display().to_string()], changed].concat().join(" ")];
    let format = args.format.or(args.json.then_some(ReportFormat::Json));
    if format.is_none() {
        write!(console.out, "{}", comparison.head(&shown))?;
    }
    let format = format.map_or_else(|| default_format(console), chosen_format);
    write!(console.out, "{}", draw_all(&comparison.tables(), format))?;
    if comparison.is_same() { Ok(()) } else { Err(Exit::Code(FAILED)) }
}

fn open(recipe: &RecipeArgs, args: &DiffArgs, console: &mut Console<'_>) -> Result<Session, Exit> {
    let machine = Machine::of(console.world, None);
    let mut session = recipe::plan(recipe, &Plans::Chosen(&[]), &args.store, machine, console)?;
    session.plan.settle(&session.store);
    Ok(session)
}

/// Two plans, side by side.
struct Comparison<'s> {
    sessions: [&'s Session; 2],
    /// Steps of both, by name, with other keys, and what differs but for what comes from steps before.
    differing: Vec<(Planned<'s>, Vec<Change>)>,
    same: usize,
    /// Steps of one only.
    alone: [Vec<Planned<'s>>; 2],
}

impl<'s> Comparison<'s> {
    fn of(a: &'s Session, b: &'s Session) -> Self {
        let named = |session: &'s Session| -> BTreeMap<String, Planned<'s>> {
            session.plan.steps().map(|planned| (planned.step.name(), planned)).collect()
        };
        let names = [named(a), named(b)];
        let (mut differing, mut same) = (Vec::new(), 0);
        for now in b.plan.steps() {
            let Some(before) = names[0].get(&now.step.name()) else { continue };
            if before.recipe == now.recipe {
                same += 1;
                continue;
            }
            let [before, after] = [(a, before.id), (b, now.id)]
                .map(|(session, id)| fields(&session.plan.manifest(id)));
            let mut own = changes(&before, &after);
            own.retain(|change| !change.is_upstream());
            differing.push((now, own));
        }
        let alone = [(a, &names[1]), (b, &names[0])].map(|(session, other)| {
            let is_alone = |planned: &Planned<'_>| !other.contains_key(&planned.step.name());
            session.plan.steps().filter(is_alone).collect()
        });
        Self { sessions: [a, b], differing, same, alone }
    }

    fn is_same(&self) -> bool {
        self.differing.is_empty() && self.alone.iter().all(Vec::is_empty)
    }

    /// Returns what is compared, and how many steps are the same.
    fn head(&self, shown: &[String; 2]) -> String {
        let own = self.differing.iter().filter(|(_, own)| !own.is_empty()).count();
        let counted = [
            format!("{} the same", self.same),
            format!("{} differ, {own} of them by themselves", self.differing.len()),
            format!("{} only in A", self.alone[0].len()),
            format!("{} only in B", self.alone[1].len()),
        ];
        let side = |at: usize| plural(self.sessions[at].plan.steps().count(), "step");
        let [a, b] = shown;
        format!("A  {a}, {}\nB  {b}, {}\n{}\n\n", side(0), side(1), counted.join(", "))
    }

    /// Returns the steps that differ by themselves, and of each report what differs.
    fn tables(&self) -> Vec<Table> {
        let outcome = Outcome::default();
        let [a, b] = self.sessions.map(|session| session.results(&outcome).tables());
        let steps = Some(self.steps()).filter(|table| !table.rows.is_empty());
        let pair = |before: &Table| {
            let now = b.iter().find(|now| now.name == before.name)?;
            let table = beside(before, now);
            (!table.rows.is_empty()).then_some(table)
        };
        steps.into_iter().chain(a.iter().filter_map(pair)).collect()
    }

    fn steps(&self) -> Table {
        let own = self.differing.iter().filter(|(_, own)| !own.is_empty());
        let told = own.map(|(planned, own)| {
            (planned, own.iter().map(change::told).collect::<Vec<_>>().join(", "))
        });
        let alone = self.alone.iter().zip(["only in A", "only in B"]);
        let alone =
            alone.flat_map(|(steps, told)| steps.iter().map(|step| (step, told.to_owned())));
        let row = |(planned, told): (&Planned<'_>, String)| {
            let labels = [planned.step.name(), planned.step.stage().name.clone()];
            let cell = TableCell { shown: Shown::Value(Value::Str(told)), sources: Vec::new() };
            Row { labels: labels.into(), x: None, is_baseline: false, cells: vec![cell] }
        };
        Table {
            name: "steps".to_owned(),
            view: View::Table { best: None, delta: false },
            caption: Some("What makes steps differ.".to_owned()),
            axes: ["step", "stage"].map(str::to_owned).into(),
            columns: vec![column("difference")],
            rows: told.chain(alone).map(row).collect(),
        }
    }
}

fn column(value: &str) -> Column {
    Column { value: value.to_owned(), at: None }
}

/// Returns a report's cells of both sides that come from other steps, a row each.
fn beside(before: &Table, now: &Table) -> Table {
    let mut rows = Vec::new();
    for row in &now.rows {
        let Some(other) = before.rows.iter().find(|other| other.labels == row.labels) else {
            continue;
        };
        for (cell, column) in row.cells.iter().zip(&now.columns) {
            let place = before.columns.iter().position(|other| other == column);
            let Some(old) = place.and_then(|place| other.cells.get(place)) else { continue };
            if is_same(old, cell) {
                continue;
            }
            let shown = delta(old, cell).map_or(Shown::NotPlanned, Shown::Value);
            let delta = TableCell { shown, sources: Vec::new() };
            let labels = row.labels.iter().cloned().chain([column.to_string()]);
            let cells = vec![old.clone(), cell.clone(), delta];
            rows.push(Row { labels: labels.collect(), x: None, is_baseline: false, cells });
        }
    }
    Table {
        view: View::Table { best: None, delta: false },
        axes: now.axes.iter().cloned().chain(["value".to_owned()]).collect(),
        columns: ["A", "B", "B - A"].map(column).into(),
        rows,
        ..now.clone()
    }
}

/// Returns by how much the number of a cell is larger than that of another one.
fn delta(before: &TableCell, now: &TableCell) -> Option<Value> {
    match (&before.shown, &now.shown) {
        (Shown::Value(Value::Int(before)), Shown::Value(Value::Int(now))) => {
            now.checked_sub(*before).map(Value::Int)
        }
        _ => Some(Value::Float(now.number()? - before.number()?)),
    }
}

fn is_same(a: &TableCell, b: &TableCell) -> bool {
    let keys = |cell: &TableCell| cell.sources.iter().map(|source| source.key).collect::<Vec<_>>();
    keys(a) == keys(b) && (a.shown == b.shown || !a.sources.is_empty())
}
