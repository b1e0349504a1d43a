//! `dataset.internevo`: token caches as InternEvo's `tools/tokenizer.py` writes them, packed like a corpus.
//!
//! A `.bin` file has a line of JSON for each document, `{"tokens": [...]}`. A `.bin.meta` file beside it has a row for each line:
//! where it begins, and how many tokens it has. Its int32 numbers overflow in files of 2 GiB and more, so what counts is the
//! `.bin` file, and the `.meta` file is only compared with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use serde::Deserialize;

use crate::base::{Value, text};
use crate::data::npy::Pairs;
use crate::data::{DatasetWriter, Tokenizer};
use crate::stage::reading::{
    Block, Content, Input, LINE_MAX, Lines, Policy, Record, Rejects, expand, too_long,
};
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    seq: u64,
    min_tokens: u64,
    malformed: Policy,
}

/// A line of a `.bin` file.
#[derive(Deserialize)]
struct Line {
    tokens: Vec<u32>,
}

/// What all files go into.
struct Packing {
    params: Params,
    vocab: u64,
    end_of_text: u32,
    writer: DatasetWriter,
    rejects: Rejects,
    /// Documents with fewer tokens than `min_tokens`.
    short: u64,
}

/// Runs the stage.
///
/// # Errors
/// When a file can't be read, a line is malformed and the policy is to fail, a `.meta` file says something else, or there are
/// too few tokens for one sequence.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let tokenizer = Tokenizer::open(context.input("tokenizer"))?;
    let (files, mut metas) = sort(expand(context.inputs("files"))?);
    let out = context.out_dir("out")?;
    let mut packing = Packing {
        vocab: tokenizer.size(),
        end_of_text: tokenizer.end_of_text()?,
        writer: DatasetWriter::create(&out, params.seq, tokenizer.size())?,
        rejects: Rejects::new(params.malformed),
        params,
        short: 0,
    };
    drop(tokenizer);
    let (mut done, total) = (0, files.iter().map(|file| file.size).sum());
    for file in &files {
        let meta = metas.remove(&file.path).map(|path| Pairs::open(&path)).transpose()?;
        file.checked(packing.read(context, file, meta.as_ref(), (done, total)))?;
        done += file.size;
    }
    if let Some(meta) = metas.values().next() {
        let message = format!("`{}` comes without its `.bin` file", meta.display());
        return Err(StageError::input(message).help("name both, or the `.bin` file alone"));
    }
    let Packing { writer, rejects, short, params, .. } = packing;
    if short > 0 || rejects.count > 0 {
        let (short, rejected) = (text::thousands(short), text::thousands(rejects.count));
        context.log(format!("left out {short} documents as too short, {rejected} malformed lines"));
    }
    let meta = writer.finish()?;
    if meta.sequences == 0 {
        let (tokens, seq) = (meta.tokens, params.seq);
        let message = format!("{tokens} tokens are too few for one sequence of {seq} and the next");
        return Err(StageError::input(message).help("name more files, or take a smaller `seq`"));
    }
    context.output("out.tokens", Value::Int((meta.sequences * meta.seq) as i64))?;
    context.output("out.sequences", Value::Int(meta.sequences as i64))?;
    Ok(())
}

/// Sorts out `.meta` files, by the path of the file that each is of.
fn sort(files: Vec<Input>) -> (Vec<Input>, BTreeMap<PathBuf, PathBuf>) {
    let is_meta = |file: &Input| file.path.extension().is_some_and(|name| name == "meta");
    let (metas, files): (Vec<_>, Vec<_>) = files.into_iter().partition(is_meta);
    let metas = metas.into_iter().map(|meta| (meta.path.with_extension(""), meta.path));
    (files, metas.collect())
}

impl Packing {
    fn read(
        &mut self,
        context: &mut Context,
        file: &Input,
        meta: Option<&Pairs>,
        (done, total): (u64, u64),
    ) -> Result<(), StageError> {
        let pool = context.pool()?;
        let mut lines = Lines::new(Content::open(&file.path)?, LINE_MAX);
        let mut row = 0;
        while let Some(block) = lines.next()? {
            if context.interrupted() {
                return Err(StageError::Interrupted);
            }
            context.progress(done + lines.content().position(), Some(total), "bytes");
            let record = |number| Record { input: file, number, is_row: false };
            let (bytes, first, mut offset) = match block {
                Block::Lines { bytes, first, offset } => (bytes, first, offset),
                Block::TooLong { line } => {
                    self.rejects.reject(context, &record(line), &too_long())?;
                    row += 1;
                    continue;
                }
            };
            let parsed: Vec<_> = pool.install(|| {
                let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                let parse = |line: &[u8]| (line.len() as u64 + 1, tokens(line, self.vocab));
                lines.into_par_iter().map(parse).collect()
            });
            for (at, (len, parsed)) in parsed.into_iter().enumerate() {
                let line = first + at as u64;
                match parsed {
                    Ok(None) => {}
                    Ok(Some(tokens)) => {
                        let found = Row { line, offset, tokens: tokens.len() as u64 };
                        meta.map_or(Ok(()), |meta| agrees(meta, row, &found, &file.path))?;
                        row += 1;
                        self.push(tokens)?;
                    }
                    Err(why) => {
                        self.rejects.reject(context, &record(line), &why)?;
                        row += 1;
                    }
                }
                offset += len;
            }
        }
        match meta.filter(|meta| meta.len() != row) {
            None => Ok(()),
            Some(meta) => {
                let rows = meta.len();
                Err(differs(
                    meta,
                    &format!("has {rows} rows"),
                    &file.path,
                    &format!("has {row} lines"),
                ))
            }
        }
    }

    fn push(&mut self, mut tokens: Vec<u32>) -> Result<(), StageError> {
        if tokens.is_empty() || (tokens.len() as u64) < self.params.min_tokens {
            self.short += 1;
            return Ok(());
        }
        if tokens.last() != Some(&self.end_of_text) {
            tokens.push(self.end_of_text);
        }
        Ok(self.writer.push(&tokens)?)
    }
}

/// Returns the tokens in a line, none of a blank one; or what is wrong.
fn tokens(line: &[u8], vocab: u64) -> Result<Option<Vec<u32>>, String> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        let (whole, column) = (error.to_string(), error.column());
        let what = whole.split(" at line ").next().unwrap_or_default();
        format!("no `{{\"tokens\": [...]}}`: {what} at byte {column}")
    })?;
    match line.tokens.iter().position(|id| u64::from(*id) >= vocab) {
        None => Ok(Some(line.tokens)),
        Some(at) => {
            let id = line.tokens[at];
            Err(format!("token {at} is id {id}, but the vocabulary has {vocab}"))
        }
    }
}

/// What a row of a `.meta` file has to say.
struct Row {
    line: u64,
    offset: u64,
    tokens: u64,
}

fn agrees(meta: &Pairs, row: usize, found: &Row, path: &Path) -> Result<(), StageError> {
    let Row { line, offset, tokens } = found;
    if row >= meta.len() {
        let rows = format!("has {} rows", meta.len());
        return Err(differs(meta, &rows, path, &format!("goes on with line {line}")));
    }
    let [start, count] = meta.get(row);
    if meta.is(start, *offset) && meta.is(count, *tokens) {
        return Ok(());
    }
    let said = format!("row {row} says byte {start} and {count} tokens");
    Err(differs(meta, &said, path, &format!("line {line} is at byte {offset} and has {tokens}")))
}

fn differs(meta: &Pairs, said: &str, path: &Path, found: &str) -> StageError {
    let (meta, path) = (meta.path().display(), path.display());
    StageError::input(format!("`{meta}`: {said}, but in `{path}` {found}"))
        .help("one of the two is not whole, or was written twice; the `.bin` file alone is enough, if it is the right one")
}
