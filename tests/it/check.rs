//! What the checks of a recipe find, and what its plans come to: one line a case.

use std::path::Path;

use tlm::base::SourceMap;
use tlm::diag::{Checked, render};
use tlm::sema::steps::{Arg, Cell, Step};
use tlm::sema::{self, Expansion};

/// Checks a recipe and compares what is found with `code text`, the text being what the first label is about.
#[track_caller]
fn finds(recipe: &str, expected: &[&str]) {
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", recipe);
    let found = match sema::load(&mut sources, file, Path::new("/recipes"), &[]).finish() {
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
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", recipe);
    let loaded = sema::load(&mut sources, file, Path::new("/recipes"), &[]).finish();
    let program = loaded.map(|(program, _)| program);
    let expanded = program.and_then(|program| sema::expand(&program, &[]).finish());
    expanded.unwrap_or_else(|found| panic!("{}", render(&sources, &found, 80, false))).0
}

/// Compares the steps of a recipe's plans with their names and one of their parameters.
#[track_caller]
fn makes(recipe: &str, param: &str, expected: &[&str]) {
    let shown = |step: &Step| {
        let point: Vec<_> =
            step.point.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        let value = match step.params.get(param) {
            Some(Arg::Value(value)) => format!(" {}", serde_json::to_string(value).expect("plain")),
            Some(Arg::Late(_)) => " late".to_owned(),
            None => String::new(),
        };
        format!("{}[{}]{value}", step.label, point.join(", "))
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
    finds("fn half(x: Count) -> Count = x\nlet a = half(2)", &["not_yet half"]);
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
        "let a = {b: 1}\nlet c = if true then none else a\nlet d = c == none",
        &["operands none"],
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
        let set = [(name.to_owned(), value.to_owned())];
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
    let found = sema::load(&mut sources, file, Path::new("/"), &[]).finish().unwrap_err();
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
    assert!(rows.iter().all(|row| matches!(row.cells[..], [Some(Cell::Output(_))])));
}
