//! Figures of what a run made: the logs of trainings and their numbers.

use std::fs;

use serde_json::Value;

use crate::run::space::{Space, check};

const RECIPE: &str = r#"use std.{corpus}

stage fit(text: Corpus; rate: Float, seed: Count) -> { log: TrainLog, loss: Float, params: Count }  version 1 uses "fit.py" shell """
  python3 fit.py {rate} {seed} {log} {loss} {params}
"""

axis rate = [0.5, 0.125]
axis seed = [1, 2]
axis arm  = ["plain", "long"]

let r = fit(corpus.text("texts/*.txt", delimiter: arm), rate: if arm == "long" then rate / 2 else rate, seed: seed)

plan default = r over rate * arm * seed

## The loss along the training.
report losses = curve(r.log, rows: [arm, rate])

## What it ends with.
report ends = bars(mean_std(r.loss, over: seed), rows: rate, cols: arm)
report along = curve(mean_std(r.loss, over: seed), rows: [arm, rate])
report sizes = scatter([r.params, r.loss], rows: [rate, seed], cols: arm)
report field = heat(r.loss, rows: rate, cols: arm)
report best = table(mean_std(r.loss, over: seed), rows: [rate], cols: arm, best: low, delta: true)
"#;

const FIT: &str = "import json, math, os, sys
rate, seed, log, loss, params = sys.argv[1:]
rate, seed = float(rate), int(seed)
os.mkdir(log)
at = lambda step: 2 + math.exp(-rate * step / 9) + 0.01 * (step * 7 * seed % 5)
with open(log + '/log.jsonl', 'w') as lines:
    for step in range(40):
        lines.write(json.dumps({'tokens': 64 * step, 'loss': at(step)}) + '\\n')
json.dump(at(39), open(loss, 'w'))
json.dump(int(1e5 * rate) + seed, open(params, 'w'))
";

#[test]
fn logs_are_drawn_and_their_last_losses_told() {
    let space = Space::with(RECIPE);
    space.write("fit.py", FIT);
    let run = space.tlm(&["run", "r.tlm", "--report", "page.html"]);
    check(&run, 0, &["losses: The loss along the training.", "Spearman's ρ: "]);
    let page = fs::read_to_string(space.path("page.html")).expect("a page");
    assert_eq!(page.matches("class=\"chart\"").count(), 5 + 2, "figures, and all logs");

    let figures = ["report", "r.tlm", "--format", "markdown", "--figures", "out/figures"];
    let markdown = space.tlm(&figures).out;
    for name in ["losses", "ends", "along", "sizes", "field"] {
        assert!(markdown.contains(&format!("\n![{name}](out/figures/{name}.svg)\n")), "{markdown}");
        let svg =
            fs::read_to_string(space.path(&format!("out/figures/{name}.svg"))).expect("a figure");
        assert!(svg.contains("fill=\"#ffffff\"") && !svg.contains("var("), "{svg}");
        assert!(!svg.contains("href"), "leads nowhere: {svg}");
    }
    assert!(!space.path("out/figures/best.svg").exists(), "a table is no figure");
    let refused = space.tlm(&["report", "r.tlm", "--figures", "r.tlm/figures"]);
    check(&refused, 1, &["can't write `r.tlm/figures`", "`--figures`"]);

    let csv = space.tlm(&["report", "r.tlm", "--name", "losses", "--format", "csv"]).out;
    assert_eq!(csv.lines().count(), 1 + 4 * 40);
    assert!(csv.starts_with("arm,rate,log,tokens,loss\n\"\"\"plain\"\"\",0.5,log,0,3\n"), "{csv}");
    let json = |name: &str| {
        let told = space.tlm(&["report", "r.tlm", "--name", name, "--format", "json"]).out;
        serde_json::from_str::<Value>(&told).expect("JSON")[0].clone()
    };
    let cell = json("losses")["rows"][0]["cells"][0].clone();
    assert_eq!(
        (&cell["state"], cell["points"].as_array().map(Vec::len)),
        (&"curve".into(), Some(40))
    );

    // What is damaged leaves a gap.
    let key = cell["sources"][0]["key"].as_str().expect("a key");
    let shown = space.tlm(&["show", key]).out;
    let log = shown.lines().find_map(|line| line.trim().strip_prefix("log: ")).expect("a log");
    let log = space.path(log.split(',').next().expect("a path"));
    fs::remove_dir_all(&log).expect("removed");
    let cell = json("losses")["rows"][0]["cells"][0].clone();
    assert_eq!((&cell["state"], &cell["text"]), (&"pending".into(), &"…".into()));
}
