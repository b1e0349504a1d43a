//! What runs look like: tables, progress lines, JSON lines, the HTML page.
//!
//! Golden files lie in `tests/golden/report`; `INSTA_UPDATE=always cargo test report` rewrites them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tlm::base::{Digest, Value};
use tlm::data::train_log::Point;
use tlm::exec::Estimate;
use tlm::report::draw::{Format, draw, draw_all};
use tlm::report::html::{
    self, Artifact, Curve, Frequencies, Live, Page, Progress, Status, StepCard,
};
use tlm::report::jsonl::{Line, StepName, cells, json};
use tlm::report::summary::{self, Flops, PlanLine, PlanState, summary};
use tlm::report::{Found, Shown, Source, StepFacts, Table, Terminal, resolve};
use tlm::sema::late::Late;
use tlm::sema::steps::{Best, Cell, Column, OutputRef, Report, ReportRow, StepId, View};
use tlm::stage::{Event, Failure, FailureKind};

#[track_caller]
fn check(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden/report");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn output(step: u32) -> Option<Cell> {
    Some(Cell::Late(Late::Output(OutputRef { step: StepId(step), output: "perplexity".into() })))
}

pub(crate) fn table() -> Table {
    let row = |labels: [&str; 2], cells| ReportRow {
        labels: labels.map(String::from).to_vec(),
        x: None,
        is_baseline: labels[0] == "hard",
        cells,
    };
    let report = Report {
        name: "rounds".into(),
        view: View::Table { best: None, delta: false },
        caption: Some("Perplexity on held-out text.".into()),
        row_axes: vec!["arm".into(), "rate".into()],
        columns: ["perplexity", "tokens"]
            .map(|value| Column { value: value.into(), at: None })
            .into(),
        rows: vec![
            row(["hard", "50%"], vec![output(1), Some(Cell::Value(Value::Int(409_600)))]),
            row(["hard | x", "0%"], vec![output(2), None]),
            row(["困难", "100%"], vec![output(3), Some(Cell::Value(Value::Int(-1)))]),
            row(
                ["uniform", "50%"],
                vec![output(4), Some(Cell::Value(Value::Str("a, \"b\"".into())))],
            ),
        ],
    };
    resolve(&report, &|output| Found {
        shown: match output.step.0 {
            1 => Shown::Value(Value::Float(45.318_77)),
            2 => Shown::Failed,
            3 => Shown::Value(Value::Float(1102.5)),
            _ => Shown::Pending,
        },
        source: Some(Source {
            step: output.step,
            name: format!("m[{}]", output.step.0),
            key: Digest::of(&[output.step.0 as u8]),
        }),
    })
}

#[test]
fn tables() {
    check("table_ruled", &draw(&table(), Format::Ruled));
    check("table_markdown", &draw(&table(), Format::Markdown));
    let marked = |best, delta| Table { view: View::Table { best, delta }, ..table() };
    check("table_ruled_best", &draw(&marked(Some(Best::Low), true), Format::Ruled));
    check("table_markdown_best", &draw(&marked(Some(Best::High), false), Format::Markdown));
}

/// A figure of each kind, and a table, at two rates of two arms: of the last one nothing is there yet.
fn figures() -> Vec<Table> {
    let late =
        |step, name: &str| Late::Output(OutputRef { step: StepId(step), output: name.into() });
    let cell = |step, name: &str| Some(Cell::Late(late(step, name)));
    let spread =
        |step| Some(Cell::Spread((0..3).map(|seed| late(step * 3 + seed, "acc")).collect()));
    let log = |step| Some(Cell::Log(OutputRef { step: StepId(step), output: "log".into() }));
    let arms = [Some("100%_\\"), Some("b & c")];
    let columns = |values: &[&str]| {
        let column = |value: &&str, arm: Option<&str>| Column {
            value: value.to_string(),
            at: arm.map(|arm| ("arm".to_owned(), arm.to_owned())),
        };
        values.iter().flat_map(|value| arms.map(|arm| column(value, arm))).collect::<Vec<_>>()
    };
    let figure = |name: &str, view, values: &[&str], cells: &dyn Fn(u32) -> Vec<Option<Cell>>| {
        let rows = (0..4).map(|at| ReportRow {
            labels: vec![format!("{}", 0.25 * f64::from(at + 1))],
            x: Some(0.25 * f64::from(at + 1)),
            is_baseline: at == 0,
            cells: cells(at),
        });
        let report = Report {
            name: name.into(),
            view,
            caption: Some(format!("What a {name} is <like>,\nin two lines.")),
            row_axes: vec!["rate".into()],
            columns: columns(values),
            rows: rows.collect(),
        };
        resolve(&report, &|output| Found {
            shown: match &*output.output {
                _ if output.step.0 > 20 => Shown::Pending,
                "log" => Shown::Curve(curve(output.step.0 as usize, 60).points),
                "params" => Shown::Value(Value::Int(1000 << output.step.0)),
                _ => Shown::Value(Value::Float(
                    0.5 + 0.04 * f64::from(output.step.0)
                        - 0.011 * f64::from(output.step.0.pow(2) % 13),
                )),
            },
            source: Some(Source {
                step: output.step,
                name: format!("m[{}]", output.step.0),
                key: Digest::of(&[output.step.0 as u8]),
            }),
        })
    };
    let best = View::Table { best: Some(Best::High), delta: false };
    vec![
        figure("table", best, &["acc"], &|at| vec![spread(at), spread(at + 4)]),
        figure("bars", View::Bars, &["acc"], &|at| vec![spread(at), spread(at + 4)]),
        figure("line", View::Curve, &["acc"], &|at| vec![spread(at), cell(at + 9, "acc")]),
        figure("curve", View::Curve, &["log"], &|at| vec![log(at), None]),
        figure("scatter", View::Scatter, &["params", "acc"], &|at| {
            vec![
                cell(at, "params"),
                cell(at + 4, "params"),
                cell(at, "acc"),
                cell(2 * at + 5, "acc"),
            ]
        }),
        figure("heat", View::Heat, &["acc"], &|at| vec![cell(at, "acc"), cell(6 * at + 3, "acc")]),
    ]
}

#[test]
fn tables_for_other_programs() {
    // Figures draw points of logs; four are enough to see the form.
    let mut tables = figures();
    for cell in tables.iter_mut().flat_map(|table| &mut table.rows).flat_map(|row| &mut row.cells) {
        if let Shown::Curve(points) = &mut cell.shown {
            points.truncate(4);
        }
    }
    for (name, format) in [
        ("figures.ruled", Format::Ruled),
        ("figures.csv", Format::Csv),
        ("figures.latex", Format::Latex),
    ] {
        check(name, &draw_all(&tables, format));
    }
    tables.iter_mut().for_each(|table| table.rows.truncate(1));
    check("figures.json", &draw_all(&tables, Format::Json));
    assert_eq!(draw_all(&[], Format::Json), "[]\n");
}

/// A curve with some noise.
fn curve(index: usize, points: u32) -> Curve {
    let noise = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 16) / 65536.0 - 0.5;
    let point = |i: u32| Point {
        tokens: f64::from(i) * 4096.0,
        loss: 5.0 + 0.13 * index as f64 + 3.3 * (-f64::from(i) / 25.0).exp() + 0.35 * noise(i + 77),
    };
    Curve { name: String::new(), points: (1..points).map(point).collect() }
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn facts(name: &str, stage: &str) -> StepFacts {
    StepFacts { name: name.into(), stage: stage.into(), expected_seconds: None }
}

#[test]
fn plain_lines() {
    let steps = BTreeMap::from([
        (StepId(1), facts("r1", "train.run")),
        (StepId(2), facts("losses", "rounds.score")),
        (StepId(3), facts("r2[rate=50%]", "train.run")),
        (StepId(4), facts("m[rate=50%]", "eval.perplexity")),
    ]);
    let out = Shared::default();
    let mut terminal = Terminal::plain(steps, Box::new(out.clone()), "tlm run quickstart.tlm");
    terminal.others(1, 1);
    // A fresh step was counted with them, and is not told.
    terminal.reused(StepId(0));
    terminal.started(StepId(1));
    // Progress in the first second stays quiet.
    terminal
        .worker(StepId(1), &Event::Progress { done: 5, total: Some(10), unit: "tokens".into() });
    terminal.finished(StepId(1), 185.0);
    terminal.reused(StepId(2));
    terminal.started(StepId(3));
    let failure = Failure {
        kind: FailureKind::Crashed,
        message: "the worker was killed by signal 9\n(out of memory?)".into(),
        help: None,
    };
    let tail = ["step 12 loss 5.31".to_owned(), "\u{1b}[31mred\u{7}".to_owned()];
    terminal.failed(StepId(3), &failure, &tail, Some(Path::new(".tlm/logs/ab12.log")));
    terminal.skipped(StepId(4), StepId(3));
    let ending = terminal.close(false);
    let (head, rest) = ending.split_once('\n').unwrap();
    let (ran, also) = head.split_once(" in ").unwrap();
    let also = also.split_once(',').unwrap().1;
    let lines = String::from_utf8(out.0.borrow().clone()).unwrap();
    check("plain", &format!("{lines}{ran} in TIME,{also}\n{rest}"));
}

#[test]
fn plan_summary() {
    let line = |name: &str, stage: &str, state: PlanState, expected, flops| PlanLine {
        step: StepName { id: 0, name: name.into(), stage: stage.into(), key: Digest::of(b"key") },
        is_blocked: matches!(state, PlanState::Waiting { .. }),
        state,
        expected,
        flops,
    };
    let due = |why: &str| PlanState::Due { why: why.into() };
    let waits = || PlanState::Waiting { on: vec!["r2[rate=50%]".into()] };
    let took = Estimate { seconds: 185.0, bytes: 3 << 29 };
    let lines = [
        line("ds", "dataset.pack", due("seq: 256 -> 512"), Some(took), Flops::Known(0.0)),
        line("r1", "train.run", due("lr: 0.001 -> 0.002"), Some(took), Flops::Known(2.817_9e20)),
        line("m[rate=50%]", "eval.perplexity", waits(), None, Flops::Until("ds".into())),
        line("n[rate=50%]", "eval.perplexity", waits(), None, Flops::Until("ds".into())),
        line("c", "eval.choice", waits(), None, Flops::Unknown),
    ];
    let all = [
        summary(6, &lines, Some(494.5e12)),
        summary(2, &lines[..2], None),
        summary(1, &lines[..1], Some(494.5e12)),
        summary(1, &[], None),
    ];
    check("plan", &all.concat());
    let due = lines.iter().map(|line| json(&summary::json(line)) + "\n");
    check("plan_json", &due.collect::<String>());
}

#[test]
fn json_lines() {
    let step =
        StepName { id: 3, name: "r1".into(), stage: "train.run".into(), key: Digest::of(b"r1") };
    let mut lines = vec![
        Line::Plan { steps: 14, fresh: 9, elsewhere: 0 },
        Line::Started { step: step.clone() },
        Line::Progress { step: step.clone(), done: 4096, total: None, unit: "tokens".into() },
        Line::Metric { step: step.clone(), name: "loss".into(), value: 5.25 },
        Line::Metric { step: step.clone(), name: "loss".into(), value: f64::NAN },
        Line::Waiting {
            step: step.clone(),
            holder: Some("process 7 on box: tlm run a.tlm".into()),
        },
        Line::Retrying {
            step: step.clone(),
            kind: FailureKind::Killed,
            message: "the worker died".into(),
            help: None,
            limit: None,
            mem: Some(2 << 30),
        },
        Line::Finished {
            step: step.clone(),
            seconds: 2.5,
            scalars: BTreeMap::from([("loss".into(), Value::Float(4.5))]),
            artifacts: BTreeMap::from([("model".into(), Digest::of(b"model"))]),
        },
        Line::Failed {
            step: step.clone(),
            kind: FailureKind::TimedOut,
            message: "too long".into(),
            help: None,
            log: None,
        },
        Line::Skipped { step: step.clone(), because: step },
    ];
    lines.extend(cells(&table()));
    lines.push(Line::Summary {
        ran: 1,
        reused: 9,
        failed: 1,
        skipped: 3,
        interrupted: false,
        seconds: 3.5,
    });
    let text: Vec<_> = lines.iter().map(json).collect();
    check("events", &text.join("\n"));
    let page = include_str!("../../docs/events.md");
    for line in &text {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in
            line.as_object().unwrap().keys().chain([&line["event"].as_str().unwrap().to_owned()])
        {
            assert!(
                page.contains(&format!("`{field}`")),
                "docs/events.md does not tell of `{field}`"
            );
        }
    }
}

/// A step: label, stage, axis values, inputs.
type Call = (&'static str, &'static str, &'static [&'static str], &'static [u32]);

/// The quickstart's graph.
const STEPS: &[Call] = &[
    ("donor_file", "source.fetch", &[], &[]),
    ("donor", "model.open", &[], &[0]),
    ("text", "corpus.text", &[], &[]),
    ("split", "corpus.split", &[], &[2]),
    ("counts", "tokenizer.count", &[], &[3, 1]),
    ("tok", "tokenizer.prune", &[], &[1, 4]),
    ("ds", "dataset.pack", &[], &[3, 5]),
    ("dev", "dataset.pack", &[], &[3, 5]),
    ("init", "model.inherit", &[], &[1, 5]),
    ("scratch", "model.init", &[], &[5]),
    ("r1", "train.run", &[], &[8, 6]),
    ("r1s", "train.run", &[], &[9, 6]),
    ("losses", "rounds.score", &[], &[10, 6]),
    ("hard", "rounds.resample", &["hard", "50%"], &[6, 12]),
    ("hard", "rounds.resample", &["uniform", "50%"], &[6, 12]),
    ("hard", "rounds.resample", &["hard", "25%"], &[6, 12]),
    ("r2", "train.run", &["hard", "50%"], &[10, 13]),
    ("r2", "train.run", &["uniform", "50%"], &[10, 14]),
    ("r2", "train.run", &["hard", "25%"], &[10, 15]),
    ("m", "eval.perplexity", &["hard", "50%"], &[16, 7]),
    ("m", "eval.perplexity", &["uniform", "50%"], &[17, 7]),
    ("m", "eval.perplexity", &["hard", "25%"], &[18, 7]),
    ("ms", "eval.perplexity", &[], &[11, 7]),
];

pub(crate) fn page() -> Page {
    let card = |(id, (label, stage, point, inputs)): (usize, &Call)| {
        let point: Vec<_> = ["arm", "rate"]
            .iter()
            .zip(*point)
            .map(|(a, v)| (a.to_string(), v.to_string()))
            .collect();
        StepCard {
            id: id as u32,
            label: label.to_string(),
            name: tlm::base::text::name_at(label, &point),
            point,
            stage: stage.to_string(),
            status: [Status::Ran, Status::Reused, Status::Ran, Status::Failed, Status::NotRun]
                [id * 7 % 5],
            key: Digest::of(label.as_bytes()).to_string(),
            seconds: (id % 3 > 0).then_some(id as f64 * 3.7),
            params: vec![
                ("lr".into(), "0.001".into()),
                ("uri".into(), "<script>alert(1)</script>".into()),
            ],
            scalars: vec![("loss".into(), "4.512".into())],
            artifacts: vec![Artifact {
                name: "out".into(),
                path: ".tlm/objects/ab/cd".into(),
                bytes: 5000,
            }],
            inputs: inputs
                .iter()
                .map(|i| ("data".into(), *i, STEPS[*i as usize].0.into()))
                .collect(),
            origin: vec![("host".into(), "here".into())],
            log: Some(".tlm/logs/x.log".into()),
            ..StepCard::default()
        }
    };
    let named = |(index, name): (usize, &str)| {
        let Curve { points, .. } = curve(index, if index < 2 { 98 } else { 49 });
        Curve { name: name.into(), points }
    };
    Page {
        mark: String::new(),
        title: "quickstart <&>".into(),
        recipe: "examples/quickstart.tlm".into(),
        facts: vec![
            ("when".into(), "2026-01-02 03:04 UTC".into()),
            ("machine".into(), "2 CPUs".into()),
            ("steps".into(), "23, 9 ran, 14 reused".into()),
        ],
        tables: [vec![table()], figures()].concat(),
        curves: [
            "r1",
            "r1s",
            "r2[arm=hard, rate=50%]",
            "r2[arm=uniform, rate=50%]",
            "r2[arm=hard, rate=25%]",
        ]
        .into_iter()
        .enumerate()
        .map(named)
        .collect(),
        frequencies: vec![Frequencies {
            name: "counts".into(),
            ranks: (1..200).map(|rank| (f64::from(rank), 1e6 / f64::from(rank))).collect(),
            coverage: (1..200).map(|size| (f64::from(size), f64::from(size) / 199.0)).collect(),
        }],
        steps: STEPS.iter().enumerate().map(card).collect(),
        source: "let donor = model.open(\"pypi:x\") # a < b && </pre>\n".into(),
        live: None,
    }
}

/// Returns the values of an attribute over the whole page.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!(" {name}=\"");
    html.split(&*open).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_page_stands_alone_and_its_links_lead_somewhere() {
    let html = html::render(&page()).unwrap();
    let ids: BTreeSet<_> = attributes(&html, "id").into_iter().collect();
    assert_eq!(ids.len(), attributes(&html, "id").len(), "an id occurs twice");
    for href in attributes(&html, "href") {
        assert!(
            href.strip_prefix('#').is_some_and(|id| ids.contains(id)),
            "dangling link `{href}`"
        );
    }
    assert!(attributes(&html, "src").is_empty(), "the page loads something");
    assert_eq!(html.replace("http://www.w3.org/2000/svg", "").find("://"), None);
    assert_eq!(html.matches("<script").count(), 1, "a recipe's text became markup");
    assert!(html.contains("&lt;script&gt;"));
    assert!(!html.contains("</pre>\n</code>"));
    for (tag, count) in [
        ("class=\"edge\"", 39),
        ("class=\"node ", 23),
        ("<section class=\"step\"", 23),
        ("class=\"chart\"", 8),
    ] {
        assert_eq!(html.matches(tag).count(), count, "{tag}");
    }
    for tag in
        ["table", "figure", "details", "section", "svg", "g", "text", "a", "dl", "main", "tr"]
    {
        let opened =
            html.matches(&format!("<{tag} ")).count() + html.matches(&format!("<{tag}>")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "unbalanced <{tag}>");
    }
    for part in ["\n1k\n</text>", "\n20%\n</text>", "aria-label=\"token frequency by rank\""] {
        assert!(html.contains(part), "no `{part}`");
    }
    for name in ["r1s", "r2[arm=uniform, rate=50%]"] {
        assert!(html.contains(&format!("{name}\n</text>")), "the line of `{name}` has no label");
    }
}

#[test]
fn an_empty_page_draws() {
    let html = html::render(&Page::default()).unwrap();
    assert!(html.contains("</html>") && !html.contains("<svg"));
}

#[test]
fn many_curves_make_several_charts() {
    let curve = |i: usize| Curve {
        name: format!("r{}[seed={i}]", i % 2),
        points: vec![Point { tokens: 1.0, loss: 2.0 }],
    };
    let html =
        html::render(&Page { curves: (0..16).map(curve).collect(), ..Page::default() }).unwrap();
    assert_eq!(html.matches("class=\"chart\"").count(), 4);
}

/// A page of `labels` chains of steps, each at `points` axis points.
fn large_page(labels: u32, points: u32) -> Page {
    let card = |id: u32| {
        let (label, point) = (id / points, id % points);
        let input = |from: u32| ("data".to_owned(), from * points + point, format!("s{from}"));
        StepCard {
            id,
            label: format!("s{label}"),
            name: format!("s{label}[seed={point}]"),
            point: vec![("seed".into(), point.to_string())],
            stage: "train.run".into(),
            status: if point % 3 == 0 { Status::Ran } else { Status::Reused },
            seconds: Some(1.0),
            // A step uses the one before it, and some far before it.
            inputs: [label.checked_sub(1), label.checked_sub(1 + label % 7)]
                .into_iter()
                .flatten()
                .map(input)
                .collect(),
            ..StepCard::default()
        }
    };
    Page { steps: (0..labels * points).map(card).collect(), ..Page::default() }
}

#[test]
fn a_live_page_tells_how_far_steps_are_and_which_failed() {
    let mut page = page();
    for step in &mut page.steps {
        let progress = Progress { fraction: Some(0.257), told: "257 of 1k tokens".into() };
        (step.status, step.progress) = (Status::Running, Some(progress));
    }
    (page.steps[1].status, page.steps[1].progress) = (Status::Failed, None);
    page.steps[1].log_end = vec!["<b>".into(), "failed: no".into()];
    let runs = vec!["process 7 on box: tlm run a.tlm".into()];
    page.live = Some(Live { problem: Some("1 > 2".into()), runs });
    let html = html::render(&page).expect("drawn");
    for (part, count) in [
        ("running · 25%", 22),
        ("<span> · 257 of 1k tokens</span>", 22 + 19),
        ("<progress value=\"0.2570\">", 22 + 19),
        ("class=\"word failed\"", 2),
        ("&lt;b&gt;\nfailed: no</pre>", 1),
        ("<li class=\"note\">and 3 more steps</li>", 1),
        ("<li class=\"going\">process 7 on box: tlm run a.tlm</li>", 1),
        ("1 &gt; 2", 1),
        ("<body data-live>", 1),
    ] {
        assert_eq!(html.matches(part).count(), count, "{part}");
    }
}

#[test]
fn a_large_graph_is_folded_over_axis_points() {
    let drawn = |page: &Page| html::render(page).unwrap();
    let whole = drawn(&large_page(20, 20));
    assert_eq!(whole.matches("class=\"node ").count(), 400);
    let began = Instant::now();
    let folded = drawn(&large_page(100, 100));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(folded.matches("class=\"node ").count(), 100);
    assert_eq!(folded.matches("<section class=\"step\"").count(), 10_000);
    for part in ["10,000 steps in 100 nodes", ">100 steps</text>", ">34 ran, 66 reused"] {
        assert!(folded.contains(part), "no `{part}`");
    }
    let refused = drawn(&large_page(10_000, 1));
    assert!(!refused.contains("<svg"));
    assert!(refused.contains("10,000 steps of 10,000 labels are too many to draw here"));
}

#[test]
fn a_page_is_written_whole() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sample.report.html");
    html::write(&page(), &path).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().trim_end().ends_with("</html>"));
    let nowhere = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no such folder/x.html");
    let error = html::write(&page(), &nowhere).unwrap_err().to_string();
    assert!(
        error.starts_with("can't write the report `") && error.contains("no such folder"),
        "{error}"
    );
}
