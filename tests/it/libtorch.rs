//! `scripts/libtorch.sh` with a `python3` and wheels of the test's own: what it installs, what it says when it can't.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use tlm::data::wheel::copy_hashed;

const TOOLS: [&str; 14] = [
    "sh",
    "cat",
    "cp",
    "dirname",
    "flock",
    "grep",
    "kill",
    "mkdir",
    "mv",
    "rm",
    "sha256sum",
    "sleep",
    "sync",
    "touch",
];

/// The wheels by requirement, with what is in them.
const WHEELS: [(&str, &[(&str, &str)]); 3] = [
    (
        "torch==2.11.0",
        &[
            ("torch/include/a/b.h", "header"),
            ("torch/lib/libtorch_cpu.so", "cpu"),
            ("torch/lib/libtorch_cuda.so", "large"),
            ("torch/nn.py", "python"),
        ],
    ),
    ("nvidia-cuda-runtime==13.0.96", &[("nvidia/cu13/lib/libcudart.so.13", "cudart")]),
    ("nvidia-cuda-cupti==13.0.85", &[("nvidia/cu13/lib/libcupti.so.13", "cupti")]),
];

/// A folder with the script, which expects the wheels here, and the programs that it finds.
struct Space {
    dir: tempfile::TempDir,
}

impl Space {
    fn new() -> Self {
        let space = Self { dir: tempfile::tempdir().expect("a folder") };
        for folder in ["bin", "index", "scripts"] {
            fs::create_dir(space.path(folder)).expect("created");
        }
        let mut script = include_str!("../../scripts/libtorch.sh").to_owned();
        for (requirement, files) in WHEELS {
            let pinned = script.split(requirement_of(requirement)).nth(1).expect("fetched");
            let pinned = pinned.split_whitespace().find(|word| is_digest(word)).expect("pinned");
            let digest = space.wheel(requirement, files);
            script = script.replace(pinned, &digest);
        }
        fs::write(space.path("scripts/libtorch.sh"), script).expect("written");
        TOOLS.iter().for_each(|tool| space.link(tool));
        space.script("uname", "[ \"$1\" = -s ] && echo Linux || echo x86_64");
        space.python("");
        space
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a wheel into the index and returns its digest.
    fn wheel(&self, requirement: &str, files: &[(&str, &str)]) -> String {
        let mut wheel = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, text) in files {
            let options = zip::write::SimpleFileOptions::default();
            wheel.start_file(*name, options).expect("a new file");
            wheel.write_all(text.as_bytes()).expect("written");
        }
        let bytes = wheel.finish().expect("written").into_inner();
        let digest = copy_hashed(&mut &bytes[..], &mut std::io::sink(), |_| true);
        fs::write(self.path("index").join(requirement), bytes).expect("written");
        digest.expect("copied").expect("not stopped")
    }

    fn link(&self, tool: &str) {
        let found = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(tool));
        let found = found.iter().find(|path| path.exists()).expect(tool);
        symlink(found, self.path("bin").join(tool)).expect("linked");
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("made executable");
    }

    /// Makes a `python3` that first does `fault`, then what is asked: `pip download` copies from the index, under the name
    /// that the script wants. `$1` is `-m` for pip and `-` for unpacking, `$log` is pip's log, `$to` its folder.
    fn python(&self, fault: &str) {
        let real =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let real = String::from_utf8(real.expect("python3").stdout).expect("text");
        let body = format!(
            r#"[ "$*" != "-m pip --version" ] || exit 0
for package; do [ "$last" != --log ] || log=$package; [ "$last" != --dest ] || to=$package; last=$package; done
{fault}
[ "$1" = -m ] || exec {real} "$@"
echo "$package" >> "{root}/calls"
case $package in
torch*) name=torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64 ;;
*runtime*) name=nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64 ;;
*) name=nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64 ;;
esac
[ -d "$TMPDIR" ] && cp "{root}/index/$package" "$to/$name.whl""#,
            real = real.trim(),
            root = self.dir.path().display(),
        );
        self.script("python3", &body);
    }

    fn command(&self) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg(self.path("scripts/libtorch.sh")).current_dir("/");
        command.env_clear().env("PATH", self.path("bin"));
        command
    }

    fn run(&self) -> Output {
        self.command().output().expect("it runs")
    }

    /// Runs the script, and checks that it fails with all this said and nothing installed.
    #[track_caller]
    fn check_failure(&self, parts: &[&str]) {
        let output = self.run();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "no `{part}` in:\n{said}"));
        assert!(!self.path(".libtorch").exists(), "{said}");
    }

    /// Runs the script, and checks that it installs everything and clears up.
    #[track_caller]
    fn check_installed(&self) {
        let output = self.run();
        assert!(output.status.success(), "{output:?}");
        self.check_tree();
    }

    #[track_caller]
    fn check_tree(&self) {
        let read = |name| fs::read_to_string(self.path(".libtorch").join(name)).expect("there");
        assert_eq!(read("include/a/b.h"), "header");
        assert_eq!(read("version"), "2.11.0\n");
        let lib = fs::read_dir(self.path(".libtorch/lib")).expect("the libraries");
        let mut lib: Vec<_> = lib.map(|entry| entry.expect("an entry").file_name()).collect();
        lib.sort();
        assert_eq!(lib, ["libcudart.so.13", "libcupti.so.13", "libtorch_cpu.so"]);
        assert!(!self.path(".libtorch.part").exists(), "something is left");
    }

    /// Returns what pip was asked for, in order.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

/// Returns a requirement as the script writes it.
fn requirement_of(requirement: &str) -> &str {
    if requirement.starts_with("torch") { "fetch \"torch==$TORCH_VERSION\"" } else { requirement }
}

fn is_digest(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn only_the_named_wheels_are_unpacked_and_once_is_enough() {
    let space = Space::new();
    fs::create_dir_all(space.path(".libtorch.part/wheels")).expect("created");
    space.wheel("stray.whl", &[("torch/lib/libc10.so", "stray")]);
    fs::rename(space.path("index/stray.whl"), space.path(".libtorch.part/wheels/stray.whl"))
        .expect("moved");
    space.check_installed();
    assert_eq!(space.calls(), WHEELS.map(|(requirement, _)| requirement));
    space.check_installed();
    assert_eq!(space.calls().len(), 3, "fetched again");
}

#[test]
fn a_machine_without_python_pip_or_flock() {
    let space = Space::new();
    fs::remove_file(space.path("bin/python3")).expect("removed");
    space.check_failure(&[
        "error: python3 not found",
        "help: install python3 with pip, or set LIBTORCH",
    ]);
    space.script("python3", "echo 'No module named pip' >&2; exit 1");
    space.check_failure(&["error: python3 has no pip", "python3-pip"]);
    fs::remove_file(space.path("bin/flock")).expect("removed");
    space.python("");
    space.check_installed();
}

#[test]
fn why_pip_failed_is_told() {
    let space = Space::new();
    for (logged, told) in [
        (
            "NewConnectionError: Temporary failure in name resolution",
            "can't reach the package index",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found", "pip finds no wheel of torch==2.11.0"),
        ("something else", "pip could not download torch==2.11.0"),
    ] {
        space.python(&format!("echo '{logged}' >> \"$log\"; exit 1"));
        space.check_failure(&[told, "help: ", "run the same command again; whole wheels"]);
    }
    space.python("");
    space.check_installed();
}

#[test]
fn another_digest_than_pinned_is_refused() {
    let space = Space::new();
    let right = fs::read(space.path("index/nvidia-cuda-runtime==13.0.96")).expect("readable");
    space.wheel("nvidia-cuda-runtime==13.0.96", &[("libcudart.so.13", "false")]);
    space.check_failure(&["has another SHA-256 than the pinned", "check the package index"]);
    fs::write(space.path("index/nvidia-cuda-runtime==13.0.96"), right).expect("written");
    space.check_installed();
    // The whole wheel before it was kept.
    let runtime = "nvidia-cuda-runtime==13.0.96";
    assert_eq!(space.calls(), ["torch==2.11.0", runtime, runtime, "nvidia-cuda-cupti==13.0.85"]);
}

#[test]
fn an_installation_that_was_killed_is_not_taken_for_finished() {
    let space = Space::new();
    let kill =
        "mkdir -p \"$2/tree/lib\"; touch \"$2/tree/lib/libtorch_cpu.so\"; kill -9 $PPID; exit 0";
    space.python(&format!("[ \"$1\" = -m ] || {{ {kill}; }}"));
    assert_eq!(space.run().status.code(), None, "killed");
    assert!(!space.path(".libtorch").exists() && space.path(".libtorch.part/tree").exists());
    space.python("");
    space.check_installed();
    assert_eq!(space.calls().len(), 3, "whole wheels are kept");
}

#[test]
fn a_second_run_waits_for_the_first() {
    let space = Space::new();
    space.python("sleep 0.1");
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let mut command = space.command();
            thread::spawn(move || command.output().expect("it runs"))
        })
        .collect();
    for run in runs {
        let output = run.join().expect("no panic");
        assert!(output.status.success(), "{output:?}");
    }
    space.check_tree();
    assert_eq!(space.calls().len(), 3, "fetched twice");
}
