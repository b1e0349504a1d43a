//! `tokenizer.prune`: the most frequent tokens, with the tokens they are merged from.

use serde::Deserialize;

use crate::base::Value;
use crate::data::tokenizer::counts::read_counts;
use crate::data::tokenizer::files::{
    Vocabulary, read_tokenizer_config, read_tokenizer_json, write_id_map, write_tokenizer,
};
use crate::data::tokenizer::prune::prune;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    keep: usize,
}

/// Runs the stage.
///
/// # Errors
/// When the tokenizer can't be pruned to that size.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let folder = context.input("tokenizer").to_owned();
    let (path, json) = (folder.join("tokenizer.json"), read_tokenizer_json(&folder)?);
    let config = read_tokenizer_config(&folder)?;
    let size = Vocabulary::new(&path, &json, config.clone())?.size();
    let counts = read_counts(context.input("counts"), size as usize)?;
    let pruned = prune(&path, &json, &counts, params.keep, |kept| {
        context.progress(kept, Some(params.keep as u64), "tokens");
        !context.interrupted()
    })?;
    let pruned = pruned.ok_or(StageError::Interrupted)?;
    let out = context.out_dir("out")?;
    write_tokenizer(&out, &pruned.json, &config)?;
    write_id_map(&out, &pruned.old_ids)?;
    let size = pruned.old_ids.len();
    let kept: u64 = pruned.old_ids.iter().map(|&id| counts[id as usize]).sum();
    let total: u64 = counts.iter().sum::<u64>().max(1);
    let coverage = 100.0 * kept as f64 / total as f64;
    context.log(format!(
        "{size} tokens cover {coverage:.2}% of the old counts; {} orphans",
        pruned.orphans
    ));
    context.output("out.size", Value::Int(size as i64))?;
    Ok(())
}
