//! The files of a tokenizer, with the tokens that are kept and their new ids.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::data::error::DataError;
use crate::data::tokenizer::files::{Files, read_as_it_is};

/// Returns a tokenizer's files with the tokens and merges that are kept.
pub(super) fn rewrite(files: Files, kept: &[bool], merges: &[bool]) -> Result<Files, DataError> {
    let Files { path, mut json, mut config } = files;
    let ids = NewIds::new(kept);
    let model = &mut json["model"];
    let mut is_kept = kept.iter().copied();
    match &mut model["vocab"] {
        Value::Object(vocab) => vocab.retain(|_, id| ids.renumber(id)),
        Value::Array(pieces) => pieces.retain(|_| is_kept.next().unwrap_or(false)),
        _ => {}
    }
    let mut is_kept = merges.iter().copied();
    if let Some(Value::Array(listed)) = model.get_mut("merges") {
        listed.retain(|_| is_kept.next().unwrap_or(false));
    }
    if let Some(unknown) = model.get_mut("unk_id") {
        ids.renumber(unknown);
    }
    for token in json.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
        ids.renumber(&mut token["id"]);
    }
    if json["padding"].is_object() {
        ids.renumber(&mut json["padding"]["pad_id"]);
    }
    if let Some(value) = json.get_mut("post_processor") {
        post_processor(&path, value, &ids)?;
    }
    for (name, value) in &mut config {
        if name.ends_with("_token_id") {
            ids.renumber(value);
        }
    }
    if let Some(Value::Object(tokens)) = config.get_mut("added_tokens_decoder") {
        let renumbered = |(id, token): (String, Value)| {
            let new = id.parse().ok().and_then(|id| ids.get(id));
            (new.map_or(id, |new| new.to_string()), token)
        };
        *tokens = std::mem::take(tokens).into_iter().map(renumbered).collect();
    }
    read_as_it_is(&mut config);
    Ok(Files { path, json, config })
}

/// The new id of each old one: its rank among those that are kept.
struct NewIds(Vec<Option<u32>>);

impl NewIds {
    fn new(kept: &[bool]) -> Self {
        let mut next = 0..;
        Self(kept.iter().map(|&kept| if kept { next.next() } else { None }).collect())
    }

    fn get(&self, old: u64) -> Option<u32> {
        self.0.get(usize::try_from(old).ok()?).copied().flatten()
    }

    /// Puts in the new id of a token; returns whether it has one.
    fn renumber(&self, id: &mut Value) -> bool {
        let new = id.as_u64().and_then(|old| self.get(old));
        if let Some(new) = new {
            *id = json!(new);
        }
        new.is_some()
    }
}

/// What a post-processor names always stays, so all of its ids have new ones.
fn post_processor(path: &Path, value: &mut Value, ids: &NewIds) -> Result<(), DataError> {
    match value["type"].as_str() {
        Some("TemplateProcessing") => {
            let tokens = value["special_tokens"].as_object_mut();
            for token in tokens.into_iter().flat_map(Map::values_mut) {
                for id in token["ids"].as_array_mut().into_iter().flatten() {
                    ids.renumber(id);
                }
            }
        }
        Some("Sequence") => {
            for part in value["processors"].as_array_mut().into_iter().flatten() {
                post_processor(path, part, ids)?;
            }
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            ids.renumber(&mut value["sep"][1]);
            ids.renumber(&mut value["cls"][1]);
        }
        None | Some("ByteLevel") => {}
        Some(other) => {
            let message =
                format!("post-processor `{other}` is unknown here, its ids can't be renumbered");
            return Err(DataError::invalid(path, message));
        }
    }
    Ok(())
}
