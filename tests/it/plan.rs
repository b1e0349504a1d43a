//! Keys and plans: what changes a key, what does not, and what has to run then.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tlm::base::{FileId, Span, Value};
use tlm::graph::{self, History, Plan, Status, Why};
use tlm::sema::late::Late;
use tlm::sema::steps::{
    Arg, Body, Expansion, Files, Goal, Input, OutputKind, OutputRef, Parts, RunSpec, StageDecl,
    Step, StepId,
};
use tlm::store::{Output, Record, Store};

fn span() -> Span {
    Span::new(FileId(0), 3, 9)
}

fn output(step: u32) -> OutputRef {
    OutputRef { step: StepId(step), output: "out".into() }
}

fn step(label: &str, inputs: Vec<(&str, Input)>, params: Vec<(&str, Arg)>) -> Parts {
    let stage = StageDecl {
        body: Body::Worker,
        name: format!("test.{}", label.trim_end_matches(char::is_numeric)),
        version: 1,
        tensor: label.starts_with("train"),
        outputs: BTreeMap::from([("out".to_owned(), OutputKind::Artifact)]),
    };
    Parts {
        stage: Arc::new(stage),
        label: label.to_owned(),
        point: Vec::new(),
        inputs: inputs.into_iter().map(|(name, input)| (name.to_owned(), input)).collect(),
        arg_spans: params.iter().map(|(name, _)| ((*name).to_owned(), span())).collect(),
        params: params.into_iter().map(|(name, arg)| (name.to_owned(), arg)).collect(),
        unkeyed: BTreeMap::new(),
        run: RunSpec::default(),
        span: span(),
    }
}

fn number(value: i64) -> Arg {
    Arg::Value(Value::Int(value))
}

/// text -> split -> { count, train } -> eval, and one step nobody asks for.
fn expansion(folder: &Path) -> Draft {
    let steps = vec![
        step("text", vec![("files", files("*.txt", folder))], vec![]),
        step("split", vec![("corpus", Input::Output(output(0)))], vec![("seed", number(7))]),
        step("count", vec![("corpus", Input::Output(output(1)))], vec![]),
        step(
            "train",
            vec![("data", Input::Output(output(1)))],
            vec![("tokens", number(100)), ("lr", Arg::Value(Value::Float(1e-3)))],
        ),
        step(
            "eval",
            vec![("model", Input::Output(output(3)))],
            vec![("size", Arg::Late(Late::Output(output(2))))],
        ),
        step("unasked", vec![], vec![]),
    ];
    Draft { steps }
}

fn files(pattern: &str, folder: &Path) -> Input {
    let base = folder.to_owned();
    Input::Files(Box::new(Files { pattern: pattern.to_owned(), base, span: span() }))
}

/// An expansion that can still be edited; its goal is `eval`.
struct Draft {
    steps: Vec<Parts>,
}

impl Draft {
    fn expansion(&self) -> Expansion {
        let steps = self.steps.iter().cloned().map(Step::new).collect();
        Expansion { steps, goals: vec![Goal { outputs: [output(4)].into() }], reports: Vec::new() }
    }
}

struct Space {
    _dir: tempfile::TempDir,
    files: std::path::PathBuf,
    store: Store,
}

fn space() -> Space {
    let dir = tempfile::tempdir().expect("a folder");
    let files = dir.path().join("files");
    fs::create_dir(&files).expect("created");
    fs::write(files.join("a.txt"), "one").expect("written");
    fs::write(files.join("b.txt"), "two").expect("written");
    let store = Store::open(&dir.path().join(".tlm")).expect("opens");
    Space { _dir: dir, files, store }
}

fn plan(space: &Space, draft: &Draft, numerics: &str) -> Plan {
    let mut checked = graph::plan(draft.expansion(), &space.store, numerics);
    checked.value.settle(&space.store);
    checked.finish().expect("no findings").0
}

/// Pretends to run what is stale, in order, and returns the labels of what ran. Scalars stand for outputs; their value
/// is `content` of the step.
fn run(space: &Space, expansion: &Draft, content: impl Fn(&Step) -> i64) -> Vec<String> {
    let plan = plan(space, expansion, "cpu/test");
    let mut outputs: BTreeMap<OutputRef, Output> = BTreeMap::new();
    let mut ran = Vec::new();
    for planned in plan.steps() {
        let key = plan.content_key(planned.id, |used| outputs.get(used).cloned());
        let key = key.expect("inputs ran before");
        let known = space.store.lookup(planned.recipe).or_else(|| space.store.lookup(key));
        let made = Output::Scalar(Value::Int(content(planned.step)));
        let record = Record {
            recipe: planned.recipe,
            content: key,
            stage: planned.step.stage().name.clone(),
            label: planned.step.label().to_owned(),
            point: Vec::new(),
            outputs: known
                .as_ref()
                .map_or_else(|| BTreeMap::from([("out".to_owned(), made)]), |r| r.outputs.clone()),
            manifest: plan.manifest(planned.id),
            seconds: 1.0,
            finished_unix: 0,
            origin: BTreeMap::new(),
        };
        if known.is_none() {
            ran.push(planned.step.label().to_owned());
        }
        outputs.insert(output(planned.id.0), record.outputs["out"].clone());
        space.store.record(&record).expect("records");
    }
    ran
}

fn same(_: &Step) -> i64 {
    1
}

#[test]
fn edits_re_run_exactly_what_depends_on_them() {
    type Edit = fn(&mut Draft, &Path);
    let edits: &[(&str, Edit, &[&str])] = &[
        ("nothing", |_, _| (), &[]),
        ("renamed binding", |e, _| e.steps[3].label = "round".to_owned(), &[]),
        ("another axis point", |e, _| e.steps[3].point = vec![("rate".into(), "50%".into())], &[]),
        ("moved text", |e, _| e.steps[3].span = Span::new(FileId(4), 90, 91), &[]),
        ("run block", |e, _| e.steps[3].run.cpus = Some(9), &[]),
        ("a place", |e, _| drop(e.steps[3].unkeyed.insert("uri".into(), Value::Int(1))), &[]),
        ("file touched", |_, f| fs::write(f.join("a.txt"), "one").expect("written"), &[]),
        ("another file kind", |_, f| fs::write(f.join("c.md"), "x").expect("written"), &[]),
        (
            "file renamed in order",
            |_, f| fs::rename(f.join("a.txt"), f.join("aa.txt")).expect("renamed"),
            &[],
        ),
        (
            "a number",
            |e, _| drop(e.steps[3].params.insert("tokens".into(), number(101))),
            &["train", "eval"],
        ),
        (
            "kind of number",
            |e, _| drop(e.steps[3].params.insert("tokens".into(), Arg::Value(Value::Float(100.0)))),
            &["train", "eval"],
        ),
        (
            "stage version",
            |e, _| Arc::make_mut(&mut e.steps[2].stage).version = 2,
            &["count", "eval"],
        ),
        (
            "seed",
            |e, _| drop(e.steps[1].params.insert("seed".into(), number(8))),
            &["split", "count", "train", "eval"],
        ),
        (
            "file content",
            |_, f| fs::write(f.join("a.txt"), "1").expect("written"),
            &["text", "split", "count", "train", "eval"],
        ),
        (
            "one file more",
            |_, f| fs::write(f.join("c.txt"), "3").expect("written"),
            &["text", "split", "count", "train", "eval"],
        ),
    ];
    for (what, edit, expected) in edits {
        let space = space();
        let mut expansion = expansion(&space.files);
        let all = ["text", "split", "count", "train", "eval"];
        assert_eq!(run(&space, &expansion, same), all);
        edit(&mut expansion, &space.files);
        // Every content differs from the first run's, so nothing is cut off early.
        assert_eq!(run(&space, &expansion, |_| 2), *expected, "{what}");
        assert_eq!(run(&space, &expansion, |_| 3), [""; 0], "{what}, again");
    }
}

#[test]
fn what_is_explained_is_what_is_hashed() {
    let space = space();
    let mut draft = expansion(&space.files);
    let place = BTreeMap::from([("uri".to_owned(), Value::Str("a".to_owned()))]);
    draft.steps[3].unkeyed = place;
    // Declared in another order than that of their names.
    draft.steps[4].inputs.extend([
        ("data".to_owned(), Input::Output(output(1))),
        ("files".to_owned(), files("*.txt", &space.files)),
    ]);
    let plan = plan(&space, &draft, "cpu/test");
    for planned in plan.steps() {
        let manifest = plan.manifest(planned.id);
        assert_eq!(manifest.digest(graph::key::RECIPE), planned.recipe, "{manifest:?}");
    }
}

#[test]
fn equal_contents_cut_off_what_follows() {
    let space = space();
    let mut expansion = expansion(&space.files);
    run(&space, &expansion, same);
    fs::write(space.files.join("a.txt"), "another").expect("written");
    // The text stage gives the same corpus for it, so nothing behind it runs.
    assert_eq!(run(&space, &expansion, same), ["text"]);
    expansion.steps[1].params.insert("seed".to_owned(), number(8));
    assert_eq!(run(&space, &expansion, same), ["split"]);
}

/// So that a run starts its first step before it has looked at what all others use.
#[test]
fn nothing_is_looked_up_by_content_before_a_plan_is_settled() {
    let space = space();
    let expansion = expansion(&space.files);
    run(&space, &expansion, same);
    fs::write(space.files.join("a.txt"), "another").expect("written");
    let text = plan(&space, &expansion, "cpu/test").steps().next().expect("a step").recipe;
    let made = Record { recipe: text, ..space.store.records()[0].as_ref().clone() };
    space.store.record(&made).expect("recorded");
    let checked = graph::plan(expansion.expansion(), &space.store, "cpu/test");
    let (mut plan, _) = checked.finish().expect("no errors");
    let is_waiting = |plan: &Plan| plan.steps().skip(1).all(|s| *s.status == Status::Waiting);
    assert!(is_waiting(&plan) && plan.due().len() == plan.len() - 1);
    plan.settle(&space.store);
    let is_same = |status: &Status| matches!(status, Status::Same(_));
    assert!(plan.steps().skip(1).all(|s| is_same(s.status)) && plan.due().is_empty());
}

#[test]
fn only_tensor_stages_see_the_numerics_class() {
    let space = space();
    let expansion = expansion(&space.files);
    let keys =
        |numerics| plan(&space, &expansion, numerics).steps().map(|s| s.recipe).collect::<Vec<_>>();
    let (cpu, cuda) = (keys("cpu/1"), keys("cuda/1"));
    let differ: Vec<_> = cpu.iter().zip(&cuda).map(|(a, b)| a != b).collect();
    assert_eq!(differ, [false, false, false, true, true]);
}

#[test]
fn the_first_stale_step_can_run_and_the_rest_waits() {
    let space = space();
    let expansion = expansion(&space.files);
    let before = plan(&space, &expansion, "cpu/test");
    let statuses: Vec<_> = before.steps().map(|s| s.status.clone()).collect();
    assert_eq!(statuses[0], Status::Stale);
    assert!(statuses[1..].iter().all(|status| *status == Status::Waiting));
    run(&space, &expansion, same);
    let after = plan(&space, &expansion, "cpu/test");
    assert!(after.steps().all(|s| *s.status == Status::Fresh));
}

fn explained(space: &Space, expansion: &Draft, step: u32) -> Why {
    let plan = plan(space, expansion, "cpu/test");
    let planned = plan.get(StepId(step)).expect("of the plan");
    History::of(&space.store, [planned.step].into_iter()).why(&plan, planned)
}

#[test]
fn why_names_the_changed_fields_and_their_place() {
    let space = space();
    let mut expansion = expansion(&space.files);
    let never = explained(&space, &expansion, 3);
    assert_eq!((never.nearest, never.changes.len()), (None, 0));
    run(&space, &expansion, same);
    expansion.steps[3].params.insert("tokens".to_owned(), number(50));
    let why = explained(&space, &expansion, 3);
    let shown: Vec<_> = why
        .changes
        .iter()
        .map(|c| (c.field.as_str(), c.before.clone(), c.now.clone(), c.span))
        .collect();
    assert_eq!(
        shown,
        [("params.tokens", Some(Value::Int(100)), Some(Value::Int(50)), Some(span()))]
    );
    let fresh = explained(&space, &expansion, 1);
    assert_eq!(fresh.changes, []);
}

#[test]
fn missing_files_are_found_with_a_suggestion() {
    let space = space();
    let mut expansion = expansion(&space.files);
    expansion.steps[0].inputs[0].1 = files("c.txt", &space.files);
    let checked = graph::plan(expansion.expansion(), &space.store, "cpu/test");
    let found = checked.finish().expect_err("found");
    assert_eq!((found.len(), found[0].code), (1, "tlm::graph::missing_file"));
    assert!(
        found[0].help.as_ref().is_some_and(|help| help.starts_with("there is `a.txt`")),
        "{found:?}"
    );
}

#[test]
fn drawings_show_each_step_and_edge_once() {
    let space = space();
    let plan = plan(&space, &expansion(&space.files), "cpu/test");
    let dot = graph::dot(&plan);
    let train = "3 [ label=\"train\\ntest.train\", fillcolor=\"#e0e0e0\"";
    assert!(dot.contains(train), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), 5, "{dot}");
    let mermaid = graph::mermaid(&plan);
    assert!(mermaid.contains("s0[\"text<br/>test.text\"]"), "{mermaid}");
    assert_eq!(mermaid.matches(" --> ").count(), 5, "{mermaid}");
}
