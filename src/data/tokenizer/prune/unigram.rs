//! Unigram: whether a piece is the best segmentation of its own text.
//!
//! A character without a piece costs what the worst piece does and a constant, so the worst piece stays: then what is
//! unknown never becomes cheaper, and the best segmentation of a text is still the best when other pieces go.

use serde_json::Value;

use crate::data::tokenizer::prune::model::{Origin, Pieces, characters};

/// What an unknown character costs more than the worst piece (tokenizers, `K_UNK_PENALTY`).
const UNKNOWN_PENALTY: f64 = 10.0;

pub(super) struct Unigram<'j> {
    pub(super) pieces: Pieces<'j>,
    scores: Vec<f64>,
    /// The length of the longest piece, in characters.
    longest: usize,
}

impl<'j> Unigram<'j> {
    pub(super) fn new(model: &'j Value, pieces: Pieces<'j>) -> Self {
        let listed = model["vocab"].as_array().into_iter().flatten();
        let scores = listed.map(|piece| piece[1].as_f64().unwrap_or_default()).collect();
        let length = |(_, text): (u32, &str)| text.chars().count();
        let longest = pieces.iter().map(length).max().unwrap_or(0);
        Self { pieces, scores, longest }
    }

    /// Returns the worst piece, the bytes, the characters without them, and pieces with a character that has neither.
    pub(super) fn spelling(&self) -> Vec<u32> {
        let worst = (0..).zip(&self.scores).min_by(|(_, a), (_, b)| a.total_cmp(b));
        let worst = worst.map(|(id, _)| id);
        let is_spelt = |character: &str| {
            self.pieces.id(character).is_some() || self.pieces.has_bytes_of(character)
        };
        let needed = |text: &str| match text.chars().nth(1) {
            None => !self.pieces.has_bytes_of(text),
            Some(_) => !characters(text).all(is_spelt),
        };
        let all = self.pieces.iter().filter(|(_, text)| needed(text)).map(|(id, _)| id);
        all.chain(self.pieces.bytes.iter().copied()).chain(worst).collect()
    }

    /// Finds the best segmentation as the model does (Viterbi): the first of equal ones.
    pub(super) fn origin(&self, id: u32) -> Origin {
        let Some(&text) = self.pieces.texts.get(id as usize) else { return Origin::Never };
        let mut bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        bounds.push(text.len());
        let count = bounds.len() - 1;
        let worst = self.scores.iter().copied().fold(f64::INFINITY, f64::min);
        // Score, start and piece of the best path to each bound.
        let mut best: Vec<Option<(f64, usize, Option<u32>)>> = vec![None; count + 1];
        for from in 0..count {
            let before = best[from].map_or(0.0, |(score, ..)| score);
            let mut offer = |to: usize, score: f64, piece: Option<u32>| {
                if best[to].is_none_or(|(known, ..)| score > known) {
                    best[to] = Some((score, from, piece));
                }
            };
            let ends = from + 1..=count.min(from + self.longest);
            let mut has_character = false;
            for to in ends {
                if let Some(piece) = self.pieces.id(&text[bounds[from]..bounds[to]]) {
                    offer(to, self.scores[piece as usize] + before, Some(piece));
                    has_character |= to == from + 1;
                }
            }
            if !has_character {
                offer(from + 1, worst - UNKNOWN_PENALTY + before, None);
            }
        }
        match best[count] {
            Some((_, 0, Some(piece))) if piece == id => Origin::Whole,
            _ => Origin::Never,
        }
    }
}
