//! Splitting by regular expressions as `tokenizers` does it, with automata instead of backtracking.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::alphabet::Unit;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::Hir;

/// Memory of an automaton: the largest pattern in use takes a tenth.
const SIZE_LIMIT: usize = 64 << 20;
/// What nearly all patterns end with: a run of blanks that leaves its last one to what follows. It is not regular.
const TAIL: &str = r"|\s+(?!\S)|\s+";
const BLANKS: &str = r"\s+";

/// Which pieces a level hands on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    Matches,
    Rest,
}

/// Returns the pattern that matches a text only.
pub(super) fn literal(text: &str) -> String {
    regex_syntax::escape(text)
}

/// One way to split: all matches of a pattern, and what is between them.
pub(super) struct Level {
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
    keep: Keep,
}

/// The second pattern of an automaton that has one: `TAIL`'s run of blanks.
const TAIL_PATTERN: usize = 1;

impl Level {
    /// Returns the level of a pattern; `None` where an automaton may match something else than the crate's regular expressions do.
    pub(super) fn new(pattern: &str, keep: Keep) -> Option<Self> {
        match pattern.strip_suffix(TAIL) {
            Some(body) => Self::of(&[parse(body)?, parse(BLANKS)?], keep),
            None => Self::of(&[parse(pattern)?], keep),
        }
    }

    /// Returns the level that matches single characters of a class, or all that follow each other.
    pub(super) fn of_class(
        is_member: impl Fn(char) -> bool,
        runs: bool,
        keep: Keep,
    ) -> Option<Self> {
        use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Repetition};
        let members = ('\0'..=char::MAX).filter(|&char| is_member(char));
        let class = ClassUnicode::new(members.map(|char| ClassUnicodeRange::new(char, char)));
        let one = Hir::class(Class::Unicode(class));
        let hir = match runs {
            true => {
                Hir::repetition(Repetition { min: 1, max: None, greedy: true, sub: Box::new(one) })
            }
            false => one,
        };
        Self::of(&[hir], keep)
    }

    fn of(patterns: &[Hir], keep: Keep) -> Option<Self> {
        let nfa = thompson::Compiler::new().build_many_from_hir(patterns).ok()?;
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .match_kind(MatchKind::LeftmostFirst)
            .dfa_size_limit(Some(SIZE_LIMIT))
            .determinize_size_limit(Some(SIZE_LIMIT));
        let dfa = dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()?;
        let start = dfa.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
        Some(Self { dfa, start, keep })
    }

    /// Returns where the match ends that begins at `at`.
    #[inline]
    fn match_end(&self, text: &[u8], at: usize) -> Option<usize> {
        let mut state = self.start;
        let mut found = None;
        for (end, &byte) in text.iter().enumerate().skip(at) {
            state = self.dfa.next_state(state, byte);
            if self.dfa.is_special_state(state) {
                if self.dfa.is_match_state(state) {
                    found = Some((end, state));
                } else if self.dfa.is_dead_state(state) {
                    return found.map(|(end, state)| self.without_last(text, at, end, state));
                }
            }
        }
        let state = self.dfa.next_eoi_state(state);
        if self.dfa.is_match_state(state) {
            return Some(text.len());
        }
        found.map(|(end, state)| self.without_last(text, at, end, state))
    }

    /// Gives the last blank of a run back that more text follows.
    #[inline]
    fn without_last(&self, text: &[u8], start: usize, end: usize, state: StateID) -> usize {
        let is_word = text[end - 1].is_ascii_graphic();
        if is_word || self.dfa.match_pattern(state, 0).as_usize() != TAIL_PATTERN {
            return end;
        }
        let last = text[..end].iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(start);
        if last > start { last } else { end }
    }
}

/// Hands the pieces of a range of a text on that the levels part it into, one after the other.
///
/// # Errors
/// The first of `take`.
#[inline]
pub(super) fn split<E>(
    levels: &[Level],
    text: &[u8],
    range: Range<usize>,
    take: &mut impl FnMut(Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let [level, rest @ ..] = levels else { return take(range) };
    let text_here = &text[..range.end];
    let (mut at, mut unmatched) = (range.start, range.start);
    while at < range.end {
        let Some(end) = level.match_end(text_here, at) else {
            at += char_len(text[at]);
            continue;
        };
        if unmatched < at && level.keep != Keep::Matches {
            split(rest, text, unmatched..at, take)?;
        }
        if level.keep != Keep::Rest {
            split(rest, text, at..end, take)?;
        }
        (at, unmatched) = (end, end);
    }
    if unmatched < range.end && level.keep != Keep::Matches {
        split(rest, text, unmatched..range.end, take)?;
    }
    Ok(())
}

/// Returns how many bytes a character has that begins with a byte.
pub(super) fn char_len(first: u8) -> usize {
    match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

/// Returns what a pattern means, if fancy-regex surely agrees: no look-around, possessive repetition, empty match or flag but `(?i:`.
fn parse(pattern: &str) -> Option<Hir> {
    let ast = ast::parse::Parser::new().parse(pattern).ok()?;
    if !is_plain(&ast) {
        return None;
    }
    let hir = regex_syntax::hir::translate::Translator::new().translate(pattern, &ast).ok()?;
    let properties = hir.properties();
    let is_regular = properties.look_set().is_empty() && properties.minimum_len()? > 0;
    is_regular.then_some(hir)
}

fn is_plain(ast: &Ast) -> bool {
    match ast {
        Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_) => false,
        Ast::Literal(_) | Ast::Dot(_) => true,
        Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::ClassBracketed(_) => true,
        Ast::Repetition(repetition) => {
            !matches!(*repetition.ast, Ast::Repetition(_)) && is_plain(&repetition.ast)
        }
        Ast::Group(group) => {
            let only_case = |flags: &ast::Flags| {
                let is_case = |item: &ast::FlagsItem| {
                    item.kind == ast::FlagsItemKind::Flag(ast::Flag::CaseInsensitive)
                };
                flags.items.iter().all(is_case)
            };
            let plain = match &group.kind {
                ast::GroupKind::CaptureIndex(_) => true,
                ast::GroupKind::NonCapturing(flags) => only_case(flags),
                ast::GroupKind::CaptureName { .. } => false,
            };
            plain && is_plain(&group.ast)
        }
        Ast::Alternation(several) => several.asts.iter().all(is_plain),
        Ast::Concat(several) => several.asts.iter().all(is_plain),
    }
}

/// Returns, by a byte and the one after it, whether each text may be cut between them: both sides split by themselves have the
/// pieces that the whole has. The first byte is ASCII.
pub(super) fn cuts(levels: &[Level]) -> Vec<[bool; 256]> {
    let mut cuts = vec![[false; 256]; 256];
    let mut crossed = vec![[false; 256]; 256];
    for level in levels {
        let borders = level.borders();
        for (left, right) in (0..0x80).flat_map(|left| (0..256).map(move |right| (left, right))) {
            cuts[left][right] |= !crossed[left][right] && borders[left][right] == Border::Sure;
            crossed[left][right] |= borders[left][right] == Border::Crossed;
        }
    }
    cuts
}

/// What is between two bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Border {
    /// A match may go on, or look at what follows.
    Crossed,
    /// No match goes on, but text without a match may.
    Unmatched,
    /// A match ends here whatever is before and after.
    Sure,
}

impl Level {
    fn borders(&self) -> Vec<[Border; 256]> {
        let mut borders = vec![[Border::Crossed; 256]; 0x80];
        let bytes: Vec<u8> =
            self.dfa.byte_classes().representatives(..).filter_map(Unit::as_u8).collect();
        let states = self.states(&bytes);
        let mut ends = HashMap::new();
        for left in 0..0x80u8 {
            let class = self.dfa.byte_classes().get(left);
            if let Some(same) = (0..left).find(|&same| self.dfa.byte_classes().get(same) == class) {
                borders[usize::from(left)] = borders[usize::from(same)];
                continue;
            }
            let after: BTreeSet<StateID> = states
                .iter()
                .map(|&state| self.dfa.next_state(state, left))
                .filter(|&state| !self.dfa.is_dead_state(state))
                .collect();
            let first = self.dfa.next_state(self.start, left);
            for right in 0..=255 {
                let mut next = after.iter().map(|&state| self.dfa.next_state(state, right));
                let closed = next
                    .all(|state| *ends.entry(state).or_insert_with(|| self.is_end(state, &bytes)));
                let sure = self.dfa.is_match_state(self.dfa.next_state(first, right));
                borders[usize::from(left)][usize::from(right)] = match (closed, sure) {
                    (false, _) => Border::Crossed,
                    (true, false) => Border::Unmatched,
                    (true, true) => Border::Sure,
                };
            }
        }
        borders
    }

    /// Returns all states that a search can be in.
    fn states(&self, bytes: &[u8]) -> BTreeSet<StateID> {
        let (mut states, mut open) = (BTreeSet::from([self.start]), vec![self.start]);
        while let Some(state) = open.pop() {
            let next = bytes.iter().map(|&byte| self.dfa.next_state(state, byte));
            open.extend(next.filter(|&next| states.insert(next)));
        }
        states
    }

    /// Returns whether nothing follows a state, and the match that it ends, if any, is not one that gives a blank back. A match
    /// shows one byte after its end.
    fn is_end(&self, state: StateID, bytes: &[u8]) -> bool {
        let gives_back = self.dfa.is_match_state(state)
            && self.dfa.match_pattern(state, 0).as_usize() == TAIL_PATTERN;
        let goes_on =
            bytes.iter().any(|&byte| !self.dfa.is_dead_state(self.dfa.next_state(state, byte)));
        !gives_back && !goes_on && !self.dfa.is_match_state(self.dfa.next_eoi_state(state))
    }
}
