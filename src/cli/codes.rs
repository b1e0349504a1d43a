//! `tlm explain`: the page of a code, from `docs/codes`; or all codes, from the table in `docs/language.md`.

use crate::base::text::did_you_mean;
use crate::cli::pages::page;
use crate::cli::{Console, Exit, USAGE};

const LANGUAGE: &str = include_str!("../../docs/language.md");

/// A row of the table.
struct Row {
    /// `tlm::sema::circle`
    code: &'static str,
    meaning: &'static str,
}

impl Row {
    /// Returns whether a code is meant, perhaps without what stands before its name.
    fn is(&self, code: &str) -> bool {
        self.code.strip_suffix(code).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
    }

    /// `tlm::sema`
    fn phase(&self) -> &'static str {
        self.code.rsplit_once("::").map_or(self.code, |(phase, _)| phase)
    }
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| [`")?.split(" | ");
        let (code, _) = cells.next()?.split_once('`')?;
        Some(Row { code, meaning: cells.next()? })
    };
    LANGUAGE.lines().filter_map(row).collect()
}

/// `tlm explain`
pub(super) fn explain(code: Option<&str>, console: &mut Console<'_>) -> Result<(), Exit> {
    let rows = rows();
    let Some(wanted) = code else { return list(&rows, console) };
    let found: Vec<_> = rows.iter().filter(|row| row.is(wanted)).collect();
    if found.is_empty() {
        return Err(unknown(wanted, &rows, console));
    }
    for (at, row) in found.iter().enumerate() {
        if at > 0 {
            writeln!(console.out)?;
        }
        show(row, console)?;
    }
    Ok(())
}

/// Prints a line a code, and an empty one between phases.
fn list(rows: &[Row], console: &mut Console<'_>) -> Result<(), Exit> {
    let wide = rows.iter().map(|row| row.code.len()).max().unwrap_or_default();
    for (at, row) in rows.iter().enumerate() {
        if at > 0 && rows[at - 1].phase() != row.phase() {
            writeln!(console.out)?;
        }
        writeln!(console.out, "{:wide$}  {}", row.code, row.meaning)?;
    }
    Ok(())
}

/// Prints a code and its page, which is indented below it.
fn show(row: &Row, console: &mut Console<'_>) -> Result<(), Exit> {
    writeln!(console.out, "{}", row.code)?;
    let page = page(row.code).unwrap_or(row.meaning);
    for line in page.lines().filter(|line| !line.starts_with("# tlm::")) {
        match line.is_empty() {
            true => writeln!(console.out)?,
            false => writeln!(console.out, "  {line}")?,
        }
    }
    Ok(())
}

fn unknown(wanted: &str, rows: &[Row], console: &mut Console<'_>) -> Exit {
    // Codes are compared in the form that was typed: whole, or from the phase or the name on.
    let parts = wanted.split("::").count();
    let suffix = |code: &'static str| {
        let start = code.rmatch_indices("::").nth(parts - 1).map_or(0, |(at, _)| at + 2);
        &code[start..]
    };
    let help = match did_you_mean(wanted, rows.iter().map(|row| suffix(row.code))) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`tlm explain` lists all codes".to_owned(),
    };
    console.fail(USAGE, format!("there is no code `{wanted}`"), &help)
}
