//! Pruning a byte-level BPE vocabulary (paper section 1).
//!
//! A token that stays without the tokens it is merged from could never be produced again: an orphan. So a token is
//! taken together with its ancestors, the symbols that BPE goes through when it builds the token, if all of them fit;
//! otherwise the next most frequent one is tried. The kept merges are a subset of the old ones with every step of each kept
//! token, and BPE takes the smallest rank first, so each kept token is still built by the same steps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::data::error::DataError;

/// A tokenizer with fewer tokens.
#[derive(Debug)]
pub struct Pruned {
    /// The new `tokenizer.json`.
    pub json: Value,
    /// The old id of each new one, rising.
    pub old_ids: Vec<u32>,
    /// How many kept tokens can't be produced, as in the old tokenizer.
    pub orphans: usize,
}

/// Keeps the `keep` most frequent tokens of `tokenizer.json`; ties go to the smaller id. `go_on` hears how many tokens are
/// chosen and may stop it with false; then the result is none.
///
/// # Errors
/// When it is no BPE tokenizer, or `keep` has no room for the special and byte tokens.
pub fn prune(
    path: &Path,
    json: &Value,
    counts: &[u64],
    keep: usize,
    go_on: impl FnMut(u64) -> bool,
) -> Result<Option<Pruned>, DataError> {
    let bpe = Bpe::read(path, json)?;
    let forced = bpe.forced(json);
    if keep < forced.len() {
        let message = format!(
            "can't keep {keep} tokens: {} special and byte tokens always stay",
            forced.len()
        );
        return Err(DataError::invalid(path, message)
            .help(format!("set `keep:` to {} or more", forced.len())));
    }
    let Some(kept) = bpe.select(forced, counts, keep, go_on) else { return Ok(None) };
    let old_ids: Vec<u32> = kept.iter().copied().collect();
    let new_ids: BTreeMap<u32, u32> =
        old_ids.iter().enumerate().map(|(new, &old)| (old, new as u32)).collect();
    let orphans = kept.iter().filter(|&&id| bpe.is_orphan(id, &kept)).count();
    Ok(Some(Pruned { json: bpe.rewrite(path, json, &new_ids)?, old_ids, orphans }))
}

struct Bpe<'a> {
    ids: HashMap<&'a str, u32>,
    texts: BTreeMap<u32, &'a str>,
    added: BTreeSet<u32>,
    merges: Vec<(&'a str, &'a str)>,
    ranks: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Bpe<'a> {
    fn read(path: &Path, json: &'a Value) -> Result<Self, DataError> {
        let model = &json["model"];
        let plain = ["continuing_subword_prefix", "end_of_word_suffix"]
            .iter()
            .all(|key| model[*key].as_str().unwrap_or_default().is_empty());
        let vocab = model["vocab"].as_object();
        let (Some("BPE"), true, Some(vocab)) = (model["type"].as_str(), plain, vocab) else {
            let kind = model["type"].as_str().unwrap_or("unknown");
            return Err(DataError::invalid(
                path,
                format!(
                    "its model is of type `{kind}` or marks parts of words; only plain BPE can be pruned"
                ),
            ));
        };
        let invalid = |what: String| DataError::invalid(path, what);
        let mut ids = HashMap::new();
        for (text, id) in vocab {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.insert(
                text.as_str(),
                id.ok_or_else(|| invalid(format!("token `{text}` has no id")))?,
            );
        }
        let mut texts: BTreeMap<u32, &str> =
            vocab.keys().map(|text| (ids[text.as_str()], text.as_str())).collect();
        let mut added = BTreeSet::new();
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(id), Some(text)) = (token["id"].as_u64(), token["content"].as_str()) {
                added.insert(id as u32);
                texts.insert(id as u32, text);
            }
        }
        let mut merges = Vec::new();
        for (rank, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
            let pair =
                merge_parts(merge).ok_or_else(|| invalid(format!("merge {rank} is no pair")))?;
            merges.push(pair);
        }
        let ranks = merges.iter().enumerate().map(|(rank, &pair)| (pair, rank)).collect();
        Ok(Self { ids, texts, added, merges, ranks })
    }

    /// Returns added tokens, the unknown token, and the tokens that are bytes.
    fn forced(&self, json: &Value) -> BTreeSet<u32> {
        let mut forced = self.added.clone();
        let fallback = json["model"]["byte_fallback"].as_bool() == Some(true);
        let bytes = byte_symbols().map(String::from);
        let fallbacks = (0..=255u8).filter(|_| fallback).map(|byte| format!("<0x{byte:02X}>"));
        let unknown = json["model"]["unk_token"].as_str().map(str::to_owned);
        let texts = bytes.chain(fallbacks).chain(unknown);
        forced.extend(texts.filter_map(|text| self.ids.get(text.as_str()).copied()));
        forced
    }

    fn select(
        &self,
        forced: BTreeSet<u32>,
        counts: &[u64],
        keep: usize,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Option<BTreeSet<u32>> {
        let mut kept = forced;
        let count = |id: u32| counts.get(id as usize).copied().unwrap_or(0);
        let mut order: Vec<u32> = self.texts.keys().copied().collect();
        order.sort_by_key(|&id| (std::cmp::Reverse(count(id)), id));
        for &id in &order {
            if !go_on(kept.len() as u64) {
                return None;
            }
            if kept.len() >= keep {
                return Some(kept);
            }
            let Some(mut needed) = self.ancestors(id) else { continue };
            needed.retain(|id| !kept.contains(id));
            if kept.len() + needed.len() <= keep {
                kept.extend(needed);
            }
        }
        // Only tokens that the old tokenizer couldn't produce either are left.
        for id in order {
            if kept.len() >= keep {
                break;
            }
            kept.insert(id);
        }
        Some(kept)
    }

    /// Returns a token and all symbols BPE goes through to build it; none when it never builds it.
    fn ancestors(&self, id: u32) -> Option<Vec<u32>> {
        let text = *self.texts.get(&id)?;
        let mut bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        bounds.push(text.len());
        let mut seen = Vec::new();
        let mut note = |part: &str| self.ids.get(part).map(|&id| seen.push(id));
        bounds.windows(2).try_for_each(|pair| note(&text[pair[0]..pair[1]]))?;
        while bounds.len() > 2 {
            let rank = |at: usize| {
                let parts = (&text[bounds[at - 1]..bounds[at]], &text[bounds[at]..bounds[at + 1]]);
                self.ranks.get(&parts).copied()
            };
            let best = (1..bounds.len() - 1).filter_map(|at| Some((rank(at)?, at))).min()?.1;
            bounds.remove(best);
            note(&text[bounds[best - 1]..bounds[best]])?;
        }
        Some(seen)
    }

    fn is_orphan(&self, id: u32, kept: &BTreeSet<u32>) -> bool {
        let built = || self.ancestors(id).is_some_and(|all| all.iter().all(|id| kept.contains(id)));
        !self.added.contains(&id) && !built()
    }

    fn rewrite(
        &self,
        path: &Path,
        json: &Value,
        new_ids: &BTreeMap<u32, u32>,
    ) -> Result<Value, DataError> {
        let mut json = json.clone();
        let kept = |text: &str| self.ids.get(text).is_some_and(|id| new_ids.contains_key(id));
        let merges =
            self.merges.iter().filter(|(a, b)| kept(a) && kept(b) && kept(&format!("{a}{b}")));
        json["model"]["merges"] = merges.map(|(a, b)| json!([a, b])).collect();
        let vocab: Map<String, Value> = self
            .texts
            .iter()
            .filter(|(_, text)| self.ids.contains_key(**text))
            .filter_map(|(id, text)| Some(((*text).to_owned(), json!(new_ids.get(id)?))))
            .collect();
        json["model"]["vocab"] = Value::Object(vocab);
        for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
            renumber(&mut token["id"], new_ids);
        }
        rewrite_post_processor(path, &mut json["post_processor"], new_ids)?;
        Ok(json)
    }
}

fn merge_parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        _ => Some((merge.get(0)?.as_str()?, merge.get(1)?.as_str()?)),
    }
}

/// Puts in the new id; what the template names is an added token, and these all stay.
fn renumber(id: &mut Value, new_ids: &BTreeMap<u32, u32>) {
    if let Some(new) = id.as_u64().and_then(|old| new_ids.get(&u32::try_from(old).ok()?)) {
        *id = json!(new);
    }
}

fn rewrite_post_processor(
    path: &Path,
    value: &mut Value,
    new_ids: &BTreeMap<u32, u32>,
) -> Result<(), DataError> {
    match value["type"].as_str() {
        Some("TemplateProcessing") => {
            let tokens = value["special_tokens"].as_object_mut();
            for token in tokens.into_iter().flat_map(Map::values_mut) {
                for id in token["ids"].as_array_mut().into_iter().flatten() {
                    renumber(id, new_ids);
                }
            }
        }
        Some("Sequence") => {
            for part in value["processors"].as_array_mut().into_iter().flatten() {
                rewrite_post_processor(path, part, new_ids)?;
            }
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            renumber(&mut value["sep"][1], new_ids);
            renumber(&mut value["cls"][1], new_ids);
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

/// Returns the characters that stand for the 256 bytes in byte-level BPE (GPT-2's table).
fn byte_symbols() -> impl Iterator<Item = char> {
    let shown = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let hidden = (0..=255u8).filter(move |byte| !shown(byte)).count() as u32;
    let printable = (0..=255u8).filter(move |byte| shown(byte)).map(char::from);
    printable.chain((0..hidden).filter_map(|index| char::from_u32(256 + index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Value {
        let mut texts: Vec<String> = vec!["<|endoftext|>".to_owned()];
        texts.extend(byte_symbols().map(String::from));
        texts.extend(["ab", "cd", "abcd", "ef"].map(str::to_owned));
        let vocab: Map<String, Value> =
            texts.iter().enumerate().map(|(id, text)| (text.clone(), json!(id))).collect();
        json!({
            "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": true}],
            "post_processor": null,
            "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], "c d", ["ab", "cd"], ["e", "f"]]},
        })
    }

    #[test]
    fn ancestors_come_along_or_the_token_waits() {
        let json = tokenizer();
        let mut counts = vec![0; 261];
        counts[259] = 9; // abcd
        counts[260] = 5; // ef
        let path = Path::new("tokenizer.json");
        let prune = |keep| prune(path, &json, &counts, keep, |_| true);
        let one = prune(258).unwrap().unwrap();
        assert_eq!(one.old_ids[257..], [260], "abcd needs three places");
        let three = prune(260).unwrap().unwrap();
        assert_eq!(three.old_ids[257..], [257, 258, 259]);
        assert_eq!(three.json["model"]["merges"], json!([["a", "b"], ["c", "d"], ["ab", "cd"]]));
        assert_eq!((one.orphans, three.orphans), (0, 0));
        let error = prune(5).unwrap_err().to_string();
        assert!(error.contains("257 special and byte tokens"), "{error}");
    }
}
