//! `tlm report`: the reports of what the store holds.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::text::did_you_mean;
use crate::cli::{Console, Exit, FAILED, PlanArgs, ReportFormat, USAGE, recipe};
use crate::exec::Outcome;
use crate::report::draw::{Format, draw, draw_all};
use crate::report::html::{self, pictures};
use crate::report::table::Table;

/// `tlm report`
pub(super) fn report(
    args: &PlanArgs,
    names: &[String],
    format: Option<ReportFormat>,
    figures: Option<&Path>,
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
    let mut tables = session.results(&Outcome::default()).tables();
    tables.retain(|table| names.is_empty() || names.contains(&table.name));
    let format = format.map_or_else(|| default_format(console), chosen_format);
    let links = figures.map(|folder| write_figures(&tables, folder)).transpose();
    let links = links.map_err(|(path, why)| {
        let message = format!("can't write `{}`: {why}", path.display());
        console.fail(FAILED, message, "give a folder that can be written with `--figures`")
    })?;
    let text = match (format, links) {
        (Format::Markdown, Some(links)) => {
            let linked = tables.iter().zip(links);
            let drawn = linked.map(|(table, links)| draw(table, format) + &links);
            drawn.collect::<Vec<_>>().join("\n")
        }
        _ => draw_all(&tables, format),
    };
    write!(console.out, "{text}")?;
    Ok(())
}

/// Writes the figures of each report; returns of each what shows them in Markdown.
fn write_figures(tables: &[Table], folder: &Path) -> Result<Vec<String>, (PathBuf, String)> {
    fs::create_dir_all(folder).map_err(|error| (folder.to_owned(), error.to_string()))?;
    let mut links = Vec::new();
    for table in tables {
        let mut own = String::new();
        let pictures = pictures(table).map_err(|error| (folder.to_owned(), error.to_string()))?;
        for (at, picture) in pictures.iter().enumerate() {
            let name = match at {
                0 => table.name.clone(),
                _ => format!("{}-{}", table.name, at + 1),
            };
            let path = folder.join(format!("{name}.svg"));
            html::write_atomic(&path, picture.as_bytes())
                .map_err(|error| (path.clone(), error.to_string()))?;
            own += &format!("\n![{name}]({})\n", path.display());
        }
        links.push(own);
    }
    Ok(links)
}

pub(super) fn chosen_format(format: ReportFormat) -> Format {
    match format {
        ReportFormat::Text => Format::Ruled,
        ReportFormat::Markdown => Format::Markdown,
        ReportFormat::Csv => Format::Csv,
        ReportFormat::Json => Format::Json,
        ReportFormat::Latex => Format::Latex,
    }
}

/// Returns how tables are printed unless somebody says otherwise: ruled for people, Markdown for files.
pub(super) fn default_format(console: &Console<'_>) -> Format {
    match console.world.stdout_is_terminal() {
        true => Format::Ruled,
        false => Format::Markdown,
    }
}
