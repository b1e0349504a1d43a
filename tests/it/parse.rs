//! Parsing: the stdlib and the examples parse clean, mistakes are found where they are, and nothing panics.

use std::path::{Path, PathBuf};

use tlm::base::FileId;
use tlm::syntax::parse;

fn tlm_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let patterns = ["stdlib/*.tlm", "examples/*/*.tlm"];
    let files: Vec<_> = patterns
        .iter()
        .flat_map(|pattern| glob::glob(&root.join(pattern).to_string_lossy()).expect("a pattern"))
        .map(|path| path.expect("readable"))
        .collect();
    assert!(files.len() > 9, "stdlib and examples are there");
    files
}

#[test]
fn stdlib_and_examples_parse_clean() {
    for path in tlm_files() {
        let text = std::fs::read_to_string(&path).expect("readable");
        let parsed = parse(FileId(0), &text);
        assert_eq!(parsed.diagnostics, [], "{}", path.display());
        assert!(!parsed.file.items.is_empty(), "{}", path.display());
    }
}

/// Checks that `text` gives exactly these findings: code and the text under the primary label.
#[track_caller]
fn check(text: &str, expected: &[(&str, &str)]) {
    let parsed = parse(FileId(0), text);
    let found: Vec<_> = parsed
        .diagnostics
        .iter()
        .map(|d| {
            let span = d.labels[0].span;
            (
                d.code.trim_start_matches("tlm::parse::"),
                &text[span.start as usize..span.end as usize],
            )
        })
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn mistakes_are_found_where_they_are() {
    check("let a = 1\nlett b = 2\nlet c = 3", &[("expected_item", "lett")]);
    check("let a = f(1, 2\nlet b = 2", &[("unclosed", "")]);
    check("let a = 40q", &[("unknown_unit", "q")]);
    check("let a = 4 tokens\nlet b = 4k tokens\nlet c = 50%\nlet d = 1h", &[]);
    check("let a = \"x\\qy\"", &[("bad_escape", "\\q")]);
    check("let a = \"x\nlet b = 1", &[("bad_string", "\"x")]);
    check("let a = f(x y, 1) + [1, ;]", &[("unexpected", "y"), ("unexpected", ";")]);
    check("let a = 1 2", &[("unexpected", "2")]);
    check("plan p = m vary\nlet a = 3", &[("unexpected", "let")]);
    check("let a = ()", &[("unexpected", "()")]);
    check(&format!("let a = {}1{}", "(".repeat(99), ")".repeat(99)), &[("too_deep", "(")]);
    check("let a = 1 €", &[("unexpected", "€")]);
}

#[test]
fn five_mistakes_are_five_findings() {
    let text = "param a Int = 1\nlet b = f(,)\naxis c = [1 2]\nlet d = 3x\nplan e m";
    check(
        text,
        &[
            ("unexpected", "Int"),
            ("unexpected", ","),
            ("unexpected", "2"),
            ("unknown_unit", "x"),
            ("unexpected", "m"),
        ],
    );
}

#[test]
fn a_call_must_start_on_the_line_of_its_callee() {
    let parsed = parse(FileId(0), "let a = b\n(c)");
    assert_eq!(parsed.diagnostics.len(), 1);
    check("let a = b(\n  c,\n  d: 1,\n) run { limit: 1h }", &[]);
}

/// Cuts and splices the known texts in many ways: no panic, and every label lies inside the text.
#[test]
fn mangled_texts_never_panic() {
    let texts: Vec<_> =
        tlm_files().iter().map(|path| std::fs::read_to_string(path).expect("readable")).collect();
    let mut state = 7u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for round in 0..2000 {
        let text = &texts[round % texts.len()];
        let mut chars: Vec<char> = text.chars().skip(random(text.len() / 2)).take(400).collect();
        for _ in 0..1 + random(6) {
            if chars.len() < 3 {
                break;
            }
            let at = random(chars.len());
            match random(3) {
                0 => drop(chars.remove(at)),
                1 => chars
                    .insert(at, ['(', ')', '{', '"', ',', '\n', '.', '€', '1', '|'][random(10)]),
                _ => chars.truncate(at),
            }
        }
        let text: String = chars.into_iter().collect();
        for diagnostic in parse(FileId(0), &text).diagnostics {
            for label in diagnostic.labels {
                assert!(
                    text.get(label.span.start as usize..label.span.end as usize).is_some(),
                    "{text}"
                );
            }
        }
    }
}
