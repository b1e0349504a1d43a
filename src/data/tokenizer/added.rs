//! Added tokens, which are found in a text before it is split.

use crate::data::tokenizer::spelling::MARK;
use std::collections::BTreeMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::{AddedToken, Tokenizer};

/// The added tokens of a tokenizer.
pub(super) struct Added {
    /// Found in the text.
    plain: Option<Finder>,
    /// Found in the normalized text.
    normalized: Option<Finder>,
    /// What a text has if it may have tokens that are sought in another way.
    odd: Option<Finder>,
    /// Their first and last bytes.
    odd_ends: Vec<(u8, u8)>,
    /// Whether some of them are sought in normalized text.
    has_odd_normalized: bool,
    contents: Vec<String>,
}

/// Texts that are found wherever they are, the longest at a place, and the id of each.
struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Finder {
    fn new(tokens: &[(String, u32)]) -> Option<Self> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(text, _)| text))
            .ok()?;
        let ids = tokens.iter().map(|&(_, id)| id).collect();
        (!tokens.is_empty()).then_some(Self { automaton, ids })
    }

    fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        self.automaton
            .find_iter(text)
            .map(|found| (found.range(), self.ids[found.pattern().as_usize()]))
    }
}

impl Added {
    /// Returns the added tokens. If `is_virtual`, normalized text is never made, so that tokens in it are odd too.
    pub(super) fn new(inner: &Tokenizer, is_virtual: bool) -> Self {
        let vocabulary = inner.get_added_vocabulary();
        let tokens: BTreeMap<u32, AddedToken> =
            inner.get_added_tokens_decoder().into_iter().collect();
        let (mut plain, mut normalized, mut odd) = (Vec::new(), Vec::new(), Vec::new());
        let is_odd = |token: &AddedToken| token.single_word || token.lstrip || token.rstrip;
        for (&id, token) in &tokens {
            let content = match token.normalized {
                true => vocabulary.simple_id_to_token(id).unwrap_or_default(),
                false => token.content.clone(),
            };
            match (is_odd(token) || token.normalized && is_virtual, token.normalized) {
                (true, true) if is_virtual => odd.push((unmarked(&content), id)),
                (true, _) => odd.push((content, id)),
                (false, true) => normalized.push((content, id)),
                (false, false) => plain.push((content, id)),
            }
        }
        let ends =
            |(text, _): &(String, u32)| Some((*text.as_bytes().first()?, *text.as_bytes().last()?));
        Self {
            has_odd_normalized: tokens.values().any(|token| is_odd(token) && token.normalized),
            odd_ends: odd.iter().filter_map(ends).collect(),
            contents: plain
                .iter()
                .chain(&normalized)
                .chain(&odd)
                .map(|(text, _)| text.clone())
                .collect(),
            plain: Finder::new(&plain),
            normalized: Finder::new(&normalized),
            odd: Finder::new(&odd),
        }
    }

    /// Returns whether there are tokens that only the crate knows to find.
    pub(super) fn has_odd(&self) -> bool {
        self.odd.is_some()
    }

    /// Returns whether some of these are sought in normalized text.
    pub(super) fn has_odd_normalized(&self) -> bool {
        self.has_odd_normalized
    }

    /// Returns whether such a one may be in a text.
    pub(super) fn is_odd(&self, text: &str) -> bool {
        self.odd.as_ref().is_some_and(|odd| odd.automaton.is_match(text))
    }

    /// Returns the tokens of a text, from left to right.
    pub(super) fn find<'a>(
        &'a self,
        text: &'a str,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        self.plain.iter().flat_map(|plain| plain.find(text))
    }

    /// Returns the tokens of a normalized text, from left to right.
    pub(super) fn find_normalized<'a>(
        &'a self,
        text: &'a str,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        self.normalized.iter().flat_map(|normalized| normalized.find(text))
    }

    /// Forbids cuts inside of tokens, and where what is beside a token matters. `prepends` says that a section begins otherwise than what
    /// follows a cut.
    pub(super) fn forbid(&self, cuts: &mut [[bool; 256]], prepends: bool) {
        for content in &self.contents {
            for pair in content.as_bytes().windows(2) {
                cuts[usize::from(pair[0])][usize::from(pair[1])] = false;
            }
            if prepends && let Some(&last) = content.as_bytes().last() {
                cuts[usize::from(last)].fill(false);
            }
        }
        for &(first, last) in &self.odd_ends {
            cuts[usize::from(last)].fill(false);
            cuts.iter_mut().for_each(|row| row[usize::from(first)] = false);
            // Blanks beside it may be taken away with it.
            let blanks = (0..0x80).filter(|&byte: &u8| char::from(byte).is_whitespace());
            blanks.for_each(|blank| cuts[usize::from(blank)].fill(false));
        }
    }
}

/// Returns the longest part of a normalized token without marks: what a text surely has that has the token.
fn unmarked(content: &str) -> String {
    content.split(MARK).max_by_key(|part| part.len()).unwrap_or_default().to_owned()
}
