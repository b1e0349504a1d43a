//! `tlm explain`: what a code means, and what to do about it; from the table in `docs/language.md`.

use crate::base::text::did_you_mean;
use crate::cli::{Console, Exit, USAGE};

const LANGUAGE: &str = include_str!("../../docs/language.md");

/// A row of the table.
struct Row {
    /// `tlm::sema::circle`
    code: &'static str,
    meaning: &'static str,
    remedy: &'static str,
}

impl Row {
    /// Returns whether a code is meant, perhaps without what stands before its name.
    fn is(&self, code: &str) -> bool {
        self.code.strip_suffix(code).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
    }
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| `tlm::")?.split(" | ");
        let (code, meaning, remedy) = (cells.next()?, cells.next()?, cells.next()?);
        let code = &line[3..3 + "tlm::".len() + code.trim_end_matches('`').len()];
        Some(Row { code, meaning, remedy: remedy.trim_end_matches(" |") })
    };
    LANGUAGE.lines().filter_map(row).collect()
}

/// `tlm explain`
pub(super) fn explain(code: Option<&str>, console: &mut Console<'_>) -> Result<(), Exit> {
    let rows = rows();
    let Some(wanted) = code else {
        let wide = rows.iter().map(|row| row.code.len()).max().unwrap_or_default();
        for row in &rows {
            writeln!(console.out, "{:wide$}  {}", row.code, row.meaning)?;
        }
        return Ok(());
    };
    let found: Vec<_> = rows.iter().filter(|row| row.is(wanted)).collect();
    if found.is_empty() {
        return Err(unknown(wanted, &rows, console));
    }
    for row in found {
        writeln!(console.out, "{}\n  means: {}\n  do: {}", row.code, row.meaning, row.remedy)?;
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
