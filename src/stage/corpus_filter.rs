//! `corpus.filter`: documents of some length, in some scripts, with or without a pattern.

use regex::Regex;
use serde::Deserialize;
use unicode_script::{Script, UnicodeScript};

use crate::base::text::{did_you_mean, thousands};
use crate::data::{CorpusWriter, Statistics};
use crate::stage::documents::each;
use crate::stage::reading::{corpus, tell};
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    min_bytes: u64,
    max_bytes: Option<u64>,
    min_chars: u64,
    max_chars: Option<u64>,
    scripts: Vec<String>,
    share: f64,
    matches: Option<String>,
    excludes: Option<String>,
}

/// Why a document is left out, in the order in which that is looked at.
#[derive(Clone, Copy)]
enum Reason {
    Length = 0,
    Script = 1,
    Pattern = 2,
}

/// Runs the stage.
///
/// # Errors
/// When a script or pattern is none, or nothing is left.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let scripts = params.scripts.iter().map(|name| script(name)).collect::<Result<Vec<_>, _>>()?;
    let matches = params.matches.as_deref().map(|text| pattern("matches", text)).transpose()?;
    let excludes = params.excludes.as_deref().map(|text| pattern("excludes", text)).transpose()?;
    let corpus = corpus(context)?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let mut counts = [0_u64; 3];
    let reason = |text: &str| {
        let (bytes, is_in) = (text.len() as u64, |len, min, max: Option<u64>| {
            len >= min && max.is_none_or(|max| len <= max)
        });
        let chars = || text.chars().count() as u64;
        if !is_in(bytes, params.min_bytes, params.max_bytes)
            || !is_in(chars(), params.min_chars, params.max_chars)
        {
            return Some(Reason::Length);
        }
        if !scripts.is_empty() && share(text, &scripts) < params.share {
            return Some(Reason::Script);
        }
        let lacks = matches.as_ref().is_some_and(|pattern| !pattern.is_match(text));
        let has = excludes.as_ref().is_some_and(|pattern| pattern.is_match(text));
        (lacks || has).then_some(Reason::Pattern)
    };
    each(context, &corpus, reason, |_, _, text, reason| {
        match reason {
            None => writer.push(text)?,
            Some(reason) => counts[reason as usize] += 1,
        }
        Ok(())
    })?;
    let [length, script, pattern] = counts.map(thousands);
    context.log(format!("left out {length} by length, {script} by script, {pattern} by pattern"));
    let [by_length, by_script, by_pattern] = counts;
    let statistics =
        Statistics::of([("length", by_length), ("script", by_script), ("pattern", by_pattern)]);
    if tell(context, "out", writer, counts.iter().sum(), statistics)? == 0 {
        return Err(StageError::input(format!(
            "no document is left: {length} fail by length, {script} by script, {pattern} by pattern"
        ))
        .help("filter less"));
    }
    Ok(())
}

/// Returns the part of the characters with a script of their own that has one of these; 0 if there is none.
fn share(text: &str, scripts: &[Script]) -> f64 {
    let (mut all, mut inside) = (0_u64, 0_u64);
    for c in text.chars() {
        let script = c.script();
        // Blanks, digits, punctuation and combining marks go with every script.
        if !matches!(script, Script::Common | Script::Inherited | Script::Unknown) {
            all += 1;
            inside += u64::from(scripts.contains(&script));
        }
    }
    if all == 0 { 0.0 } else { inside as f64 / all as f64 }
}

fn script(name: &str) -> Result<Script, StageError> {
    let known = |name: &str| Script::from_full_name(name).or(Script::from_short_name(name));
    let capital = || name.get(..1).map(|first| first.to_uppercase() + &name[1..].to_lowercase());
    known(name).or_else(|| known(&capital()?)).ok_or_else(|| {
        let common = ["Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Bengali"];
        let more = ["Hiragana", "Katakana", "Hangul", "Thai", "Georgian", "Armenian"];
        let help = match did_you_mean(name, common.into_iter().chain(more)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write its name in Unicode: Latin, Han, Cyrillic, ...".to_owned(),
        };
        StageError::input(format!("there is no script `{name}`")).help(help)
    })
}

fn pattern(param: &str, text: &str) -> Result<Regex, StageError> {
    Regex::new(text).map_err(|error| {
        StageError::input(format!("`{param}` is no regular expression: {error}"))
            .help("its syntax is that of the Rust crate `regex`: no look-around, no backreferences")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_script_counts_characters_that_have_one() {
        let share = |text: &str, names: &[&str]| {
            let scripts: Vec<_> = names.iter().map(|name| script(name).unwrap()).collect();
            share(text, &scripts)
        };
        assert_eq!(share("ab 语言, 12!", &["Latin"]), 0.5);
        assert_eq!(share("ab 语言, 12!", &["Latin", "Han"]), 1.0);
        assert_eq!(share("日本語のテキスト", &["Hira", "Kana", "Hani"]), 1.0);
        assert_eq!(share("12 !", &["Latin"]), 0.0);
        assert!(script("Latn").is_ok() && script("hAN").is_ok() && script("Latim").is_err());
    }
}
