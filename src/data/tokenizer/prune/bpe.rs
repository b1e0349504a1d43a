//! BPE: which merge comes last when the model builds a token.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::data::error::DataError;
use crate::data::tokenizer::files::merge_parts;
use crate::data::tokenizer::prune::model::{Origin, Pieces, characters};

pub(super) struct Bpe<'j> {
    pub(super) pieces: Pieces<'j>,
    /// Left, right, and what becomes of them, by rank.
    merges: Vec<(u32, u32, u32)>,
    ranks: HashMap<(u32, u32), u32>,
    origins: Vec<Option<Origin>>,
    /// Stands before each symbol inside a word.
    prefix: &'j str,
    /// Stands after the last symbol of a word.
    suffix: &'j str,
    ignores_merges: bool,
}

impl<'j> Bpe<'j> {
    pub(super) fn read(
        path: &Path,
        model: &'j Value,
        pieces: Pieces<'j>,
    ) -> Result<Self, DataError> {
        let mark = |key: &str| model[key].as_str().unwrap_or_default();
        let prefix = mark("continuing_subword_prefix");
        let listed = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut merges = Vec::with_capacity(listed.len());
        let mut ranks = HashMap::with_capacity(listed.len());
        let mut merged = String::new();
        for (rank, merge) in listed.iter().enumerate() {
            let invalid = |what: &str| DataError::invalid(path, format!("merge {rank} {what}"));
            let (a, b) = merge_parts(merge).ok_or_else(|| invalid("is no pair of tokens"))?;
            merged.clear();
            merged.push_str(a);
            merged.push_str(b.strip_prefix(prefix).unwrap_or(b));
            let [left, right, new] = [a, b, &merged].map(|text| pieces.id(text));
            let (Some(left), Some(right), Some(new)) = (left, right, new) else {
                return Err(invalid("has a part or a result that is no token"));
            };
            ranks.insert((left, right), rank as u32);
            merges.push((left, right, new));
        }
        let origins = vec![None; pieces.texts.len()];
        let ignores_merges = model["ignore_merges"].as_bool() == Some(true);
        let suffix = mark("end_of_word_suffix");
        Ok(Self { pieces, merges, ranks, origins, prefix, suffix, ignores_merges })
    }

    /// Returns the tokens that spell what no other token does: bytes, and characters without them (byte-level BPE has characters
    /// for bytes).
    pub(super) fn spelling(&self) -> Vec<u32> {
        let needed = |text: &str| {
            let body = self.word(text).1;
            body.chars().nth(1).is_none() && !self.pieces.has_bytes_of(body)
        };
        let characters = self.pieces.iter().filter(|(_, text)| needed(text)).map(|(id, _)| id);
        characters.chain(self.pieces.bytes.iter().copied()).collect()
    }

    pub(super) fn origin(&mut self, id: u32) -> Origin {
        match self.origins.get(id as usize) {
            None => Origin::Never,
            Some(Some(known)) => *known,
            Some(None) => {
                let origin = self.build(id);
                self.origins[id as usize] = Some(origin);
                origin
            }
        }
    }

    /// Goes through the steps in which the model builds a token. Each symbol on the way is built as it would be on its own:
    /// the steps inside it depend on nothing outside.
    fn build(&mut self, id: u32) -> Origin {
        let never = if self.ignores_merges { Origin::Whole } else { Origin::Never };
        let Some(mut symbols) = self.symbols(self.pieces.texts[id as usize]) else { return never };
        if symbols == [id] {
            return Origin::Whole;
        }
        let mut ranks: Vec<_> = symbols.windows(2).map(|pair| self.rank(pair)).collect();
        let mut last = never;
        while let Some((_, at)) = first(&ranks) {
            let (left, right, new) = self.merges[ranks[at].unwrap_or_default() as usize];
            last = Origin::Merged(left, right);
            self.origins[new as usize].get_or_insert(last);
            symbols[at] = new;
            symbols.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = self.rank(&symbols[at - 1..=at]);
            }
            if at < ranks.len() {
                ranks[at] = self.rank(&symbols[at..=at + 1]);
            }
        }
        if symbols == [id] { last } else { never }
    }

    fn rank(&self, pair: &[u32]) -> Option<u32> {
        self.ranks.get(&(pair[0], pair[1])).copied()
    }

    /// Returns the symbols that the model starts from; none when a character has no token.
    fn symbols(&self, text: &str) -> Option<Vec<u32>> {
        let (is_inside, body, is_end) = self.word(text);
        if self.prefix.is_empty() && !is_end {
            return characters(body).map(|symbol| self.pieces.id(symbol)).collect();
        }
        let last = body.chars().count() - 1;
        let symbol = |(at, character): (usize, &str)| {
            let prefix = if is_inside || at > 0 { self.prefix } else { "" };
            let suffix = if is_end && at == last { self.suffix } else { "" };
            self.pieces.id(&format!("{prefix}{character}{suffix}"))
        };
        characters(body).enumerate().map(symbol).collect()
    }

    /// Returns a token's text without marks, and whether it had those of standing inside and at the end of a word.
    fn word<'t>(&self, text: &'t str) -> (bool, &'t str, bool) {
        let rest = |rest: Option<&'t str>| rest.filter(|rest| !rest.is_empty());
        let inside = rest(text.strip_prefix(self.prefix)).filter(|_| !self.prefix.is_empty());
        let body = inside.unwrap_or(text);
        let end = rest(body.strip_suffix(self.suffix)).filter(|_| !self.suffix.is_empty());
        (inside.is_some(), end.unwrap_or(body), end.is_some())
    }

    pub(super) fn kept_merges(&self, kept: &[bool]) -> Vec<bool> {
        let is_kept = |id: u32| kept[id as usize];
        self.merges.iter().map(|&(a, b, new)| is_kept(a) && is_kept(b) && is_kept(new)).collect()
    }
}

/// Returns the smallest rank and its place, the first of equal ones.
fn first(ranks: &[Option<u32>]) -> Option<(u32, usize)> {
    ranks.iter().enumerate().filter_map(|(at, rank)| Some(((*rank)?, at))).min()
}
