//! The recipes of `examples/own`: with the data beside them they can be planned, and what needs no tensors runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tlm::graph;
use tlm::sema::Overlay;
use tlm::store::Store;

use crate::paper::expand_in;
use crate::parse::tlm_files;

/// Each recipe, and how many steps it has.
const RECIPES: [(&str, usize); 4] =
    [("checkpoint", 25), ("corpus", 15), ("internevo", 12), ("trainer", 17)];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/own")
}

#[test]
fn recipes_for_ones_own_can_be_planned() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("opens");
    for (name, steps) in RECIPES {
        let text = fs::read_to_string(folder().join(format!("{name}.tlm"))).expect("readable");
        let planned =
            graph::plan(expand_in(&folder(), name, &text, &Overlay::default()), &store, "cpu/test");
        assert!(planned.diagnostics.is_empty(), "{name}: {:?}", planned.diagnostics);
        assert_eq!(planned.value.steps().count(), steps, "{name}");
    }
    let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let present: BTreeSet<_> = tlm_files("examples/own").iter().map(stem).collect();
    assert_eq!(present, RECIPES.iter().map(|(name, _)| (*name).to_owned()).collect());
}

/// The texts are read, cleaned and mixed for real; the table of documents is that of the page.
#[test]
fn the_page_tells_what_is_left_of_the_texts() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut program = Command::new(env!("CARGO_BIN_EXE_tlm"));
    program.current_dir(folder()).args(["run", "corpus.tlm", "mixed", "ds", "--store"]);
    let output = program.arg(dir.path()).output().expect("it runs");
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    let out = String::from_utf8(out).expect("text");
    let table = out.split("\n\n").nth(1).expect("a table");
    let page = fs::read_to_string(folder().join("README.md")).expect("readable");
    assert!(page.contains(table), "{out}");
    assert!(page.contains("| 72,064 |") && out.contains("| 72,064 |"), "{out}");
}
