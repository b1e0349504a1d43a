//! The recipes of the paper in `examples/paper`, and the functions of the standard library that they are written with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tlm::base::{Digest, SourceMap, Value};
use tlm::diag::{Diagnostic, render};
use tlm::graph::{self, Planned};
use tlm::sema::steps::Cell;
use tlm::sema::{self, Expansion, Overlay};
use tlm::store::Store;

/// Each recipe with the trainings that it needs, and how many of these no recipe above needs: a second round of training counts as
/// one. Where the digest of the paper (section 8) counts otherwise, the comment says why.
const RECIPES: [(&str, usize, usize); 26] = [
    ("b0", 1, 1),
    ("tok-coverage", 0, 0),
    ("tok-size", 6, 5),
    ("tok-share", 0, 0),
    ("arch-depth-width", 5, 4),
    ("arch-expand", 4, 3),
    // About 30; their list is not published.
    ("arch-sample", 31, 31),
    ("arch-heads", 3, 2),
    ("arch-speed", 0, 0),
    ("init-random", 4, 3),
    ("init-std-drift", 4, 0),
    ("inherit-layer-skip", 0, 0),
    ("inherit-criterion", 5, 5),
    // 24 points; at the smallest batch all growth rates are one, and that is the base run.
    ("opt-bs-lr", 21, 20),
    ("opt-bs-lr-curves", 11, 0),
    ("opt-weight-decay", 5, 4),
    // The five models and the larger Pro, each Pro with a second round.
    ("ladder", 7, 7),
    ("final", 5, 0),
    ("arch-gqa", 2, 1),
    ("round-forgetting", 1, 0),
    // The first round and a second one for each of four rates, of which the ladder has one.
    ("round-rate", 5, 3),
    ("round-count", 3, 1),
    ("round-curve", 3, 0),
    ("pangu-modules", 4, 4),
    ("pangu-siaf", 4, 2),
    ("pangu-as", 6, 4),
];

/// How many lines all recipes but the base may have, without comments and empty ones.
const LINES_MAX: usize = 200;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/paper")
}

/// Returns what a recipe's default plans come to.
#[track_caller]
fn expand(name: &str, text: &str, profile: Option<&str>) -> Expansion {
    let mut sources = SourceMap::default();
    let file = sources.add(name, text);
    let overlay = Overlay { profile: profile.map(str::to_owned), ..Overlay::default() };
    let loaded = sema::load(&mut sources, file, &folder(), &overlay);
    let told = |found: &[_]| format!("{name}: {}", render(&sources, found, 100, false));
    let (program, found) = loaded.finish().unwrap_or_else(|found| panic!("{}", told(&found)));
    let found = [found, sema::check(&program)].concat();
    assert!(found.is_empty(), "{}", told(&found));
    let expanded = sema::expand(&program, &[]).finish();
    expanded.unwrap_or_else(|found| panic!("{}", told(&found))).0
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(format!("{name}.tlm"))).expect("readable")
}

/// Returns of each recipe how many trainings it needs, and how many of these none above needs. Files may be missing at full size:
/// then keys are of no use, but equal where they should be.
fn trainings(profile: Option<&str>) -> [(&'static str, usize, usize); RECIPES.len()] {
    let store = tempfile::tempdir().expect("a folder");
    let store = Store::open(store.path()).expect("opens");
    let mut known: BTreeSet<Digest> = BTreeSet::new();
    RECIPES.map(|(name, ..)| {
        let planned = graph::plan(expand(name, &read(name), profile), &store, "cpu/test");
        let is_missing = |found: &Diagnostic| found.code == "tlm::graph::missing_file";
        assert!(planned.diagnostics.iter().all(|found| profile.is_none() && is_missing(found)));
        let is_training =
            |step: &Planned<'_>| matches!(&*step.step.stage().name, "train.run" | "train.keep");
        let trainings = planned.value.steps().filter(|step| is_training(step));
        let keys: BTreeSet<_> = trainings.map(|step| step.recipe).collect();
        let (all, new) = (keys.len(), keys.difference(&known).count());
        known.extend(keys);
        (name, all, new)
    })
}

#[test]
fn recipes_of_the_paper_share_what_they_train() {
    assert_eq!(trainings(None), RECIPES);
}

/// The files of the profile are in the repository. Other vocabularies have other depths, so the base run is not one of them.
#[test]
fn recipes_of_the_paper_can_be_planned_without_its_data() {
    let all = |(name, all, _)| (name, all);
    assert_eq!(trainings(Some("cpu")).map(all), RECIPES.map(all));
}

#[test]
fn recipes_of_the_paper_are_short() {
    let recipes = fs::read_dir(folder()).expect("the folder").filter_map(|entry| {
        let path = entry.expect("readable").path();
        let is_recipe = path.extension().is_some_and(|extension| extension == "tlm");
        is_recipe.then(|| path.file_stem().expect("a name").to_string_lossy().into_owned())
    });
    let recipes: BTreeSet<_> = recipes.collect();
    assert_eq!(recipes, RECIPES.iter().map(|(name, ..)| (*name).to_owned()).collect());
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let lines = |name: &str| read(name).lines().map(str::trim).filter(is_code).count();
    let lines: usize = recipes.iter().filter(|name| *name != "b0").map(|name| lines(name)).sum();
    assert!(lines <= LINES_MAX, "{lines} lines");
}

/// Compares a table of numbers that no stage has to compute with what is printed: numbers with as many digits as expected.
#[track_caller]
fn shows(recipe: &str, expected: &str) {
    let expansion = expand("r.tlm", recipe, None);
    let [report] = &expansion.reports[..] else { panic!("one report") };
    let mut expected = expected.split_whitespace();
    for row in &report.rows {
        for (cell, head) in row.cells.iter().zip(&report.columns) {
            let value = match cell {
                Some(Cell::Value(Value::Int(value))) => *value as f64,
                Some(Cell::Value(Value::Float(value))) => *value,
                other => panic!("no number: {other:?}"),
            };
            let wanted = expected.next().expect("as many numbers");
            let digits = wanted.split_once('.').map_or(0, |(_, digits)| digits.len());
            assert_eq!(format!("{value:.digits$}"), wanted, "{head} of {:?}", row.labels);
        }
    }
    assert_eq!(expected.next(), None);
}

/// Without a plan a report shows all of its rows.
const TABLE: &str = "use std.{model}\n";

#[test]
fn depth_parameters_and_shares_are_those_of_table_1() {
    shows(
        &format!(
            "{TABLE}axis keep = [48k, 8k, 16k, 32k, 72k, 100_883]\nlet depth = model.solve_depth(model.b0_shape, vocab: keep, budget: 960M)\n\
             let shape = model.b0_shape with {{depth: depth}}\n\
             report t1 = table([depth, model.count_params(shape, vocab: keep) / 1M params, \
             model.embedding_share(shape, vocab: keep) * 100], rows: keep)"
        ),
        "20 952.1 18.07  24 964.8 2.97  23 954.5 6.01  22 972.8 11.79  18 960.1 26.88  15 946.6 38.19",
    );
}

/// These totals stand for models without biases.
#[test]
fn parameters_are_those_of_tables_2_and_3() {
    let shows = |axis: &str, shape: &str, expected: &str| {
        shows(
            &format!(
                "{TABLE}axis size = {axis}\nlet shape = model.shape({shape}, bias: false)\n\
                 report t = table(model.count_params(shape, vocab: 48k) / 1M params, rows: size)"
            ),
            expected,
        );
    };
    shows(
        "[{d: 40, w: 1280}, {d: 30, w: 1536}, {d: 20, w: 1792}, {d: 15, w: 2048}, {d: 9, w: 2560}]",
        "depth: size.d, width: size.w",
        "935.6 996.9 952.0 967.4 959.5",
    );
    shows(
        "[{w: 2304, ffn: 2304}, {w: 2048, ffn: 4096}, {w: 1792, ffn: 4864}, {w: 1536, ffn: 6144}]",
        "depth: 20, width: size.w, ffn: size.ffn",
        "964.5 1035.6 952.0 902.5",
    );
}

#[test]
fn final_shapes_have_the_parameters_that_were_derived() {
    shows(
        &format!(
            "{TABLE}report t = table([model.count_params(model.pangu_pi_1b_pro, vocab: 48k) / 1M params, \
             model.count_params(model.pangu_pi_15b_pro, vocab: 48k) / 1M params, \
             (model.layer_params(model.pangu_pi_1b) - model.layer_params(model.pangu_pi_1b with {{bias: false}})) / 1 params, \
             (model.layer_params(model.pangu_pi_1b with {{shortcut: 1 / 32}}) - \
             model.layer_params(model.pangu_pi_1b)) / 1M params])"
        ),
        "991 1327 8192 0.26",
    );
}

#[test]
fn learning_rates_are_those_of_the_law() {
    shows(
        "use std.{train}\naxis r = [0, 0.5, 1.0, 1.5]\naxis bs = [1, 2, 4, 8, 16, 32]\n\
             report f8 = table(train.scaled_lr(bs * 1M tokens, r: r) * 10_000, rows: r, cols: bs)",
        "1 1 1 1 1 1  1.00 1.41 2.00 2.83 4.00 5.66  1 2 4 8 16 32  1.00 2.83 8.00 22.63 64.0 181.0",
    );
}

#[test]
fn rounds_share_what_comes_before() {
    let recipe = "use std.{corpus, dataset, model, rounds, train}\nlet m = model.open(\"m\")\n\
        let ds = dataset.pack(corpus.text(\"a.txt\"), m.tokenizer, seq: 256)\naxis n = [1, 2, 3]\n\
        axis rate = [50%, 0%]\nlet r = train.run(m, ds, tokens: 4k, batch: 256)\n\
        let x = rounds.multi_round(r.model, ds, n: n, tokens: 4k, batch: 256, rate: rate)\n\
        plan default = x over n * rate";
    let steps = expand("r.tlm", recipe, None).steps;
    let param = |step: &tlm::sema::steps::Step, name| step.param(name).cloned().expect("given");
    let tokens = steps.iter().filter_map(|step| {
        let training = step.stage().name == "train.run";
        training.then(|| format!("{:?} {:?}", param(step, "tokens"), param(step, "seed")))
    });
    let value = |tokens, seed| format!("Value(Int({tokens})) Value(Int({seed}))");
    assert_eq!(tokens.collect::<Vec<_>>(), [value(4000, 0), value(2000, 2), value(2000, 3)]);
}
