//! What is kept of where and how a step was made.

use std::collections::BTreeMap;
use std::process::Command;

use crate::run::space::{Space, finish};

/// A command that kills its worker once, and then takes some processor time. It says something before: a worker that was there
/// already and dies without a word is replaced, which is no attempt.
const RECIPE: &str = r#"use std.{corpus}

stage spin(raw: File) -> File  version 1 shell """
  if ! test -e {raw}.tried; then touch {raw}.tried; echo first; sleep 0.5; kill -9 $PPID; fi
  i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; cp {raw} {out}
"""

let text = corpus.text("a.txt")
let spun = spin("a.txt") run { retries: 1 }

plan default = [text, spun]
"#;

/// A folder whose recipe lies in `sub`.
fn space() -> Space {
    let space = Space::new();
    space.write("sub/r.tlm", RECIPE);
    space.write("sub/a.txt", "one\n");
    space
}

fn git(space: &Space, args: &[&str]) -> String {
    let mut git = Command::new("git");
    space.at_home(&mut git);
    git.args(["-c", "user.name=t", "-c", "user.email=t@t"]).args(args);
    let ended = finish(&mut git);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out.trim().to_owned()
}

/// Runs the recipe and returns what `tlm show` tells of a step's origin.
fn origin(space: &Space, step: &str, path: Option<&str>) -> BTreeMap<String, String> {
    let tlm = |args: &[&str]| {
        let mut command = space.command(args);
        command.envs(path.map(|path| ("PATH", path)));
        let ended = finish(&mut command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    tlm(&["run", "sub/r.tlm"]);
    // The latest of that name.
    let listed = tlm(&["ls", "--store", "sub/.tlm"]);
    let name = format!("  {step}");
    let line = listed.lines().rfind(|line| line.ends_with(&name)).expect("a record");
    let shown = tlm(&["show", "--store", "sub/.tlm", line.split(' ').next().expect("a key")]);
    let facts = shown.lines().filter_map(|line| line.trim().strip_prefix("origin."));
    let pair = |fact: &str| fact.split_once(" = ").map(|(a, b)| (a.to_owned(), b.to_owned()));
    facts.filter_map(pair).collect()
}

#[test]
fn recipe_commit_and_cost_of_a_step_are_kept() {
    let space = space();
    git(&space, &["init", "-q"]);
    git(&space, &["add", "sub"]);
    git(&space, &["commit", "-q", "-m", "first"]);
    let made = origin(&space, "spun", None);
    let commit = git(&space, &["rev-parse", "HEAD"]);
    for (name, expected) in [
        ("recipe", "sub/r.tlm:9:12"),
        ("commit", &commit),
        ("changed", "false"),
        ("tlm", env!("CARGO_PKG_VERSION")),
        ("attempt", "2"),
    ] {
        assert_eq!(made.get(name).map(String::as_str), Some(expected), "{made:?}");
    }
    assert!(made["cpu_seconds"].parse::<f64>().is_ok_and(|seconds| seconds > 0.0), "{made:?}");
    assert!(!made["host"].is_empty());
    // The memory of a command is another process's.
    assert!(!made.contains_key("peak_bytes"), "{made:?}");
    let text = origin(&space, "text", None);
    assert!(text["peak_bytes"].parse::<u64>().is_ok_and(|bytes| bytes > 100_000), "{text:?}");

    space.write("sub/r.tlm", RECIPE.replace("cp {raw} {out}", "cat {raw} > {out}"));
    let made = origin(&space, "spun", None);
    assert_eq!((&*made["commit"], &*made["changed"]), (&*commit, "true"));
    let report = space.read("sub/.tlm/r.html");
    assert!(report.contains(&commit), "the report does not name the commit");
}

#[test]
fn without_repository_or_git_a_step_has_no_commit() {
    let space = space();
    let made = origin(&space, "text", None);
    assert_eq!((&*made["recipe"], made.get("commit")), ("r.tlm:8:12", None));

    let space = self::space();
    git(&space, &["init", "-q"]);
    let made = origin(&space, "text", None);
    assert_eq!((&*made["recipe"], made.get("commit")), ("sub/r.tlm:8:12", None));

    let space = self::space();
    git(&space, &["init", "-q"]);
    git(&space, &["commit", "-q", "--allow-empty", "-m", "first"]);
    space.script("bin/sh", "exec /bin/sh \"$@\"");
    for tool in ["touch", "cp"] {
        space.script(&format!("bin/{tool}"), &format!("PATH=/bin:/usr/bin exec {tool} \"$@\""));
    }
    let bin = space.path("bin").display().to_string();
    let made = origin(&space, "text", Some(&bin));
    assert_eq!((&*made["recipe"], made.get("commit")), ("sub/r.tlm:8:12", None));
}

#[test]
fn where_it_is_made_is_no_part_of_a_key() {
    let [plain, tracked] = [space(), space()];
    git(&tracked, &["init", "-q"]);
    git(&tracked, &["commit", "-q", "--allow-empty", "-m", "first"]);
    let keys = [&plain, &tracked].map(|space| {
        origin(space, "text", None);
        let listed = space.tlm(&["ls", "--store", "sub/.tlm"]).out;
        listed.lines().filter_map(|line| line.split("  ").next()).map(str::to_owned).collect()
    });
    let [plain, tracked]: [std::collections::BTreeSet<String>; 2] = keys;
    assert_eq!(plain, tracked);
    assert_eq!(plain.len(), 3, "{plain:?}");
}
