//! What it costs to run a step that does next to nothing, against make and ninja (`DESIGN` bar: 2 ms a step, and the durable
//! commit, which make and ninja do not have). Told is processor time, user and system, of all processes.
//!
//! `command` is a stage that creates an empty file, and for make and ninja the same command; `split` is one of our own stages in
//! a worker that stays. `TMPDIR=/dev/shm` takes away most of what the commit costs.

use std::fmt::Write as _;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::{Command, Stdio};

/// Numbers of steps: what they differ in is the cost of a step, without that of starting.
const FEW: usize = 20;
const MANY: usize = 320;

/// A program that runs steps.
struct Runner {
    name: &'static str,
    /// Writes what it needs for so many steps.
    prepare: fn(&Path, usize),
    program: &'static str,
    args: &'static [&'static str],
}

const TLM: &str = env!("CARGO_BIN_EXE_tlm");

const RUNNERS: [Runner; 4] = [
    Runner { name: "tlm, command", prepare: commands, program: TLM, args: &["run", "r.tlm"] },
    Runner { name: "tlm, split", prepare: splits, program: TLM, args: &["run", "r.tlm"] },
    Runner { name: "make", prepare: makefile, program: "make", args: &["-j2"] },
    Runner { name: "ninja", prepare: ninja, program: "ninja", args: &["-j2"] },
];

fn main() {
    let costs = RUNNERS.map(|runner| (runner.name, cost(&runner)));
    let make = costs.iter().find(|(name, _)| *name == "make").and_then(|(_, cost)| *cost);
    for (name, cost) in costs {
        let told = match (cost, make) {
            (None, _) => "is not there".to_owned(),
            (Some(cost), Some(make)) => {
                format!("{:6.2} ms a step, {:5.1} times make", cost * 1e3, cost / make)
            }
            (Some(cost), None) => format!("{:6.2} ms a step", cost * 1e3),
        };
        let _ = writeln!(stdout(), "{name:14} {told}");
    }
}

/// Returns the seconds of processor time for a step.
fn cost(runner: &Runner) -> Option<f64> {
    let of = |steps| {
        let space = tempfile::tempdir().expect("a folder");
        (runner.prepare)(space.path(), steps);
        processor_seconds(runner, space.path())
    };
    Some((of(MANY)? - of(FEW)?) / (MANY - FEW) as f64)
}

fn processor_seconds(runner: &Runner, folder: &Path) -> Option<f64> {
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%U %S", runner.program]).args(runner.args).current_dir(folder);
    let output = timed.stdout(Stdio::null()).output().expect("GNU time is there");
    let told = String::from_utf8_lossy(&output.stderr);
    let times = told.lines().last()?.split(' ').map(str::parse::<f64>);
    output.status.success().then(|| times.map_while(Result::ok).sum())
}

fn axis(steps: usize) -> String {
    (0..steps).map(|step| step.to_string()).collect::<Vec<_>>().join(", ")
}

fn commands(folder: &Path, steps: usize) {
    let recipe = format!(
        "axis n : Count = [{}]\n\
         stage touch(raw: File; n: Count) -> File version 1 shell \": > {{out}}\"\n\
         let made = touch(\"in\", n: n)\n\
         plan default = made vary n\n",
        axis(steps)
    );
    write(folder, &[("r.tlm", &recipe), ("in", "")]);
}

fn splits(folder: &Path, steps: usize) {
    let recipe = format!(
        "use std.corpus\n\
         axis seed : Int = [{}]\n\
         let text = corpus.text(\"in\", delimiter: \"\\n\\n\")\n\
         let split = corpus.split(text, valid: 50%, seed: seed)\n\
         plan default = split.train vary seed\n",
        axis(steps)
    );
    write(folder, &[("r.tlm", &recipe), ("in", "a\n\nb\n\nc\n\nd\n")]);
}

fn makefile(folder: &Path, steps: usize) {
    let mut text = "all:".to_owned();
    (0..steps).for_each(|step| write!(text, " out{step}").expect("a text takes all"));
    // The semicolon makes it start a shell, as a command of a recipe does.
    text += "\nout%: in\n\t:; : > $@\n";
    write(folder, &[("Makefile", &text), ("in", "")]);
}

fn ninja(folder: &Path, steps: usize) {
    let mut text = "rule touch\n  command = : > $out\n".to_owned();
    for step in 0..steps {
        writeln!(text, "build out{step}: touch in").expect("a text takes all");
    }
    write(folder, &[("build.ninja", &text), ("in", "")]);
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("written");
    }
}
