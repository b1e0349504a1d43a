//! `TrainLog`: `log.jsonl`, a line for each optimiser step or validation, and the same as events for TensorBoard.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::data::error::DataError;

/// What a step or a validation came to.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Point {
    /// Tokens trained so far.
    pub tokens: f64,
    /// Loss in nats per token.
    #[serde(alias = "valid_loss")]
    pub loss: f64,
}

/// The losses of a training run, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points {
    /// Of each step's batch.
    pub data: Vec<Point>,
    /// Of the validations.
    pub valid: Vec<Point>,
}

/// Returns the points of `log.jsonl` in a `TrainLog` folder.
///
/// # Errors
/// When the file can't be read.
pub fn read_log(folder: &Path) -> Result<Points, DataError> {
    let path = folder.join("log.jsonl");
    let text = std::fs::read_to_string(&path).map_err(DataError::io("read", &path))?;
    Ok(parse_log(&text))
}

/// Returns the points of a log; lines without tokens and a finite loss are passed over.
fn parse_log(text: &str) -> Points {
    let mut points = Points::default();
    for line in text.lines() {
        let Ok(point) = serde_json::from_str::<Point>(line) else { continue };
        if point.loss.is_finite() && point.tokens.is_finite() {
            let is_valid = line.contains("\"valid_loss\"");
            if is_valid { &mut points.valid } else { &mut points.data }.push(point);
        }
    }
    points
}

/// The name of the events file; TensorBoard looks for `tfevents`.
const EVENTS: &str = "events.out.tfevents.0.tlm";

/// Writes the numbers of `log.jsonl` in a `TrainLog` folder beside it, as TensorBoard reads them: records of TensorFlow's
/// `TFRecord` format with an `Event` message (`tensorboard/compat/proto/event.proto`) each. There is no clock in a log, so that
/// equal trainings have equal ones; its wall time is the step, as seconds.
///
/// # Errors
/// When a file can't be read or written.
pub fn write_events(folder: &Path) -> Result<(), DataError> {
    let (from, to) = (folder.join("log.jsonl"), folder.join(EVENTS));
    let log = std::fs::File::open(&from).map_err(DataError::io("open", &from))?;
    let mut out = BufWriter::new(std::fs::File::create(&to).map_err(DataError::io("create", &to))?);
    out.write_all(&record(&version())).map_err(DataError::io("write", &to))?;
    for line in BufReader::new(log).lines() {
        let line = line.map_err(DataError::io("read", &from))?;
        let Ok(fields) = serde_json::from_str(&line) else { continue };
        out.write_all(&record(&event(&fields))).map_err(DataError::io("write", &to))?;
    }
    out.flush().map_err(DataError::io("write", &to))
}

/// Frames a message: its length, and checksums of both.
fn record(message: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8);
    let length = (message.len() as u64).to_le_bytes();
    let (of_length, of_message) = (masked(&length), masked(message));
    [&length[..], &of_length.to_le_bytes(), message, &of_message.to_le_bytes()].concat()
}

/// The first event of a file.
fn version() -> Vec<u8> {
    bytes(3, b"brain.Event:2")
}

/// Returns the event of a line of the log: a summary with a scalar for each number in it.
fn event(fields: &Map<String, Value>) -> Vec<u8> {
    let step = fields.get("step").and_then(Value::as_u64).unwrap_or(0);
    let mut summary = Vec::new();
    for (name, value) in fields {
        if let Some(value) = value.as_f64().filter(|_| name != "step") {
            let mut scalar = bytes(1, name.as_bytes());
            scalar.push(2 << 3 | 5);
            scalar.extend((value as f32).to_le_bytes());
            summary.extend(bytes(1, &scalar));
        }
    }
    let mut event = double(1, step as f64);
    event.push(2 << 3);
    varint(step, &mut event);
    event.extend(bytes(5, &summary));
    event
}

// Fields of Protocol Buffers, by number.

fn double(field: u8, value: f64) -> Vec<u8> {
    let mut out = vec![field << 3 | 1];
    out.extend(value.to_le_bytes());
    out
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    varint(value.len() as u64, &mut out);
    out.extend(value);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LOG: &str = "{\"step\":1,\"tokens\":10,\"loss\":2.5,\"lr\":1e-3}\n\
                       {\"step\":300,\"tokens\":20,\"loss\":2.25,\"skipped\":true}\n\
                       {\"step\":300,\"tokens\":20,\"valid_loss\":2.75}\n";

    #[test]
    fn a_log_with_bad_lines_gives_the_good_ones() {
        let log = format!("{{\"tokens\":20,\"loss\":null}}\n{LOG}half a li");
        let point = |tokens: f64, loss: f64| Point { tokens, loss };
        let data = vec![point(10.0, 2.5), point(20.0, 2.25)];
        assert_eq!(parse_log(&log), Points { data, valid: vec![point(20.0, 2.75)] });
    }

    /// `scripts/reference/events.py` wrote the same with TensorBoard's own writer.
    #[test]
    fn events_are_those_that_tensorboard_writes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("log.jsonl"), LOG).unwrap();
        write_events(folder.path()).unwrap();
        let written = fs::read(folder.path().join(EVENTS)).unwrap();
        let expected = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/log.tfevents");
        assert!(written == fs::read(expected).unwrap());
    }
}
