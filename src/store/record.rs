//! What a step made, and the bytes that stand for it in the log.
//!
//! The bytes are the two keys, the length of the encoded outputs (u32 LE), the outputs, and all else: what a lookup needs
//! comes first and is read alone. Outputs and the rest are canonical values, so a manifest lies in the log as it was hashed.

use std::collections::BTreeMap;

use crate::base::text::name_at;
use crate::base::{Digest, Value};

/// The bytes of a digest.
pub(super) const DIGEST: usize = 32;

/// An output of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A file or folder among the objects.
    Object {
        /// Its name.
        digest: Digest,
        /// The size of its files.
        bytes: u64,
    },
    /// A number or text.
    Scalar(Value),
}

impl Output {
    /// Returns the number or text that it is, if it is one.
    pub fn scalar(&self) -> Option<&Value> {
        match self {
            Self::Scalar(value) => Some(value),
            Self::Object { .. } => None,
        }
    }
}

/// What a step made, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The key by what the inputs are made of.
    pub recipe: Digest,
    /// The key by the inputs' contents.
    pub content: Digest,
    /// The stage's name.
    pub stage: String,
    /// The step's name when it was made; for people.
    pub label: String,
    /// The axis values when it was made, as written; for people.
    pub point: Vec<(String, String)>,
    /// The outputs by name.
    pub outputs: BTreeMap<String, Output>,
    /// What the recipe key was computed from.
    pub manifest: Value,
    /// How long it took.
    pub seconds: f64,
    /// When it was finished, in seconds since 1970.
    pub finished_unix: i64,
    /// Where and how it was made, by name; for people. Empty in records of a tlm that did not keep it.
    pub origin: BTreeMap<String, Value>,
}

/// An encoded record, taken apart as far as a lookup needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded<'a> {
    pub(super) recipe: Digest,
    pub(super) content: Digest,
    outputs: &'a [u8],
    rest: &'a [u8],
}

impl Record {
    /// Returns the step's name with its axis values when it was made: `r2[rate=50%]`.
    pub fn name(&self) -> String {
        name_at(&self.label, &self.point)
    }

    /// Returns the names and sizes of its objects, those of several outputs several times.
    pub fn objects(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.outputs.values().filter_map(|output| match output {
            Output::Object { digest, bytes } => Some((*digest, *bytes)),
            Output::Scalar(_) => None,
        })
    }

    /// Returns the digests of its objects by the names of the outputs.
    pub(super) fn artifacts(&self) -> impl Iterator<Item = (&str, Digest)> {
        self.outputs.iter().filter_map(|(name, output)| match output {
            Output::Object { digest, .. } => Some((&**name, *digest)),
            Output::Scalar(_) => None,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let outputs = outputs_value(&self.outputs).encode();
        let mut bytes = Vec::new();
        bytes.extend(self.recipe.as_bytes());
        bytes.extend(self.content.as_bytes());
        bytes.extend((outputs.len() as u32).to_le_bytes());
        bytes.extend(outputs);
        bytes.extend(self.rest().encode());
        bytes
    }

    fn rest(&self) -> Value {
        let text = |text: &String| Value::Str(text.clone());
        let point = self.point.iter().map(|(axis, at)| Value::List(vec![text(axis), text(at)]));
        Value::List(vec![
            text(&self.stage),
            text(&self.label),
            Value::List(point.collect()),
            self.manifest.clone(),
            Value::Float(self.seconds),
            Value::Int(self.finished_unix),
            Value::Map(self.origin.clone()),
        ])
    }
}

impl<'a> Encoded<'a> {
    /// Takes the bytes of a record apart, if that is what they are.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let (recipe, bytes) = bytes.split_first_chunk::<DIGEST>()?;
        let (content, bytes) = bytes.split_first_chunk::<DIGEST>()?;
        let (len, bytes) = bytes.split_first_chunk()?;
        let (outputs, rest) = bytes.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        Some(Self { recipe: (*recipe).into(), content: (*content).into(), outputs, rest })
    }

    pub(super) fn outputs(&self) -> Option<BTreeMap<String, Output>> {
        let Value::Map(outputs) = Value::decode(self.outputs)? else { return None };
        outputs.into_iter().map(|(name, value)| Some((name, output(value)?))).collect()
    }

    pub(super) fn decode(&self) -> Option<Record> {
        let Value::List(mut rest) = Value::decode(self.rest)? else { return None };
        let origin = match rest.pop_if(|last| matches!(last, Value::Map(_))) {
            Some(Value::Map(origin)) => origin,
            _ => BTreeMap::new(),
        };
        let [stage, label, point, manifest, seconds, finished] = rest.try_into().ok()?;
        let (Value::Str(stage), Value::Str(label)) = (stage, label) else { return None };
        let (Value::Float(seconds), Value::Int(finished_unix)) = (seconds, finished) else {
            return None;
        };
        let Value::List(point) = point else { return None };
        Some(Record {
            recipe: self.recipe,
            content: self.content,
            stage,
            label,
            point: point.into_iter().map(axis_value).collect::<Option<_>>()?,
            outputs: self.outputs()?,
            manifest,
            seconds,
            finished_unix,
            origin,
        })
    }
}

fn axis_value(value: Value) -> Option<(String, String)> {
    let Value::List(pair) = value else { return None };
    match <[Value; 2]>::try_from(pair).ok()? {
        [Value::Str(axis), Value::Str(at)] => Some((axis, at)),
        _ => None,
    }
}

/// An object is a list of digest and size, a number or text is a list of one.
fn outputs_value(outputs: &BTreeMap<String, Output>) -> Value {
    Value::map(outputs.iter().map(|(name, output)| {
        let parts = match output {
            Output::Object { digest, bytes } => {
                vec![Value::Digest(*digest), Value::Int(*bytes as i64)]
            }
            Output::Scalar(value) => vec![value.clone()],
        };
        (name, Value::List(parts))
    }))
}

fn output(value: Value) -> Option<Output> {
    let Value::List(mut parts) = value else { return None };
    match &parts[..] {
        [Value::Digest(digest), Value::Int(bytes)] => {
            Some(Output::Object { digest: *digest, bytes: *bytes as u64 })
        }
        [_] => parts.pop().map(Output::Scalar),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let key = |text: &str| Digest::of(text.as_bytes());
        let object = Output::Object { digest: key("object"), bytes: 7 };
        let list = Value::List(vec![Value::Digest(key("file")), Value::Int(1)]);
        Record {
            recipe: key("recipe"),
            content: key("content"),
            stage: "corpus.text".to_owned(),
            label: "text".to_owned(),
            point: vec![("seed".to_owned(), "1".to_owned())],
            outputs: BTreeMap::from([
                ("out".to_owned(), object),
                ("size".to_owned(), Output::Scalar(list.clone())),
            ]),
            manifest: Value::map([("inputs", list), ("none", Value::Null)]),
            seconds: 0.25,
            finished_unix: -5,
            origin: BTreeMap::from([("host".to_owned(), Value::Str("here".to_owned()))]),
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_and_a_manifest_lies_there_as_it_is_hashed() {
        let record = record();
        let bytes = record.encode();
        assert_eq!(Encoded::of(&bytes).unwrap().decode(), Some(record.clone()));
        let manifest = record.manifest.encode();
        assert!(bytes.windows(manifest.len()).any(|part| part == manifest));
    }

    #[test]
    fn a_record_without_origin_is_read() {
        let mut old = record();
        old.origin.clear();
        let Value::List(mut rest) = old.rest() else { panic!("a list") };
        rest.pop();
        let rest = Value::List(rest).encode();
        let bytes = old.encode();
        let whole = Encoded::of(&bytes).unwrap();
        assert_eq!(Encoded { rest: &rest, ..whole }.decode(), Some(old.clone()));
    }

    #[test]
    fn half_a_record_is_none() {
        let bytes = record().encode();
        for cut in 0..bytes.len() {
            let decoded = Encoded::of(&bytes[..cut]).and_then(|encoded| encoded.decode());
            assert_eq!(decoded, None, "{cut}");
        }
    }
}
