//! The ids of one tokenizer in another one, and whether they may be put in the place of each other.
//!
//! BPE takes the pair with the smallest rank first. Where one tokenizer has some of another's tokens, all of the other's merges
//! whose three parts it has, in the same order, and everything else alike, it does the same steps on every text whose tokens
//! and the symbols that they are merged from it has. So the new ids of such a text are the old ones, each by its token's text.
//! Models that choose among all ways to part a text (Unigram, WordPiece) take other tokens once some are gone.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::Value;

use crate::data::error::DataError;
use crate::data::tokenizer::files::{merge_parts, read_tokenizer_json};

/// Which ids stand for the same text in two tokenizers.
#[derive(Debug)]
pub struct IdMap {
    ids: Vec<Option<u32>>,
}

impl IdMap {
    /// Returns the map from one tokenizer folder's ids to another one's, if the second tokenizer does nothing but what the
    /// first one does, with fewer tokens.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn between(from: &Path, to: &Path) -> Result<Option<Self>, DataError> {
        Ok(Self::of(&read_tokenizer_json(from)?, &read_tokenizer_json(to)?))
    }

    fn of(from: &Value, to: &Value) -> Option<Self> {
        if frame(from)? != frame(to)? {
            return None;
        }
        let (old, new) = (texts(from)?, texts(to)?);
        if !new.model.keys().all(|text| old.model.contains_key(text)) {
            return None;
        }
        let kept: HashSet<&str> = new.model.keys().copied().collect();
        let stays = |pair: &(&str, &str)| {
            let whole = [pair.0, pair.1].concat();
            [pair.0, pair.1, &whole].iter().all(|part| kept.contains(part))
        };
        if !merges(from)?.into_iter().filter(stays).eq(merges(to)?) {
            return None;
        }
        // What is added is found before the model sees the text, so it has to be found in the same way.
        if !new
            .added
            .iter()
            .all(|(text, (_, like))| old.added.get(text).is_some_and(|(_, before)| before == like))
        {
            return None;
        }
        let size = old.ids().map(|(_, id)| id as usize + 1).max().unwrap_or(0);
        let mut ids = vec![None; size];
        for (text, id) in old.ids() {
            ids[id as usize] = match old.added.contains_key(text) {
                true => new.added.get(text).map(|(id, _)| *id),
                false => new.model.get(text).copied(),
            };
        }
        Some(Self { ids })
    }

    /// Puts new ids in the place of old ones; none where one of them has no token in the other tokenizer.
    pub fn map(&self, ids: &[u32]) -> Option<Vec<u32>> {
        ids.iter().map(|id| *self.ids.get(*id as usize)?).collect()
    }
}

/// Returns all of a BPE tokenizer but what pruning changes: tokens, merges, ids.
fn frame(json: &Value) -> Option<Value> {
    if json["model"]["type"].as_str() != Some("BPE") {
        return None;
    }
    let mut frame = json.clone();
    let parts = frame.as_object_mut()?;
    // Texts are encoded as they are: not cut, not padded, without special tokens around them.
    for name in ["version", "added_tokens", "post_processor", "truncation", "padding"] {
        parts.remove(name);
    }
    let model = frame["model"].as_object_mut()?;
    model.remove("vocab");
    model.remove("merges");
    Some(frame)
}

/// The tokens of a tokenizer by their text.
struct Texts<'j> {
    model: BTreeMap<&'j str, u32>,
    /// With how they are found in a text.
    added: BTreeMap<&'j str, (u32, BTreeMap<&'j str, &'j Value>)>,
}

impl<'j> Texts<'j> {
    fn ids(&self) -> impl Iterator<Item = (&'j str, u32)> {
        let model = self.model.iter().map(|(text, id)| (*text, *id));
        model.chain(self.added.iter().map(|(text, (id, _))| (*text, *id)))
    }
}

fn texts(json: &Value) -> Option<Texts<'_>> {
    let number = |id: &Value| u32::try_from(id.as_u64()?).ok();
    let model = json["model"]["vocab"].as_object()?.iter();
    let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| {
        let like = token.as_object()?.iter().filter(|(name, _)| *name != "id");
        let like = like.map(|(name, value)| (name.as_str(), value)).collect();
        Some((token["content"].as_str()?, (number(&token["id"])?, like)))
    });
    Some(Texts {
        model: model.map(|(text, id)| Some((text.as_str(), number(id)?))).collect::<Option<_>>()?,
        added: added.collect::<Option<_>>()?,
    })
}

/// Returns the merges, the first ones first.
fn merges(json: &Value) -> Option<Vec<(&str, &str)>> {
    json["model"]["merges"].as_array()?.iter().map(merge_parts).collect()
}
