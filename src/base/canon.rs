//! Canonical values: what keys are made of, and the byte format they are hashed in.
//!
//! The encoding is a tag byte, then the content: `0` null · `1` bool (one byte) · `2` integer (i64
//! LE) · `3` float (IEEE bits LE; `-0.0` is `0.0`, one NaN) · `4` string (u64 LE length, UTF-8)
//! · `5` list (u64 LE count, items) · `6` map (u64 LE count, key and value by key order) · `7` digest
//! (32 bytes). It is injective, so equal digests mean equal values.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::base::digest::Digest;

/// A fully evaluated value: a stage parameter, a late value, a key's field.
///
/// Quantities are in base units: tokens, parameters, bytes; seconds; ratios as 0.0 to 1.0.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    Digest(Digest),
    /// A text, or the name of an enum's variant.
    Str(String),
    /// A list.
    List(Vec<Value>),
    /// A record.
    Map(BTreeMap<String, Value>),
}

/// Reads what JSON shows of a value, in one pass.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Str(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = fields.next_entry()? {
            map.insert(name, value);
        }
        Ok(Value::Map(map))
    }
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
