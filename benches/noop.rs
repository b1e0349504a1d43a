//! A run with nothing to do, process start included, against ninja, make and snakemake on as many steps (`DESIGN` bar: 1,000
//! steps in 10 ms, 10,000 in 25 ms, 100,000 in 200 ms and 60 MB). Last it tells the peak memory of a run of the most steps.
//!
//! The steps are a sweep: a recipe with one axis whose every point is a split, a count, a pruning and a packing; or the same
//! steps as a `let` each. `told` is a run after which nothing changed; before `axis` and `lets` what was told is forgotten, so
//! they plan anew. `first_of_stale` is not a run with nothing to do. The others' steps are as many copies of one file. Every record is synced to disk first; `TMPDIR=/dev/shm` saves the wait.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;
use tlm::base::{Digest, SourceMap, Value};
use tlm::graph::{self, Plan, Planned};
use tlm::sema::steps::OutputKind;
use tlm::sema::{self, Overlay};
use tlm::store::{Output, Record, Store};

/// Numbers of steps.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

/// Steps at each point of the axis.
const PER_POINT: usize = 4;

/// A folder for each size.
type Spaces = [OnceLock<TempDir>; SIZES.len()];

static AXIS: Spaces = [const { OnceLock::new() }; SIZES.len()];
static LETS: Spaces = [const { OnceLock::new() }; SIZES.len()];
static NINJA: Spaces = [const { OnceLock::new() }; SIZES.len()];
static MAKE: Spaces = [const { OnceLock::new() }; SIZES.len()];
static SNAKEMAKE: Spaces = [const { OnceLock::new() }; SIZES.len()];

fn main() {
    divan::main();
    for space in [&AXIS, &LETS].into_iter().filter_map(|spaces| spaces[SIZES.len() - 1].get()) {
        forget(space.path());
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "peak memory: %M KiB", env!("CARGO_BIN_EXE_tlm"), "run", "r.tlm"]);
        let output = timed.current_dir(space.path()).stdout(Stdio::null()).output();
        let told = String::from_utf8(output.expect("GNU time is there").stderr).expect("text");
        let _ = writeln!(stdout(), "{}", told.lines().last().unwrap_or_default());
    }
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn told(bencher: divan::Bencher<'_, '_>, steps: usize) {
    let space = at(&AXIS, steps, |folder, steps| recipe_space(folder, steps, &sweep(steps)));
    // What was written just now is not relied on.
    sleep(Duration::from_secs(3));
    run_tlm(space);
    bencher.bench_local(|| run_tlm(space));
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn axis(bencher: divan::Bencher<'_, '_>, steps: usize) {
    let space = at(&AXIS, steps, |folder, steps| recipe_space(folder, steps, &sweep(steps)));
    bencher.with_inputs(|| forget(space)).bench_local_values(|()| run_tlm(space));
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn lets(bencher: divan::Bencher<'_, '_>, steps: usize) {
    let space = at(&LETS, steps, |folder, steps| recipe_space(folder, steps, &written_out(steps)));
    bencher.with_inputs(|| forget(space)).bench_local_values(|()| run_tlm(space));
}

/// A run of which a quarter of the steps is stale, until the first of these is begun; it is ended then.
#[divan::bench(args = [SIZES[2]], sample_count = 20)]
fn first_of_stale(bencher: divan::Bencher<'_, '_>, steps: usize) {
    let space = at(&AXIS, steps, |folder, steps| recipe_space(folder, steps, &sweep(steps)));
    let other = sweep(steps).replace("seq: 256", "seq: 128");
    fs::write(space.join("stale.tlm"), other).expect("written");
    let staging = space.join(".tlm/staging");
    let clean = || drop(fs::remove_dir_all(&staging));
    bencher.with_inputs(clean).bench_local_values(|()| {
        let mut tlm = Command::new(env!("CARGO_BIN_EXE_tlm"));
        tlm.args(["run", "stale.tlm"]).stdout(Stdio::null()).stderr(Stdio::null());
        let run = Ended(tlm.current_dir(space).spawn().expect("it starts"));
        while fs::read_dir(&staging).map_or(0, Iterator::count) == 0 {
            sleep(Duration::from_micros(200));
        }
        run
    });
}

/// A run that is ended with its measurement.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it can be ended");
    }
}

fn forget(space: &Path) {
    let _ = fs::remove_dir_all(space.join(".tlm/answers"));
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn ninja(bencher: divan::Bencher<'_, '_>, steps: usize) {
    let space = at(&NINJA, steps, ninja_space);
    bencher.bench_local(|| run(&mut Command::new("ninja"), space));
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn make(bencher: divan::Bencher<'_, '_>, steps: usize) {
    let space = at(&MAKE, steps, make_space);
    bencher.bench_local(|| run(&mut Command::new("make"), space));
}

/// Of more steps it takes minutes.
#[divan::bench(args = [SIZES[0]], sample_count = 3)]
fn snakemake(bencher: divan::Bencher<'_, '_>, steps: usize) {
    let space = at(&SNAKEMAKE, steps, snakemake_space);
    bencher.bench_local(|| run(Command::new("snakemake").args(["--cores", "2"]), space));
}

/// Makes a folder for a size once.
fn at(spaces: &'static Spaces, steps: usize, make: fn(&Path, usize)) -> &'static Path {
    let index = SIZES.iter().position(|size| *size == steps).expect("one of the sizes");
    let made = || {
        let space = tempfile::tempdir().expect("a folder");
        make(space.path(), steps);
        space
    };
    spaces[index].get_or_init(made).path()
}

fn run_tlm(space: &Path) {
    run(Command::new(env!("CARGO_BIN_EXE_tlm")).args(["run", "r.tlm"]), space);
}

fn run(command: &mut Command, folder: &Path) {
    let status = command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("it starts (others: see docs/benchmarks.md)").success());
}

/// What all recipes begin with.
const HEAD: &str = "use std.{corpus, tokenizer, dataset}\n\
                    let text = corpus.text(\"text.txt\")\n\
                    let base = tokenizer.open(\"tokenizer.json\")\n";

/// Returns a recipe of so many steps along an axis.
fn sweep(steps: usize) -> String {
    let seeds: Vec<_> = (0..steps / PER_POINT).map(|seed| seed.to_string()).collect();
    format!(
        "{HEAD}axis seed : Int = [{}]\n\
         let split = corpus.split(text, valid: 10%, seed: seed)\n\
         let counts = tokenizer.count(split.train, base)\n\
         let tok = tokenizer.prune(base, counts, keep: 4k)\n\
         let ds = dataset.pack(split.train, tok, seq: 256)\n\
         plan default = ds vary seed\n",
        seeds.join(", ")
    )
}

/// Returns a recipe of the same steps with a name for each.
fn written_out(steps: usize) -> String {
    let mut recipe = HEAD.to_owned();
    for n in 0..steps / PER_POINT {
        let lets = format!(
            "let split{n} = corpus.split(text, valid: 10%, seed: {n})\n\
             let counts{n} = tokenizer.count(split{n}.train, base)\n\
             let tok{n} = tokenizer.prune(base, counts{n}, keep: 4k)\n\
             let ds{n} = dataset.pack(split{n}.train, tok{n}, seq: 256)\n"
        );
        recipe.push_str(&lets);
    }
    let names: Vec<_> = (0..steps / PER_POINT).map(|n| format!("ds{n}")).collect();
    recipe + &format!("plan default = [{}]\n", names.join(", "))
}

/// Writes a recipe, and a store that has its steps.
fn recipe_space(folder: &Path, steps: usize, recipe: &str) {
    for (name, text) in [("text.txt", "text"), ("tokenizer.json", "{}"), ("r.tlm", recipe)] {
        fs::write(folder.join(name), text).expect("written");
    }
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", recipe.to_owned());
    let (program, _) =
        sema::load(&mut sources, file, folder, &Overlay::default()).finish().expect("no errors");
    let (expansion, _) = sema::expand(&program, &[]).finish().expect("no errors");
    let store = Store::open(&folder.join(".tlm")).expect("opens");
    let object = Digest::of(b"made");
    let path = store.object_path(object);
    fs::create_dir_all(path.parent().expect("in a folder")).expect("created");
    fs::write(path, "made").expect("written");
    let (plan, _) = graph::plan(expansion, &store, "cpu").finish().expect("no errors");
    assert_eq!(plan.len(), steps + 2);
    let records = plan.steps().map(|planned| record(&plan, planned, object));
    records.for_each(|record| store.record(&record).expect("recorded"));
}

fn record(plan: &Plan, planned: Planned<'_>, object: Digest) -> Record {
    let output = |kind: &OutputKind| match kind {
        OutputKind::Artifact => Output::Object { digest: object, bytes: 4 },
        OutputKind::Scalar => Output::Scalar(Value::Int(1)),
    };
    let outputs = planned.step.stage().outputs.iter();
    let point = planned.step.point().iter();
    Record {
        recipe: planned.recipe,
        content: Digest::of(planned.recipe.as_bytes()),
        stage: planned.step.stage().name.clone(),
        label: planned.step.label().to_owned(),
        point: point.map(|(axis, value)| (axis.to_string(), value.to_string())).collect(),
        outputs: outputs.map(|(name, kind)| (name.clone(), output(kind))).collect(),
        manifest: plan.manifest(planned.id),
        seconds: 1.0,
        finished_unix: 0,
        origin: BTreeMap::new(),
    }
}

fn ninja_space(folder: &Path, steps: usize) {
    let mut text = "rule copy\n  command = cp $in $out\n".to_owned();
    for step in 0..steps {
        writeln!(text, "build out/{step}: copy in").expect("a text takes all");
    }
    fs::write(folder.join("build.ninja"), text).expect("written");
    fs::write(folder.join("in"), "in").expect("written");
    run(&mut Command::new("ninja"), folder);
}

fn make_space(folder: &Path, steps: usize) {
    let all: Vec<_> = (0..steps).map(|step| format!("out/{step}")).collect();
    let mut text = format!("all: {}\n", all.join(" "));
    for output in all {
        write!(text, "{output}: in\n\tcp $< $@\n").expect("a text takes all");
    }
    fs::write(folder.join("Makefile"), text).expect("written");
    copies_of_one(folder, steps);
}

fn snakemake_space(folder: &Path, steps: usize) {
    let text = format!(
        "rule all:\n    input: expand(\"out/{{n}}\", n=range({steps}))\n\
         rule copy:\n    input: \"in\"\n    output: \"out/{{n}}\"\n    shell: \"cp {{input}} {{output}}\"\n"
    );
    fs::write(folder.join("Snakefile"), text).expect("written");
    copies_of_one(folder, steps);
    run(Command::new("snakemake").args(["--cores", "2", "--touch"]), folder);
}

/// Makes what the others' steps would make.
fn copies_of_one(folder: &Path, steps: usize) {
    fs::write(folder.join("in"), "in").expect("written");
    fs::create_dir(folder.join("out")).expect("created");
    (0..steps)
        .for_each(|step| fs::write(folder.join(format!("out/{step}")), "in").expect("written"));
}
