//! A whole file in the one style: its items, with the comments and empty lines between them.

use super::ast::Item;
use super::layout::{COMMENT_GAP, Doc, layout};
use super::lexer::lex;
use super::parse;
use super::print::{Columns, print};
use super::token::{Kind, Token};
use crate::base::{FileId, Span};
use crate::diag::Diagnostic;

/// What stands before a token.
pub(super) struct Gap<'t> {
    pub(super) comments: Vec<Comment<'t>>,
    /// Whether an empty line stands directly before the token.
    pub(super) blank: bool,
}

/// A comment as written, from its `#` on.
pub(super) struct Comment<'t> {
    pub(super) text: &'t str,
    /// Whether no code stands before it on its line.
    pub(super) alone: bool,
    /// Whether an empty line stands before it.
    pub(super) blank: bool,
}

impl<'t> Gap<'t> {
    /// Returns what stands before the token `at`.
    pub(super) fn before(text: &'t str, tokens: &[Token], at: usize) -> Self {
        let start =
            at.checked_sub(1).and_then(|before| tokens.get(before)).map_or(0, |t| t.end as usize);
        let end = tokens.get(at).map_or(text.len(), |token| token.start as usize);
        let (mut rest, mut comments) = (&text[start..end], Vec::new());
        let mut alone = at == 0;
        while let Some((blank, _)) = rest.split_once('#') {
            let newlines = blank.matches('\n').count();
            alone |= newlines > 0;
            let line = rest[blank.len()..].split('\n').next().unwrap_or_default();
            rest = &rest[blank.len() + line.len()..];
            comments.push(Comment { text: line.trim_end(), alone, blank: newlines > 1 });
        }
        Self { comments, blank: rest.matches('\n').count() > 1 }
    }
}

/// An item on its way into the file.
struct Piece<'t> {
    gap: Gap<'t>,
    source: &'t str,
    keyword: &'t str,
    /// None where it stays as it is.
    docs: Option<Vec<Doc<'t>>>,
    columns: Option<Columns>,
}

/// How often a text is printed again until it stays the same. Once is enough but for comments in odd places.
const ROUNDS: usize = 4;

/// Returns a recipe or stdlib file in the one style. One that does not come to rest stays as it is.
///
/// # Errors
/// What is wrong in it, where it can't be parsed.
pub fn format(file: FileId, text: &str) -> Result<String, Vec<Diagnostic>> {
    let mut last = printed(file, text)?;
    for _ in 0..ROUNDS {
        match printed(file, &last) {
            Ok(next) if next == last => return Ok(last),
            Ok(next) => last = next,
            Err(_) => break,
        }
    }
    Ok(text.to_owned())
}

fn printed(file: FileId, text: &str) -> Result<String, Vec<Diagnostic>> {
    let parsed = parse(file, text);
    if !parsed.diagnostics.is_empty() {
        return Err(parsed.diagnostics);
    }
    let (tokens, _) = lex(file, text);
    let tokens = &tokens.all[..];
    let pieces = pieces(text, tokens, &parsed.file.items);
    let pads = pads(&pieces);
    let mut out = String::new();
    for (piece, pads) in pieces.iter().zip(pads) {
        between(&mut out, &piece.gap);
        out.push_str(&written(piece, pads));
    }
    between(&mut out, &Gap::before(text, tokens, tokens.len() - 1));
    out.truncate(out.trim_end().len());
    if !out.is_empty() {
        out.push('\n');
    }
    Ok(out)
}

fn pieces<'t>(text: &'t str, tokens: &'t [Token], items: &[Item]) -> Vec<Piece<'t>> {
    let mut first = 0;
    let piece = |item: &Item| {
        let Span { start, end, .. } = item.span;
        first += tokens[first..].partition_point(|token| token.start < start);
        let count = tokens[first..].partition_point(|token| token.start < end);
        let keyword = &text[tokens[first].range()];
        let source = &text[start as usize..end as usize];
        let gap = Gap::before(text, tokens, first);
        let printed = print(text, tokens, first, count, item);
        let (docs, columns) = printed.map_or((None, None), |p| (Some(p.docs), p.columns));
        let mut piece = Piece { gap, source, keyword, docs, columns };
        if laid_out(&piece, [0, 0]).is_none() {
            (piece.docs, piece.columns) = (None, None);
        }
        piece
    };
    items.iter().map(piece).collect()
}

/// Returns the item laid out, if that says what was written.
fn laid_out(piece: &Piece<'_>, pads: [usize; 2]) -> Option<String> {
    let out = layout(piece.docs.as_ref()?, pads)?;
    let same = parse(FileId(0), &out).diagnostics.is_empty() && words(&out) == words(piece.source);
    same.then_some(out)
}

fn written(piece: &Piece<'_>, pads: [usize; 2]) -> String {
    let out = laid_out(piece, pads).or_else(|| laid_out(piece, [0, 0]));
    out.unwrap_or_else(|| piece.source.to_owned())
}

/// A token with its doc comment, and a comment.
type Words<'t> = (Vec<(&'t str, Option<String>)>, Vec<&'t str>);

/// Returns what a text says: its tokens, but for commas that may stand there or not, and its comments.
fn words(text: &str) -> Words<'_> {
    let (tokens, _) = lex(FileId(0), text);
    let (mut words, mut comments) = (Vec::new(), Vec::new());
    for (at, token) in tokens.all.iter().enumerate() {
        comments
            .extend(Gap::before(text, &tokens.all, at).comments.iter().map(|comment| comment.text));
        let word = &text[token.range()];
        if [")", "]", "}", ";"].contains(&word) && words.last() == Some(&(",", None)) {
            words.pop();
        }
        if token.kind != Kind::End {
            words.push((word, tokens.doc(at).map(str::to_owned)));
        }
    }
    (words, comments)
}

/// Writes the comments between two items, and leaves the text where the second one goes.
fn between(out: &mut String, gap: &Gap<'_>) {
    let mut lines = Vec::new();
    for comment in &gap.comments {
        match comment.alone {
            true => lines.push((comment.blank, comment.text)),
            false => out.extend([COMMENT_GAP, comment.text]),
        }
    }
    lines.push((gap.blank, ""));
    for (blank, text) in lines {
        if !out.is_empty() {
            out.push_str(if blank { "\n\n" } else { "\n" });
        }
        out.push_str(text);
    }
}

/// Returns the blanks before `:` and `=` in each item: in lines that follow each other and begin
/// with one keyword they stand in one column.
fn pads(pieces: &[Piece<'_>]) -> Vec<[usize; 2]> {
    let is_next = |one: &Piece<'_>, next: &Piece<'_>| {
        let blank = next.gap.blank || next.gap.comments.iter().any(|comment| comment.blank);
        one.keyword == next.keyword && !blank && one.columns.is_some() && next.columns.is_some()
    };
    let mut pads = Vec::new();
    for run in pieces.chunk_by(is_next) {
        let columns = || run.iter().filter_map(|piece| piece.columns);
        let name = columns().map(|c| c.name).max().unwrap_or(0);
        let ty = columns().filter_map(|c| c.ty).max().unwrap_or(0);
        pads.extend(run.iter().map(|piece| match piece.columns {
            Some(own) => [name - own.name, own.ty.map_or(0, |own| ty - own)],
            None => [0, 0],
        }));
    }
    pads
}
