//! `tlm explain`: what a code means, and what to do about it; from `docs/codes.md`.

use crate::base::text::did_you_mean;
use crate::cli::{Console, Exit, USAGE};

const PAGES: &str = include_str!("../../docs/codes.md");

/// The explanation of one code.
struct Page {
    /// `tlm::sema::circle`
    code: &'static str,
    /// Meaning, a wrong recipe, what to do, a right recipe.
    text: &'static str,
}

impl Page {
    /// Returns whether a code is meant, perhaps without what stands before its name.
    fn is(&self, code: &str) -> bool {
        self.code.strip_suffix(code).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
    }

    fn meaning(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default()
    }
}

fn pages() -> Vec<Page> {
    let page = |text: &'static str| {
        let (code, text) = text.split_once('\n')?;
        Some(Page { code, text: text.trim() })
    };
    PAGES.split("\n## ").skip(1).filter_map(page).collect()
}

/// `tlm explain`
pub(super) fn explain(code: Option<&str>, console: &mut Console<'_>) -> Result<(), Exit> {
    let pages = pages();
    let Some(wanted) = code else {
        let wide = pages.iter().map(|page| page.code.len()).max().unwrap_or_default();
        for page in &pages {
            writeln!(console.out, "{:wide$}  {}", page.code, page.meaning())?;
        }
        return Ok(());
    };
    let found: Vec<_> = pages.iter().filter(|page| page.is(wanted)).collect();
    if found.is_empty() {
        return Err(unknown(wanted, &pages, console));
    }
    let texts = found.iter().map(|page| format!("## {}\n\n{}\n", page.code, page.text));
    write!(console.out, "{}", texts.collect::<Vec<_>>().join("\n"))?;
    Ok(())
}

fn unknown(wanted: &str, pages: &[Page], console: &mut Console<'_>) -> Exit {
    // Codes are compared in the form that was typed: whole, or from the phase or the name on.
    let parts = wanted.split("::").count();
    let suffix = |code: &'static str| {
        let start = code.rmatch_indices("::").nth(parts - 1).map_or(0, |(at, _)| at + 2);
        &code[start..]
    };
    let help = match did_you_mean(wanted, pages.iter().map(|page| suffix(page.code))) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`tlm explain` lists all codes".to_owned(),
    };
    console.fail(USAGE, format!("there is no code `{wanted}`"), &help)
}
