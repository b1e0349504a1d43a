//! Encoding: text is split as `tokenizers` splits it, and each distinct piece goes through the model once.
//!
//! What a tokenizer has that is not known here to give the same ids goes through `tokenizers` itself: a whole text, how it is
//! split, or only a piece that was not seen yet.

use std::ops::Range;

use serde_json::Value;
use tokenizers::{
    Encoding, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizer,
    Result, Tokenizer,
};
use unicode_normalization::{IsNormalized, is_nfc_quick};

use crate::base::FastMap;
use crate::data::tokenizer::added::Added;
use crate::data::tokenizer::merges::{Alphabet, Merges};
use crate::data::tokenizer::plan::{Marks, Normal, Plan, Prepend};
use crate::data::tokenizer::spelling::{MARK, byte_chars, char_bytes};
use crate::data::tokenizer::split::{self, split};
use crate::data::tokenizer::state::{Sink, State};
use crate::data::tokenizer::words::{Key, Words};

/// A text, or a part of one that was cut where `Encoder::cut` says.
#[derive(Clone, Copy, Debug)]
pub struct Part<'t> {
    /// The text.
    pub text: &'t str,
    /// Whether it begins a text.
    pub is_first: bool,
}

/// What is needed beside the crate's tokenizer.
pub(super) struct Encoder {
    way: Way,
    added: Added,
    merges: Option<Merges>,
    ignores_merges: bool,
    /// Pieces that the model looks up as a whole, and that merges don't make; of an alphabet of bytes the text of them.
    unmerged: FastMap<String, u32>,
    /// The characters that stand for bytes.
    byte_chars: [char; 256],
    /// By a byte and the next, whether text may be cut between them.
    cuts: Vec<[bool; 256]>,
}

enum Way {
    /// All is done here.
    Own(Plan),
    /// The crate splits.
    Split,
    /// The crate encodes.
    Whole,
}

/// Where a section stands in its text.
#[derive(Clone, Copy)]
struct Place {
    /// It begins the text.
    is_first: bool,
    /// It goes on where the part before ended.
    goes_on: bool,
}

impl Place {
    const INSIDE: Self = Self { is_first: false, goes_on: false };

    fn of(part: Part<'_>, at: usize) -> Self {
        match at {
            0 => Self { is_first: part.is_first, goes_on: !part.is_first },
            _ => Self::INSIDE,
        }
    }
}

impl Encoder {
    /// Returns the encoder of a tokenizer that was read from `json`.
    ///
    /// # Errors
    /// When a part of the tokenizer can't be written as JSON.
    pub(super) fn new(inner: &Tokenizer, json: &Value) -> Result<Self> {
        let normalizer = serde_json::to_value(inner.get_normalizer())?;
        let plan = Plan::new(&normalizer, &serde_json::to_value(inner.get_pre_tokenizer())?);
        let is_marked = |plan: &Plan| plan.alphabet() == Alphabet::Marked;
        let is_virtual = plan.as_ref().is_some_and(is_marked) && !normalizer.is_null();
        let added = Added::new(inner, is_virtual);
        let ignores_merges = json["model"]["ignore_merges"] == true;
        let is_findable = normalizer.is_null() || is_virtual || !added.has_odd_normalized();
        let way = match plan {
            _ if !keeps_ids(inner)? => Way::Whole,
            Some(plan) if is_findable => Way::Own(plan),
            _ => Way::Split,
        };
        let alphabet = if let Way::Own(plan) = &way { plan.alphabet() } else { Alphabet::Chars };
        let merges = Merges::new(&json["model"], alphabet);
        let unmerged = ignores_merges.then(|| unmerged(&json["model"], merges.as_ref(), alphabet));
        let mut encoder = Self {
            merges,
            unmerged: unmerged.unwrap_or_default(),
            cuts: Vec::new(),
            way,
            added,
            ignores_merges,
            byte_chars: byte_chars(),
        };
        encoder.cuts = encoder.find_cuts();
        Ok(encoder)
    }

    /// Returns the last place at which text may be cut, whatever follows it: the ids of both sides are those of the whole.
    pub(super) fn cut(&self, text: &[u8]) -> Option<usize> {
        if self.cuts.is_empty() {
            return None;
        }
        let may = |&at: &usize| self.cuts[usize::from(text[at - 1])][usize::from(text[at])];
        (1..text.len()).rev().find(may)
    }

    fn find_cuts(&self) -> Vec<[bool; 256]> {
        let Way::Own(plan) = &self.way else { return Vec::new() };
        let marks = plan.marks;
        let prepends = marks.is_some_and(|marks| marks.prepend != Prepend::Never);
        if plan.normal == Normal::ByCrate || prepends && self.added.has_odd() {
            return Vec::new();
        }
        let mut cuts = match (&plan.levels[..], marks) {
            ([], Some(Marks { split: true, .. })) => {
                let mut cuts = vec![[false; 256]; 256];
                cuts[..0x80].iter_mut().for_each(|row| row[usize::from(b' ')] = true);
                cuts
            }
            ([], _) => vec![[false; 256]; 256],
            (levels, _) => split::cuts(levels),
        };
        if plan.levels.is_empty()
            && let Some(merges) = self.joins(plan)
        {
            for (left, row) in cuts[..0x80].iter_mut().enumerate() {
                let parted = (0..=255).map(|right| !merges.join_bytes(left as u8, right));
                row.iter_mut().zip(parted).for_each(|(cut, parted)| *cut |= parted);
            }
        }
        if plan.normal == Normal::Nfc {
            cuts.iter_mut().for_each(|row| row[0x80..].fill(false));
        }
        self.added.forbid(&mut cuts, prepends);
        cuts
    }

    /// Returns the merges when they say where pieces fall into words.
    fn joins(&self, plan: &Plan) -> Option<&Merges> {
        self.merges.as_ref().filter(|_| !plan.bytes && !self.ignores_merges)
    }

    /// Hands the ids of a part to a sink.
    ///
    /// # Errors
    /// When the model can't encode a piece.
    pub(super) fn encode(
        &self,
        inner: &Tokenizer,
        part: Part<'_>,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        if part.text.is_empty() {
            return Ok(());
        }
        let work = Work { encoder: self, inner };
        match &self.way {
            Way::Own(plan) if !self.added.is_odd(part.text) => work.text(plan, part, state, sink),
            Way::Split => work.split(part.text, state, sink),
            Way::Own(_) | Way::Whole => {
                sink.ids(state, inner.encode_fast(part.text, false)?.get_ids());
                Ok(())
            }
        }
    }
}

/// Returns whether the post-processor leaves ids as they are when no special tokens are asked for.
fn keeps_ids(inner: &Tokenizer) -> Result<bool> {
    let ids: Vec<u32> = vec![2, 0, 1];
    let mut encoding = Encoding::default();
    for &id in &ids {
        let token = tokenizers::Token::new(id, String::new(), (0, 0));
        encoding.merge_with(Encoding::from_tokens(vec![token], 0), false);
    }
    Ok(inner.post_process(encoding, None, false)?.get_ids() == ids)
}

/// Returns the pieces of a model that its merges don't make; all if it has none.
fn unmerged(model: &Value, merges: Option<&Merges>, alphabet: Alphabet) -> FastMap<String, u32> {
    let mut ids = Vec::new();
    let mut is_merged = |piece: &str, id: u32| {
        ids.clear();
        merges.is_some_and(|merges| merges.encode(piece.chars(), &mut ids)) && ids == [id]
    };
    let bytes = char_bytes();
    let text = |piece: &str| match alphabet {
        Alphabet::Bytes => {
            let bytes = piece.chars().map(|char| bytes.get(&char).copied()).collect::<Option<_>>();
            String::from_utf8(bytes?).ok()
        }
        Alphabet::Chars | Alphabet::Marked => Some(piece.to_owned()),
    };
    let pieces = model["vocab"].as_object().into_iter().flatten();
    let pieces = pieces.map(|(piece, id)| (piece, id.as_u64().unwrap_or_default() as u32));
    let pieces = pieces.filter(|(piece, id)| !is_merged(piece, *id));
    pieces.filter_map(|(piece, id)| Some((text(piece)?, id))).collect()
}

/// The ways through a text.
#[derive(Clone, Copy)]
struct Work<'e> {
    encoder: &'e Encoder,
    inner: &'e Tokenizer,
}

impl Work<'_> {
    /// Parts a text at the added tokens in it.
    fn text(
        self,
        plan: &Plan,
        part: Part<'_>,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let mut at = 0;
        for (range, id) in self.encoder.added.find(part.text) {
            if at < range.start {
                let section = &part.text[at..range.start];
                self.section(plan, section, Place::of(part, at), state, sink)?;
            }
            sink.ids(state, &[id]);
            at = range.end;
        }
        if at < part.text.len() {
            self.section(plan, &part.text[at..], Place::of(part, at), state, sink)?;
        }
        Ok(())
    }

    /// Normalizes a section and parts it at the added tokens that are sought in normalized text.
    fn section(
        self,
        plan: &Plan,
        text: &str,
        place: Place,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let is_normal = match plan.normal {
            Normal::Never => true,
            Normal::Nfc => text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes,
            Normal::ByCrate => false,
        };
        let normalized;
        let text = match self.inner.get_normalizer() {
            Some(normalizer) if !is_normal => {
                let mut string = NormalizedString::from(text);
                normalizer.normalize(&mut string)?;
                normalized = string;
                normalized.get()
            }
            _ => text,
        };
        let mut at = 0;
        let here = |at| if at == 0 { place } else { Place::INSIDE };
        for (range, id) in self.encoder.added.find_normalized(text) {
            self.pieces(plan, text, at..range.start, here(at), state, sink)?;
            sink.ids(state, &[id]);
            at = range.end;
        }
        self.pieces(plan, text, at..text.len(), here(at), state, sink)
    }

    fn pieces(
        self,
        plan: &Plan,
        text: &str,
        range: Range<usize>,
        place: Place,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let bytes = text.as_bytes();
        let start = range.start;
        if range.is_empty() {
            return Ok(());
        }
        let joins = self.encoder.joins(plan);
        if plan.marks.is_none() && joins.is_none() {
            return split(&plan.levels, bytes, range, &mut |piece| {
                self.word(plan, text, piece, state, sink)
            });
        }
        split(&plan.levels, bytes, range, &mut |piece| {
            let place = if piece.start == start { place } else { Place::INSIDE };
            self.words(plan, joins, &text[..piece.end], piece.start, place, state, sink)
        })
    }

    /// Parts what begins at `start` into words, where marks or merges say so.
    #[expect(clippy::too_many_arguments, reason = "the inner loop")]
    fn words(
        self,
        plan: &Plan,
        joins: Option<&Merges>,
        text: &str,
        start: usize,
        place: Place,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let is_blank = |char| char == ' ' || char == MARK;
        let splits = plan.marks.is_some_and(|marks| marks.split);
        let parts = |left: char, right: char| {
            splits && is_blank(right) || joins.is_some_and(|merges| !merges.join(left, right))
        };
        let mut chars = text[start..].char_indices();
        let Some((_, mut left)) = chars.next() else { return Ok(()) };
        let has_mark = is_blank(left);
        let mut is_marked = match plan.marks.map_or(Prepend::Never, |marks| marks.prepend) {
            Prepend::Never => false,
            _ if place.goes_on && plan.levels.is_empty() => false,
            Prepend::Always => true,
            Prepend::IfMissing => !has_mark,
            Prepend::IfMissingAtStart => !has_mark && place.is_first && start == 0,
        };
        if is_marked && parts(' ', left) {
            self.word(plan, " ", 0..1, state, sink)?;
            is_marked = false;
        }
        let mut from = start;
        for (at, right) in chars {
            if parts(left, right) {
                let word = from..start + at;
                self.marked_word(plan, text, word, is_marked, state, sink)?;
                (from, is_marked) = (start + at, false);
            }
            left = right;
        }
        self.marked_word(plan, text, from..text.len(), is_marked, state, sink)
    }

    fn marked_word(
        self,
        plan: &Plan,
        text: &str,
        word: Range<usize>,
        is_marked: bool,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        if !is_marked {
            return self.word(plan, text, word, state, sink);
        }
        let marked = [" ", &text[word]].concat();
        self.word(plan, &marked, 0..marked.len(), state, sink)
    }

    #[inline]
    fn word(
        self,
        plan: &Plan,
        text: &str,
        word: Range<usize>,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let key = Key::of(text.as_bytes(), word.clone());
        let bytes = &text.as_bytes()[word.clone()];
        let found = if Words::keeps(bytes) { state.words.find(key, bytes) } else { None };
        match found {
            Some(slot) => {
                sink.word(state, slot);
                Ok(())
            }
            None => self.new_word(plan, key, &text[word], state, sink),
        }
    }

    fn new_word(
        self,
        plan: &Plan,
        key: Key,
        word: &str,
        state: &mut State,
        sink: &mut impl Sink,
    ) -> Result<()> {
        state.keep(key, word.as_bytes(), sink, |ids| match plan.alphabet() {
            Alphabet::Bytes => self.bytes(word, ids),
            Alphabet::Marked => {
                self.model(word.chars().map(|char| if char == ' ' { MARK } else { char }), ids)
            }
            Alphabet::Chars => self.model(word.chars(), ids),
        })
    }

    /// Appends the ids that the model has for a word of bytes.
    fn bytes(self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        if let Some(&id) = self.encoder.unmerged.get(word) {
            ids.push(id);
            return Ok(());
        }
        let merges = self.encoder.merges.as_ref();
        if merges.is_some_and(|merges| merges.encode_bytes(word, ids)) {
            return Ok(());
        }
        let piece = word.bytes().map(|byte| self.encoder.byte_chars[usize::from(byte)]);
        self.by_crate(&piece.collect::<String>(), ids)
    }

    /// Appends the ids that the model has for a piece.
    fn model(self, piece: impl Iterator<Item = char> + Clone, ids: &mut Vec<u32>) -> Result<()> {
        let Encoder { merges, unmerged, .. } = self.encoder;
        if !unmerged.is_empty()
            && let Some(&id) = unmerged.get(&piece.clone().collect::<String>())
        {
            ids.push(id);
            return Ok(());
        }
        if merges.as_ref().is_some_and(|merges| merges.encode(piece.clone(), ids)) {
            return Ok(());
        }
        self.by_crate(&piece.collect::<String>(), ids)
    }

    fn by_crate(self, piece: &str, ids: &mut Vec<u32>) -> Result<()> {
        ids.extend(self.inner.get_model().tokenize(piece)?.iter().map(|token| token.id));
        Ok(())
    }

    /// Encodes the pieces that the crate splits a text into.
    fn split(self, text: &str, state: &mut State, sink: &mut impl Sink) -> Result<()> {
        let added = self.inner.get_added_vocabulary();
        let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        for (piece, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None)
        {
            if let Some(tokens) = tokens {
                tokens.iter().for_each(|token| sink.ids(state, &[token.id]));
                continue;
            }
            let (bytes, key) = (piece.as_bytes(), Key::of(piece.as_bytes(), 0..piece.len()));
            match state.words.find(key, bytes) {
                Some(slot) => sink.word(state, slot),
                None => state.keep(key, bytes, sink, |ids| self.model(piece.chars(), ids))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
