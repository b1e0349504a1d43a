//! Several `tlm` on one store, and a recipe that is edited while it runs.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::run::space::{
    ALL, Run, Space, eventually, finish, name, processes_of, signal, start, wait,
};

/// Runs recipes at once and returns how each ended.
fn run_all(space: &Space, recipes: &[&str]) -> Vec<Run> {
    let begin = |recipe: &&str| start(&mut space.command(&["run", "--json", recipe]));
    let children: Vec<_> = recipes.iter().map(begin).collect();
    children.into_iter().map(|child| Run::of(wait(child))).collect()
}

/// Returns how often each key was made.
fn made(runs: &[Run]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for event in runs.iter().flat_map(|run| run.all("finished")) {
        let key = event["step"]["key"].as_str().expect("a key").to_owned();
        *times.entry(key).or_default() += 1;
    }
    times
}

#[test]
fn eight_runs_of_two_recipes_make_each_key_once() {
    let space = Space::new();
    space.write("other.tlm", space.read("r.tlm").replace("= 270", "= 265"));
    let runs = run_all(&space, &["r.tlm", "other.tlm"].repeat(4));
    for run in &runs {
        assert_eq!(run.code, Some(0), "{run}");
        assert_eq!(run.steps("finished").len() + run.steps("reused").len(), ALL.len(), "{run}");
        for waited in run.all("waiting") {
            let holder = waited["holder"].as_str().expect("who it waited for");
            assert!(
                holder.starts_with("process ") && holder.contains(": tlm run --json "),
                "{holder}"
            );
        }
    }
    // Steps that differ: `tok`, `ds` and `dev`.
    let times = made(&runs);
    assert_eq!((times.len(), times.values().max()), (ALL.len() + 3, Some(&1)), "{times:?}");
    space.check_store();
}

#[test]
fn runs_that_are_killed_block_no_other() {
    let space = Space::new();
    let mut children: Vec<_> = (0..4).map(|_| start(&mut space.run_command(&[]))).collect();
    let last = children.pop().expect("four");
    for (at, child) in children.into_iter().enumerate() {
        thread::sleep(Duration::from_millis(30 + 40 * at as u64));
        signal(child.id(), "KILL");
        wait_for_end(child);
    }
    let run = Run::of(wait(last));
    assert_eq!(run.code, Some(0), "{run}");
    eventually("the end of all", || processes_of(&space.path("")).is_empty().then_some(()));
    space.run(&[]).check(0, &[]);
    space.check_store();
}

/// Waits for a killed program; its last line may be cut.
fn wait_for_end(mut child: std::process::Child) {
    drop(child.stdout.take());
    child.wait().expect("it ends");
}

#[test]
fn a_recipe_may_be_edited_while_it_runs() {
    let space = Space::with(
        r#"param times : Count = 1
stage slow(raw: File) -> File version 1 shell "echo > began; while ! [ -e go ]; do sleep 0.02; done; cp {raw} {out}"
stage more(raw: File; times: Count) -> File version 1 shell "cat {raw} > {out}; echo {times} >> {out}"
let a = slow("texts/a.txt")
let b = more(a, times: times)
plan default = b
"#,
    );
    let child = start(&mut space.run_command(&[]));
    eventually("the step to start", || space.path("began").exists().then_some(()));
    space.edit("Count = 1", "Count = 2");
    space.write("go", "");
    Run::of(wait(child)).check(0, &["a", "b"]);
    let edited = space.run(&[]);
    edited.check(0, &["b"]);
    space.edit("Count = 2", "Count = 1");
    space.run(&[]).check(0, &[]);
    // What is no recipe any more is told, and harms nothing.
    space.write("r.tlm", "plan default =");
    assert_eq!(finish(&mut space.run_command(&[])).code, Some(3));
    let names: Vec<_> = edited.all("finished").map(name).collect();
    assert_eq!(names, ["b"]);
    space.check_store();
}
