//! What has to hold of any text; the targets in `fuzz/` run these functions too.

use std::path::Path;

use tlm::base::{FileId, SourceMap};
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

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn what_was_found_stays_mended() {
        let folder = super::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fuzz");
        for entry in fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            let bytes = fs::read(&path).expect("readable");
            super::syntax(&bytes);
            super::sema(&bytes);
        }
    }
}
