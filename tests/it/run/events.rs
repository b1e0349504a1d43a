//! What a run tells: events, tables, progress, the page.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::run::space::{ALL, Run, Space, finish, name};

/// Fields by event, as `docs/events.md` lists them.
fn documented() -> Vec<(String, Vec<String>)> {
    let page = include_str!("../../../docs/events.md");
    let quoted =
        |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        let fields = cells[2].split('(').next().unwrap_or_default().to_owned()
            + &cells[2].split(')').skip(1).collect::<String>();
        (quoted(cells[1])[0].clone(), quoted(&fields))
    })
    .collect()
}

#[test]
fn events_are_as_documented() {
    let space = Space::new();
    space.write("texts/latin/x", b"\xe9");
    let recipe = space.read("r.tlm");
    space.write(
        "r.tlm",
        recipe.replace(
            "plan words",
            "let bad = corpus.split(corpus.text(\"texts/latin/x\"), valid: 0%)\nplan words",
        ),
    );
    space.edit("[ds, dev]", "[ds, dev, bad.train]");
    let planned = Run::of(space.tlm(&["plan", "--json", "r.tlm"]));
    assert_eq!((planned.code, planned.all("due").count()), (Some(0), 9), "{planned}");
    let run = space.run(&[]);
    run.check(1, &ALL);
    let documented = documented();
    assert_eq!(documented.len(), 16);
    for event in planned.events.iter().chain(&run.events) {
        let kind = event["event"].as_str().expect("an event");
        let (_, fields) =
            documented.iter().find(|(name, _)| name == kind).expect("a documented event");
        let mut expected: Vec<&str> = fields.iter().map(String::as_str).collect();
        expected.extend(["format", "event"]);
        expected.sort_unstable();
        let mut found: Vec<_> = event.as_object().expect("an object").keys().collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{event}");
        assert_eq!(event["format"], 5);
    }
    assert_eq!(run.events[0]["event"], "plan");
    assert_eq!((&run.events[0]["steps"], &run.events[0]["fresh"]), (&9.into(), &0.into()));
    assert_eq!(run.summary()["event"], "summary");
    assert_eq!((&run.summary()["failed"], &run.summary()["skipped"]), (&1.into(), &1.into()));
}

#[test]
fn each_step_starts_once_and_after_what_it_needs() {
    let run = Space::new().run(&[]);
    let at = |event: &str, step: &str| {
        let is_it = |line: &Value| line["event"] == event && name(line) == step;
        run.events.iter().position(|line| line["step"].is_object() && is_it(line)).expect("told")
    };
    assert_eq!((run.steps("started"), run.steps("finished")), (ALL.to_vec(), ALL.to_vec()));
    for (before, after) in [
        ("text", "split"),
        ("split", "counts"),
        ("base", "counts"),
        ("counts", "tok"),
        ("tok", "dev"),
    ] {
        assert!(at("finished", before) < at("started", after), "{before}, {after}: {run}");
    }
    let cells: Vec<_> = run.all("cell").map(|cell| &cell["value"]).collect();
    assert_eq!((cells.len(), cells[0]), (3, &Value::from(270)));
    let text = run.all("finished").find(|line| name(line) == "text").expect("it ran");
    assert_eq!(text["scalars"]["out.documents"], 60);
}

#[test]
fn tables_go_to_stdout_progress_to_stderr_and_a_page_into_the_store() {
    let space = Space::new();
    let run = space.tlm(&["run", "r.tlm"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let table: Vec<_> = run.out.lines().filter(|line| line.starts_with('|')).collect();
    assert!(run.out.contains("What was packed."), "{}", run.out);
    assert_eq!(table.len(), 3, "{}", run.out);
    assert!(table[0].contains("sequences") && table[1].starts_with("|--"), "{}", run.out);
    assert!(table[2].starts_with("|") && table[2].contains("270"), "{}", run.out);
    for part in [
        "7 steps: 0 fresh, 7 to run",
        "started text (corpus.text)",
        "[7/7] finished",
        "7 steps ran in",
    ] {
        assert!(run.err.contains(part), "no `{part}` in {}", run.err);
    }
    let page = space.read(".tlm/r.html");
    assert!(page.trim_end().ends_with("</html>"), "the page is cut off");
    for part in ["What was packed.", "corpus.text", "seed: 7", "270"] {
        assert!(page.contains(part), "no `{part}` on the page");
    }
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"));

    let again = space.tlm(&["run", "r.tlm", "--report", "out.html"]);
    assert_eq!(again.out, run.out);
    assert!(again.err.contains("out.html") && space.path("out.html").exists());
    let nowhere = space.tlm(&["run", "r.tlm", "--report", "no/such/folder/out.html"]);
    assert_eq!(nowhere.code, Some(4), "{nowhere:?}");
    assert!(nowhere.err.contains("name another place with `--report FILE`"), "{nowhere:?}");
}

#[test]
fn a_report_is_drawn_again_only_when_it_would_tell_something_else() {
    let space = Space::new();
    let drawn_by = |args: &[&str]| {
        let ended = space.tlm(&[&["run", "r.tlm"], args].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.err.contains("report: "), "{ended:?}");
        std::fs::metadata(space.path(".tlm/r.html")).expect("there").ino()
    };
    let first = drawn_by(&[]);
    assert_eq!(drawn_by(&[]), first, "nothing changed");
    let steps = drawn_by(&["-s", "keep=265"]);
    assert_ne!(steps, first, "other steps");
    let back = drawn_by(&[]);
    assert_ne!(back, steps, "the first steps again, all in the store");
    space.write("r.tlm", space.read("r.tlm") + "# edited\n");
    let text = drawn_by(&[]);
    assert_ne!(text, back, "another text");
    space.write(".tlm/r.html", "cut off");
    drawn_by(&[]);
    assert!(space.read(".tlm/r.html").contains("</html>"), "no page");
    std::fs::remove_file(space.path(".tlm/r.html")).expect("removed");
    drawn_by(&[]);
}

#[test]
fn an_output_that_is_full_loses_neither_the_ending_nor_the_report() {
    for (args, redirect) in [("", ">"), ("--json", ">"), ("", "2>")] {
        let space = Space::new();
        let script = format!("\"$TLM\" run r.tlm {args} {redirect} /dev/full");
        let mut shell = std::process::Command::new("sh");
        space.at_home(&mut shell);
        let run = finish(shell.args(["-c", &script]).env("TLM", env!("CARGO_BIN_EXE_tlm")));
        assert_eq!(run.code, Some(4), "{script}: {run:?}");
        let parts: &[&str] = match redirect {
            ">" => {
                &["7 steps ran in", "report: ", "error: can't write to standard output: No space"]
            }
            _ => &["What was packed."],
        };
        for part in parts {
            assert!(run.out.contains(part) || run.err.contains(part), "no `{part}`: {run:?}");
        }
        assert!(space.path(".tlm/r.html").exists(), "{script}: {run:?}");
        space.run(&[]).check(0, &[]);
    }
    let space = Space::new();
    let mut shell = std::process::Command::new("sh");
    space.at_home(&mut shell);
    shell.args(["-c", "\"$TLM\" graph r.tlm > /dev/full"]).env("TLM", env!("CARGO_BIN_EXE_tlm"));
    let graph = finish(&mut shell);
    assert_eq!(graph.code, Some(4), "{graph:?}");
    assert!(graph.err.contains("can't write to standard output"), "{graph:?}");
}

#[test]
fn a_report_that_can_t_be_written_leaves_a_worse_exit_code() {
    let space = Space::new();
    space.write("texts/a.txt", b"\xff");
    let run = space.run(&["--report", "no/such/folder.html"]);
    run.check(1, &["base"]);
    run.says(&["can't write the report", "not UTF-8"]);
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_run() {
    let space = Space::new();
    let mut child = crate::run::space::start(&mut space.run_command(&[]));
    drop(child.stdout.take());
    crate::run::space::wait(child);
    space.run(&[]).check(0, &[]);
}
