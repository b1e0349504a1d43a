//! Canonical values: what keys are made of, and the byte format they are hashed in.
//!
//! The encoding is a tag byte, then the content: `0` null · `1` bool (one byte) · `2` integer (i64
//! LE) · `3` float (IEEE bits LE; `-0.0` is `0.0`, one NaN) · `4` string (u64 LE length, UTF-8)
//! · `5` list (u64 LE count, items) · `6` map (u64 LE count, key and value by key order) · `7` digest
//! (32 bytes). It is injective, so equal digests mean equal values.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

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

    /// Returns the digest that it is, if it is one.
    pub fn as_digest(&self) -> Option<Digest> {
        match self {
            Self::Digest(digest) => Some(*digest),
            _ => None,
        }
    }

    /// Returns the canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.value(self);
        out.bytes
    }

    /// Returns the digest of the encoding behind a domain tag, which keeps kinds of keys apart.
    pub fn digest(&self, domain: &str) -> Digest {
        let mut out = Encoder::default();
        out.begin(domain);
        out.value(self);
        out.digest()
    }
}

/// Equal values have equal hashes: both zeros are one.
impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Null => {}
            Self::Bool(value) => value.hash(state),
            Self::Int(value) => value.hash(state),
            Self::Float(value) => (value + 0.0).to_bits().hash(state),
            Self::Digest(digest) => digest.hash(state),
            Self::Str(text) => text.hash(state),
            Self::List(items) => items.hash(state),
            Self::Map(fields) => fields.hash(state),
        }
    }
}

/// Writes the canonical encoding part by part, for what is hashed too often to build a [`Value`] of it.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    /// Where the domain tag ends.
    start: usize,
}

impl Encoder {
    /// Starts anew, with a domain tag.
    pub fn begin(&mut self, domain: &str) {
        self.bytes.clear();
        self.text(domain);
        self.start = self.bytes.len();
    }

    /// Returns the digest of all written since [`Encoder::begin`], as [`Value::digest`] does.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Returns the value written since [`Encoder::begin`].
    ///
    /// # Panics
    /// When what was written is no value.
    pub fn decoded(&self) -> Value {
        Value::decode(&self.bytes[self.start..]).expect("what was written is one value")
    }

    /// Writes null.
    pub fn null(&mut self) {
        self.bytes.push(0);
    }

    /// Writes a whole number.
    pub fn int(&mut self, value: i64) {
        self.bytes.push(2);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a text.
    pub fn text(&mut self, text: &str) {
        self.bytes.push(4);
        self.key(text);
    }

    /// Writes the head of a list; its items follow.
    pub fn list(&mut self, count: usize) {
        self.bytes.push(5);
        self.count(count);
    }

    /// Writes the head of a map; keys and values follow, in the order of the keys.
    pub fn map(&mut self, count: usize) {
        self.bytes.push(6);
        self.count(count);
    }

    /// Writes a key of a map; its value follows.
    pub fn key(&mut self, name: &str) {
        self.count(name.len());
        self.bytes.extend_from_slice(name.as_bytes());
    }

    /// Writes a digest.
    pub fn digest_value(&mut self, digest: &Digest) {
        self.bytes.push(7);
        self.bytes.extend_from_slice(digest.as_bytes());
    }

    /// Writes a value.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.null(),
            Value::Bool(value) => self.bytes.extend([1, u8::from(*value)]),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                let value = if value.is_nan() { f64::NAN } else { *value + 0.0 };
                self.bytes.push(3);
                self.bytes.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            Value::Str(text) => self.text(text),
            Value::List(items) => {
                self.list(items.len());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Map(fields) => {
                self.map(fields.len());
                for (name, value) in fields {
                    self.key(name);
                    self.value(value);
                }
            }
            Value::Digest(digest) => self.digest_value(digest),
        }
    }

    fn count(&mut self, count: usize) {
        self.bytes.extend_from_slice(&(count as u64).to_le_bytes());
    }
}
