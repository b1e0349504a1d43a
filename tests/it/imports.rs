//! Recipes that import recipes: which steps there are, at which points, and what is wrong.

use std::path::Path;

use tlm::base::SourceMap;
use tlm::sema::steps::{Input, Step};
use tlm::sema::{self, Expansion, Overlay};

/// Expands the default plan of a recipe beside `b0.tlm`.
fn expand(recipe: &str, overlay: &Overlay) -> Result<Expansion, &'static str> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recipes");
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", recipe);
    let loaded = sema::load(&mut sources, file, &folder, overlay).finish();
    let (program, _) = loaded.map_err(|found| found[0].code)?;
    sema::expand(&program, &[]).finish().map(|(all, _)| all).map_err(|found| found[0].code)
}

/// Compares the trainings, by name.
#[track_caller]
fn trains(recipe: &str, overlay: &Overlay, expected: &[&str]) {
    let all = expand(recipe, overlay).unwrap_or_else(|code| panic!("{code}"));
    let trainings = all.steps.iter().filter(|step| step.stage().name == "train.run");
    let mut names: Vec<_> = trainings.map(Step::name).collect();
    names.sort_unstable();
    assert_eq!(names, expected, "{recipe}");
}

#[track_caller]
fn finds(recipe: &str, expected: &str) {
    assert_eq!(expand(recipe, &Overlay::default()).map(|_| ()), Err(expected), "{recipe}");
}

#[test]
fn a_recipe_is_a_function_of_its_params_and_axes() {
    let none = Overlay::default();
    let b0 = "use \"b0.tlm\" as b0\n";
    let one =
        |plan: &str, expected: &[&str]| trains(&format!("{b0}plan p = {plan}"), &none, expected);
    one("b0.m", &["b0.r1[b0.lr=1e-3, b0.rate=50%]"]);
    one("b0.m vary b0.lr", &["b0.r1[b0.lr=1e-3, b0.rate=50%]", "b0.r1[b0.lr=1e-4, b0.rate=50%]"]);
    one("b0.m[b0.rate: 100%]", &["b0.r1[b0.lr=1e-3, b0.rate=100%]"]);
    one("(b0 with {seed: 0}).m", &["b0.r1[b0.lr=1e-3, b0.rate=50%]"]);
    one("(b0 with {rate: 25%, lr: 1e-3}).m", &["b0.r1"]);
    // Changed twice; the later change counts.
    let twice = "let x = b0 with {keep: 8k, rate: 25%}\nlet y = x with {rate: 100%}\n";
    trains(
        &format!("{b0}{twice}plan p = [x.m, y.m]"),
        &none,
        &["x.r1[b0.lr=1e-3]", "y.r1[b0.lr=1e-3]"],
    );
}

/// A plan takes those of other recipes, changed ones too, with their reports.
#[test]
fn plans_take_plans_of_other_recipes() {
    let recipe = "use \"b0.tlm\" as b0\nlet x = b0 with {seed: 1}\n\
                  plan default = b0.default | x.default | b0.m vary b0.lr\nreport t = table(b0.m.loss)";
    let trained = |rate| move |prefix| format!("{prefix}.r1[b0.lr=1e-3, b0.rate={rate}]");
    let own = ["100%", "25%", "50%"].map(|rate| trained(rate)("b0"));
    let changed = ["100%", "25%", "50%"].map(|rate| trained(rate)("x"));
    let more = "b0.r1[b0.lr=1e-4, b0.rate=50%]".to_owned();
    let mut expected: Vec<_> = [&own[..], &changed, &[more]].concat();
    expected.sort_unstable();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    trains(recipe, &Overlay::default(), &expected);
    let all = expand(recipe, &Overlay::default()).expect("no mistakes");
    let names: Vec<_> = all.reports.iter().map(|report| report.name.as_str()).collect();
    assert_eq!(names, ["t", "b0.rates", "x.rates"]);
}

#[test]
fn axes_are_shared_unless_they_depend_on_what_is_given() {
    let all = |recipe: &str| expand(recipe, &Overlay::default()).expect("no mistakes");
    let recipe = "use \"b0.tlm\" as b0\naxis keep = [8k, 16k]\nlet big = b0 with {keep: keep}\n\
                  plan p = [b0.m, big.m] vary b0.rate, keep";
    let points = all(recipe).goals.len();
    assert_eq!(points, 1 + 2 + 1);
    // `size` of `big` has other values than that of `b0`.
    let depths = |recipe: &str| {
        let all = all(recipe);
        let steps = all.steps.iter().filter(|step| step.stage().name == "model.init");
        let mut names: Vec<_> = steps.map(Step::name).collect();
        names.sort_unstable();
        names
    };
    let recipe = "use \"b0.tlm\" as b0\nlet big = b0 with {keep: 8k}\n\
                  plan p = [b0.deep, big.deep] vary b0.size, big.size";
    assert_eq!(
        depths(recipe),
        [
            "b0.deep[b0.size=2 * keep / 4k]",
            "b0.deep[b0.size=keep / 4k]",
            "big.deep[big.size=2 * keep / 4k]",
            "big.deep[big.size=keep / 4k]",
        ]
    );
}

#[test]
fn names_are_taken_one_by_one() {
    let none = Overlay::default();
    trains(
        "use \"b0.tlm\".{m, rate, double, budget}\nlet n = m\nplan p = n vary rate where double(budget) > 0",
        &none,
        &[
            "b0.r1[b0.lr=1e-3, b0.rate=100%]",
            "b0.r1[b0.lr=1e-3, b0.rate=25%]",
            "b0.r1[b0.lr=1e-3, b0.rate=50%]",
        ],
    );
    finds("use \"b0.tlm\".{n}\nplan p = n", "tlm::sema::unknown_member");
    finds("use \"b0.tlm\" as b0\nplan p = b0.corpus", "tlm::sema::unknown_member");
    finds("use \"b0.tlm\" as b0\nplan p = b0.trple(1)", "tlm::sema::unknown_member");
    finds("use \"b0.tlm\" as b0\nplan p = (b0 with {kep: 1}).m", "tlm::sema::unknown_param");
    finds("use \"b0.tlm\" as b0\nplan p = (b0 with {keep: 50%}).m", "tlm::sema::wrong_type");
    finds("use \"b0.tlm\" as b0\nplan p = (b0 with {rate: [1%]}).m", "tlm::sema::wrong_type");
    finds("use \"b0.tlm\" as b0\nplan p = b0.m vary b0.keep", "tlm::sema::unknown_axis");
    finds("use \"b0.tlm\" as b0\nlet x = [b0]\nplan p = x + 1", "tlm::sema::operands");
}

#[test]
fn the_command_line_reaches_into_imports() {
    let recipe = "use \"b0.tlm\" as b0\nplan p = b0.m";
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let overlay = Overlay { axes: pair("b0.lr", "1,2"), ..Overlay::default() };
    trains(recipe, &overlay, &["b0.r1[b0.lr=1, b0.rate=50%]", "b0.r1[b0.lr=2, b0.rate=50%]"]);
    let overlay = Overlay { profile: Some("smoke".to_owned()), ..Overlay::default() };
    trains(recipe, &overlay, &["b0.r1[b0.lr=1e-2, b0.rate=50%]"]);
    let overlay = Overlay { only: pair("b0.rate", "25%"), ..Overlay::default() };
    trains(&format!("{recipe} vary b0.rate"), &overlay, &["b0.r1[b0.lr=1e-3, b0.rate=25%]"]);
    let overlay = Overlay { set: pair("b0.keep", "none"), ..Overlay::default() };
    assert_eq!(expand(recipe, &overlay).err(), Some("tlm::sema::wrong_type"));
    let overlay = Overlay { set: pair("c.keep", "1"), ..Overlay::default() };
    assert_eq!(expand(recipe, &overlay).err(), Some("tlm::sema::unknown_param"));
}

#[test]
fn recipes_that_double_each_other_are_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    write("r0.tlm", "param x = 1\nlet y = x\n");
    for at in 1..=40 {
        let below = at - 1;
        write(
            &format!("r{at}.tlm"),
            &format!(
                "use \"r{below}.tlm\" as a\nparam x = 1\nlet p = a with {{x: x}}\n\
                 let q = a with {{x: x + 1}}\nlet y = p.y + q.y\n"
            ),
        );
    }
    let mut sources = SourceMap::default();
    let file = sources.add("r.tlm", "use \"r40.tlm\" as a\nlet z = a.y");
    let loaded = sema::load(&mut sources, file, folder.path(), &Overlay::default());
    let found = loaded.finish().expect_err("too many");
    assert_eq!(found[0].code, "tlm::eval::too_much");
}

#[test]
fn paths_are_relative_to_the_file_that_they_are_written_in() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("sub")).expect("created");
    std::fs::write(
        folder.path().join("sub/base.tlm"),
        "use std.{corpus}\nparam data : Path = \"own.txt\"\nparam name = \"own.txt\"\nlet a = corpus.text(data)\n\
         let b = corpus.text(name)\nlet c = corpus.text(\"own.txt\")\nlet d = corpus.text(\"{data}.gz\")\n\
         fn read(x: Path) = corpus.text(x)\n",
    )
    .expect("written");
    let recipe = "use \"sub/base.tlm\" as base\nlet x = base with {data: \"mine.txt\"}\n\
                  plan p = [base.a, base.b, base.c, base.d, x.a, x.d, base.read(\"mine.md\")]";
    let patterns = |overlay: &Overlay| {
        let mut sources = SourceMap::default();
        let file = sources.add("r.tlm", recipe);
        let loaded = sema::load(&mut sources, file, folder.path(), overlay).finish();
        let (program, _) = loaded.expect("no mistakes");
        let (all, _) = sema::expand(&program, &[]).finish().expect("no mistakes");
        let files = all.steps.iter().flat_map(|step| step.inputs().map(|(_, input)| input.clone()));
        let pattern = |input: Input| match input {
            Input::Files(files) => {
                let path = files.base.join(&files.pattern);
                path.strip_prefix(folder.path()).expect("inside").display().to_string()
            }
            Input::Output(_) => String::new(),
        };
        files.map(pattern).collect::<Vec<_>>()
    };
    let own = ["sub/own.txt", "sub/own.txt.gz"];
    assert_eq!(
        patterns(&Overlay::default()),
        [own[0], own[1], "mine.txt", "mine.txt.gz", "mine.md"]
    );
    let set = vec![("base.data".to_owned(), "set.txt".to_owned())];
    let given = patterns(&Overlay { set, ..Overlay::default() });
    assert_eq!(given, ["set.txt", own[0], "set.txt.gz", "mine.txt", "mine.txt.gz", "mine.md"]);
}
