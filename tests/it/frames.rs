//! Writes the log of a store as `docs/cache.md` describes it: many records at once, without waiting for the disk.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use tlm::base::{Digest, Value};
use tlm::store::{Output, Record};

/// Writes a new log with these records into a store.
pub(crate) fn write(store: &Path, records: impl IntoIterator<Item = Record>) {
    let mut log = BufWriter::new(File::create(store.join("index")).expect("created"));
    let mut before = [0; 8];
    for record in records {
        let payload = [&before[..], &encode(&record)].concat();
        before.copy_from_slice(&Digest::of(&payload).as_bytes()[..8]);
        let len = payload.len() as u32;
        let parts = [&b"\x89tlm"[..], &len.to_le_bytes(), &before, &payload];
        log.write_all(&parts.concat()).expect("written");
    }
    log.flush().expect("written");
}

fn encode(record: &Record) -> Vec<u8> {
    let outputs = Value::map(record.outputs.iter().map(|(name, output)| {
        let parts = match output {
            Output::Object { digest, bytes } => {
                vec![Value::Digest(*digest), Value::Int(*bytes as i64)]
            }
            Output::Scalar(value) => vec![value.clone()],
        };
        (name, Value::List(parts))
    }));
    let text = |text: &String| Value::Str(text.clone());
    let point = record.point.iter().map(|(axis, at)| Value::List(vec![text(axis), text(at)]));
    let rest = Value::List(vec![
        text(&record.stage),
        text(&record.label),
        Value::List(point.collect()),
        record.manifest.clone(),
        Value::Float(record.seconds),
        Value::Int(record.finished_unix),
    ]);
    let (outputs, rest) = (outputs.encode(), rest.encode());
    let keys = [record.recipe, record.content].map(|key| *key.as_bytes());
    [keys.as_flattened(), &(outputs.len() as u32).to_le_bytes(), &outputs, &rest].concat()
}
