//! `corpus.dedup`: of equal documents the first stays.

use std::collections::HashSet;

use serde::Deserialize;

use crate::base::Digest;
use crate::data::{CorpusWriter, Statistics};
use crate::stage::documents::each;
use crate::stage::reading::{corpus, tell};
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    fold: bool,
}

/// Runs the stage.
///
/// # Errors
/// When a document can't be read or written.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let corpus = corpus(context)?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let (mut seen, mut rejected) = (HashSet::new(), 0);
    let digest = |text: &str| match params.fold {
        true => Digest::of(folded(text).as_bytes()),
        false => Digest::of(text.as_bytes()),
    };
    each(context, &corpus, digest, |_, _, text, digest| {
        match seen.insert(digest) {
            true => writer.push(text)?,
            false => rejected += 1,
        }
        Ok(())
    })?;
    tell(context, "out", writer, rejected, Statistics::of([("duplicates", rejected)]))?;
    Ok(())
}

/// Returns a text in small letters, with one blank between words and none around them.
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        for c in word.chars() {
            // Most are, and looking others up takes ten times as long.
            match c.is_ascii() {
                true => out.push(c.to_ascii_lowercase()),
                false => out.extend(c.to_lowercase()),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn folding() {
        assert_eq!(super::folded(" The\n\tCAT\u{a0} ÜBER "), "the cat über");
    }
}
