//! What `tlm show` tells of an artifact's content: some texts, tokens, numbers. Files are mapped and looked at in a few places,
//! so large ones take no longer. What can't be shown is said.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use crate::base::text::{excerpt, thousands};
use crate::base::{Digest, Value};
use crate::data::array::Array;
use crate::data::mapped::Mapped;
use crate::data::tokenizer::files::Files;
use crate::data::{DataError, Dataset, Statistics, Tokenizer};
use crate::graph::key::used;
use crate::store::{Output, Record, Store};

/// The widest text, in columns.
const COLUMNS: usize = 72;
/// Bytes of a document that are looked at: more than fit into a line.
const BYTES: usize = 4 * COLUMNS;
/// Tokens of a sequence that are decoded.
const TOKENS: usize = 2 * COLUMNS;
/// Texts and sequences that are shown.
const TEXTS: usize = 3;
/// Tokens that are shown of a tokenizer, or of counts.
const PIECES: usize = 10;

/// Returns lines about an object of a record.
pub(super) fn lines(store: &Store, record: &Record, path: &Path) -> Vec<String> {
    if !path.exists() {
        return vec!["gone from the store; a run makes it again".to_owned()];
    }
    let has = |name: &str| path.join(name).exists();
    let told = match () {
        () if has("text.bin") => documents(path),
        () if has("meta.json") && has("documents.u64") => sequences(store, record, path),
        () if has("counts.u64") => counts(store, record, path),
        () if has("tokenizer.json") && !has("config.json") => pieces(path),
        () => Ok(Vec::new()),
    };
    let mut lines = told.unwrap_or_else(|error| vec![format!("can't be shown: {error}")]);
    match Statistics::read(path) {
        Ok(statistics) => lines.extend(statistics.iter().flat_map(numbers)),
        Err(error) => lines.push(format!("can't be shown: {error}")),
    }
    lines
}

fn numbers(statistics: &Statistics) -> Vec<String> {
    let count = |(name, count): (&String, &u64)| format!("{name} {}", thousands(*count));
    let counts: Vec<_> = statistics.counts.iter().map(count).collect();
    let mut lines = vec![format!("statistics: {}", counts.join(", "))];
    lines.extend(statistics.first.iter().map(|place| {
        format!("left out: file {}, record {}: {}", place.file, place.record, place.why)
    }));
    lines
}

/// Returns places spread over so many things.
fn spread(count: usize, most: usize) -> Vec<usize> {
    let most = most.min(count);
    let last = (most.max(2) - 1) as u128;
    (0..most).map(|at| ((count - 1) as u128 * at as u128 / last) as usize).collect()
}

fn documents(path: &Path) -> Result<Vec<String>, DataError> {
    let text = Mapped::open(&path.join("text.bin"))?;
    let offsets = Array::<u64>::open(&path.join("offsets.u64"))?;
    let count = offsets.len().saturating_sub(1);
    let line = |at: usize| {
        let (start, end) = (offsets.get(at) as usize, offsets.get(at + 1) as usize);
        let bytes = text.bytes().get(start..end).ok_or_else(|| {
            DataError::invalid(offsets.path(), format!("entry {at} does not fit `text.bin`"))
        })?;
        let shown = excerpt(&start_of(bytes), COLUMNS);
        Ok(format!("document {at} of {}: {shown}", thousands(count as u64)))
    };
    spread(count, TEXTS).into_iter().map(line).collect()
}

/// Returns the first characters of a text, as many as a line may take.
fn start_of(bytes: &[u8]) -> String {
    let some = &bytes[..bytes.len().min(BYTES)];
    match std::str::from_utf8(some) {
        // The last character may be cut in two.
        Err(error) if error.error_len().is_none() => {
            String::from_utf8_lossy(&some[..error.valid_up_to()]).into_owned()
        }
        _ => String::from_utf8_lossy(some).into_owned(),
    }
}

fn sequences(store: &Store, record: &Record, path: &Path) -> Result<Vec<String>, DataError> {
    let data = Dataset::open(path)?;
    let tokenizer = tokenizer_of(store, record, data.meta().vocab);
    let mut lines: Vec<_> =
        tokenizer.as_ref().err().map(|why| format!("as ids: {why}")).into_iter().collect();
    for at in spread(data.len(), TEXTS) {
        let (id, mut ids) = (data.sequence_id(at), Vec::new());
        let start = id as usize * data.seq();
        data.tokens(start..start + TOKENS.min(data.seq() + 1), &mut ids)?;
        let shown = match &tokenizer {
            Ok(tokenizer) => excerpt(&tokenizer.decode(&ids)?, COLUMNS),
            Err(_) => {
                excerpt(&ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "), COLUMNS)
            }
        };
        let base = if data.is_view() { format!(", {id} of its base") } else { String::new() };
        lines.push(format!("sequence {at} of {}{base}: {shown}", thousands(data.len() as u64)));
    }
    Ok(lines)
}

fn counts(store: &Store, record: &Record, path: &Path) -> Result<Vec<String>, DataError> {
    let counts = Array::<u64>::open(&path.join("counts.u64"))?;
    let tokenizer = tokenizer_of(store, record, counts.len() as u64);
    let mut order: Vec<(Reverse<u64>, u32)> =
        counts.iter().zip(0..).map(|(count, id)| (Reverse(count), id)).collect();
    order.sort_unstable();
    let seen = order.iter().filter(|(count, _)| count.0 > 0).count();
    let mut lines: Vec<_> =
        tokenizer.as_ref().err().map(|why| format!("as ids: {why}")).into_iter().collect();
    for (Reverse(count), id) in order.into_iter().take(PIECES.min(seen)) {
        let token = match &tokenizer {
            Ok(tokenizer) => format!(" {}", excerpt(&tokenizer.decode(&[id])?, COLUMNS)),
            Err(_) => String::new(),
        };
        lines.push(format!("{:>12}  {id}{token}", thousands(count)));
    }
    lines.push(format!(
        "{} of {} ids occur",
        thousands(seen as u64),
        thousands(counts.len() as u64)
    ));
    Ok(lines)
}

fn pieces(path: &Path) -> Result<Vec<String>, DataError> {
    let files = Files::read(path)?;
    let kind = files.json["model"]["type"].as_str().unwrap_or("of an unnamed type").to_owned();
    let tokenizer = Tokenizer::of(files)?;
    let size = tokenizer.size();
    let piece =
        |id: usize| Ok(format!("{id} {}", excerpt(&tokenizer.decode(&[id as u32])?, COLUMNS)));
    let pieces: Result<Vec<_>, DataError> =
        spread(size as usize, PIECES).into_iter().map(piece).collect();
    let mut lines = vec![format!("{kind}, {} tokens: {}", thousands(size), pieces?.join(", "))];
    if let Ok(end) = tokenizer.end_of_text() {
        lines.push(format!(
            "documents end with {end} {}",
            excerpt(&tokenizer.decode(&[end])?, COLUMNS)
        ));
    }
    Ok(lines)
}

/// Finds the tokenizer that so many token ids mean something under: the nearest one among what a step was made from.
fn tokenizer_of(store: &Store, record: &Record, size: u64) -> Result<Tokenizer, String> {
    let mut seen = BTreeSet::from([record.recipe]);
    let mut next = VecDeque::from([record.manifest.clone()]);
    while let Some(manifest) = next.pop_front() {
        for (name, step, output) in inputs(&manifest) {
            let gone = || format!("its `{name}` is gone from the store");
            let is_tokenizer = ["to", "tokenizer", "from"].contains(&&*name);
            let Some(made) = store.lookup(step) else {
                if is_tokenizer {
                    return Err(gone());
                }
                continue;
            };
            let Some(Output::Object { digest, .. }) = made.outputs.get(&output) else { continue };
            let path = store.object_path(*digest);
            if path.join("tokenizer.json").exists() {
                let tokenizer = Tokenizer::open(&path).map_err(|error| error.to_string())?;
                if tokenizer.size() == size {
                    return Ok(tokenizer);
                }
            } else if is_tokenizer {
                return Err(gone());
            } else if seen.insert(step) {
                next.push_back(made.manifest);
            }
        }
    }
    Err(format!("nothing that it was made from is a tokenizer of {} tokens", thousands(size)))
}

/// Returns the outputs that a step was made from, by the names of its inputs; those first that say which ids it has.
fn inputs(manifest: &Value) -> Vec<(String, Digest, String)> {
    let Value::Map(fields) = manifest else { return Vec::new() };
    let Some(Value::Map(inputs)) = fields.get("inputs") else { return Vec::new() };
    let of = |(name, value): (&String, &Value)| -> Vec<_> {
        used(value)
            .into_iter()
            .map(|(step, output)| (name.clone(), step, output.to_owned()))
            .collect()
    };
    let mut all: Vec<_> = inputs.iter().flat_map(of).collect();
    let first = ["to", "tokenizer", "data"];
    all.sort_by_key(|(name, ..)| {
        first.iter().position(|first| first == name).unwrap_or(first.len())
    });
    all
}
