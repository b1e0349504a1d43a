//! `dataset.remap`: a dataset in the ids of another tokenizer.

use std::ops::Range;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use serde::Deserialize;

use crate::base::{Value, text};
use crate::data::dataset::Documents;
use crate::data::mix::{Stream, mix};
use crate::data::tokenizer::remap::{IdMap, Losses};
use crate::data::{DataError, Dataset, DatasetWriter, Statistics, Tokenizer};
use crate::stage::{Context, StageError};

/// Tokens that are worked on at once: enough for all threads, little memory.
const BLOCK_TOKENS: usize = 1 << 19;
/// Documents that are worked on at once, however short.
const BLOCK_DOCUMENTS: usize = 1 << 14;
/// What bytes become that are no UTF-8.
const LOST: char = '\u{fffd}';

#[derive(Deserialize)]
struct Params {
    by: By,
    check: f64,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum By {
    Ids,
    Text,
}

/// Runs the stage.
///
/// # Errors
/// When an input can't be read, the dataset is a view, a document that is looked at twice comes out otherwise, or there are
/// too few tokens for one sequence.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let remapping = Remapping::open(context, &params)?;
    let out = context.out_dir("out")?;
    let seq = remapping.data.meta().seq;
    let mut writer = DatasetWriter::create(&out, seq, remapping.to.size())?;
    let counts = remapping.write(context, &mut writer)?;
    let meta = writer.finish()?;
    if meta.sequences == 0 {
        let message = format!("{} tokens are too few for one sequence of {seq}", meta.tokens);
        return Err(StageError::input(message).help("pack shorter sequences, then remap them"));
    }
    counts.tell(context);
    counts.statistics().write(&out)?;
    context.output("out.tokens", Value::Int((meta.sequences * meta.seq) as i64))?;
    context.output("out.sequences", Value::Int(meta.sequences as i64))?;
    Ok(())
}

/// What became of documents.
#[derive(Clone, Copy, Default)]
struct Counts {
    mapped: [u64; 2],
    encoded: [u64; 2],
    checked: u64,
    lost: u64,
}

impl Counts {
    fn tell(&self, context: &mut Context) {
        let told = |[documents, tokens]: [u64; 2]| {
            let documents = text::plural(documents as usize, "document");
            format!("{documents} of {}", text::plural(tokens as usize, "token"))
        };
        let (mapped, encoded) = (told(self.mapped), told(self.encoded));
        let checked = text::thousands(self.checked);
        context.log(format!("mapped {mapped} by ids, {checked} of them also by text: the same"));
        context.log(format!("encoded {encoded} anew"));
        if self.lost > 0 {
            let lost = text::plural(self.lost as usize, "document");
            context.log(format!(
                "{lost} had no text that makes their tokens: bytes that are no UTF-8, or unknown tokens"
            ));
        }
    }

    fn statistics(&self) -> Statistics {
        Statistics::of([
            ("mapped_documents", self.mapped[0]),
            ("mapped_tokens", self.mapped[1]),
            ("encoded_documents", self.encoded[0]),
            ("encoded_tokens", self.encoded[1]),
            ("checked_documents", self.checked),
            ("lossy_documents", self.lost),
        ])
    }

    fn add(&mut self, done: &Done) {
        let kind = if done.is_mapped { &mut self.mapped } else { &mut self.encoded };
        kind[0] += 1;
        kind[1] += done.ids.len() as u64;
        self.checked += u64::from(done.is_checked);
        self.lost += u64::from(done.is_lost);
    }
}

/// A document in new ids.
struct Done {
    ids: Vec<u32>,
    is_mapped: bool,
    is_checked: bool,
    /// Whether no text makes its tokens.
    is_lost: bool,
}

struct Remapping {
    data: Dataset,
    documents: Documents,
    from: Tokenizer,
    to: Tokenizer,
    /// The end-of-text tokens of the two.
    ends: [u32; 2],
    map: Option<IdMap>,
    /// What decoding with `from` loses.
    losses: Losses,
    /// Below which random number a document is looked at twice.
    checked: u128,
}

impl Remapping {
    fn open(context: &mut Context, params: &Params) -> Result<Self, StageError> {
        let data = Dataset::open(context.input("data"))?;
        if data.is_view() {
            let message = "`data` is a view: chosen sequences, whose borders move with the ids";
            return Err(StageError::input(message)
                .help("remap the dataset that they were chosen from, then choose anew"));
        }
        let [from, to] = ["from", "to"].map(|name| context.input(name).to_owned());
        let map = if params.by == By::Ids { IdMap::between(&from, &to)? } else { None };
        if map.is_none() && params.by == By::Ids {
            context.log("`to` is not pruned from `from` by rules that let ids be mapped");
        }
        let losses = Losses::of(&from)?;
        let (from, to) = (Tokenizer::open(&from)?, Tokenizer::open(&to)?);
        if from.size() != data.meta().vocab {
            let (size, vocab) = (from.size(), data.meta().vocab);
            let message = format!("`data` has ids of {vocab} tokens, but `from` has {size}");
            return Err(
                StageError::input(message).help("name the tokenizer that it was packed with")
            );
        }
        let ends = [from.end_of_text()?, to.end_of_text()?];
        let checked = (params.check * 2f64.powi(64)) as u128;
        let documents = data.documents()?;
        Ok(Self { data, documents, from, to, ends, map, losses, checked })
    }

    fn write(
        &self,
        context: &mut Context,
        writer: &mut DatasetWriter,
    ) -> Result<Counts, StageError> {
        let pool = context.pool()?;
        let mut counts = Counts::default();
        let total = self.data.meta().tokens;
        let mut next = 0;
        while next < self.documents.len() {
            if context.interrupted() {
                return Err(StageError::Interrupted);
            }
            let block = self.block(next);
            next = block.end;
            let done: Result<Vec<_>, DataError> = pool
                .install(|| block.clone().into_par_iter().map(|at| self.document(at)).collect());
            for document in done? {
                writer.push(&document.ids)?;
                counts.add(&document);
            }
            let tokens =
                self.documents.range(block.start).start..self.documents.range(next - 1).end;
            context.progress(tokens.end as u64, Some(total), "tokens");
            self.data.release(tokens);
        }
        Ok(counts)
    }

    /// Returns the documents that are worked on together, from this one on.
    fn block(&self, first: usize) -> Range<usize> {
        let start = self.documents.range(first).start;
        let fits = |at: &usize| self.documents.range(*at).end - start <= BLOCK_TOKENS;
        let last = self.documents.len().min(first + BLOCK_DOCUMENTS);
        first..(first + 1..last).take_while(fits).last().unwrap_or(first) + 1
    }

    fn document(&self, index: usize) -> Result<Done, DataError> {
        let mut old = Vec::new();
        self.data.tokens(self.documents.range(index), &mut old)?;
        let [old_end, new_end] = self.ends;
        let is_ended = old.pop_if(|last| *last == old_end).is_some();
        let mapped = self.map.as_ref().and_then(|map| map.map(&old));
        let mut done = match mapped {
            Some(ids) => {
                let is_checked = u128::from(mix(0, Stream::Check, index as u64)) < self.checked;
                let is_lost = is_checked && !self.check(index, &old, &ids)?;
                Done { ids, is_mapped: true, is_checked: is_checked && !is_lost, is_lost }
            }
            None => {
                let text = self.from.decode(&old)?;
                let is_lost = self.losses.has_unknown(&old)
                    || text.contains(LOST) && self.from.encode(&text)? != old;
                Done { ids: self.to.encode(&text)?, is_mapped: false, is_checked: false, is_lost }
            }
        };
        if is_ended {
            done.ids.push(new_end);
        }
        Ok(done)
    }

    /// Checks that a document's text is encoded to these ids; false if it can't be told, as its tokens make no text.
    fn check(&self, index: usize, old: &[u32], new: &[u32]) -> Result<bool, DataError> {
        let text = self.from.decode(old)?;
        let again = self.from.encode(&text)?;
        if again != old {
            if text.contains(LOST) || self.losses.may_differ(old) {
                return Ok(false);
            }
            let what = self.differs(index, old, &again, &self.from);
            return Err(self
                .wrong(&format!("{what}, with `from`"))
                .help("name the tokenizer that packed it; `by: text` encodes all documents anew"));
        }
        let encoded = self.to.encode(&text)?;
        if encoded != new {
            let what = self.differs(index, new, &encoded, &self.to);
            return Err(self.wrong(&format!("{what}, with `to`")).help(
                "`by: text` encodes all documents anew; `to` can't produce all of its tokens",
            ));
        }
        Ok(true)
    }

    fn wrong(&self, what: &str) -> DataError {
        DataError::invalid(&self.data.tokens_path(), what)
    }

    /// Tells where a document's ids are other ones than those that its text is encoded to.
    fn differs(&self, index: usize, ids: &[u32], encoded: &[u32], of: &Tokenizer) -> String {
        let at = ids.iter().zip(encoded).take_while(|(a, b)| a == b).count();
        let token = |ids: &[u32]| match ids.get(at) {
            Some(id) => format!("id {id} ({:?})", of.decode(&[*id]).unwrap_or_default()),
            None => "its end".to_owned(),
        };
        format!(
            "document {index}: token {at} is {}, but its text is encoded to {}",
            token(ids),
            token(encoded)
        )
    }
}
