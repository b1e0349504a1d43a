//! `tlm report`: the reports of what the store holds.

use crate::base::text::did_you_mean;
use crate::cli::{Console, Exit, PlanArgs, ReportFormat, USAGE, recipe};
use crate::exec::Outcome;
use crate::report::Results;
use crate::report::draw::{Format, draw_all};

/// `tlm report`
pub(super) fn report(
    args: &PlanArgs,
    names: &[String],
    format: Option<ReportFormat>,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let mut session = recipe::open(args, console)?;
    let known = session.plan.expansion.reports.iter().map(|report| report.name.as_str());
    if let Some(unknown) = names.iter().find(|name| known.clone().all(|known| known != **name)) {
        let help = match did_you_mean(unknown, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("reports are {}", known.collect::<Vec<_>>().join(", ")),
        };
        let message = format!("the recipe has no report `{unknown}`");
        return Err(console.fail(USAGE, message, &help));
    }
    session.plan.settle(&session.store);
    let outcome = Outcome::default();
    let results = Results { plan: &session.plan, outcome: &outcome, store: &session.store };
    let mut tables = results.tables();
    tables.retain(|table| names.is_empty() || names.contains(&table.name));
    let format = match format {
        None => default_format(console),
        Some(ReportFormat::Text) => Format::Ruled,
        Some(ReportFormat::Markdown) => Format::Markdown,
        Some(ReportFormat::Csv) => Format::Csv,
        Some(ReportFormat::Json) => Format::Json,
        Some(ReportFormat::Latex) => Format::Latex,
    };
    write!(console.out, "{}", draw_all(&tables, format))?;
    Ok(())
}

/// Returns how tables are printed unless somebody says otherwise: ruled for people, Markdown for files.
pub(super) fn default_format(console: &Console<'_>) -> Format {
    match console.world.stdout_is_terminal() {
        true => Format::Ruled,
        false => Format::Markdown,
    }
}
