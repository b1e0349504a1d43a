//! Weights on disk: safetensors read through a memory map, and written tensor by tensor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};
use tlm::base::Digest;
use tlm::data::dataset::read_json;
use tlm::data::mapped::Mapped;
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
    maps: Vec<Mapped>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
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
        Self::open_files(folder, &weight_files(folder)?)
    }

    /// Opens one file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, StageError> {
        Self::open_files(path, &[path.to_path_buf()])
    }

    fn open_files(folder: &Path, files: &[PathBuf]) -> Result<Self, StageError> {
        let mut all = Self {
            folder: folder.to_path_buf(),
            maps: Vec::new(),
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        files.iter().try_for_each(|file| all.add(file))?;
        Ok(all)
    }

    /// Returns whether a tensor is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Returns a tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<&[i64]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Returns an entry of the files' metadata.
    pub(crate) fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }

    /// Returns the digest of a tensor's bytes.
    pub(crate) fn digest(&self, name: &str) -> Option<Digest> {
        self.entries.get(name).map(|entry| Digest::of(self.bytes(entry)))
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.maps[entry.map].bytes()[entry.start..entry.end]
    }

    fn add(&mut self, path: &Path) -> Result<(), StageError> {
        let map = Mapped::open(path)?;
        let (header, metadata) = SafeTensors::read_metadata(map.bytes()).map_err(|error| {
            StageError::input(format!(
                "`{}` is not a whole safetensors file: {error}",
                path.display()
            ))
            .help("fetch or write the file again")
        })?;
        let data = header + 8;
        let tensors: BTreeMap<_, _> = metadata.tensors().into_iter().collect();
        for (name, info) in tensors {
            let (start, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
            let shape = info.shape.iter().map(|&size| size as i64).collect();
            let entry = Entry { map: self.maps.len(), kind: info.dtype, shape, start, end };
            self.entries.insert(name.clone(), entry);
        }
        self.metadata.extend(metadata.metadata().clone().into_iter().flatten());
        self.maps.push(map);
        Ok(())
    }
}

impl Weights for Safetensors {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        let wrong = |what: String| {
            StageError::input(format!("tensor `{name}` of `{}` {what}", self.folder.display()))
                .help("save the model again with transformers, config and weights together")
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
        Tensor::f_from_data_size(self.bytes(entry), shape, kind)
            .and_then(|tensor| tensor.f_to_kind(Kind::Float))
            .map_err(fault)
    }
}

/// Returns the weight files of a model folder: one, or those of its index.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, StageError> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        let whole = folder.join("model.safetensors");
        return if whole.exists() { Ok(vec![whole]) } else { Err(no_weights(folder)) };
    }
    let json: Value = read_json(&index)?;
    let mut names: Vec<&str> = json["weight_map"]
        .as_object()
        .into_iter()
        .flat_map(Map::values)
        .filter_map(Value::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    // A name that leads out of the folder would read what is not in the step's key.
    let usable = |name: &&&str| Path::new(name).file_name() == Some(name.as_ref());
    match names.iter().find(|name| !usable(name) || !folder.join(name).exists()) {
        Some(missing) => Err(StageError::input(format!(
            "`{}` names the file `{missing}`, which is not in its folder",
            index.display()
        ))
        .help("fetch the whole folder")),
        None if names.is_empty() => {
            Err(StageError::input(format!("`{}` has no `weight_map` with files", index.display()))
                .help("fetch or write the file again"))
        }
        None => Ok(names.into_iter().map(|name| folder.join(name)).collect()),
    }
}

fn no_weights(folder: &Path) -> StageError {
    let missing = StageError::input(format!("`{}` has no `model.safetensors`", folder.display()));
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    if pickled.iter().any(|name| folder.join(name).exists()) {
        return missing.help(
            "convert `pytorch_model.bin`: load the folder with transformers and save it with `save_pretrained`, which \
             writes safetensors",
        );
    }
    missing.help("give a folder with `config.json`, `model.safetensors` and `tokenizer.json`")
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
