//! WordPiece: the longest piece that fits comes first, whatever else there is, so a piece needs no others.
//!
//! A piece inside a word needs some beginning of a word that ends where the piece starts: one character, if no longer piece
//! begins like it.

use serde_json::Value;

use crate::data::tokenizer::prune::model::{Origin, Pieces, characters};

/// The length of the longest word, if the file names none (tokenizers).
const MAX_WORD_CHARS: u64 = 100;

pub(super) struct WordPiece<'j> {
    pub(super) pieces: Pieces<'j>,
    prefix: &'j str,
    /// Pieces of one character that begin a word.
    initials: Vec<&'j str>,
    max_word_chars: u64,
}

impl<'j> WordPiece<'j> {
    pub(super) fn new(model: &'j Value, pieces: Pieces<'j>) -> Self {
        let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("##");
        let texts = pieces.iter().map(|(_, text)| text);
        let initials = texts.filter(|text| text.chars().nth(1).is_none()).collect();
        let max_word_chars = model["max_input_chars_per_word"].as_u64().unwrap_or(MAX_WORD_CHARS);
        Self { pieces, prefix, initials, max_word_chars }
    }

    /// Returns all characters, at the beginning and inside of words, and pieces with a character that has none.
    pub(super) fn spelling(&self) -> Vec<u32> {
        let needed = |text: &str| {
            let (is_inside, body) = self.word(text);
            let is_spelt = |(at, character): (usize, &str)| match is_inside || at > 0 {
                true => self.pieces.id(&format!("{}{character}", self.prefix)).is_some(),
                false => self.pieces.id(character).is_some(),
            };
            body.chars().nth(1).is_none() || !characters(body).enumerate().all(is_spelt)
        };
        self.pieces.iter().filter(|(_, text)| needed(text)).map(|(id, _)| id).collect()
    }

    pub(super) fn origin(&self, id: u32) -> Origin {
        let Some(&text) = self.pieces.texts.get(id as usize) else { return Origin::Never };
        let (is_inside, body) = self.word(text);
        let chars = body.chars().count() as u64 + u64::from(is_inside);
        let leads = |initial: &&str| {
            let mut word = (*initial).to_owned();
            characters(body).all(|character| {
                word.push_str(character);
                self.pieces.id(&word).is_none()
            })
        };
        let is_made = !is_inside || self.initials.iter().any(leads);
        if is_made && chars <= self.max_word_chars { Origin::Whole } else { Origin::Never }
    }

    /// Returns a piece's text without the mark of standing inside a word, and whether it had one.
    fn word<'t>(&self, text: &'t str) -> (bool, &'t str) {
        match text.strip_prefix(self.prefix) {
            Some(body) if !body.is_empty() && !self.prefix.is_empty() => (true, body),
            _ => (false, text),
        }
    }
}
