//! `tlm fmt`: what it may never lose, and what it writes.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tlm::base::FileId;
use tlm::syntax::{format, parse};

use crate::fuzz::{self, tree};
use crate::parse::{RECIPE, damaged, tlm_files};

/// Returns the comments of a text that has no `#` in its texts.
fn comments(text: &str) -> Vec<&str> {
    let of = |line: &str| line.find('#');
    text.lines().filter_map(|line| of(line).map(|at| line[at..].trim_end())).collect()
}

/// Formats a text and checks what must hold of it; none if it has mistakes.
fn formatted(text: &str) -> Option<String> {
    let out = format(FileId(0), text).ok()?;
    assert_eq!(tree(&out), tree(text), "{text}\n---\n{out}");
    assert_eq!(format(FileId(0), &out).as_deref(), Ok(&*out), "{text}\n---\n{out}");
    assert_eq!(comments(&out), comments(text), "{text}\n---\n{out}");
    Some(out)
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(formatted(text).as_deref(), Some(expected));
}

#[test]
fn the_stdlib_and_the_examples_are_formatted() {
    let examples = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"));
    let folders = examples.expect("the folder is in the repository").map(|e| e.expect("readable"));
    let examples =
        folders.flat_map(|e| tlm_files(&format!("examples/{}", e.file_name().display())));
    for path in tlm_files("stdlib").into_iter().chain(examples) {
        let text = fs::read_to_string(&path).unwrap();
        let out = formatted(&text);
        assert_eq!(out.as_ref(), Some(&text), "run `tlm fmt {}`", path.display());
    }
}

#[test]
fn golden_recipes_keep_their_meaning() {
    for path in tlm_files("tests/golden/codes") {
        let text = fs::read_to_string(&path).unwrap();
        let is_whole = parse(FileId(0), &text).diagnostics.is_empty();
        assert_eq!(formatted(&text).is_some(), is_whole, "{}", path.display());
    }
    assert!(formatted(RECIPE).is_some());
}

#[test]
fn blanks_and_columns_are_the_same_everywhere() {
    check(
        "\n\nlet a=1 # one\nlet  bbb=[1,2,]\n\n\n\nlet c  = - 2\n",
        "let a   = 1   # one\nlet bbb = [1, 2]\n\nlet c = -2\n",
    );
    check(
        "param a:Count=1\nparam bcd : Tokens=4_000 tokens\nparam e=2\n",
        "param a   : Count  = 1\nparam bcd : Tokens = 4_000 tokens\nparam e   = 2\n",
    );
    check("stage s(;a : Int,)->{b:X} version 1", "stage s(; a: Int) -> { b: X }  version 1\n");
    check("plan p=m where(x>1)vary a\n|n", "plan p = m where (x > 1) vary a | n\n");
    check("", "");
    check("\n# only this", "# only this\n");
    check("\u{feff}let a = 1\r\n\r\n# b\r\n", "let a = 1\n\n# b\n");
}

#[test]
fn what_is_too_long_is_broken() {
    let long = "x".repeat(50);
    check(
        &format!("let a = f({long}, b: {long}, c: {long}).d"),
        &format!("let a = f(\n  {long},\n  b: {long},\n  c: {long},\n).d\n"),
    );
    check(
        &format!("let a = if {long} then {long} else {long}"),
        &format!("let a = if {long}\n  then {long}\n  else {long}\n"),
    );
    check(
        &format!("let a = {long} + {long} * {long}"),
        &format!("let a = {long}\n  + {long} * {long}\n"),
    );
    check(
        &format!("fn f(a: A, b: B; c: {long} = 1, d: {long} = 2) -> {long} = a"),
        &format!("fn f(\n  a: A, b: B;\n  c: {long} = 1,\n  d: {long} = 2,\n) -> {long} = a\n"),
    );
}

#[test]
fn comments_stay_where_they_are() {
    check(
        "let a = f( # open\n # first\n x, # x\n\n\n ## y\n y # z\n # last\n) # end",
        "let a = f(   # open\n  # first\n  x,   # x\n\n  ## y\n  y,   # z\n  # last\n)   # end\n",
    );
    check("let a = [ # none\n]", "let a = [   # none\n]\n");
    check("let a =\n # why\n 1", "let a =\n  # why\n  1\n");
    // No line can end there: the item stays as it is.
    check("let  a = b # why\n   .c\nlet  d=1", "let  a = b # why\n   .c\nlet d = 1\n");
}

#[test]
fn damaged_texts_never_stop_it() {
    let mut texts: Vec<Vec<u8>> =
        tlm_files("stdlib").iter().map(|path| fs::read(path).unwrap()).collect();
    texts.push(RECIPE.as_bytes().to_vec());
    damaged(&texts, 600).for_each(|bytes| fuzz::syntax(&bytes));
}

// ---- generated recipes: `~` is a place where blanks, line ends and comments may stand

fn any_of(texts: &[&'static str]) -> impl Strategy<Value = &'static str> + use<> {
    prop::sample::select(texts.to_vec())
}

fn name() -> impl Strategy<Value = String> {
    let names = ["a", "lr", "budget", "run", "at", "seed", "plan", "é", "a_rather_long_name"];
    prop::sample::select(names.to_vec()).prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = String> {
    let numbers = ["1", "1_000", "2.50", "1e-3", "4k", "4 k tokens", "50%", "10 GiB", "1.5h"];
    prop::sample::select(numbers.to_vec()).prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    let texts =
        [r#""""#, r#""a\n{{""#, r#""{a + 1}k""#, "\"\"\"\n  two\n lines \"\"\"", "\"é\\u{e9}\""];
    prop::sample::select(texts.to_vec()).prop_map(str::to_owned)
}

/// Returns some of what `one` makes, in brackets, perhaps with a comma at the end.
fn list(
    open: &'static str,
    one: impl Strategy<Value = String>,
    close: &'static str,
) -> impl Strategy<Value = String> {
    (prop::collection::vec(one, 0..4), any::<bool>()).prop_map(move |(items, comma)| {
        let last = if comma && !items.is_empty() { "~," } else { "" };
        format!("{open}~{}{last}~{close}", items.join("~,~"))
    })
}

fn named(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (name(), value).prop_map(|(name, value)| format!("{name}:~{value}"))
}

fn operator() -> impl Strategy<Value = &'static str> {
    let all = ["or", "and", "==", "!=", "<", "<=", ">", ">=", "??", "+", "-", "*", "/"];
    prop::sample::select(all.to_vec())
}

fn expr() -> impl Strategy<Value = String> {
    let word = any_of(&["true", "false", "none"]).prop_map(str::to_owned);
    let leaf = prop_oneof![4 => name(), 2 => number(), 1 => text(), 1 => word];
    leaf.prop_recursive(4, 24, 4, |e| {
        let e2 = || (e.clone(), e.clone());
        let three = (e.clone(), e.clone(), e.clone());
        prop_oneof![
            4 => (e2(), operator()).prop_map(|((a, b), op)| format!("{a}~ {op} ~{b}")),
            1 => e.clone().prop_map(|e| format!("-{e}")),
            1 => e.clone().prop_map(|e| format!("not {e}")),
            2 => e.clone().prop_map(|e| format!("(~{e}~)")),
            2 => list("[", e.clone(), "]"),
            2 => list("{", named(e.clone()), "}"),
            1 => (e.clone(), name()).prop_map(|(e, n)| format!("({e}).{n}")),
            1 => (name(), name()).prop_map(|(e, n)| format!("{e}~.{n}")),
            3 => (name(), list("(", e.clone(), ")")).prop_map(|(f, a)| format!("{f}{a}")),
            2 => (name(), list("(", named(e.clone()), ")")).prop_map(|(f, a)| format!("{f}.b{a}")),
            1 => (name(), list("{", named(e.clone()), "}")).prop_map(|(f, s)| format!("{f}() run {s}")),
            1 => (name(), list("[", named(e.clone()), "]")).prop_map(|(f, s)| format!("{f}{s}")),
            1 => (name(), list("{", named(e.clone()), "}")).prop_map(|(f, s)| format!("{f} with {s}")),
            1 => name().prop_map(|n| format!("{n} at~ baseline")),
            2 => three.prop_map(|(c, a, b)| format!("if {c}~ then {a}~ else {b}")),
            1 => (name(), e2(), number()).prop_map(|(n, (a, b), end)| {
                format!("fold {n} = {a} for i in 1 ..{end} {{~{b}~}}")
            }),
        ]
    })
}

fn ty() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![name(), prop::collection::vec(name(), 2..4).prop_map(|v| v.join("~ | "))];
    leaf.prop_recursive(3, 8, 3, |t| {
        let field = (named(t.clone()), prop::option::of(expr()))
            .prop_map(|(f, e)| e.map_or(f.clone(), |e| format!("{f} =~{e}")));
        prop_oneof![
            t.clone().prop_map(|t| format!("[~{t}~]")),
            t.prop_map(|t| format!("{t}?")),
            list("{", field, "}"),
        ]
    })
}

fn parameter() -> impl Strategy<Value = String> {
    let ranges = ["", " in 0 ..", " in .. 8", " in 0 .. 1", " in a - 1 ..-b"];
    let value =
        prop::option::of(expr()).prop_map(|e| e.map_or(String::new(), |e| format!(" = {e}")));
    let ends = ["", " since 2", " place", " since 2 place"];
    let (range, end) = (prop::sample::select(ranges.to_vec()), prop::sample::select(ends.to_vec()));
    (named(ty()), range, value, end).prop_map(|(a, b, c, d)| format!("{a}{b}{c}{d}"))
}

fn parameters() -> impl Strategy<Value = String> {
    let some = || prop::collection::vec(parameter(), 0..3).prop_map(|v| v.join(",~"));
    (some(), prop::option::of(some())).prop_map(|(inputs, params)| match params {
        Some(params) => format!("(~{inputs}~;~{params}~)"),
        None => format!("(~{inputs}~)"),
    })
}

fn plan_term() -> impl Strategy<Value = String> {
    let names = |with| prop::collection::vec(name(), 1..3).prop_map(move |v| v.join(with));
    let clause = prop_oneof![
        names(", ").prop_map(|n| format!("~ vary {n}")),
        names("*").prop_map(|n| format!("~ over {n}")),
        names(",").prop_map(|n| format!("~ each {n}")),
        expr().prop_map(|e| format!("~ where {e}")),
    ];
    (expr(), prop::collection::vec(clause, 0..3)).prop_map(|(e, c)| format!("{e}{}", c.concat()))
}

fn item() -> impl Strategy<Value = String> {
    let imports = [
        "use std",
        "use std.*",
        "use std.{a,~b~}",
        "use std.a.b as c",
        "use \"b.tlm\" as b",
        "use \"b.tlm\".{a}",
    ];
    let keyword = any_of(&["param", "let", "axis"]);
    let typed = prop::option::of(ty()).prop_map(|t| t.map_or(String::new(), |t| format!(": {t}")));
    let ends = [
        "",
        " tensor",
        " uses \"a\", \"b\"",
        " shell \"\"\"a {b}\n\"\"\"",
        " uses \"a\"~ shell \"c\"",
    ];
    let field = named(ty());
    prop_oneof![
        1 => prop::sample::select(imports.to_vec()).prop_map(str::to_owned),
        8 => (keyword, name(), typed, expr()).prop_map(|(k, n, t, e)| format!("{k} {n} {t} =~{e}")),
        1 => (name(), ty(), expr()).prop_map(|(n, t, e)| format!("param {n}: {t} in 0 .. = {e}")),
        1 => (name(), expr()).prop_map(|(n, e)| format!("report {n} = {e}")),
        1 => (name(), list("{", named(expr()), "}")).prop_map(|(n, e)| format!("profile {n} = {e}")),
        2 => (name(), parameters(), prop::option::of(ty()), expr()).prop_map(|(n, p, t, e)| {
            format!("fn {n}{p}{} =~{e}", t.map_or(String::new(), |t| format!("-> {t}")))
        }),
        2 => (name(), parameters(), ty(), prop::sample::select(ends.to_vec()))
            .prop_map(|(n, p, t, end)| format!("stage {n}{p} -> {t} version 1{end}")),
        1 => (name(), prop::option::of(list("{", field, "}")))
            .prop_map(|(n, f)| format!("artifact {n} {}", f.unwrap_or_default())),
        2 => (name(), prop::collection::vec(plan_term(), 1..3))
            .prop_map(|(n, t)| format!("plan {n} = {}", t.join("~ | "))),
    ]
}

/// Returns a recipe with blanks, line ends and comments put into it.
fn recipe() -> impl Strategy<Value = String> {
    let gaps = [
        "",
        "",
        "",
        "",
        " ",
        "  ",
        "\n",
        "\n\n\n ",
        " # c\n",
        "\n# own\n",
        "\n## doc\n",
        " # a\n # b\n\n",
    ];
    let between = [
        "\n",
        "\n",
        "\n\n",
        "   # behind\n",
        "\n# own\n",
        "\n## doc\n",
        "\n\n\n# far\n\n\n",
        "\n## doc\n\n",
    ];
    let items = prop::collection::vec((item(), prop::sample::select(between.to_vec())), 1..6);
    (items, prop::collection::vec(prop::sample::select(gaps.to_vec()), 1..40)).prop_map(
        |(items, gaps)| {
            let text: String = items.iter().map(|(item, end)| format!("{item}{end}")).collect();
            let mut gaps = gaps.iter().cycle();
            text.split('~')
                .map(|part| format!("{part}{}", gaps.next().expect("without end")))
                .collect()
        },
    )
}

#[test]
fn generated_recipes_keep_their_meaning() {
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let whole = Cell::new(0);
    let done = TestRunner::new_with_rng(config, random).run(&recipe(), |text| {
        whole.set(whole.get() + usize::from(formatted(&text).is_some()));
        Ok(())
    });
    assert!(done.is_ok(), "{}", done.unwrap_err());
    assert!(whole.get() > 300, "only {} of them have no mistakes", whole.get());
}

// ---- the command

fn tlm(folder: &Path, args: &[&str], input: &str) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tlm"));
    program.env_clear().current_dir(folder).arg("fmt").args(args).write_stdin(input);
    let output = program.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

#[test]
fn files_are_written_only_where_they_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    for (name, text) in [("a.tlm", "let a=1\n"), ("b.tlm", "let b = 1\n"), ("c.tlm", "let c =")] {
        fs::write(path(name), text).unwrap();
    }
    fs::set_permissions(path("a.tlm"), fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("a.tlm", path("link.tlm")).unwrap();
    let checked = tlm(dir.path(), &["--check", "a.tlm", "b.tlm"], "");
    assert_eq!(checked, (1, "a.tlm\n".to_owned(), String::new()));
    assert_eq!(fs::read_to_string(path("a.tlm")).unwrap(), "let a=1\n");

    let before = fs::metadata(path("b.tlm")).unwrap().modified().unwrap();
    let (code, out, err) = tlm(dir.path(), &["link.tlm", "c.tlm", "b.tlm"], "");
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("tlm::parse::unexpected"), "{err}");
    assert_eq!(fs::read_to_string(path("c.tlm")).unwrap(), "let c =");
    assert_eq!(fs::read_to_string(path("a.tlm")).unwrap(), "let a = 1\n");
    assert!(path("link.tlm").is_symlink());
    assert_eq!(fs::metadata(path("a.tlm")).unwrap().permissions().mode() & 0o777, 0o751);
    assert_eq!(fs::metadata(path("b.tlm")).unwrap().modified().unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    assert_eq!(tlm(dir.path(), &["--check", "a.tlm", "none.tlm"], "").0, 4);
}

#[test]
fn standard_input_goes_to_standard_output() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(tlm(dir.path(), &["-"], "let a=1").1, "let a = 1\n");
    assert_eq!(tlm(dir.path(), &["-", "--check"], "let a=1"), (1, "-\n".to_owned(), String::new()));
    assert_eq!(tlm(dir.path(), &["-"], "let a=").0, 3);
}
