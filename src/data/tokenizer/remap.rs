//! The ids of one tokenizer in another one, and whether they may be put in the place of each other.
//!
//! BPE takes the pair with the smallest rank first. Where one tokenizer has some of another's tokens, all of the other's merges
//! whose three parts it has, in the same order, and everything else alike, it does the same steps on every text whose tokens
//! and the symbols that they are merged from it has. So the new ids of such a text are the old ones, each by its token's text.
//!
//! Unigram takes the way through a text with the best score, at each place the one whose last token is longest among equal ones.
//! Where one tokenizer has some of another's tokens with the same scores, every way it has is one of the other's. So the other's
//! best way is its own if it has those tokens: what was worse, or came later among equals, still is. Only what stands for text
//! without tokens has to cost the same, which is a constant less than the worst token's score. So that score has to stay.
//!
//! WordPiece takes the longest token that fits at each place in a word. If that one stays, it still is the longest. A word that comes
//! to a place where none fits becomes unknown as a whole, and may not do so once another token was taken before; so texts with
//! unknown words are not mapped.

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

    /// Returns the map between two `tokenizer.json`.
    pub(super) fn of(from: &Value, to: &Value) -> Option<Self> {
        if frame(from)? != frame(to)? {
            return None;
        }
        let (old, new) = (texts(from)?, texts(to)?);
        let stays = |(text, (_, score)): (&&str, &(u32, &Value))| {
            old.model.get(text).is_some_and(|(_, before)| before == score)
        };
        if !new.model.iter().all(stays) {
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
                false => new.model.get(text).map(|(id, _)| *id),
            };
        }
        if from["model"]["type"] == "WordPiece" {
            let unknown = ids.get_mut(unknown(from)? as usize)?;
            *unknown = None;
        }
        Some(Self { ids })
    }

    /// Puts new ids in the place of old ones; none where one of them has no token in the other tokenizer.
    pub fn map(&self, ids: &[u32]) -> Option<Vec<u32>> {
        ids.iter().map(|id| *self.ids.get(*id as usize)?).collect()
    }
}

/// What is lost when ids are decoded, so that the text has other ids.
#[derive(Debug)]
pub struct Losses {
    unknown: Option<u32>,
    is_bpe: bool,
}

impl Losses {
    /// Reads a tokenizer folder.
    ///
    /// # Errors
    /// When the `tokenizer.json` can't be read.
    pub fn of(folder: &Path) -> Result<Self, DataError> {
        let json = read_tokenizer_json(folder)?;
        Ok(Self { unknown: unknown(&json), is_bpe: json["model"]["type"] == "BPE" })
    }

    /// Returns whether one of the ids stands for text that has no token.
    pub fn has_unknown(&self, ids: &[u32]) -> bool {
        self.unknown.is_some_and(|id| ids.contains(&id))
    }

    /// Returns whether ids that a text was encoded to may decode to a text with other ids. BPE is used where nothing else is
    /// lost; the others come with normalizers and decoders for reading.
    pub fn may_differ(&self, ids: &[u32]) -> bool {
        !self.is_bpe || self.has_unknown(ids)
    }
}

fn unknown(json: &Value) -> Option<u32> {
    let model = &json["model"];
    let id = match model["type"].as_str()? {
        "Unigram" => &model["unk_id"],
        _ => &model["vocab"][model["unk_token"].as_str()?],
    };
    u32::try_from(id.as_u64()?).ok()
}

/// Returns all of a tokenizer but what pruning changes: tokens, merges, ids.
fn frame(json: &Value) -> Option<Value> {
    let model = &json["model"];
    let mut frame = json.clone();
    let parts = frame.as_object_mut()?;
    // Texts are encoded as they are: not cut, not padded, without special tokens around them.
    for name in ["version", "added_tokens", "post_processor", "truncation", "padding"] {
        parts.remove(name);
    }
    match model["type"].as_str()? {
        "BPE" => frame["model"]["merges"] = Value::Null,
        "WordPiece" => {}
        "Unigram" => {
            let pieces = model["vocab"].as_array()?;
            let scores = pieces.iter().map(|piece| piece[1].as_f64());
            let scores: Vec<f64> = scores.collect::<Option<_>>()?;
            frame["model"]["worst"] = scores.into_iter().fold(f64::INFINITY, f64::min).into();
            let unknown = unknown(json).and_then(|id| pieces.get(id as usize));
            frame["model"]["unk_id"] = unknown.map_or(Value::Null, |piece| piece[0].clone());
        }
        _ => return None,
    }
    frame["model"]["vocab"] = Value::Null;
    Some(frame)
}

/// The tokens of a tokenizer by their text.
struct Texts<'j> {
    /// With their scores, if they have any.
    model: BTreeMap<&'j str, (u32, &'j Value)>,
    /// With how they are found in a text.
    added: BTreeMap<&'j str, (u32, BTreeMap<&'j str, &'j Value>)>,
}

impl<'j> Texts<'j> {
    fn ids(&self) -> impl Iterator<Item = (&'j str, u32)> {
        let model = self.model.iter().map(|(text, (id, _))| (*text, *id));
        model.chain(self.added.iter().map(|(text, (id, _))| (*text, *id)))
    }
}

fn texts(json: &Value) -> Option<Texts<'_>> {
    let number = |id: &Value| u32::try_from(id.as_u64()?).ok();
    let model: Option<BTreeMap<_, _>> = match &json["model"]["vocab"] {
        Value::Object(tokens) => tokens
            .iter()
            .map(|(text, id)| Some((text.as_str(), (number(id)?, &Value::Null))))
            .collect(),
        Value::Array(pieces) => {
            let pairs = (0..).zip(pieces);
            let model: Option<BTreeMap<_, _>> =
                pairs.map(|(id, piece)| Some((piece[0].as_str()?, (id, &piece[1])))).collect();
            // Of two pieces with one text only one would be here.
            model.filter(|model| model.len() == pieces.len())
        }
        _ => None,
    };
    let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| {
        let like = token.as_object()?.iter().filter(|(name, _)| *name != "id");
        let like = like.map(|(name, value)| (name.as_str(), value)).collect();
        Some((token["content"].as_str()?, (number(&token["id"])?, like)))
    });
    Some(Texts { model: model?, added: added.collect::<Option<_>>()? })
}

/// Returns the merges, the first ones first; none of a model that has no such thing.
fn merges(json: &Value) -> Option<Vec<(&str, &str)>> {
    match &json["model"]["merges"] {
        Value::Null => Some(Vec::new()),
        merges => merges.as_array()?.iter().map(merge_parts).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use serde_json::json;

    use super::*;

    fn unigram(pieces: &[(&str, f64)]) -> Value {
        json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "model": {
            "type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": pieces.iter().map(|(text, score)| json!([text, score])).collect::<Vec<_>>(),
        }})
    }

    fn wordpiece(pieces: &[&str]) -> Value {
        let vocab: BTreeMap<_, _> = pieces.iter().zip(0..).collect();
        json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        }})
    }

    fn encode(json: &Value, text: &str) -> Vec<u32> {
        let tokenizer = tokenizers::Tokenizer::from_str(&json.to_string()).unwrap();
        tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
    }

    #[test]
    fn unigram_is_mapped_while_scores_and_the_worst_of_them_stay() {
        let all =
            [("<unk>", 0.0), ("a", -2.0), ("b", -3.0), ("ab", -4.0), ("aba", -5.0), ("z", -9.0)];
        let from = unigram(&all);
        let without =
            |text: &str| unigram(&all.into_iter().filter(|(t, _)| *t != text).collect::<Vec<_>>());
        let to = without("ab");
        let map = IdMap::of(&from, &to).unwrap();
        for text in ["aba", "abaaba", "aéüz", "éb"] {
            assert_eq!(map.map(&encode(&from, text)), Some(encode(&to, text)), "{text}");
        }
        assert_eq!(map.map(&encode(&from, "ab")), None);
        // Without the worst token what is unknown costs less.
        assert!(IdMap::of(&from, &without("z")).is_none());
        let mut other = all;
        other[1].1 = -2.5;
        assert!(IdMap::of(&from, &unigram(&other)).is_none());
        other[1] = ("b", -3.0);
        assert!(IdMap::of(&unigram(&other), &unigram(&other)).is_none(), "two are `b`");
    }

    #[test]
    fn wordpiece_is_mapped_but_for_words_that_are_unknown() {
        let all = ["[UNK]", "a", "##b", "ab", "abb", "##bq"];
        let (from, to) = (wordpiece(&all), wordpiece(&["[UNK]", "a", "##b", "abb", "##bq"]));
        let map = IdMap::of(&from, &to).unwrap();
        assert_eq!(map.map(&encode(&from, "abbb")), Some(encode(&to, "abbb")));
        // `ab` and no `##q`; then `a` and `##bq`.
        assert_eq!(encode(&from, "abq"), [0]);
        assert_eq!(encode(&to, "abq"), [1, 4]);
        assert_eq!(map.map(&[0]), None);
        let mut longer = to.clone();
        longer["model"]["max_input_chars_per_word"] = json!(200);
        assert!(IdMap::of(&from, &longer).is_none());
    }
}
