//! Canonical values: what keys are made of, and the byte format they are hashed in.
//!
//! The encoding is a tag byte, then the content: `0` null · `1` bool (one byte) · `2` integer (i64
//! LE) · `3` float (IEEE bits LE; `-0.0` is `0.0`, one NaN) · `4` string (u64 LE length, UTF-8)
//! · `5` list (u64 LE count, items) · `6` map (u64 LE count, key and value by key order) · `7` digest
//! (32 bytes). It is injective, so equal digests mean equal values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;

/// A fully evaluated value: a stage parameter, a late value, a key's field.
///
/// Quantities are in base units: tokens, parameters, bytes; seconds; ratios as 0.0 to 1.0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// An absent optional.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number: Int, Count, Tokens, Params, Bytes.
    Int(i64),
    /// A Float, Ratio or Duration.
    Float(f64),
    /// A digest; in JSON the same as its text, so it never comes back from JSON.
    #[serde(skip_deserializing)]
    Digest(Digest),
    /// A text, or the name of an enum's variant.
    Str(String),
    /// A list.
    List(Vec<Value>),
    /// A record.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// Returns a map of these fields.
    pub fn map<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Map(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// Returns the canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Returns the digest of the encoding behind a domain tag, which keeps kinds of keys apart.
    pub fn digest(&self, domain: &str) -> Digest {
        let mut bytes = Value::Str(domain.to_owned()).encode();
        self.encode_into(&mut bytes);
        Digest::of(&bytes)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(0),
            Self::Bool(value) => out.extend([1, u8::from(*value)]),
            Self::Int(value) => {
                out.push(2);
                out.extend(value.to_le_bytes());
            }
            Self::Float(value) => {
                let value = if value.is_nan() { f64::NAN } else { *value + 0.0 };
                out.push(3);
                out.extend(value.to_bits().to_le_bytes());
            }
            Self::Str(text) => {
                out.push(4);
                encode_text(text, out);
            }
            Self::List(items) => {
                out.push(5);
                out.extend((items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| item.encode_into(out));
            }
            Self::Map(fields) => {
                out.push(6);
                out.extend((fields.len() as u64).to_le_bytes());
                for (name, value) in fields {
                    encode_text(name, out);
                    value.encode_into(out);
                }
            }
            Self::Digest(digest) => {
                out.push(7);
                out.extend(digest.as_bytes());
            }
        }
    }
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
