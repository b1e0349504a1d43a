//! The recipes of the paper in `examples/paper`, and the functions of the standard library that they are written with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tlm::base::{Digest, SourceMap, Value};
use tlm::diag::{Diagnostic, render};
use tlm::graph::{self, Known, Planned, Shape};
use tlm::sema::steps::{Arg, Cell, View};
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
    // The paper has no random choice.
    ("inherit-criterion", 6, 6),
    // 24 points; at the smallest batch all growth rates are one, and that is the base run.
    ("opt-bs-lr", 21, 20),
    ("opt-bs-lr-curves", 11, 0),
    ("opt-weight-decay", 5, 4),
    // The five models and the larger Pro, each Pro with a second round.
    ("ladder", 7, 7),
    ("final", 5, 0),
    ("arch-gqa", 2, 1),
    ("round-forgetting", 1, 0),
    // The first round and a second one for each of four rates, of which the ladder has one; and the uniform draw as a control.
    ("round-rate", 6, 4),
    ("round-count", 3, 1),
    ("round-curve", 3, 0),
    ("pangu-modules", 4, 4),
    ("pangu-siaf", 4, 2),
    ("pangu-as", 6, 4),
];

/// The recipe that has the plans of all others.
const ALL: &str = "all";

/// How many lines all recipes but the base may have, without comments and empty ones.
const LINES_MAX: usize = 260;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/paper")
}

/// Returns what a recipe's default plans come to.
#[track_caller]
fn expand(name: &str, text: &str, profile: Option<&str>) -> Expansion {
    let overlay = Overlay { profile: profile.map(str::to_owned), ..Overlay::default() };
    expand_in(&folder(), name, text, &overlay)
}

/// Returns what the default plans of a recipe in a folder come to. It must have no mistakes and no warnings.
#[track_caller]
pub(crate) fn expand_in(folder: &Path, name: &str, text: &str, overlay: &Overlay) -> Expansion {
    let mut sources = SourceMap::default();
    let file = sources.add(name, text);
    let loaded = sema::load(&mut sources, file, folder, overlay);
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

/// The trainings of each recipe: what each takes, by its key.
type Trainings = [(&'static str, BTreeMap<Digest, Known<f64>>); RECIPES.len()];

/// Those of one seed. Files may be missing at full size: then keys are of no use, but equal where they should be.
fn all_trainings(profile: Option<&str>) -> Trainings {
    let store = tempfile::tempdir().expect("a folder");
    let store = Store::open(store.path()).expect("opens");
    RECIPES.map(|(name, ..)| {
        let text = read(name);
        let seed = match name {
            "b0" => Some("seed"),
            _ => text.contains("each b0.seed").then_some("b0.seed"),
        };
        let overlay = Overlay {
            profile: profile.map(str::to_owned),
            axes: seed.map(|seed| (seed.to_owned(), "0".to_owned())).into_iter().collect(),
            ..Overlay::default()
        };
        let planned = graph::plan(expand_in(&folder(), name, &text, &overlay), &store, "cpu/test");
        let is_missing = |found: &Diagnostic| found.code == "tlm::graph::missing_file";
        assert!(planned.diagnostics.iter().all(|found| profile.is_none() && is_missing(found)));
        let is_training =
            |step: &Planned<'_>| matches!(&*step.step.stage().name, "train.run" | "train.keep");
        let costs = graph::costs(&planned.value, &store);
        let trainings = planned.value.steps().filter(is_training);
        (name, trainings.map(|step| (step.recipe, costs[&step.id])).collect())
    })
}

/// Returns of each recipe the trainings that none above needs.
fn new_trainings(all: &Trainings) -> [Vec<Known<f64>>; RECIPES.len()] {
    let mut known: BTreeSet<Digest> = BTreeSet::new();
    all.each_ref().map(|(_, trainings)| {
        let new = trainings.iter().filter(|(key, _)| !known.contains(key)).map(|(_, cost)| *cost);
        let new = new.collect();
        known.extend(trainings.keys());
        new
    })
}

/// Returns of each recipe how many trainings it needs, and how many of these none above needs.
fn trainings(profile: Option<&str>) -> [(&'static str, usize, usize); RECIPES.len()] {
    let all = all_trainings(profile);
    let new = new_trainings(&all);
    std::array::from_fn(|at| (all[at].0, all[at].1.len(), new[at].len()))
}

#[test]
fn recipes_of_the_paper_share_what_they_train() {
    assert_eq!(trainings(None), RECIPES);
}

/// The last column of the README: the operations of new trainings at full size, as far as the recipes alone tell them.
#[test]
fn the_operations_of_new_trainings_are_in_the_readme() {
    let readme = fs::read_to_string(folder().join("README.md")).expect("readable");
    let new = new_trainings(&all_trainings(None));
    let (mut total, mut unknown) = (0.0, 0);
    for ((name, ..), new) in RECIPES.iter().zip(new) {
        let known: f64 = new.iter().flatten().sum();
        let open = new.iter().filter(|cost| cost.is_err()).count();
        (total, unknown) = (total + known, unknown + open);
        let column = match (known == 0.0, open) {
            (true, 0) => String::new(),
            (true, open) => format!("{open} unknown"),
            (false, 0) => format!("{known:.2e}"),
            (false, open) => format!("{known:.2e}, {open} unknown"),
        };
        let row = readme
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        let shown = row.and_then(|row| row.trim_end_matches('|').rsplit_once('|'));
        assert_eq!(shown.map(|(_, last)| last.trim()), Some(&*column), "{name}");
    }
    assert!(readme.contains(&format!("{total:.2e}")), "{total:.2e}");
    assert!(readme.contains(&format!("{unknown} trainings")), "{unknown}");
}

/// The files of the profile are in the repository. Other vocabularies have other depths, so the base run is not one of them.
#[test]
fn recipes_of_the_paper_can_be_planned_without_its_data() {
    let all = |(name, all, _)| (name, all);
    assert_eq!(trainings(Some("cpu")).map(all), RECIPES.map(all));
}

/// Each page shows what its recipe reports, as `make paper` wrote it: all columns, all rows, and the figures.
#[test]
fn pages_show_what_their_recipes_report() {
    let index = fs::read_to_string(folder().join("README.md")).expect("readable");
    for (name, ..) in RECIPES {
        assert!(index.contains(&format!("[`{name}`]({name}.md)")), "{name} is not in the index");
        let page = fs::read_to_string(folder().join(format!("{name}.md"))).expect("a page");
        let (_, results) = page.split_once("<!-- results -->\n").expect("marked");
        let (results, told) = results.split_once("<!-- end -->\n").expect("marked");
        assert!(told.trim().len() > 100, "{name}: what does it show?");
        for report in expand(name, &read(name), Some("cpu")).reports {
            if report.rows.iter().all(|row| row.cells.iter().all(Option::is_none)) {
                continue;
            }
            let is_head = |line: &&str| {
                *line == report.name || line.starts_with(&format!("{}: ", report.name))
            };
            let mut rest = results.lines().skip_while(|line| !is_head(line));
            rest.next().unwrap_or_else(|| panic!("{name} lacks {}", report.name));
            let table: Vec<_> = rest.skip(1).take_while(|line| line.starts_with('|')).collect();
            assert_eq!(table.len(), 2 + report.rows.len(), "rows of {} in {name}", report.name);
            let heads = table[0].matches('|').count() - 1;
            assert_eq!(
                heads,
                report.row_axes.len() + report.columns.len(),
                "{name}: {}",
                report.name
            );
            let figure = folder().join(format!("figures/{name}/{}.svg", report.name));
            let is_figure = !matches!(report.view, View::Table { .. });
            assert_eq!(figure.is_file(), is_figure, "{}", figure.display());
        }
    }
}

/// One run makes everything, and what recipes share once.
#[test]
fn one_recipe_has_the_trainings_of_all() {
    let store = tempfile::tempdir().expect("a folder");
    let store = Store::open(store.path()).expect("opens");
    let planned = graph::plan(expand(ALL, &read(ALL), None), &store, "cpu/test");
    let is_training = |name: &str| matches!(name, "train.run" | "train.keep");
    let trainings = planned.value.steps().filter(|step| is_training(&step.step.stage().name));
    assert_eq!(trainings.count(), RECIPES.map(|(.., new)| new).iter().sum::<usize>());
}

#[test]
fn recipes_of_the_paper_are_short() {
    let recipes = fs::read_dir(folder()).expect("the folder").filter_map(|entry| {
        let path = entry.expect("readable").path();
        let is_recipe = path.extension().is_some_and(|extension| extension == "tlm");
        is_recipe.then(|| path.file_stem().expect("a name").to_string_lossy().into_owned())
    });
    let recipes: BTreeSet<_> = recipes.filter(|name| name != ALL).collect();
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

/// Vocabulary, depth, width and inner size; whether there are biases; millions of parameters, and the share of embeddings and head in
/// percent, where the table has it.
type Counted = ([u64; 4], bool, &'static str, Option<&'static str>);

/// Rows of tables 1, 2 and 3 as the digest of the paper has them (sections 1.2 and 2).
const COUNTED: [Counted; 14] = [
    ([8_000, 24, 1792, 4864], true, "964.8", Some("2.97")),
    ([16_000, 23, 1792, 4864], true, "954.5", Some("6.01")),
    ([32_000, 22, 1792, 4864], true, "972.8", Some("11.79")),
    ([48_000, 20, 1792, 4864], true, "952.1", Some("18.07")),
    ([72_000, 18, 1792, 4864], true, "960.1", Some("26.88")),
    ([100_883, 15, 1792, 4864], true, "946.6", Some("38.19")),
    ([48_000, 40, 1280, 3584], false, "935.6", None),
    ([48_000, 30, 1536, 4096], false, "996.9", None),
    ([48_000, 20, 1792, 4864], false, "952.0", None),
    ([48_000, 15, 2048, 5632], false, "967.4", None),
    ([48_000, 9, 2560, 6912], false, "959.5", None),
    ([48_000, 20, 2304, 2304], false, "964.5", None),
    ([48_000, 20, 2048, 4096], false, "1035.6", None),
    ([48_000, 20, 1536, 6144], false, "902.5", None),
];

/// A plan counts the parameters of a `model.init` as recipes do, and both as the paper does.
#[test]
fn plans_and_recipes_count_the_parameters_of_the_paper() {
    for ([vocab, depth, width, ffn], bias, millions, share) in COUNTED {
        let expansion = expand(
            "r.tlm",
            &format!(
                "use std.{{model, tokenizer}}\n\
                 let shape = model.shape(depth: {depth}, width: {width}, ffn: {ffn}, bias: {bias})\n\
                 let m = model.init(tokenizer.open(\"t.json\"), shape: shape)\nplan default = m\n\
                 report r = table([model.count_params(shape, vocab: {vocab}), \
                 model.embedding_share(shape, vocab: {vocab}) * 100])"
            ),
            None,
        );
        let [Some(Cell::Value(Value::Int(counted))), Some(Cell::Value(Value::Float(part)))] =
            &expansion.reports[0].rows[0].cells[..]
        else {
            panic!("{:?}", expansion.reports)
        };
        let made = expansion.steps.iter().find(|step| step.stage().name == "model.init");
        let given = made.and_then(|step| step.param("shape"));
        let Some(Arg::Value(given)) = given else { panic!("no shape: {given:?}") };
        let shape = Shape::of_recipe(given, vocab as f64).expect("a shape");
        assert_eq!(shape.params(), *counted as f64, "{depth}x{width}");
        assert_eq!(format!("{:.1}", shape.params() / 1e6), millions, "{depth}x{width}");
        let embeddings = 2.0 * shape.vocab * shape.width / shape.params();
        assert_eq!(format!("{:.9}", embeddings * 100.0), format!("{part:.9}"));
        assert_eq!(share.unwrap_or(&format!("{part:.2}")), format!("{part:.2}"), "{vocab}");
    }
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
