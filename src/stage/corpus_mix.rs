//! `corpus.mix`: several corpora in given shares, spread evenly.

use std::path::PathBuf;

use serde::Deserialize;

use crate::data::{Corpus, CorpusWriter, Statistics};
use crate::stage::reading::tell;
use crate::stage::{Context, StageError};

/// After so many documents of a corpus the memory they take is let go of.
const RELEASE: usize = 1 << 14;

#[derive(Deserialize)]
struct Params {
    weights: Vec<f64>,
    by: By,
    until: Until,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum By {
    Bytes,
    Documents,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Until {
    First,
    All,
}

/// A corpus in the mixture.
struct Source {
    corpus: Corpus,
    weight: f64,
    /// What was taken of it, in bytes or documents.
    taken: f64,
    next: usize,
    passes: u64,
}

/// Runs the stage.
///
/// # Errors
/// When the weights don't fit the corpora, a corpus is empty, or a document can't be read or written.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let mut sources = open(context.inputs("corpora"), &params.weights)?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let total: usize = sources.iter().map(|source| source.corpus.documents()).sum();
    while let Some(source) = next(&mut sources, params.until) {
        let document = source.corpus.document(source.next)?;
        writer.push(document)?;
        source.taken += match params.by {
            By::Bytes => document.len() as f64,
            By::Documents => 1.0,
        };
        source.next += 1;
        let whole = source.next == source.corpus.documents();
        if whole || source.next.is_multiple_of(RELEASE) {
            source.corpus.release((source.next - 1) / RELEASE * RELEASE..source.next);
            let done = writer.documents();
            context.progress(done, Some(done.max(total as u64)), "documents");
        }
        if whole {
            source.passes += 1;
        }
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
    }
    let mut statistics = Statistics::default();
    for (place, source) in sources.iter().enumerate() {
        let (passes, left) = (source.passes, source.next % source.corpus.documents());
        context.log(format!("corpus {place}: {passes} times as a whole, and {left} documents"));
        let documents = source.passes * source.corpus.documents() as u64 + left as u64;
        statistics.counts.insert(format!("documents_of_{place}"), documents);
    }
    tell(context, "out", writer, 0, statistics)?;
    Ok(())
}

fn open(paths: &[PathBuf], weights: &[f64]) -> Result<Vec<Source>, StageError> {
    if paths.len() != weights.len() {
        let message = format!("{} corpora have {} weights", paths.len(), weights.len());
        return Err(StageError::input(message).help("give each corpus a weight"));
    }
    if let Some(weight) = weights.iter().find(|weight| !(**weight > 0.0 && weight.is_finite())) {
        return Err(StageError::input(format!("a weight is {weight}"))
            .help("weights are larger than zero; leave a corpus out that has none"));
    }
    let source = |(place, (path, weight)): (usize, (&PathBuf, &f64))| {
        let corpus = Corpus::open(path)?;
        if corpus.documents() == 0 {
            return Err(StageError::input(format!("corpus {place} of the list has no documents"))
                .help("leave it out"));
        }
        Ok(Source { corpus, weight: *weight, taken: 0.0, next: 0, passes: 0 })
    };
    paths.iter().zip(weights).enumerate().map(source).collect()
}

/// Returns the corpus that is farthest behind its share, the first of equals; none at the end.
fn next(sources: &mut [Source], until: Until) -> Option<&mut Source> {
    if until == Until::All && sources.iter().all(|source| source.passes > 0) {
        return None;
    }
    let behind = |source: &Source| source.taken / source.weight;
    let source = sources.iter_mut().min_by(|a, b| behind(a).total_cmp(&behind(b)))?;
    if source.next == source.corpus.documents() {
        if until == Until::First {
            return None;
        }
        source.next = 0;
    }
    Some(source)
}
