//! `--from`: other stores, and what a run takes over from them.

use std::env::split_paths;
use std::path::PathBuf;

use crate::base::text;
use crate::cli::recipe::Session;
use crate::cli::{Console, Exit, FromArgs};
use crate::store::{Elsewhere, Taken};

/// Opens the stores that a command may take results from.
pub(super) fn open(
    args: &FromArgs,
    session: &Session,
    console: &mut Console<'_>,
) -> Result<Vec<Elsewhere>, Exit> {
    let named: Vec<PathBuf> = match console.world.var("TLM_FROM") {
        Some(list) if args.from.is_empty() => split_paths(list).collect(),
        _ => args.from.clone(),
    };
    let paths = named.iter().map(|path| console.world.cwd().join(path));
    let others = paths.filter(|path| !session.store.is_at(path)).collect::<Vec<_>>();
    let open = |path: &PathBuf| Elsewhere::open(path);
    let opened: Result<Vec<_>, _> = others.iter().map(open).collect();
    opened.map_err(|error| console.store_error(&error))
}

/// Takes over what a run needs; what can't be used is told, and has to run.
pub(super) fn take(
    session: &mut Session,
    others: &[Elsewhere],
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    loop {
        let wanted = session.plan.to_take();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut taken = Vec::new();
        for (id, place) in wanted {
            let Some(planned) = session.plan.get(id) else { continue };
            let (name, other) = (planned.step.name(), &others[place]);
            let from = other.root().display();
            let took = session.store.take(other, planned.recipe, &console.world.process());
            match took.map_err(|error| console.store_error(&error))? {
                Taken::Whole(size) => {
                    console.say(format_args!("took {name} from {from}, {}\n", text::bytes(size)));
                    taken.push((id, true));
                }
                Taken::Not(why) => {
                    let help =
                        format!("help: `tlm verify --store {from}` checks it; it is made here");
                    console.say(format_args!("warning: can't take {name} over: {why}\n{help}\n"));
                    taken.push((id, false));
                }
            }
        }
        session.plan.take(taken);
    }
}

/// Returns how many results would be taken over from each store.
pub(super) fn told(session: &Session, others: &[Elsewhere]) -> String {
    let wanted = session.plan.to_take();
    let line = |(place, other): (usize, &Elsewhere)| {
        let count = wanted.iter().filter(|(_, at)| *at == place).count();
        let from = other.root().display();
        (count > 0).then(|| format!("{} to take from {from}\n", text::plural(count, "result")))
    };
    others.iter().enumerate().filter_map(line).collect()
}
