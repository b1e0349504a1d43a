//! The HTML report: one file without outside resources, in the reader's light or dark.
//!
//! [`Page`] holds all the page tells, as plain data; [`render`] draws it: tables here, curves in `chart`, the step
//! graph in `graph` on coordinates from `layout`.

mod alone;
mod chart;
mod curves;
mod figure;
mod frequencies;
mod graph;
mod layout;
mod page;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use minijinja::{AutoEscape, Environment, Value, context};

use crate::base::text::{bytes, duration, plural};
use crate::report::table::{Shown, Source, Table, TableCell, Text};

pub use alone::pictures;
pub use curves::Curve;
pub use frequencies::{Frequencies, read_frequencies};
pub use page::{Artifact, Live, Page, Progress, Status, StepCard};

/// How many steps that run or failed are told at the top of a page.
const NEWS: usize = 20;
/// How far from the start of a page its mark may end.
const HEAD_BYTES: u64 = 1024;

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum HtmlError {
    /// The template does not fit the data: a bug.
    #[error("can't draw the report: {0}")]
    Template(#[from] minijinja::Error),
    /// A chart could not be drawn: a bug.
    #[error("can't draw a chart: {0}")]
    Chart(String),
    /// The file could not be written.
    #[error("can't write the report `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Returns the page as HTML.
///
/// # Errors
/// When template and data disagree, which is a bug.
pub fn render(page: &Page) -> Result<String, HtmlError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("page", include_str!("page.html"))?;
    let safe =
        |svgs: Vec<String>| svgs.into_iter().map(Value::from_safe_string).collect::<Vec<_>>();
    let losses = safe(chart::losses(&page.curves)?);
    let frequencies = safe(chart::frequencies(&page.frequencies)?);
    let html = environment.get_template("page")?.render(context! {
        palette => Value::from_safe_string(alone::PALETTE.to_owned()),
        title => &*page.title,
        mark => &*page.mark,
        recipe => &*page.recipe,
        facts => pairs(&page.facts),
        tables => page.tables.iter().map(table).collect::<Result<Vec<_>, _>>()?,
        losses, frequencies,
        colors => chart::COLORS,
        graph => Value::from_safe_string(graph::svg(&page.steps)),
        steps => page.steps.iter().map(step).collect::<Vec<_>>(),
        source => &*page.source,
        live => page.live.as_ref().map(|live| self::live(live, &page.steps)),
    })?;
    Ok(html)
}

/// Writes the page to a file: whole or not at all.
///
/// # Errors
/// When the file can't be written, or on a bug in drawing.
pub fn write(page: &Page, path: &Path) -> Result<(), HtmlError> {
    let html = render(page)?;
    write_atomic(path, html.as_bytes())
        .map_err(|source| HtmlError::Write { path: path.to_owned(), source })
}

/// Returns the mark of the page in a file, if that is one.
pub fn mark_of(path: &Path) -> Option<String> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    let head = String::from_utf8_lossy(&head);
    let (_, mark) = head.split_once("<meta name=\"tlm-mark\" content=\"")?;
    Some(mark.split_once('"')?.0.to_owned())
}

/// Writes a file that is for passing on: whole or not at all.
///
/// # Errors
/// When it can't be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A report is for passing on, so it gets the permissions of any new file, not a temporary's.
    let open = std::fs::Permissions::from_mode(0o666);
    let mut file =
        tempfile::Builder::new().prefix(".report").permissions(open).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Returns what is told of the steps behind a cell.
fn hint(sources: &[Source]) -> Option<String> {
    let told: Vec<_> = sources
        .iter()
        .map(|source| format!("{} · key {}", source.name, source.key.short()))
        .collect();
    (!told.is_empty()).then(|| told.join("\n"))
}

fn table(table: &Table) -> Result<Value, HtmlError> {
    let cell = |cell: &TableCell, text: Text| {
        let kind = match cell.shown {
            Shown::Value(_) | Shown::Spread(_) | Shown::Curve(_) => "value",
            Shown::NotPlanned => "none",
            Shown::Pending => "pending",
            Shown::Failed => "failed",
        };
        let source = cell.sources.first();
        context! {
            text => text.text, is_best => text.is_best, kind,
            href => source.map(|s| format!("#{}", anchor(s.step.0))),
            hint => hint(&cell.sources),
            number => cell.number(),
        }
    };
    let rows: Vec<_> = table
        .rows
        .iter()
        .zip(table.texts())
        .map(|(row, texts)| {
            let cells: Vec<_> =
                row.cells.iter().zip(texts).map(|(c, text)| cell(c, text)).collect();
            context! { labels => row.labels.clone(), cells }
        })
        .collect();
    let figures: Vec<_> = figure::figures(table)?
        .into_iter()
        .map(|figure| {
            let svg = Value::from_safe_string(figure.svg);
            context! { heading => figure.heading, legend => figure.legend, svg }
        })
        .collect();
    Ok(context! {
        name => &*table.name, caption => table.told(), axes => table.axes.clone(),
        columns => table.columns.iter().map(ToString::to_string).collect::<Vec<_>>(), rows, figures,
    })
}

fn live(live: &Live, steps: &[StepCard]) -> Value {
    let has_news = |step: &&StepCard| matches!(step.status, Status::Running | Status::Failed);
    let news = steps.iter().filter(has_news);
    let more = news.clone().skip(NEWS).count();
    let more = (more > 0).then(|| format!("and {}", plural(more, "more step")));
    let news: Vec<_> = news.take(NEWS).map(step).collect();
    context! { problem => live.problem.clone(), runs => live.runs.clone(), news, more }
}

fn step(step: &StepCard) -> Value {
    let artifacts: Vec<_> = step
        .artifacts
        .iter()
        .map(|a| context! { name => &*a.name, path => &*a.path, size => bytes(a.bytes) })
        .collect();
    context! {
        anchor => anchor(step.id),
        name => &*step.name,
        stage => &*step.stage,
        status => step.status.word(),
        class => step.status.class(),
        key => &*step.key,
        time => step.seconds.map(duration),
        params => pairs(&step.params),
        scalars => pairs(&step.scalars),
        inputs => step.inputs.iter().map(|(name, id, label)| context! {
            name => &**name, label => &**label, href => format!("#{}", anchor(*id)),
        }).collect::<Vec<_>>(),
        artifacts,
        origin => pairs(&step.origin),
        log => step.log.clone(),
        progress => step.progress.as_ref().map(|progress| context! {
            part => progress.fraction.map(|part| format!("{part:.4}")), told => &*progress.told,
        }),
        log_end => step.log_end.join("\n"),
    }
}

fn pairs(fields: &[(String, String)]) -> Vec<Value> {
    fields.iter().map(|(name, text)| vec![name.clone(), text.clone()].into()).collect()
}

/// Returns the name of a step's place on the page.
fn anchor(step: u32) -> String {
    format!("step-{step}")
}

/// Returns text for use in SVG, which is built without the template engine.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}
