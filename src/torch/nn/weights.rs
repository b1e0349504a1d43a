//! Weights on disk: files of tensors read through a memory map, and safetensors written tensor by tensor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};
use tlm::base::Digest;
use tlm::data::dataset::read_json;
use tlm::data::tensor_file::{Numbers, StoredTensor};
use tlm::data::{DataError, TensorFile};
use tlm::stage::StageError;

use crate::nn::config::Config;
use crate::nn::runtime::{f32_bytes, fault};

/// Something that has a Llama's weights by their Hugging Face names.
pub(crate) trait Weights {
    /// Returns a tensor in f32, on the CPU; fails unless it is there in this shape.
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError>;
}

/// Weights that others wrote.
pub(crate) trait Source: Weights {
    /// Fails unless all tensors of a model are there, in shape and in a type that can be read, and no others.
    fn check(&self, config: &Config) -> Result<(), StageError>;
}

/// The weights of a Hugging Face folder, in one safetensors file or several.
pub(crate) struct Safetensors(Files);

impl Safetensors {
    /// Opens the weights of a model folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, StageError> {
        Self::find(folder)?.ok_or_else(|| no_weights(folder))
    }

    /// The same; none where the folder has no such file.
    pub(crate) fn find(folder: &Path) -> Result<Option<Self>, StageError> {
        let paths = weight_files(folder, "model.safetensors")?;
        paths.map(|paths| Self::open_files(folder, &paths)).transpose()
    }

    /// Opens one file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, StageError> {
        Self::open_files(path, &[path.to_path_buf()])
    }

    fn open_files(from: &Path, paths: &[PathBuf]) -> Result<Self, StageError> {
        Files::open(from, paths, TensorFile::open_safetensors).map(Self)
    }

    /// Returns a tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.0.get(name).map(|(_, tensor)| shape_of(tensor))
    }

    /// Returns an entry of the files' metadata.
    pub(crate) fn metadata(&self, name: &str) -> Option<&str> {
        self.0.files.iter().find_map(|file| file.metadata().get(name)).map(String::as_str)
    }

    /// Returns the digest of a tensor's bytes.
    pub(crate) fn digest(&self, name: &str) -> Option<Digest> {
        self.0.get(name).map(|(file, tensor)| Digest::of(&file.bytes(tensor)))
    }
}

impl Weights for Safetensors {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        self.0.load(name, shape)
    }
}

impl Source for Safetensors {
    fn check(&self, config: &Config) -> Result<(), StageError> {
        self.0.check(config)
    }
}

/// The weights of a Hugging Face folder as `torch.save` writes them: `pytorch_model.bin`, or several files.
pub(crate) struct Pickled(Files);

impl Pickled {
    /// Opens the weights of a model folder; none where it has no such file.
    pub(crate) fn find(folder: &Path) -> Result<Option<Self>, StageError> {
        let Some(paths) = weight_files(folder, "pytorch_model.bin")? else { return Ok(None) };
        Files::open(folder, &paths, TensorFile::open_torch).map(|files| Some(Self(files)))
    }
}

impl Weights for Pickled {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        self.0.load(name, shape)
    }
}

impl Source for Pickled {
    fn check(&self, config: &Config) -> Result<(), StageError> {
        self.0.check(config)
    }
}

/// The tensors of some files.
pub(crate) struct Files {
    from: PathBuf,
    files: Vec<TensorFile>,
    /// In which file a tensor is.
    owners: BTreeMap<String, usize>,
}

impl Files {
    /// Opens files of which no two have the same tensor; `from` is what they are called together.
    pub(crate) fn open(
        from: &Path,
        paths: &[PathBuf],
        open: impl Fn(&Path) -> Result<TensorFile, DataError>,
    ) -> Result<Self, StageError> {
        let mut all = Self { from: from.to_path_buf(), files: Vec::new(), owners: BTreeMap::new() };
        for path in paths {
            let file = open(path)?;
            for name in file.tensors().keys() {
                if let Some(other) = all.owners.insert(name.clone(), all.files.len()) {
                    let other = all.files[other].path().display();
                    return Err(StageError::input(format!(
                        "tensor `{name}` is in `{other}` and in `{}`",
                        path.display()
                    ))
                    .help("fetch the folder again, or save the model again"));
                }
            }
            all.files.push(file);
        }
        Ok(all)
    }

    /// Returns whether a tensor is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.owners.contains_key(name)
    }

    /// Returns the names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.owners.keys().map(String::as_str)
    }

    /// Returns a tensor and its file.
    fn get(&self, name: &str) -> Option<(&TensorFile, &StoredTensor)> {
        let file = &self.files[*self.owners.get(name)?];
        Some((file, &file.tensors()[name]))
    }

    /// Fails unless the tensors are those of a model, by its own names.
    fn check(&self, config: &Config) -> Result<(), StageError> {
        let expected: BTreeMap<_, _> = config.tensors().into_iter().collect();
        for (name, shape) in &expected {
            self.readable(name, shape)?;
        }
        let is_known = |name: &&str| {
            expected.contains_key(*name)
                // What older versions of transformers stored besides; and the head of a tied model is its embedding.
                || name.ends_with(".rotary_emb.inv_freq")
                || config.tied && *name == "lm_head.weight"
        };
        match self.names().find(|name| !is_known(name)) {
            Some(name) => Err(self.unknown(name)),
            None => Ok(()),
        }
    }

    /// Returns the error of a tensor that a model has no place for.
    pub(crate) fn unknown(&self, name: &str) -> StageError {
        let from = self.get(name).map_or(self.from.as_path(), |(file, _)| file.path()).display();
        StageError::input(format!("tensor `{name}` of `{from}` has no place in the model of `config.json`")).help(
            "it would be left out, and the model be another one: correct `config.json` (biases are `attention_bias` and \
             `mlp_bias`, layers `num_hidden_layers`), or take the tensor away",
        )
    }

    /// Returns a tensor's file, and how its numbers are stored; fails unless it is there in this shape.
    pub(crate) fn readable(
        &self,
        name: &str,
        shape: &[i64],
    ) -> Result<(&TensorFile, &StoredTensor, Kind), StageError> {
        let Some((file, tensor)) = self.get(name) else { return Err(self.missing(name)) };
        let wrong = |what: String| {
            StageError::input(format!("tensor `{name}` of `{}` {what}", file.path().display()))
                .help("save the model again with transformers, config and weights together")
        };
        if shape_of(tensor) != shape {
            let found = &tensor.shape;
            return Err(wrong(format!("has shape {found:?}, but `config.json` means {shape:?}")));
        }
        let kind = match &tensor.numbers {
            Numbers::F32 => Kind::Float,
            Numbers::F16 => Kind::Half,
            Numbers::Bf16 => Kind::BFloat16,
            Numbers::F64 => Kind::Double,
            Numbers::Other(other) => {
                return Err(wrong(format!(
                    "is of type {other}; F64, F32, F16 and BF16 are supported"
                )));
            }
        };
        Ok((file, tensor, kind))
    }

    fn missing(&self, name: &str) -> StageError {
        let missing =
            StageError::input(format!("tensor `{name}` of `{}` is missing", self.from.display()));
        missing.help(match name {
            "lm_head.weight" => {
                "if the output embedding is the input's, set `tie_word_embeddings` to true in `config.json`"
            }
            _ => "save the model again with transformers, config and weights together",
        })
    }

    /// Returns a tensor in f32.
    pub(crate) fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, StageError> {
        let (file, tensor, kind) = self.readable(name, shape)?;
        Tensor::f_from_data_size(&file.bytes(tensor), shape, kind)
            .and_then(|tensor| tensor.f_to_kind(Kind::Float))
            .map_err(fault)
    }
}

/// Returns a stored shape as libtorch counts.
fn shape_of(tensor: &StoredTensor) -> Vec<i64> {
    tensor.shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect()
}

/// Returns the weight files of a model folder: one of this name, or those of its index; none where there is neither.
fn weight_files(folder: &Path, name: &str) -> Result<Option<Vec<PathBuf>>, StageError> {
    let index = folder.join(format!("{name}.index.json"));
    if !index.exists() {
        let whole = folder.join(name);
        return Ok(whole.exists().then(|| vec![whole]));
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
        None => Ok(Some(names.into_iter().map(|name| folder.join(name)).collect())),
    }
}

/// Returns the error of a folder without weights.
pub(crate) fn no_weights(folder: &Path) -> StageError {
    StageError::input(format!("`{}` has no `model.safetensors`", folder.display()))
        .help("give a folder with `config.json`, `model.safetensors` or `pytorch_model.bin`, and `tokenizer.json`")
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
