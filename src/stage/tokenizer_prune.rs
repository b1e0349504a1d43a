//! `tokenizer.prune`: the most frequent tokens, with the tokens they are merged from.

use serde::Deserialize;

use crate::base::Value;
use crate::data::dataset::write_json;
use crate::data::tokenizer::counts::read_counts;
use crate::data::tokenizer::files::{Files, write_id_map, write_tokenizer};
use crate::data::tokenizer::prune::{Target, prune};
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    keep: Option<usize>,
    coverage: Option<f64>,
}

/// Runs the stage.
///
/// # Errors
/// When the tokenizer can't be pruned to that size.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let target = match (params.keep, params.coverage) {
        (Some(keep), _) => Target::Keep(keep),
        (None, coverage) => Target::Coverage(coverage.expect("a call gives one of the two")),
    };
    let files = Files::read(context.input("tokenizer"))?;
    let counts = read_counts(context.input("counts"))?;
    let total = match target {
        Target::Keep(keep) => Some(keep as u64),
        Target::Coverage(_) => None,
    };
    let pruned = prune(files, &counts, target, |kept| {
        context.progress(kept, total, "tokens");
        !context.interrupted()
    })?;
    let pruned = pruned.ok_or(StageError::Interrupted)?;
    let out = context.out_dir("out")?;
    // The configuration has what other files say; those with old ids are left behind.
    write_tokenizer(&out, &pruned.files.json, &pruned.files.config)?;
    write_id_map(&out, &pruned.old_ids)?;
    let report = pruned.report;
    write_json(&out.join("report.json"), &report)?;
    context.log(format!(
        "{} of {} tokens cover {:.2}% of the old counts; {} orphans",
        report.tokens,
        report.old_tokens,
        100.0 * report.coverage,
        report.orphans
    ));
    context.output("out.size", Value::Int(report.tokens as i64))?;
    Ok(())
}
