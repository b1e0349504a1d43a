//! Values that are known only once steps ran: computed with, chosen by, averaged.

use crate::run::space::Space;

/// f -> top -> used, f -> rate; two seeds, three rates. The loss is least at 0.2.
const RECIPE: &str = r#"stage fit(; lr: Float, seed: Int) -> { model: File, loss: Float, size: Count }  version 1 uses "fit.py" shell """
  python3 fit.py {lr} {seed} {model} {loss} {size}
"""

stage use_it(model: File; half: Count, shape: {depth: Count, rate: Float}) -> { text: File, n: Count }  version 1
  shell "cat {model} > {text}; echo {half} {shape.depth} {shape.rate} >> {text}; echo {half} > {n}"

axis lr   : Float = [0.1, 0.2, 0.5]
axis seed = [1, 2]

let f    = fit(lr: lr, seed: seed)
let top  = best(f, by: f.loss, over: lr)
let rate = best(lr, by: f.loss, over: lr)
let used = use_it(top.model, half: round(top.size / 2), shape: {depth: top.size + 1, rate: rate})

plan default = used vary seed | f over lr * seed

report lrs  = table([mean_std(f.loss, over: seed), f.loss - (f at baseline).loss], rows: lr)
report best = table([rate, used.n, top.loss], rows: seed)
"#;

const FIT: &str = "import sys
lr, seed, model, loss, size = sys.argv[1:]
open(model, 'w').write('model ' + lr)
open(loss, 'w').write(str(round((float(lr) - 0.2) ** 2 + int(seed) / 8, 6)))
open(size, 'w').write('7')
";

fn space() -> Space {
    let space = Space::with(RECIPE);
    space.write("fit.py", FIT);
    space
}

#[test]
fn the_best_of_an_axis_is_used_and_numbers_are_computed() {
    let space = space();
    let run = space.tlm(&["run", "r.tlm"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for row in [
        "| 0.1 | 0.1975 ± 0.0884 |                       0.00000 |",
        "| 0.2 | 0.1875 ± 0.0884 |                      -0.01000 |",
        "| 1    | 0.2000 | 4 | 0.1250 |",
        "| 2    | 0.2000 | 4 | 0.2500 |",
    ] {
        assert!(run.out.contains(row), "no `{row}` in\n{}", run.out);
    }
    space.run(&[]).check(0, &[]);
    space.check_store();
}

#[test]
fn what_uses_the_winner_does_not_run_again_while_it_wins() {
    let space = space();
    space.run(&[]);
    // Another loser.
    space.edit("0.5]", "0.6]");
    let run = space.run(&[]);
    assert_eq!(run.code, Some(0), "{run}");
    let ran =
        |step: &str| run.steps("finished").iter().filter(|name| name.starts_with(step)).count();
    assert_eq!((ran("f["), ran("top["), ran("used[")), (2, 2, 0), "{run}");
    // Another winner.
    space.write("fit.py", FIT.replace("- 0.2)", "- 0.1)"));
    let run = space.run(&[]);
    // Both seeds have the same winner, so the later of two may find what the other made.
    let is_used = |name: &&str| name.starts_with("used[");
    let [made, found] = ["finished", "reused"].map(|event| run.steps(event));
    assert!(made.iter().any(is_used), "{run}");
    assert_eq!(made.iter().chain(&found).filter(|name| is_used(name)).count(), 2, "{run}");
}

#[test]
fn a_number_that_can_t_be_computed_fails_its_step() {
    for (from, to, expected) in [
        (
            "round(top.size / 2)",
            "top.size / 2",
            "its `half` came out as 3.5 where a whole number is wanted",
        ),
        (
            "round(top.size / 2)",
            "round(8 / (top.size - 7))",
            "its `half` came out as a division by zero",
        ),
    ] {
        let space = space();
        space.edit(from, to);
        let run = space.run(&[]);
        assert_eq!(run.code, Some(1), "{run}");
        run.says(&[expected, "step `used[seed=1]` (use_it) failed"]);
        assert_eq!(run.steps("failed"), ["used[seed=1]", "used[seed=2]"]);
    }
}

#[test]
fn means_say_how_many_numbers_there_are() {
    let space = space();
    space.write(
        "fit.py",
        FIT.replace("open(size", "seed == '2' and lr == '0.5' and sys.exit(1)\nopen(size"),
    );
    let run = space.tlm(&["run", "r.tlm"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.out.contains("| 0.5 | 0.2150 (1 of 2) |"), "{}", run.out);
}

#[test]
fn keys_of_what_is_computed_follow_how() {
    let keys = |space: &Space| {
        let run = space.run(&[]);
        let used = run.all("finished").chain(run.all("reused"));
        let used = used.filter(|event| event["step"]["name"] == "used[seed=1]");
        let keys: Vec<_> = used.map(|event| event["step"]["key"].to_string()).collect();
        assert_eq!(keys.len(), 1, "{run}");
        keys
    };
    let space = space();
    let first = keys(&space);
    assert_eq!(keys(&space), first);
    // The same number, computed otherwise: another recipe, but nothing new to run.
    space.edit("round(top.size / 2)", "round(top.size * 50%)");
    let run = space.run(&[]);
    run.check(0, &[]);
    assert_ne!(keys(&space), first);
}
