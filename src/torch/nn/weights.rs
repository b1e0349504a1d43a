//! Weights on disk: safetensors read through a memory map, and written tensor by tensor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};
use tlm::stage::StageError;

use crate::nn::runtime::{f32_bytes, fault};

/// Something that has a Llama's weights by their Hugging Face names.
pub(crate) trait Weights {
    /// Returns a tensor in f32, on the CPU; fails unless it is there in this shape.
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError>;
}

/// The weights of a Hugging Face folder, in one file or several.
pub(crate) struct Safetensors {
    folder: PathBuf,
    maps: Vec<Mmap>,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    map: usize,
    kind: Dtype,
    shape: Vec<i64>,
    start: usize,
    end: usize,
}

impl Safetensors {
    /// Opens the weights of a model folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, StageError> {
        let mut all =
            Self { folder: folder.to_path_buf(), maps: Vec::new(), entries: BTreeMap::new() };
        for file in weight_files(folder)? {
            all.add(&file)?;
        }
        Ok(all)
    }

    /// Opens one file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, StageError> {
        let mut one =
            Self { folder: path.to_path_buf(), maps: Vec::new(), entries: BTreeMap::new() };
        one.add(path)?;
        Ok(one)
    }

    /// Returns whether a tensor is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn add(&mut self, path: &Path) -> Result<(), StageError> {
        let map = map_file(path)?;
        let broken = |what: &dyn std::fmt::Display| {
            StageError::input(format!(
                "`{}` is not a whole safetensors file: {what}",
                path.display()
            ))
            .help("fetch or write the file again")
        };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| broken(&e))?;
        let data = header + 8;
        for (name, info) in metadata.tensors() {
            let (start, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
            if end > map.len() {
                return Err(broken(&format!("it ends inside tensor `{name}`")));
            }
            let shape = info.shape.iter().map(|&size| size as i64).collect();
            let entry = Entry { map: self.maps.len(), kind: info.dtype, shape, start, end };
            self.entries.insert(name.clone(), entry);
        }
        self.maps.push(map);
        Ok(())
    }
}

impl Weights for Safetensors {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        let wrong = |what: String| {
            StageError::input(format!("tensor `{name}` of `{}` {what}", self.folder.display()))
        };
        let entry = self.entries.get(name).ok_or_else(|| wrong("is missing".to_owned()))?;
        if entry.shape != shape {
            return Err(wrong(format!(
                "has shape {:?}, but `config.json` means {shape:?}",
                entry.shape
            )));
        }
        let kind = match entry.kind {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            other => {
                return Err(wrong(format!(
                    "is of type {other:?}; F64, F32, F16 and BF16 are supported"
                )));
            }
        };
        let bytes = &self.maps[entry.map][entry.start..entry.end];
        Tensor::f_from_data_size(bytes, shape, kind)
            .and_then(|tensor| tensor.f_to_kind(Kind::Float))
            .map_err(fault)
    }
}

/// Maps a file that nobody changes: an artifact of the store, or a source.
#[expect(unsafe_code, reason = "a memory map has no safe form")]
pub(crate) fn map_file(path: &Path) -> Result<Mmap, StageError> {
    let file = File::open(path).map_err(|e| StageError::io("open", path, &e))?;
    // SAFETY: inputs are read-only objects of the store; a local source changed meanwhile gives wrong numbers at worst.
    unsafe { Mmap::map(&file) }.map_err(|e| StageError::io("map", path, &e))
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, StageError> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    let text = fs::read_to_string(&index).map_err(|e| StageError::io("read", &index, &e))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| {
        StageError::input(format!("`{}` is not JSON: {error}", index.display()))
    })?;
    let names = json["weight_map"].as_object().into_iter().flat_map(Map::values);
    let mut files: Vec<PathBuf> =
        names.filter_map(Value::as_str).map(|name| folder.join(name)).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Writes a safetensors file of f32 tensors, one after another, never holding more than one.
pub(crate) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    left: std::vec::IntoIter<(String, Vec<i64>)>,
}

impl Writer {
    /// Starts a file of these tensors, which come in this order, with one metadata entry.
    pub(crate) fn create(
        path: &Path,
        tensors: Vec<(String, Vec<i64>)>,
        metadata: (&str, &str),
    ) -> Result<Self, StageError> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ metadata.0: metadata.1 }));
        let mut offset = 0;
        for (name, shape) in &tensors {
            let end = offset + shape.iter().product::<i64>() * 4;
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]});
            header.insert(name.clone(), entry);
            offset = end;
        }
        let mut text = serde_json::to_string(&header).expect("plain data");
        // Tensor data starts at a multiple of eight bytes.
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let io = |e| StageError::io("write", path, &e);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
        file.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        Ok(Self { path: path.to_path_buf(), file, left: tensors.into_iter() })
    }

    /// Writes the next tensor.
    ///
    /// # Panics
    /// When it is not the one that was announced (a bug).
    pub(crate) fn push(&mut self, name: &str, tensor: &Tensor) -> Result<(), StageError> {
        let (next, shape) = self.left.next().expect("one push for each announced tensor");
        assert!(next == name && shape == tensor.size(), "tensor `{name}` is out of order");
        let bytes = f32_bytes(tensor).map_err(fault)?;
        self.file.write_all(&bytes).map_err(|e| StageError::io("write", &self.path, &e))
    }

    /// Ends the file.
    pub(crate) fn finish(self) -> Result<(), StageError> {
        assert!(self.left.len() == 0, "one push for each announced tensor");
        let io = |e: std::io::Error| StageError::io("write", &self.path, &e);
        let file = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().map_err(io)
    }
}
