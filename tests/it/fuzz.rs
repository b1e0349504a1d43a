//! What has to hold of any text; the targets in `fuzz/` run these functions too.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use tlm::base::{FileId, SourceMap};
use tlm::data::npy::Pairs;
use tlm::data::tokenizer::open::open_tokenizer;
use tlm::data::{DataError, Gguf, TensorFile, Tokenizer};
use tlm::diag::render;
use tlm::sema::Overlay;
use tlm::syntax::{format, fuzz_entry, parse};

/// Returns the tree of a text without places.
pub(crate) fn tree(text: &str) -> String {
    let tree = format!("{:?}", parse(FileId(0), text).file);
    let mut parts = tree.split("Span {");
    let mut out = parts.next().expect("a part").to_owned();
    for part in parts {
        out.push_str(part.split_once('}').expect("a span ends").1);
    }
    out
}

/// Parses and formats a text: the formatted one says the same, and stays as it is.
pub(crate) fn syntax(bytes: &[u8]) {
    fuzz_entry(bytes);
    let text = String::from_utf8_lossy(bytes);
    let Ok(out) = format(FileId(0), &text) else { return };
    assert_eq!(tree(&out), tree(&text), "{text}\n---\n{out}");
    assert_eq!(format(FileId(0), &out).as_deref(), Ok(&*out), "{text}\n---\n{out}");
}

/// Checks a text as a recipe, and expands its plans.
pub(crate) fn sema(bytes: &[u8]) {
    let mut sources = SourceMap::default();
    let file = sources.add("recipe.tlm", String::from_utf8_lossy(bytes));
    let program = tlm::sema::load(&mut sources, file, Path::new("."), &Overlay::default());
    let found = match program.finish() {
        Ok((program, _)) => {
            let expansion = tlm::sema::expand(&program, &[]).value;
            for (at, step) in expansion.steps.iter().enumerate() {
                assert!(step.uses().all(|output| (output.step.0 as usize) < at), "{step:?}");
            }
            tlm::sema::check(&program)
        }
        Err(found) => found,
    };
    drop(render(&sources, &found[..found.len().min(10)], 80, true));
}

/// Reads a GGUF file, each of its tensors, and its tokenizer.
pub(crate) fn gguf(bytes: &[u8]) {
    let (folder, path) = written(bytes, "fuzz.gguf");
    if let Ok(file) = Gguf::open(&path) {
        for info in file.tensors() {
            let read = file.tensor(&info.name);
            assert!(read.is_err() || info.size.is_some(), "{info:?}");
        }
        opened(&path, folder.path());
    }
}

/// Reads a SentencePiece model.
pub(crate) fn pieces(bytes: &[u8]) {
    let (folder, path) = written(bytes, "fuzz.model");
    opened(&path, folder.path());
}

/// Reads a `tokenizer.json`.
pub(crate) fn tokenizer(bytes: &[u8]) {
    let (folder, path) = written(bytes, "fuzz.json");
    opened(&path, folder.path());
}

/// Reads a `.meta` file of InternEvo.
pub(crate) fn meta(bytes: &[u8]) {
    let (_folder, path) = written(bytes, "fuzz.meta");
    if let Ok(pairs) = Pairs::open(&path) {
        assert!((0..pairs.len()).all(|row| pairs.get(row).len() == 2));
    }
}

/// Reads a safetensors file and each of its tensors.
pub(crate) fn safetensors(bytes: &[u8]) {
    tensors(bytes, TensorFile::open_safetensors);
}

/// Reads a file of `torch.save` and each of its tensors.
pub(crate) fn torch_file(bytes: &[u8]) {
    tensors(bytes, TensorFile::open_torch);
}

/// What opens has as many bytes as it says, and what does not says what to do.
fn tensors(bytes: &[u8], open: fn(&Path) -> Result<TensorFile, DataError>) {
    let (_folder, path) = written(bytes, "fuzz.bin");
    match open(&path) {
        Ok(file) => {
            for tensor in file.tensors().values() {
                let Some(size) = tensor.numbers.size() else { continue };
                let count: u64 = tensor.shape.iter().product();
                assert_eq!(file.bytes(tensor).len() as u64, count * size as u64, "{tensor:?}");
            }
        }
        Err(DataError::Invalid { help, message, .. }) => assert!(help.is_some(), "{message}"),
        Err(error @ DataError::Io { .. }) => panic!("{error}"),
    }
}

fn written(bytes: &[u8], name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("writable");
    (folder, path)
}

/// What opens is read again, and its ids are all of its vocabulary.
fn opened(path: &Path, folder: &Path) {
    let out = folder.join("out");
    fs::create_dir(&out).expect("writable");
    if open_tokenizer(path, None, &out).is_err() {
        return;
    }
    if let Ok(tokenizer) = Tokenizer::open(&out) {
        let ids = tokenizer.encode("a b  ▁<s>\u{301}").unwrap_or_default();
        assert!(ids.iter().all(|&id| u64::from(id) < tokenizer.size()), "{ids:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[track_caller]
    fn check(folder: &str, run: impl Fn(&[u8])) {
        let path = super::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fuzz");
        let entries = fs::read_dir(path.join(folder)).expect("the folder");
        let files =
            entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
        files.for_each(|path| run(&fs::read(path).expect("readable")));
    }

    #[test]
    fn what_was_found_in_recipes_stays_mended() {
        check("", super::syntax);
        check("", super::sema);
    }

    #[test]
    fn what_was_found_in_data_stays_mended() {
        check("gguf", super::gguf);
        check("pieces", super::pieces);
        check("tokenizer", super::tokenizer);
        check("meta", super::meta);
        check("safetensors", super::safetensors);
        check("torch_file", super::torch_file);
    }
}
