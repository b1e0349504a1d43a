//! GGUF files: header, typed metadata, tensor infos, and tensor bytes as they lie in the map.
//!
//! Layout: magic `GGUF`, u32 version (2 or 3), u64 tensors, u64 metadata entries, the entries, the tensor infos, padding
//! to `general.alignment`, the tensors. Untrusted lengths are checked against the caps below and the file's size before
//! anything is allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use crate::data::error::DataError;
use crate::data::mapped::Mapped;

/// Longest string; llama.cpp has the same cap on names and far below it on all else.
const MAX_STRING: u64 = 1 << 24;
/// Most entries of an array: more than the largest vocabulary has merges. An entry takes 32 bytes of memory.
const MAX_ARRAY: u64 = 1 << 24;
/// Most metadata entries and tensors, as in candle.
const MAX_ENTRIES: u64 = 1 << 20;
/// Most dimensions, `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// An unsigned integer of any width.
    UInt(u64),
    /// A signed integer of any width.
    Int(i64),
    /// A float of any width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Str(String),
    /// An array of one type.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// Returns a whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::UInt(value) => Some(*value),
            Self::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Returns a number as a float.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::UInt(value) => Some(*value as f64),
            Self::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// Returns a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// Returns an array.
    pub fn as_array(&self) -> Option<&[GgufValue]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// `blk.0.attn_q.weight`
    pub name: String,
    /// Dimensions, the one that varies fastest first (the reverse of PyTorch's order).
    pub shape: Vec<u64>,
    /// ggml's type id: 0 is F32, 1 F16, 3 `Q4_1`.
    pub ggml_type: u32,
    /// First byte in the file.
    pub start: u64,
    /// Bytes; none when the type is unknown.
    pub size: Option<u64>,
}

/// A mapped GGUF file.
#[derive(Debug)]
pub struct Gguf {
    map: Mapped,
    metadata: BTreeMap<String, GgufValue>,
    tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// When it is no GGUF file of version 2 or 3, or truncated anywhere.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let map = Mapped::open(path)?;
        let (metadata, tensors) = parse(&map)?;
        Ok(Self { map, metadata, tensors })
    }

    /// Returns whether a file starts like GGUF.
    pub fn is_gguf(path: &Path) -> bool {
        let mut magic = [0; 4];
        let read = std::fs::File::open(path)
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
        read.is_ok() && &magic == b"GGUF"
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// Returns the metadata.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// Returns a metadata value.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// Returns a metadata value that has to be there, as `read` reads it.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub fn require<'a, T>(
        &'a self,
        key: &str,
        read: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<T, DataError> {
        let value = self.get(key);
        value.and_then(read).ok_or_else(|| {
            let what =
                if value.is_some() { "has another type than expected" } else { "is missing" };
            DataError::invalid(self.path(), format!("metadata `{key}` {what}"))
                .help("use the model's Hugging Face folder, or another GGUF file of it")
        })
    }

    /// Returns the tensors in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns a tensor and its bytes.
    ///
    /// # Errors
    /// When there is no such tensor, or its type is unknown.
    pub fn tensor(&self, name: &str) -> Result<(&TensorInfo, &[u8]), DataError> {
        let info = self.tensors.iter().find(|info| info.name == name).ok_or_else(|| {
            DataError::invalid(self.path(), format!("tensor `{name}` is missing"))
                .help("use a whole model; parts of a split file are not supported")
        })?;
        let size = info.size.ok_or_else(|| self.unsupported(info))?;
        Ok((info, &self.map.bytes()[info.start as usize..][..size as usize]))
    }

    /// Returns the error of a tensor whose type is not read.
    pub fn unsupported(&self, info: &TensorInfo) -> DataError {
        let kind = type_name(info.ggml_type);
        DataError::invalid(self.path(), format!("tensor `{}` is of ggml type {kind}, which is not supported", info.name)).help(
            "use a file of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or the K-quants Q2_K to Q6_K; \
             `llama-quantize --allow-requantize IN.gguf OUT.gguf Q8_0` makes one of this",
        )
    }
}

/// Returns ggml's name of a type.
pub fn type_name(ggml_type: u32) -> String {
    let name = match ggml_type {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        8 => "Q8_0",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        30 => "BF16",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return format!("number {ggml_type}"),
    };
    name.to_owned()
}

/// Returns (elements of a block, bytes of a block) of a ggml type.
pub fn block_of(ggml_type: u32) -> Option<(u64, u64)> {
    Some(match ggml_type {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        _ => return None,
    })
}

type Header = (BTreeMap<String, GgufValue>, Vec<TensorInfo>);

fn parse(map: &Mapped) -> Result<Header, DataError> {
    let mut cursor = Cursor { map, at: 0 };
    if cursor.take(4, "the magic")? != b"GGUF" {
        return Err(broken(map, "not a GGUF file: it does not start with `GGUF`"));
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        let message = format!("GGUF version {version}, expected 2 or 3");
        return Err(broken(map, message).help("convert the model again, to GGUF version 3"));
    }
    let tensors = cursor.count("the number of tensors", MAX_ENTRIES)?;
    let entries = cursor.count("the number of metadata entries", MAX_ENTRIES)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let key = cursor.string("a metadata key")?;
        let kind = cursor.u32("a metadata type")?;
        let value = cursor.value(kind, 0, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(broken(map, format!("metadata `{key}` is there twice")));
        }
    }
    let mut infos = (0..tensors).map(|_| cursor.info()).collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    if let Some(twice) = infos.iter().find(|info| !names.insert(&*info.name)) {
        return Err(broken(map, format!("tensor `{}` is there twice", twice.name)));
    }
    let alignment = metadata.get("general.alignment").and_then(GgufValue::as_u64).unwrap_or(32);
    if !alignment.is_power_of_two() {
        let message = format!("`general.alignment` is {alignment}, not a power of two");
        return Err(broken(map, message));
    }
    place(map, &mut infos, (cursor.at as u64).next_multiple_of(alignment))?;
    Ok((metadata, infos))
}

/// Turns offsets into places in the file and sets sizes.
fn place(map: &Mapped, infos: &mut [TensorInfo], data_start: u64) -> Result<(), DataError> {
    let len = map.bytes().len() as u64;
    for info in infos {
        let invalid = |what: &str| Err(broken(map, format!("tensor `{}` {what}", info.name)));
        let Some(elements) = info.shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim)) else {
            return invalid("is larger than a file can be");
        };
        let Some(start) = info.start.checked_add(data_start) else {
            return invalid("lies outside of the file");
        };
        info.start = start;
        let Some((block, bytes)) = block_of(info.ggml_type) else { continue };
        if !elements.is_multiple_of(block) {
            return invalid("has a size that is no multiple of its type's block");
        }
        let Some(size) = (elements / block).checked_mul(bytes) else {
            return invalid("is larger than a file can be");
        };
        info.size = Some(size);
        if start.checked_add(size).is_none_or(|end| end > len) {
            let message = format!(
                "truncated: tensor `{}` needs bytes {start} to {}, but the file ends at byte {len}",
                info.name,
                start.saturating_add(size)
            );
            return Err(broken(map, message));
        }
    }
    Ok(())
}

fn broken(map: &Mapped, message: impl Display) -> DataError {
    DataError::invalid(map.path(), message)
        .help("fetch the file again; give `sha256:` to have it checked on the way")
}

struct Cursor<'a> {
    map: &'a Mapped,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], DataError> {
        let bytes = self.map.bytes();
        let left = bytes.len() - self.at;
        if len > left as u64 {
            let message = format!(
                "truncated: {what} at byte {} needs {len} bytes, but only {left} are left",
                self.at
            );
            return Err(broken(self.map, message));
        }
        let taken = &bytes[self.at..][..len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    fn word<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DataError> {
        let mut word = [0; N];
        word.copy_from_slice(self.take(N as u64, what)?);
        Ok(word)
    }

    fn u32(&mut self, what: &str) -> Result<u32, DataError> {
        Ok(u32::from_le_bytes(self.word(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, DataError> {
        Ok(u64::from_le_bytes(self.word(what)?))
    }

    fn count(&mut self, what: &str, max: u64) -> Result<u64, DataError> {
        let at = self.at;
        let count = self.u64(what)?;
        if count > max {
            let message = format!("{what} at byte {at} is {count}, more than the limit of {max}");
            return Err(broken(self.map, message));
        }
        Ok(count)
    }

    fn string(&mut self, what: &str) -> Result<String, DataError> {
        let len = self.count(what, MAX_STRING)?;
        let at = self.at;
        let bytes = self.take(len, what)?;
        String::from_utf8(bytes.to_vec())
            .map_err(|_| broken(self.map, format!("{what} at byte {at} is not UTF-8")))
    }

    fn value(&mut self, kind: u32, depth: u32, key: &str) -> Result<GgufValue, DataError> {
        let what = format!("the value of `{key}`");
        Ok(match kind {
            0 => GgufValue::UInt(u64::from(u8::from_le_bytes(self.word(&what)?))),
            1 => GgufValue::Int(i64::from(i8::from_le_bytes(self.word(&what)?))),
            2 => GgufValue::UInt(u64::from(u16::from_le_bytes(self.word(&what)?))),
            3 => GgufValue::Int(i64::from(i16::from_le_bytes(self.word(&what)?))),
            4 => GgufValue::UInt(u64::from(self.u32(&what)?)),
            5 => GgufValue::Int(i64::from(i32::from_le_bytes(self.word(&what)?))),
            6 => GgufValue::Float(f64::from(f32::from_le_bytes(self.word(&what)?))),
            7 => GgufValue::Bool(self.word::<1>(&what)?[0] != 0),
            8 => GgufValue::Str(self.string(&what)?),
            9 if depth < 2 => {
                let kind = self.u32(&what)?;
                let count = self.count(&what, MAX_ARRAY)?;
                // Each entry takes at least a byte, so a false count ends at the end of the file.
                let mut items = Vec::with_capacity(count.min(1 << 16) as usize);
                for _ in 0..count {
                    items.push(self.value(kind, depth + 1, key)?);
                }
                GgufValue::Array(items)
            }
            10 => GgufValue::UInt(self.u64(&what)?),
            11 => GgufValue::Int(i64::from_le_bytes(self.word(&what)?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.word(&what)?)),
            _ => {
                let message = format!("{what} before byte {} has unknown type {kind}", self.at);
                return Err(broken(self.map, message));
            }
        })
    }

    fn info(&mut self) -> Result<TensorInfo, DataError> {
        let name = self.string("a tensor's name")?;
        let dims = self.u32("a tensor's number of dimensions")?;
        if dims > MAX_DIMS {
            let message = format!("tensor `{name}` has {dims} dimensions, more than {MAX_DIMS}");
            return Err(broken(self.map, message));
        }
        let shape = (0..dims).map(|_| self.u64("a dimension")).collect::<Result<_, _>>()?;
        let ggml_type = self.u32("a tensor's type")?;
        let start = self.u64("a tensor's offset")?;
        Ok(TensorInfo { name, shape, ggml_type, start, size: None })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn string(text: &str) -> Vec<u8> {
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.as_bytes());
        out
    }

    fn small() -> Vec<u8> {
        small_of(1)
    }

    /// Writes a file whose one tensor is announced so many times.
    fn small_of(tensors: u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(tensors.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend([string("name"), 8u32.to_le_bytes().to_vec(), string("tiny")].concat());
        out.extend(
            [string("ids"), 9u32.to_le_bytes().to_vec(), 5u32.to_le_bytes().to_vec()].concat(),
        );
        out.extend(2u64.to_le_bytes());
        out.extend([1i32.to_le_bytes(), (-1i32).to_le_bytes()].concat());
        for _ in 0..tensors {
            out.extend(string("w"));
            out.extend(2u32.to_le_bytes());
            out.extend([2u64.to_le_bytes(), 3u64.to_le_bytes()].concat());
            out.extend(0u32.to_le_bytes());
            out.extend(0u64.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend((0..6).flat_map(|i| (i as f32).to_le_bytes()));
        out
    }

    #[test]
    fn reads_and_names_every_truncation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let whole = small();
        std::fs::write(&path, &whole).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.require("name", GgufValue::as_str).unwrap(), "tiny");
        let (info, bytes) = gguf.tensor("w").unwrap();
        assert_eq!((info.shape.as_slice(), bytes.len()), (&[2, 3][..], 24));
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = Gguf::open(&path).unwrap_err().to_string();
            assert!(error.contains("tiny.gguf") && error.contains("truncated"), "{len}: {error}");
        }
    }

    #[test]
    fn lying_lengths_do_not_allocate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lie.gguf");
        let whole = small();
        for (at, lie) in
            (8..whole.len() - 24).flat_map(|at| [0, 1, 0x7f, 0x80, 0xff].map(|lie| (at, lie)))
        {
            let mut bytes = whole.clone();
            bytes[at] = lie;
            std::fs::write(&path, &bytes).unwrap();
            match Gguf::open(&path) {
                Ok(gguf) => gguf.tensors().iter().for_each(|info| drop(gguf.tensor(&info.name))),
                Err(DataError::Invalid { message, help, .. }) => {
                    assert!(help.is_some(), "{message}");
                }
                Err(error @ DataError::Io { .. }) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn tensors_have_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("twice.gguf");
        std::fs::write(&path, small_of(2)).unwrap();
        let error = Gguf::open(&path).unwrap_err().to_string();
        assert!(error.contains("tensor `w` is there twice"), "{error}");
    }
}
