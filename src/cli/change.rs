//! How a field that differs between two steps is told.

use serde_json::Value as Json;

use crate::base::{Digest, Value, text};
use crate::graph::Change;

/// Longer texts are told by the first line in which they differ.
const SHORT: usize = 60;

/// Returns `lr: 0.001 -> 0.0005`.
pub(super) fn told(change: &Change) -> String {
    let name = match change.field.strip_prefix("params.") {
        Some(param) => param,
        None if change.field == "version" => "version of the stage",
        None => &change.field,
    };
    if let (Some(Value::Str(before)), Some(Value::Str(now))) = (&change.before, &change.now)
        && before.len().max(now.len()) > SHORT
    {
        return line(name, before, now);
    }
    if let (Some(Value::List(before)), Some(Value::List(now))) = (&change.before, &change.now)
        && is_files(before)
        && sorted(before) == sorted(now)
    {
        return format!("{name}: another order of its files");
    }
    let (before, now) = (shown(change.before.as_ref()), shown(change.now.as_ref()));
    match before == now {
        true => format!("{name}: another content"),
        false => format!("{name}: {before} -> {now}"),
    }
}

/// Tells the first line in which two long texts differ.
fn line(name: &str, before: &str, now: &str) -> String {
    let [mut before, mut now] = [before, now].map(str::lines);
    let mut number = 0;
    loop {
        number += 1;
        match (before.next(), now.next()) {
            (None, None) => return format!("{name}: another text"),
            (before, now) if before == now => {}
            (before, now) => {
                let [before, now] = [before, now].map(|line| line.map_or("nothing", str::trim));
                return format!("{name}, line {number}: {before} -> {now}");
            }
        }
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::Null) => "none".to_owned(),
        Some(Value::Digest(digest)) => digest.short(),
        Some(Value::Str(text)) if is_digits(text) => text[..12].to_owned(),
        Some(Value::Str(text)) if !text.contains(char::is_control) => text.clone(),
        Some(Value::List(items)) if is_files(items) => text::plural(items.len(), "file"),
        Some(other) => json(other).to_string(),
    }
}

/// Returns a value as JSON has it.
pub(super) fn json(value: &Value) -> Json {
    serde_json::to_value(value).expect("values are plain data")
}

fn is_digits(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the digests among values in their order.
fn sorted(items: &[Value]) -> Vec<Digest> {
    let mut digests: Vec<_> = items.iter().filter_map(Value::as_digest).collect();
    digests.sort();
    digests
}

fn is_files(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| item.as_digest().is_some())
}
