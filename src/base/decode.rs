//! Canonical values back from their bytes (the format is in [`canon`](crate::base::canon)).

use crate::base::{Digest, Value};

/// How deep lists and maps may lie in each other: more would be damage, and could use up the stack.
const DEPTH: usize = 64;

impl Value {
    /// Returns the value that these bytes are the canonical encoding of; none for all other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: bytes };
        let value = reader.value(DEPTH)?;
        reader.rest.is_empty().then_some(value)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        Some(match self.array()? {
            [0u8] => Value::Null,
            [1] => match self.array()? {
                [bit @ (0 | 1)] => Value::Bool(bit == 1),
                _ => return None,
            },
            [2] => Value::Int(i64::from_le_bytes(self.array()?)),
            [3] => Value::Float(self.float()?),
            [4] => Value::Str(self.text()?.to_owned()),
            [5] => {
                let count = self.count()?;
                Value::List((0..count).map(|_| self.value(depth)).collect::<Option<_>>()?)
            }
            [6] => self.map(depth)?,
            [7] => Value::Digest(Digest::from(self.array()?)),
            _ => return None,
        })
    }

    /// Reads a float that is written as one writes it.
    fn float(&mut self) -> Option<f64> {
        let bits = u64::from_le_bytes(self.array()?);
        let value = f64::from_bits(bits);
        let canonical = if value.is_nan() { f64::NAN } else { value + 0.0 };
        (canonical.to_bits() == bits).then_some(value)
    }

    fn map(&mut self, depth: usize) -> Option<Value> {
        let mut fields = Vec::new();
        for _ in 0..self.count()? {
            let name = self.text()?;
            if fields.last().is_some_and(|(last, _): &(String, Value)| name <= last.as_str()) {
                return None;
            }
            fields.push((name.to_owned(), self.value(depth)?));
        }
        Some(Value::Map(fields.into_iter().collect()))
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.count()?).ok()?;
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    fn count(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*first)
    }
}
