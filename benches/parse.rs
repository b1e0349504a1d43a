//! Parsing and checking long recipes (bars: 500,000 lines a second; 100,000 lines checked in a second).

use divan::counter::ItemsCount;
use tlm::base::{FileId, SourceMap};
use tlm::{sema, syntax};

/// Lines of a recipe.
const SIZES: [usize; 2] = [1_000, 100_000];

fn main() {
    divan::main();
}

#[divan::bench(args = SIZES)]
fn parse(bencher: divan::Bencher<'_, '_>, lines: usize) {
    let (sources, file) = recipe(lines);
    bencher.counter(ItemsCount::new(lines)).bench(|| syntax::parse(file, sources.text(file)));
}

#[divan::bench(args = SIZES, sample_count = 5)]
fn check(bencher: divan::Bencher<'_, '_>, lines: usize) {
    bencher.counter(ItemsCount::new(lines)).with_inputs(|| recipe(lines)).bench_local_values(
        |(mut sources, file)| {
            let program = sema::load(
                &mut sources,
                file,
                std::path::Path::new("."),
                &sema::Overlay::default(),
            );
            sema::check(&program.finish().expect("no errors").0)
        },
    );
}

/// Returns a recipe of so many lines: params, sums of earlier ones, and calls.
fn recipe(lines: usize) -> (SourceMap, FileId) {
    let mut text = "use std.{corpus}\n\n\nlet text = corpus.text(\"data/*.txt\")\n".to_owned();
    for line in 4..lines {
        text += &match line % 4 {
            0 => format!("param p{line} : Tokens = {line}k   # tokens\n"),
            1 => format!("let sum{line} = (p{} + 2 * 10k tokens) / 2\n", line - 1),
            2 => format!("let share{line} = if sum{} > 1M tokens then 2% else 10%\n", line - 1),
            _ => {
                format!("let split{line} = corpus.split(text, valid: share{}, seed: 7)\n", line - 1)
            }
        };
    }
    let mut sources = SourceMap::default();
    let file = sources.add("long.tlm", text);
    (sources, file)
}
