//! What the checks of a recipe find, and what its plans come to: one line a case.

use std::path::Path;

use tlm::base::SourceMap;
use tlm::diag::{Checked, Diagnostic, render};
use tlm::sema::steps::{Arg, Best, Cell, Input, Step, View};
use tlm::sema::{self, Expansion, Overlay};

/// Checks a recipe and compares what is found with `code text`, the text being what the first label is about.
#[track_caller]
fn finds(recipe: &str, expected: &[&str]) {
    finds_in(Path::new("/recipes"), recipe, expected);
}

#[track_caller]
fn finds_in(folder: &Path, recipe: &str, expected: &[&str]) {
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", recipe);
    let found = match sema::load(&mut sources, file, folder, &Overlay::default()).finish() {
        Ok((program, warnings)) => {
            let all = [warnings, sema::check(&program)].concat();
            let checked = Checked { value: (), diagnostics: all };
            checked.finish().map_or_else(|found| found, |(_, warnings)| warnings)
        }
        Err(found) => found,
    };
    let drawn = render(&sources, &found, 80, false);
    let short = |code: &str| code.rsplit("::").next().unwrap_or_default().to_owned();
    let found: Vec<_> = found
        .iter()
        .map(|d| format!("{} {}", short(d.code), sources.snippet(d.labels[0].span)))
        .collect();
    assert_eq!(found, expected, "{drawn}");
}

#[track_caller]
fn expand(recipe: &str) -> Expansion {
    expand_overlaid(recipe, &Overlay::default(), &[])
        .unwrap_or_else(|(code, drawn)| panic!("{code}: {drawn}"))
}

/// Expands what is named of a recipe; an error is its code, and how it is drawn.
fn expand_overlaid(
    recipe: &str,
    overlay: &Overlay,
    names: &[&str],
) -> Result<Expansion, (&'static str, String)> {
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", recipe);
    let loaded = sema::load(&mut sources, file, Path::new("/recipes"), overlay).finish();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let expanded = loaded.and_then(|(program, _)| sema::expand(&program, &names).finish());
    let told = |found: Vec<Diagnostic>| (found[0].code, render(&sources, &found, 80, false));
    expanded.map(|(expansion, _)| expansion).map_err(told)
}

/// Compares the steps of a recipe's plans with their names and one of their parameters.
#[track_caller]
fn makes(recipe: &str, param: &str, expected: &[&str]) {
    let shown = |step: &Step| {
        let point: Vec<_> =
            step.point().iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        let value = match step.param(param) {
            Some(Arg::Value(value)) => format!(" {}", serde_json::to_string(value).expect("plain")),
            Some(Arg::Late(_)) => " late".to_owned(),
            None => String::new(),
        };
        format!("{}[{}]{value}", step.label(), point.join(", "))
    };
    let made: Vec<_> = expand(recipe).steps.iter().map(shown).collect();
    assert_eq!(made, expected);
}

const TEXT: &str = "use std.{corpus}\nlet text = corpus.text(\"a.txt\")\n";

#[test]
fn mistakes_are_told_once_each() {
    // What is unknown is told where it is first used, and what it spoils is not told at all.
    finds("let a = b + b\nlet c = b\nlet d = a * 2", &["unknown_name b"]);
    finds("use std.{trian}\nlet a = trian.run()\nlet b = trian.run()", &["unknown_module trian"]);
    finds("use std.train.{runn}\nlet a = runn(1)", &["unknown_stage runn"]);
    finds(
        "profile half = {x: 1}\nparam y = 2\nprofile whole = {y: \"a\"}",
        &["unknown_param x", "wrong_type \"a\""],
    );
    finds("use std\nlet a = std.trian.run()", &["unknown_module trian"]);
    finds("param x : Float = 1e300T", &["too_large 1e300T"]);
    finds(
        "param x = (-9223372036854775807 - 1) / -1",
        &["too_large (-9223372036854775807 - 1) / -1"],
    );
    finds("let a = -\"a\"", &["operands \"a\""]);
    finds(
        "param p : {a: Int, a: Int} = {a: 1}\nparam e : x | x = x",
        &["duplicate a", "duplicate x"],
    );
    finds("let a = 1 let b = 2", &["unexpected let"]);
    finds("let a = 1_E3", &["bad_number 1_E3"]);
    finds(
        &format!("{TEXT}let s = corpus.split(text, valid: 1%) run {{ cpus: 1 }} run {{ cpus: 2 }}"),
        &["duplicate cpus"],
    );
    finds(
        &format!(
            "{TEXT}axis x = [1, 2]\nplan p = corpus.split(text, valid: 1%, seed: x) vary x, x"
        ),
        &["duplicate x"],
    );
    finds(
        &format!(
            "{TEXT}axis x = [1, 2]\nlet s = corpus.split(text, valid: 1%, seed: x)\n\
             plan p = s vary x\nreport r = table(s.train.documents, rows: [x, x])\n\
             report q = table(s.train.documents, rows: x, cols: x)\n\
             report t = table(s.train.documents, rows: x, rows: x)"
        ),
        &["bad_report r", "bad_report q", "duplicate rows"],
    );
    finds("param e : x | y = x\nlet a = e == \"x\"", &["operands \"x\""]);
    finds(
        "let a = {b: 1}\nlet c = if true then none else a\nlet d = c == none\nlet e = c == a\nlet f = c < none",
        &["operands a", "operands none"],
    );
}

#[test]
fn what_a_condition_guards_is_not_told() {
    let guarded = "param n : Count = 0\nparam b : Tokens = 4k\nlet per = b / n\n\
                   let x = if n == 0 then b else per";
    finds(guarded, &[]);
    finds("param n : Count = 0\nparam b : Tokens = 4k\nlet per = b / n", &["division_by_zero n"]);
}

#[test]
fn branches_and_items_have_the_type_of_all() {
    makes(
        &format!(
            "{TEXT}param s : {{a: Count, b: Int = 3}} = {{a: 1, b: 4}}\naxis big : Bool = [true, false]\n\
             let size = if big then s else {{a: 2}}\n\
             plan p = corpus.split(text, valid: 1%, seed: size.b) vary big"
        ),
        "seed",
        &[
            "text[]",
            "corpus.split(text, valid: 1%, seed: size.b)[big=true] 4",
            "corpus.split(text, valid: 1%, seed: size.b)[big=false] 3",
        ],
    );
    for branches in ["1.5 else 50%", "50% else 1.5"] {
        makes(
            &format!(
                "{TEXT}param r : Ratio = 50%\nparam f : Float = 1.5\nparam n : Count = 7\n\
                 let x = n * (if true then {}) / 3.5\n\
                 plan p = corpus.split(text, valid: x / 10)",
                branches.replace("1.5", "f").replace("50%", "r")
            ),
            "valid",
            match branches {
                "1.5 else 50%" => &["text[]", "corpus.split(text, valid: x / 10)[] 0.3"],
                _ => &["text[]", "corpus.split(text, valid: x / 10)[] 0.1"],
            },
        );
    }
}

#[test]
fn steps_in_the_values_of_an_axis_bear_its_point() {
    let digests = ["0".repeat(64), "1".repeat(64)];
    makes(
        &format!(
            "use std.{{model}}\naxis sha = [\"{}\",\n  \"{}\"]\n\
             let donor = model.open(\"file:a\", sha256: sha)\nplan p = donor vary sha",
            digests[0], digests[1]
        ),
        "sha256",
        &[
            &format!("donor.source[sha=\"{0}\"] \"{0}\"", digests[0]),
            &format!("donor[sha=\"{}\"]", digests[0]),
            &format!("donor.source[sha=\"{0}\"] \"{0}\"", digests[1]),
            &format!("donor[sha=\"{}\"]", digests[1]),
        ],
    );
    makes(
        "use std.{corpus}\naxis text = [corpus.text(\"a.txt\"),\n  corpus.text(\n\"b.txt\")]\n\
         plan p = text vary text",
        "none",
        &["text[text=corpus.text(\"a.txt\")]", "text[text=corpus.text( \"b.txt\")]"],
    );
}

#[test]
fn texts_from_the_command_line_need_no_quotes() {
    let recipe = "use std.{corpus}\nparam a : Path = \"a.txt\"\nparam b = \"b.txt\"\nparam n : Count = 1\n\
                  let t = [corpus.text(a), corpus.text(b)]";
    for (name, value, expected) in [
        ("a", "data/*.txt", None),
        ("a", "\"data/*.txt\"", None),
        ("b", "if x", None),
        ("n", "x", Some("tlm::sema::unknown_name")),
        ("a", "\"open", Some("tlm::parse::unterminated_string")),
    ] {
        let mut sources = SourceMap::default();
        let file = sources.add("r.tlm", recipe);
        let set = Overlay { set: vec![(name.to_owned(), value.to_owned())], ..Overlay::default() };
        let loaded = sema::load(&mut sources, file, Path::new("/recipes"), &set).finish();
        assert_eq!(loaded.err().map(|found| found[0].code), expected, "-s {name}={value}");
    }
}

#[test]
fn long_chains_and_circles_do_not_deepen_the_stack() {
    const LENGTH: usize = 20_000;
    let chain = |last: &str| {
        let mut text = format!("let a0 = {last}\n");
        (1..LENGTH).for_each(|i| text += &format!("let a{i} = a{} + 1\n", i - 1));
        text
    };
    let last = LENGTH - 1;
    makes(
        &format!("{TEXT}{}plan p = corpus.split(text, valid: 1%, seed: a{last})", chain("0")),
        "seed",
        &["text[]", &format!("corpus.split(text, valid: 1%, seed: a{last})[] {last}")],
    );
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", chain(&format!("a{last}")));
    let found =
        sema::load(&mut sources, file, Path::new("/"), &Overlay::default()).finish().unwrap_err();
    assert_eq!(found[0].code, "tlm::sema::circle");
}

#[test]
fn values_and_types_that_double_are_bounded() {
    let doubled = |form: fn(usize) -> String| {
        let lines: Vec<_> = (1..40).map(|i| format!("let a{i} = {}", form(i - 1))).collect();
        format!("let a0 = 1\n{}", lines.join("\n"))
    };
    finds(&doubled(|i| format!("[a{i}, a{i}]")), &["too_large [a15, a15]"]);
    finds(
        &doubled(|i| format!("{{x: a{i}, y: a{i}}}")),
        &[
            "large_type {x: a8, y: a8}",
            "large_type {x: a17, y: a17}",
            "large_type {x: a26, y: a26}",
            "large_type {x: a35, y: a35}",
        ],
    );
}

#[test]
fn a_report_has_the_rows_that_plans_ask_for() {
    let axes: Vec<_> =
        (0..9).map(|i| format!("axis x{i} = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")).collect();
    let sum: Vec<_> = (0..9).map(|i| format!("x{i}")).collect();
    let recipe = format!(
        "{TEXT}{}\nlet s = corpus.split(text, valid: 1%, seed: {})\nplan p = s vary x0, x8\n\
         report r = table(s.train.documents, rows: [{}])",
        axes.join("\n"),
        sum.join(" + "),
        sum.join(", ")
    );
    let expansion = expand(&recipe);
    let rows = &expansion.reports[0].rows;
    assert_eq!(rows.len(), 19);
    assert!(rows.iter().all(|row| matches!(row.cells[..], [Some(Cell::Late(_))])));
}

#[test]
fn functions_are_typed_named_and_defaulted() {
    let half = "fn half(from: Corpus; seed: Int in 1 .. 9 = 7, rest: Ratio = 1%) -> Corpus =\n  \
                corpus.split(from, valid: rest, seed: seed).train\n";
    makes(
        &format!("{TEXT}{half}let a = half(half(text), seed: 3)\nplan p = a"),
        "seed",
        &["text[]", "a.corpus[] 7", "a[] 3"],
    );
    finds(
        &format!(
            "{TEXT}{half}let a = half(text, sed: 3)\nlet b = half(text, text)\nlet c = half(7)\n\
             let d = half(text, seed: 10)\nlet e = half"
        ),
        &["unknown_argument sed", "inputs text", "wrong_type 7", "no_value half"],
    );
    finds(&format!("{TEXT}{half}let d = half(text, seed: 10)"), &["out_of_range 10"]);
    let one_of = "stage mine(text: Corpus; a: Count? = none, b: Count = 1) -> Corpus  version 1 \
                  one of a, b, c, a shell \"mine {text} {a} {b} {out}\"";
    let found = &["unknown_argument b", "unknown_argument c", "duplicate a"];
    finds(&format!("use std.corpus\n{one_of}"), found);
    finds("fn f(x: Int) = g(x)\nfn g(x: Int) = f(x)", &["circle f"]);
    finds("fn f(x: Int) -> Tokens = y", &["unknown_name y"]);
}

#[test]
fn the_steps_of_a_function_bear_the_points_of_its_arguments() {
    makes(
        &format!(
            "{TEXT}axis seed = [1, 2]\nfn f(seed: Int) = corpus.split(text, valid: 1%, seed: seed).train\n\
             let a = f(seed)\nplan p = a over seed"
        ),
        "seed",
        &["text[]", "a[seed=1] 1", "a[seed=2] 2"],
    );
    // An argument is an expression: at another point it has another value.
    makes(
        &format!(
            "{TEXT}axis seed = [1, 2, 3]\nlet s = corpus.split(text, valid: 1%, seed: seed)\n\
             fn last(x: Corpus) = x[seed: 3]\nplan p = last(s.train)"
        ),
        "seed",
        &["text[]", "s[seed=3] 3"],
    );
}

#[test]
fn a_fold_makes_a_step_a_turn() {
    makes(
        &format!(
            "{TEXT}param n : Count = 3\nlet r = fold t = text for i in 2..n {{\n  \
             corpus.split(t, valid: 1%, seed: i).train\n}}\nplan p = r"
        ),
        "seed",
        &["text[]", "r[i=2] 2", "r[i=3] 3"],
    );
    // What a fold has come to, at another point of an axis.
    makes(
        &format!(
            "{TEXT}axis seed = [1, 2]\nlet r = fold t = corpus.split(text, valid: 1%, seed: seed).train for i in 1..2 {{\n  \
             corpus.split(if i == 2 then t[seed: 2] else t, valid: 2%, seed: 10 * i).train\n}}\nplan p = r"
        ),
        "seed",
        &[
            "text[]",
            "r[seed=1] 1",
            "r[i=1, seed=1] 10",
            "r.corpus[seed=2] 2",
            "r.corpus[i=1, seed=2] 10",
            "r[i=2, seed=1] 20",
        ],
    );
    // A chain as long as folds go does not fill the stack, at any point.
    makes(
        &format!(
            "{TEXT}axis n = [1, 2]\nlet r = fold x = n for i in 1..10000 {{ if i == 10000 then x[n: 2] else x + 1 }}\n\
             let s = corpus.split(text, valid: 1%, seed: r)\nplan p = s"
        ),
        "seed",
        &["text[]", "s[n=1] 10001"],
    );
    finds(
        "let r = fold x = 1 for i in 1..100000 { x + i }",
        &["too_large fold x = 1 for i in 1..100000 { x + i }"],
    );
    finds("let r = fold x = 1 for i in 1..3 { \"a\" }", &["mixed_types { \"a\" }"]);
}

#[test]
fn axes_are_fixed_and_taken_from_lists() {
    let split = "let s = corpus.split(text, valid: 1%, seed: seed)\n";
    makes(
        &format!(
            "{TEXT}axis seed = range(3, 5)\n{split}plan p = [s[seed: 4].train, s at baseline] vary seed"
        ),
        "seed",
        &["text[]", "s[seed=4] 4", "s[seed=3] 3"],
    );
    finds(
        &format!("{TEXT}axis seed = range(3, 5)\n{split}let a = s[seed: 9]"),
        &["no_such_value 9"],
    );
    finds(&format!("{TEXT}axis seed = range(5, 3)\n{split}"), &["axis_values range(5, 3)"]);
    finds("axis lr = logspace(0, 1, 3)", &["out_of_range 0"]);
    finds("let x = range(1)", &["inputs range(1)"]);
    makes(
        "use std.{corpus}\nlet all = [corpus.text(\"a\"), corpus.text(\"b\")]\naxis text = all\nplan p = text over text",
        "none",
        &["all[]", "all[]"],
    );
}

#[test]
fn records_are_updated_and_missing_values_replaced() {
    let check = |expression: &str, expected: &str| {
        let prelude = "param s : {a: Int, b: Int? = none} = {a: 1}\n";
        makes(
            &format!("{TEXT}{prelude}plan p = corpus.split(text, valid: 1%, seed: {expression})"),
            "seed",
            &["text[]", &format!("corpus.split(text, valid: 1%, seed: {expression})[] {expected}")],
        );
    };
    check("(s with {a: 5}).a", "5");
    check("s.b ?? 8", "8");
    check("(s with {b: 3}).b ?? 8", "3");
    check("s.a + (s.b ?? 2 * 3)", "7");
    finds("let a = {x: 1} with {y: 2}", &["unknown_field y"]);
    finds("let a = 1 ?? 2", &["operands 1"]);
    finds("let a = 1 with {y: 2}", &["wrong_type 1"]);
}

#[test]
fn texts_hold_values() {
    let recipe = "use std.{corpus}\nparam n : Count = 48k\nparam r : Ratio = 2.5%\nparam name = \"x\"\n\
                  let t = corpus.text(\"a.txt\", delimiter: \"{name}-{n}-{r}-{{{n + 1}}}\")\nplan p = t";
    makes(recipe, "delimiter", &["t[] \"x-48000-2.5%-{48001}\""]);
}

#[test]
fn plans_cross_repeat_filter_and_join() {
    let recipe = |plan: &str| {
        format!(
            "{TEXT}axis a = [1, 2, 3]\naxis b = [10, 20]\naxis seed = [100, 200]\n\
             let s = corpus.split(text, valid: 1%, seed: a + b + seed)\nplan p = {plan}"
        )
    };
    let check = |plan: &str, expected: &[i64]| {
        let seed = |step: &Step| match step.param("seed") {
            Some(Arg::Value(tlm::base::Value::Int(seed))) => Some(*seed),
            _ => None,
        };
        let made: Vec<_> = expand(&recipe(plan)).steps.iter().filter_map(seed).collect();
        assert_eq!(made, expected, "{plan}");
    };
    check("s", &[111]);
    check("s vary a, b", &[111, 112, 113, 121]);
    check("s over a * b", &[111, 121, 112, 122, 113, 123]);
    check("s vary a each seed", &[111, 112, 113, 211, 212, 213]);
    check("s over a * b where a + b > 12 and a != 3", &[121, 122]);
    check("s vary a | s over b", &[111, 112, 113, 121]);
    check("s over a each seed where seed == 200", &[211, 212, 213]);
    finds(&recipe("s over a * c"), &["unknown_axis c"]);
    finds(&recipe("s over a vary a"), &["duplicate a"]);
    finds(&recipe("s over a where b"), &["wrong_type b"]);
}

#[test]
fn a_plan_costs_what_it_asks_for() {
    let axes: Vec<_> = (0..9).map(|i| format!("axis x{i} = range(0, 9)")).collect();
    let names: Vec<_> = (0..9).map(|i| format!("x{i}")).collect();
    let fixed: Vec<_> = (2..9).map(|i| format!("x{i} == {i}")).collect();
    let expansion = expand(&format!(
        "{TEXT}{}\nlet s = corpus.split(text, valid: 1%, seed: {})\n\
         plan p = s over {} where {} and x0 < 5 and x0 + x1 < 14",
        axes.join("\n"),
        names.join(" + "),
        names.iter().rev().cloned().collect::<Vec<_>>().join(" * "),
        fixed.join(" and "),
    ));
    assert_eq!(expansion.goals.len(), 50);
}

#[test]
fn recipes_in_the_documentation_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut checked = 0;
    for path in glob::glob(&root.join("docs/*.md").to_string_lossy()).unwrap() {
        let text = std::fs::read_to_string(path.unwrap()).unwrap();
        let blocks = text.split("```").skip(1).step_by(2);
        let blocks = blocks.map(|block| block.strip_prefix("tlm").unwrap_or(block).trim_start());
        for recipe in blocks.filter(|block| block.starts_with("use ")) {
            finds_in(&root.join("tests/golden/recipes"), recipe, &[]);
            checked += 1;
        }
    }
    assert!(checked >= 4, "{checked}");
}

/// What the command line changes: a recipe of ten steps at most, and which seeds its steps have under each overlay.
#[test]
fn the_command_line_changes_params_axes_and_points() {
    const RECIPE: &str = "use std.{corpus}\nlet text = corpus.text(\"a.txt\")\n\
        param base : Int in 0 .. 500 = 100\nparam name = \"a\"\nparam file : Path? = none\naxis seed = [1, 2, 3]\n\
        profile small = {base: 200, seed: [4, 5]}\n\
        let s = corpus.split(text, valid: 1%, seed: base + seed)\n\
        let t = corpus.split(s.train, valid: 1%, seed: seed)\nlet alias = s\n\
        plan default = t vary seed\nplan other = t";
    type Result<'r> = std::result::Result<&'r [i64], &'r str>;
    let check = |flags: &[(&str, &str)], names: &[&str], expected: Result<'_>| {
        let mut overlay = Overlay::default();
        for (flag, text) in flags {
            let pair = || text.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
            match *flag {
                "-s" => overlay.set.extend(pair()),
                "--axis" => overlay.axes.extend(pair()),
                "--only" => overlay.only.extend(pair()),
                _ => overlay.profile = Some((*text).to_owned()),
            }
        }
        let expanded = expand_overlaid(RECIPE, &overlay, names);
        let seeds = expanded
            .as_ref()
            .map_err(|(code, _)| code.trim_start_matches("tlm::"))
            .map(needed_seeds);
        let expected = expected.map(<[i64]>::to_vec);
        assert_eq!(seeds, expected, "{flags:?} {names:?}: {expanded:?}");
    };
    check(&[], &[], Ok(&[1, 2, 3, 101, 102, 103]));
    check(&[], &["t[seed=3]"], Ok(&[3, 103]));
    check(&[], &["s[seed=2]", "s[seed=3]"], Ok(&[102, 103]));
    check(&[], &["t[sed=3]"], Err("sema::unknown_axis"));
    check(&[], &["t[seed=9]"], Err("eval::no_such_value"));
    check(&[("-s", "base=50")], &["other"], Ok(&[1, 51]));
    check(&[("-s", "base=50"), ("-s", "base=60")], &["other"], Ok(&[1, 61]));
    check(&[("-s", "file=a b.txt")], &["other"], Ok(&[1, 101]));
    check(&[("-s", "file=none")], &["other"], Ok(&[1, 101]));
    check(&[("-s", "base=501")], &["other"], Err("eval::out_of_range"));
    check(&[("-s", "bas=1")], &[], Err("sema::unknown_param"));
    check(&[("--axis", "base=10,20")], &["other"], Ok(&[1, 1, 11, 21]));
    check(&[("--axis", "base=10,501")], &["other"], Err("eval::out_of_range"));
    check(&[("--axis", "seed=7,8")], &[], Ok(&[7, 8, 107, 108]));
    check(&[("--axis", "sed=7,8")], &[], Err("sema::unknown_param"));
    check(&[("--axis", "name=b,c")], &["other"], Ok(&[1, 101]));
    check(&[("--only", "seed=2,3")], &[], Ok(&[2, 3, 102, 103]));
    check(&[("--only", "seed=4")], &[], Err("eval::no_such_value"));
    check(&[("--only", "base=4")], &[], Err("sema::unknown_axis"));
    check(&[("--profile", "small")], &[], Ok(&[4, 5, 204, 205]));
    check(&[("--profile", "small"), ("-s", "base=0")], &["other"], Ok(&[4, 4]));
    check(&[("--profile", "small"), ("--axis", "base=0,1")], &["other"], Ok(&[4, 4, 4, 5]));
    check(&[("--profile", "smal")], &[], Err("sema::unknown_profile"));
    // Values instead of plans: at the points of the default plan, and with what is made of them.
    check(&[], &["s"], Ok(&[101, 102, 103]));
    check(&[], &["alias"], Ok(&[101, 102, 103]));
    check(&[], &["s+"], Ok(&[1, 2, 3, 101, 102, 103]));
    check(&[("--only", "seed=2")], &["+t"], Ok(&[2, 102]));
    check(&[], &["tt"], Err("sema::unknown_plan"));
}

/// Returns the seeds of the steps that an expansion's goals need, in order.
fn needed_seeds(expansion: &Expansion) -> Vec<i64> {
    let mut next: Vec<_> =
        expansion.goals.iter().flat_map(|goal| &goal.outputs).map(|o| o.step).collect();
    let mut needed = std::collections::BTreeSet::new();
    while let Some(id) = next.pop() {
        if needed.insert(id) {
            next.extend(expansion.steps[id.0 as usize].uses().map(|output| output.step));
        }
    }
    let seed = |step: &Step| match step.param("seed") {
        Some(Arg::Value(tlm::base::Value::Int(seed))) => Some(*seed),
        _ => None,
    };
    let mut seeds: Vec<_> =
        needed.iter().filter_map(|id| seed(&expansion.steps[id.0 as usize])).collect();
    seeds.sort_unstable();
    seeds
}

/// Returns the columns of the only report of a recipe, and its cells as texts, a row a row.
fn table(recipe: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let report = expand(recipe).reports.remove(0);
    let cell = |cell: &Option<Cell>| match cell {
        Some(Cell::Value(value)) => serde_json::to_string(value).expect("plain data"),
        Some(Cell::Late(_)) => "late".to_owned(),
        Some(Cell::Log(_)) => "log".to_owned(),
        Some(Cell::Spread(parts)) => format!("{} numbers", parts.len()),
        None => "none".to_owned(),
    };
    let rows = report.rows.iter().map(|row| row.cells.iter().map(cell).collect());
    (report.columns.iter().map(ToString::to_string).collect(), rows.collect())
}

#[test]
fn reports_show_records_and_need_no_plan() {
    let (columns, rows) = table(
        "axis n = [1, 2]\nlet r = {a: n, b: {c: 1}, t: \"x\"}\nreport t = table([r, n * 2], rows: n)",
    );
    assert_eq!(columns, ["a", "t", "n * 2"]);
    assert_eq!(rows, [["1", "\"x\"", "2"], ["2", "\"x\"", "4"]]);
    let (columns, rows) = table(&format!(
        "{TEXT}axis s = [1, 2]\naxis v = [1%, 2%]\nlet p = corpus.split(text, valid: v, seed: s)\n\
         plan all = p over s * v\n\
         report t = table([mean_std(p.train.documents, over: s), p.train.documents - p.valid.documents], rows: v)"
    ));
    assert_eq!(columns.len(), 2);
    assert_eq!(rows, [["2 numbers", "late"], ["2 numbers", "late"]]);
    // Of a record each number has its mean.
    let (columns, rows) = table(&format!(
        "{TEXT}axis s = [1, 2]\nlet p = corpus.split(text, valid: 1%, seed: s)\n\
         plan all = p over s\n\
         report t = table(mean_std({{a: p.train.documents, t: \"x\", z: p.valid.documents}}, over: s))"
    ));
    assert_eq!(columns, ["a", "z"]);
    assert_eq!(rows, [["2 numbers", "2 numbers"]]);
}

/// A stage whose log can be drawn, at two rates and two seeds.
const RUNS: &str = "use std.{corpus}\nstage fit(text: Corpus; rate: Float, seed: Count) -> { log: TrainLog, loss: Float } \
     version 1 shell \"fit {text} {rate} {seed} {log} {loss}\"\n\
     axis rate = [0.5, 0.25]\naxis seed = [1, 2]\naxis arm = [\"a\", \"b\"]\n\
     let r = fit(corpus.text(if arm == \"a\" then \"a.txt\" else \"b.txt\"), rate: rate, seed: seed)\n\
     plan all = r over rate * seed * arm\n";

#[test]
fn figures_have_the_cells_of_their_table() {
    let figure = |figure: &str| {
        let report = expand(&format!("{RUNS}report f = {figure}")).reports.remove(0);
        (report.view, table(&format!("{RUNS}report f = {figure}")), report.rows)
    };
    let (view, (columns, cells), rows) = figure("curve(r.log, rows: [arm, rate], cols: seed)");
    assert_eq!(view, View::Curve);
    assert_eq!(columns, ["log, seed = 1", "log, seed = 2"]);
    assert_eq!(cells, [["log", "log"]; 4]);
    assert_eq!(rows.iter().map(|row| row.x).collect::<Vec<_>>(), [Some(0.5), Some(0.25)].repeat(2));
    assert_eq!(
        rows.iter().map(|row| row.is_baseline).collect::<Vec<_>>(),
        [true, false, false, false]
    );
    let (view, (columns, _), _) = figure("scatter([rate, r.loss], rows: seed, cols: arm)");
    assert_eq!(view, View::Scatter);
    assert_eq!(
        columns,
        ["rate, arm = \"a\"", "rate, arm = \"b\"", "loss, arm = \"a\"", "loss, arm = \"b\""]
    );
    assert_eq!(figure("bars(mean_std(r.loss, over: seed), rows: arm)").1.1, [["2 numbers"]; 2]);
    assert_eq!(figure("curve(r.loss, rows: [arm, rate])").1.1, [["late"]; 4]);
    assert_eq!(figure("heat(r.loss, rows: rate, cols: arm)").1.1, [["late", "late"]; 2]);
    assert_eq!(
        figure("table(r.loss, rows: rate, best: low, delta: true)").0,
        View::Table { best: Some(Best::Low), delta: true }
    );
}

#[test]
fn figures_need_what_their_picture_shows() {
    for (report, expected) in [
        ("curve(r.loss)", "bad_report curve(r.loss)"),
        ("curve(r.loss, rows: arm)", "bad_report curve(r.loss, rows: arm)"),
        ("curve([r.log, r.loss], rows: rate)", "bad_report curve([r.log, r.loss], rows: rate)"),
        ("bars(r.loss)", "bad_report bars(r.loss)"),
        ("bars(r.log, rows: rate)", "not_a_cell r.log"),
        ("bars(arm, rows: arm)", "not_a_cell arm"),
        ("table(r.log, rows: rate)", "not_a_cell r.log"),
        ("scatter(r.loss, rows: rate)", "bad_report scatter(r.loss, rows: rate)"),
        ("scatter([rate, r.loss])", "bad_report scatter([rate, r.loss])"),
        ("heat(r.loss, rows: rate)", "bad_report heat(r.loss, rows: rate)"),
        (
            "heat(r.loss, rows: [rate, arm], cols: seed)",
            "bad_report heat(r.loss, rows: [rate, arm], cols: seed)",
        ),
        ("heat(r.loss, rows: rat, cols: seed)", "unknown_axis rat"),
        ("heat(r.loss, rows: rate, cols: [arm, seed])", "bad_report [arm, seed]"),
        ("heat(r.loss, rows: rate, cols: arm, best: high)", "bad_report best"),
        ("table(r.loss, rows: rate, best: most)", "bad_report most"),
        ("table(r.loss, rows: rate, delta: 1)", "bad_report 1"),
        ("table(r.loss, rows: rate, colour: 1)", "bad_report colour"),
        ("pie(r.loss, rows: rate)", "bad_report pie(r.loss, rows: rate)"),
    ] {
        finds(&format!("{RUNS}report f = {report}"), &[expected]);
    }
}

#[test]
fn divisions_are_exact_until_they_are_rounded() {
    let shows = |value: &str, expected: &str| {
        let (_, rows) = table(&format!(
            "param n : Count = 7\nparam b : Tokens = 10\nreport t = table({value})"
        ));
        assert_eq!(rows, [[expected]], "{value}");
    };
    shows("n / 2", "3.5");
    shows("n / 7", "1");
    shows("round(n / 2)", "4");
    shows("floor(n / 2)", "3");
    shows("ceil(n * 8 / 3 / 4) * 4", "20");
    shows("b * 33%", "3");
    shows("b / 4", "2.5");
    shows("round(b / 4)", "3");
    shows("pow(2, 10)", "1024.0");
    shows("min(n, 3, 9)", "3");
    shows("max(0.5, 0.25)", "0.5");
    finds("param n : Count = 7\nlet m : Count = n / 2\nplan p = m", &["out_of_range n / 2"]);
    finds("let m = pow(-1, 0.5)", &["out_of_range pow(-1, 0.5)"]);
    finds("let m = pow(0, -1)", &["division_by_zero -1"]);
    finds("let m = round(\"a\")", &["inputs round(\"a\")"]);
    finds("let m = min(1)", &["inputs min(1)"]);
}

#[test]
fn a_field_without_unit_takes_any_number() {
    finds(
        "param n : Count = 3\nlet s = {depth: 20, width: 64}\nlet t = s with {depth: n}\nlet u : {depth: Count, width: Count} = t",
        &[],
    );
    finds("let s = {depth: 20}\nlet t = s with {depth: \"a\"}", &["wrong_type \"a\""]);
}

#[test]
fn what_is_named_twice_level_by_level_is_evaluated_once() {
    let levels: String =
        (1..200).map(|level| format!("let a{level} = a{0} + a{0} * 0\n", level - 1)).collect();
    finds(&format!("param a0 : Int = 1\n{levels}plan p = a199"), &[]);
}

#[test]
fn axes_in_a_circle_are_told_even_where_a_list_is_computed_of_one() {
    finds(
        "axis c = range(1, a)\naxis a = [b, 2]\naxis b = [a]\nreport t = table(c)",
        &["axis_of_axis range(1, a)", "axis_of_axis [b, 2]", "circle a"],
    );
}

/// Each artifact of an axis may differ along another one; what rows are named after may not.
#[test]
fn an_axis_of_artifacts_may_differ_along_another() {
    let recipe = format!(
        "{TEXT}axis seed = [1, 2]\nlet p = corpus.split(text, valid: 1%, seed: seed)\n\
         axis part = [p.train, p.valid, text]\nlet w = corpus.shuffle(part)\n\
         plan all = w vary part each seed\nreport t = table(mean_std(w.documents, over: seed), rows: part)"
    );
    let names: Vec<_> = expand(&recipe).steps.iter().map(Step::name).collect();
    let shuffles = names.iter().filter(|name| name.starts_with("w[")).count();
    assert_eq!(shuffles, 5, "{names:?}");
    assert_eq!(table(&recipe).1, [["2 numbers"], ["2 numbers"], ["2 numbers"]]);
    let swapped = "axis a = [1, 2]\naxis b = [a, 3]\nplan p = b vary b";
    finds(swapped, &["axis_of_axis [a, 3]"]);
}

#[test]
fn a_stage_takes_a_list_of_artifacts() {
    let texts = "use std.{corpus}\nlet a = corpus.text(\"a\")\nlet b = corpus.text(\"b\")\n";
    // Lists of other lengths at other points of an axis are steps of their own.
    let recipe = format!(
        "{texts}axis both = [true, false]\n\
         let m = corpus.mix(if both then [a, b] else [b], weights: if both then [1, 2] else [1])\n\
         plan default = m vary both\n"
    );
    let expansion = expand(&recipe);
    let inputs: Vec<Vec<_>> = expansion
        .steps
        .iter()
        .filter(|step| step.stage().name == "corpus.mix")
        .map(|step| step.inputs().map(|(name, _)| name.to_owned()).collect())
        .collect();
    assert_eq!(inputs, [vec!["corpora.0", "corpora.1"], vec!["corpora.0"]]);
    for (list, found) in [
        ("[]", "inputs []"),
        ("a", "wrong_type a"),
        ("[a, 1]", "mixed_types 1"),
        ("[\"a\"]", "wrong_type [\"a\"]"),
    ] {
        finds(
            &format!("{texts}plan p = [a, b]\nplan q = corpus.mix({list}, weights: [1])\n"),
            &[found],
        );
    }
}

#[test]
fn what_is_optional_of_a_stage_is_given_by_name() {
    let models = "use std.{corpus, dataset, model, train}\nlet donor = model.open(\"m.gguf\")\n\
                  let text = corpus.text(\"a\")\n\
                  let ds = dataset.pack(text, donor.tokenizer, seq: 8)\n\
                  fn run(data: Dataset; valid: Dataset? = none, teacher: Checkpoint? = none) =\n  \
                  train.run(donor, data, tokens: 8, batch: 8, valid: valid, teacher: teacher)\n";
    // What is given at some points of an axis is an input there.
    let recipe = format!(
        "{models}axis with = [true, false, true and true]\n\
         let r = run(ds, valid: if with then ds else none, teacher: if with then none else donor)\n\
         let s = run(ds, valid: none)\nlet t = train.run(donor, ds, tokens: 8, batch: 8)\n\
         plan default = r vary with | [s, t]\n"
    );
    let expansion = expand(&recipe);
    let inputs: Vec<_> = expansion
        .steps
        .iter()
        .filter(|step| step.stage().name == "train.run")
        .map(|step| step.inputs().map(|(name, _)| name).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(inputs, ["init data valid", "init data teacher", "init data"]);
    let finds = |call: &str, found: &[&str]| {
        let other = "let other = model.open(\"o.gguf\")\n\
                     let apart = dataset.pack(text, other.tokenizer, seq: 8)\n";
        finds(
            &format!("{models}{other}plan p = [ds, other, apart, run(ds)]\nplan q = {call}\n"),
            found,
        );
    };
    finds("train.run(donor, ds, tokens: 8, batch: 8, valid: 1)", &["wrong_type 1"]);
    finds("train.run(donor, ds, ds, tokens: 8, batch: 8)", &["inputs ds"]);
    finds("train.run(donor, ds, tokens: 8, batch: 8, valid: ds, valid: ds)", &["duplicate valid"]);
    finds("train.run(donor, ds, tokens: 8, batch: 8, vaild: ds)", &["unknown_argument vaild"]);
    finds("run(ds, valid: apart)", &["tokenizer_mismatch valid"]);
    finds(
        "train.run(donor, ds, tokens: 8, batch: 8, teacher: other)",
        &["tokenizer_mismatch other"],
    );
    let short = "model.init(donor.tokenizer, shape: {depth: 1, width: 64, context: 9})";
    let long = "dataset.pack(text, donor.tokenizer, seq: 10)";
    finds(
        &format!("train.run({short}, ds, tokens: 8, batch: 8, valid: {long})"),
        &[&format!("shape_mismatch {long}")],
    );
}

#[test]
fn rounds_go_on_with_an_optimiser_or_start_anew() {
    let expansion = expand(
        "use std.{corpus, dataset, model, rounds, train}\nlet donor = model.open(\"m.gguf\")\n\
         let ds = dataset.pack(corpus.text(\"a\"), donor.tokenizer, seq: 8)\n\
         let r1 = train.keep(donor, ds, tokens: 8000, batch: 8)\naxis carry = [false, true]\n\
         let m = rounds.multi_round(r1.model, ds, n: 3, tokens: 8000, batch: 8, \
         optimiser: if carry then r1.optimiser else none)\nplan default = m vary carry\n",
    );
    let trainings = expansion.steps.iter().filter(|step| step.stage().name.starts_with("train."));
    let optimiser = |step: &Step| {
        let given = step.inputs().find(|(name, _)| *name == "optimiser");
        given.map(|(_, input)| match input {
            Input::Output(output) => output.step.0,
            Input::Files(_) => 0,
        })
    };
    let found: Vec<_> =
        trainings.map(|step| (step.stage().name.as_str(), step.name(), optimiser(step))).collect();
    let name = |carry: bool, round: u32| format!("m.model[carry={carry}, i={round}]");
    let number = |name: &str| {
        expansion.steps.iter().position(|step| step.name() == name).map(|at| at as u32)
    };
    let expected = [
        ("train.keep", "r1".to_owned(), None),
        ("train.run", name(false, 2), None),
        ("train.run", name(false, 3), None),
        ("train.keep", name(true, 2), number("r1")),
        ("train.keep", name(true, 3), number(&name(true, 2))),
    ];
    assert_eq!(found, expected);
}
