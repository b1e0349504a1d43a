//! The quickstart for real, in a small profile: fetched donor, real text, both workers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// A hundredth of the demo's training, on a fiftieth of its text.
const SMALL: [&str; 6] = ["-s", "budget=8192", "-s", "share=1%", "-s", "keep=2k"];

/// What a run told.
struct Run {
    lines: Vec<Value>,
}

impl Run {
    /// Runs the recipe in a folder; it must succeed.
    fn of(folder: &Path, more: &[&str]) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tlm"));
        let args = ["run", "--json", "quickstart.tlm"].iter().chain(&SMALL).chain(more);
        let output = program.current_dir(folder).args(args).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        let text = String::from_utf8(output.stdout).expect("text");
        Self { lines: text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect() }
    }

    fn events(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(move |line| line["event"] == kind)
    }

    /// Returns the labels of the steps that ran, without axis values.
    fn ran(&self) -> BTreeSet<String> {
        let name = |line: &Value| line["step"]["name"].as_str().expect("a name").to_owned();
        let label = |name: String| name.split('[').next().unwrap_or_default().to_owned();
        self.events("finished").map(|line| label(name(line))).collect()
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("read") {
        let path = entry.expect("read").path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
}

#[test]
fn the_quickstart_runs_once_and_then_only_what_changed() {
    let dir = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    copy(&example, dir.path());
    copy(&example.join("data"), &dir.path().join("data"));

    let first = Run::of(dir.path(), &[]);
    assert_eq!(first.events("finished").count(), 24);
    let cells: Vec<_> = first.events("cell").collect();
    assert_eq!(cells.len(), 12);
    for cell in cells {
        let value = cell["value"].as_f64().unwrap_or_default();
        assert!(cell["state"] == "value" && value > 1.0 && value.is_finite(), "{cell}");
    }
    let report = fs::read_to_string(dir.path().join(".tlm/quickstart.html")).expect("a report");
    assert!(report.contains("r2[second=hard, start=inherited]") && report.contains("</html>"));

    assert_eq!(Run::of(dir.path(), &[]).ran(), set(&[]));

    let recipe = dir.path().join("quickstart.tlm");
    let text = fs::read_to_string(&recipe).expect("read");
    fs::write(&recipe, format!("# Another comment.\n\n{}", text.replace(" = ", "   =  ")))
        .expect("written");
    assert_eq!(Run::of(dir.path(), &[]).ran(), set(&[]));

    let changed = Run::of(dir.path(), &["-s", "rate=25%"]);
    assert_eq!(changed.ran(), set(&["drawn", "r2", "long", "final"]));
}
