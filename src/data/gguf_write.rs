//! Writing GGUF files of version 3: header and metadata first, then the tensors one after another.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::data::gguf::block_of;

/// Tensors start at multiples of this, the format's default.
const ALIGNMENT: u64 = 32;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Meta {
    /// A u32.
    U32(u32),
    /// An f32.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A string.
    Str(String),
    /// An array of strings.
    Strs(Vec<String>),
    /// An array of i32.
    I32s(Vec<i32>),
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
        let array = |out: &mut Vec<u8>, of: u32, count: usize| {
            kind(out, 9);
            kind(out, of);
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => {
                kind(out, 4);
                out.extend(value.to_le_bytes());
            }
            Self::F32(value) => {
                kind(out, 6);
                out.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                kind(out, 7);
                out.push(u8::from(*value));
            }
            Self::Str(value) => {
                kind(out, 8);
                write_text(value, out);
            }
            Self::Strs(values) => {
                array(out, 8, values.len());
                values.iter().for_each(|value| write_text(value, out));
            }
            Self::I32s(values) => {
                array(out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A file that is being written.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    file: BufWriter<File>,
    left: std::vec::IntoIter<(String, u64)>,
}

impl GgufWriter {
    /// Starts a file with these metadata and tensors, which come in this order: name, shape with the dimension that varies fastest
    /// first, ggml's type.
    ///
    /// # Errors
    /// When it can't be written.
    ///
    /// # Panics
    /// When a type is unknown (a bug).
    pub fn create(
        path: &Path,
        metadata: &[(String, Meta)],
        tensors: &[(String, Vec<u64>, u32)],
    ) -> Result<Self, DataError> {
        let mut head = b"GGUF".to_vec();
        head.extend(3_u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (name, value) in metadata {
            write_text(name, &mut head);
            value.write(&mut head);
        }
        let mut start: u64 = 0;
        let mut left = Vec::new();
        for (name, shape, ggml_type) in tensors {
            write_text(name, &mut head);
            head.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|size| head.extend(size.to_le_bytes()));
            head.extend(ggml_type.to_le_bytes());
            head.extend(start.to_le_bytes());
            let (numbers, bytes) = block_of(*ggml_type).expect("a known type");
            let size = shape.iter().product::<u64>() / numbers * bytes;
            start += size.next_multiple_of(ALIGNMENT);
            left.push((name.clone(), size));
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        let file = File::create(path).map_err(DataError::io("create", path))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&head).map_err(DataError::io("write", path))?;
        Ok(Self { path: path.to_owned(), file, left: left.into_iter() })
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// When it can't be written.
    ///
    /// # Panics
    /// When it is not the one that was announced (a bug).
    pub fn push(&mut self, name: &str, bytes: &[u8]) -> Result<(), DataError> {
        let (next, size) = self.left.next().expect("one push for each announced tensor");
        assert!(next == name && size == bytes.len() as u64, "tensor `{name}` is out of order");
        let padding = size.next_multiple_of(ALIGNMENT) - size;
        let written = self.file.write_all(bytes);
        let written = written
            .and_then(|()| self.file.write_all(&[0; ALIGNMENT as usize][..padding as usize]));
        written.map_err(DataError::io("write", &self.path))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(self) -> Result<(), DataError> {
        assert!(self.left.len() == 0, "one push for each announced tensor");
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(DataError::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::gguf::{Gguf, GgufValue};

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("written.gguf");
        let text = |text: &str| text.to_owned();
        let metadata = [
            (text("a"), Meta::U32(7)),
            (text("b"), Meta::F32(0.5)),
            (text("c"), Meta::Bool(true)),
            (text("d"), Meta::Str(text("é"))),
            (text("e"), Meta::Strs(vec![text("x"), text("")])),
            (text("f"), Meta::I32s(vec![-1, 2])),
        ];
        let tensors = [(text("v"), vec![3], 1), (text("m"), vec![2, 3], 0)];
        let mut writer = GgufWriter::create(&path, &metadata, &tensors).unwrap();
        writer.push("v", &[1; 6]).unwrap();
        writer.push("m", &[2; 24]).unwrap();
        writer.finish().unwrap();
        let read = Gguf::open(&path).unwrap();
        let strings = [text("x"), text("")].map(GgufValue::Str).to_vec();
        for (name, value) in [
            ("a", GgufValue::UInt(7)),
            ("b", GgufValue::Float(0.5)),
            ("c", GgufValue::Bool(true)),
            ("d", GgufValue::Str(text("é"))),
            ("e", GgufValue::Array(strings)),
            ("f", GgufValue::Array(vec![GgufValue::Int(-1), GgufValue::Int(2)])),
        ] {
            assert_eq!(read.get(name), Some(&value));
        }
        let (info, bytes) = read.tensor("m").unwrap();
        assert_eq!((info.shape.as_slice(), bytes), (&[2, 3][..], &[2; 24][..]));
        assert_eq!(read.tensor("v").unwrap().1, [1; 6]);
    }
}
