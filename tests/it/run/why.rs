//! `tlm why` after edits: nothing is stale, or it names exactly the fields that differ and their places.

use std::fs;

use crate::run::space::{Space, text};

/// parts -> mixed -> top -> used, parts -> fitted; b.grown is another recipe's.
const RECIPE: &str = r#"use "b.tlm" as b

param keep : Count = 4k

profile small = { keep: 100 }

axis rate : Ratio = [50%, 25%]
axis arm          = [{w: 1, h: 2}, {w: 3, h: 4}]

stage cut(raw: File; keep: Count, floor: Count = 3) -> {
  left: File, right: File, size: Count
}  version 1 uses "cut.sh" shell """
  sh cut.sh {keep} {floor} {left} {right} {size} {raw}
"""

stage mix(part: File; rate: Ratio, w: Count, h: Count) -> { text: File, loss: Float }  version 1
  shell "cat {part} > {text}; echo {w} {h} >> {text}; echo {rate} > {loss}"

stage use_it(text: File; n: Int) -> File  version 1 shell "cp {text} {out}; echo {n}"

stage fit(part: File) -> File  version 1 tensor shell "cp {part} {out}"

let parts  = cut("texts/*.txt", keep: keep)
let mixed  = mix(parts.left, rate: rate, w: arm.w, h: arm.h)
let top    = best(mixed, by: mixed.loss, over: rate)
let used   = use_it(top.text, n: parts.size)
let fitted = fit(parts.left)

plan default = mixed over rate * arm | used over arm | fitted | b.grown
"#;

const IMPORTED: &str = r#"param depth : Count = 2

stage grow(; depth: Count) -> File  version 1 shell "echo {depth} > {out}"

let grown = grow(depth: depth)
"#;

const CUT: &str = "cat \"$6\" > \"$3\"; cat \"$7\" > \"$4\"; echo \"$1\" > \"$5\"\n";

/// A folder where all ran; tensor stages on a worker without tensors.
fn ran() -> Space {
    let space = Space::with(RECIPE);
    reset(&space);
    space.script("worker", &format!("exec {} worker", env!("CARGO_BIN_EXE_tlm")));
    // Of steps that are equally near, the one that ran last is compared with.
    for (plan, told) in [("mixed[rate=50%]", "3 steps ran"), ("default", "8 steps ran")] {
        let run = space.tlm(&["run", "r.tlm", plan, "--torch", "worker"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.err.contains(told), "{run:?}");
    }
    space
}

/// Undoes all edits.
fn reset(space: &Space) {
    space.write("r.tlm", RECIPE);
    space.write("b.tlm", IMPORTED);
    space.write("cut.sh", CUT);
    fs::remove_dir_all(space.path("texts")).expect("removed");
    space.write("texts/a.txt", text(0));
    space.write("texts/b.txt", text(1));
}

/// What is changed, how, with which arguments, and what is said then of which step.
struct Case {
    what: &'static str,
    edit: fn(&Space),
    args: &'static [&'static str],
    step: &'static str,
    lines: &'static [&'static str],
}

/// A step of the first arm.
const USED: &str = "used[arm={w: 1, h: 2}]";
const TOP: &str = "top[arm={w: 1, h: 2}]";

const fn case(
    what: &'static str,
    edit: fn(&Space),
    step: &'static str,
    lines: &'static [&'static str],
) -> Case {
    Case { what, edit, args: &[], step, lines }
}

const fn flags(
    what: &'static str,
    args: &'static [&'static str],
    step: &'static str,
    lines: &'static [&'static str],
) -> Case {
    Case { what, edit: |_| (), args, step, lines }
}

const STALE: &[Case] = &[
    case("a param", |s| s.edit("= 4k", "= 5k"), "parts", &["keep: 4000 -> 5000   at r.tlm:23:39"]),
    flags("-s", &["-s", "keep=5k"], "parts", &["keep: 4000 -> 5000   at r.tlm:23:39"]),
    flags("a profile", &["--profile", "small"], "parts", &["keep: 4000 -> 100   at r.tlm:23:39"]),
    case(
        "a param of an imported recipe",
        |s| s.write("b.tlm", IMPORTED.replace("= 2", "= 3")),
        "b.grown",
        &["depth: 2 -> 3   at b.tlm:5:25"],
    ),
    case(
        "a new value of an axis",
        |s| s.edit("25%]", "25%, 10%]"),
        "mixed[arm={w: 1, h: 2}, rate=10%]",
        &["rate: 0.25 -> 0.1   at r.tlm:24:36"],
    ),
    case(
        "one more to choose from",
        |s| s.edit("25%]", "25%, 10%]"),
        TOP,
        &["comes from mixed[arm={w: 1, h: 2}, rate=10%] too   at r.tlm:25:14"],
    ),
    case(
        "a file's content",
        |s| s.write("texts/a.txt", "x"),
        "parts",
        &["inputs.raw: another content   at r.tlm:23:18"],
    ),
    case(
        "files in another order",
        |s| fs::rename(s.path("texts/a.txt"), s.path("texts/c.txt")).expect("renamed"),
        "parts",
        &["inputs.raw: another order of its files   at r.tlm:23:18"],
    ),
    case(
        "one file less",
        |s| fs::remove_file(s.path("texts/b.txt")).expect("removed"),
        "parts",
        &["inputs.raw: 2 files -> 1 file   at r.tlm:23:18"],
    ),
    case(
        "another output",
        |s| s.edit("fit(parts.left)", "fit(parts.right)"),
        "fitted",
        &["inputs.part.output: left -> right   at r.tlm:27:18"],
    ),
    case(
        "the version of a stage",
        |s| s.edit("version 1 uses", "version 2 uses"),
        "parts",
        &["version of the stage: 1 -> 2   at r.tlm:12:12"],
    ),
    case(
        "a command",
        |s| s.edit("echo {n}", "echo {n}; true"),
        USED,
        &["shell: cp {text} {out}; echo {n} -> cp {text} {out}; echo {n}; true   at r.tlm:19:59"],
    ),
    case(
        "a line of a long command",
        |s| s.edit("  sh cut.sh", "  set -e -u\n  sh cut.sh"),
        "parts",
        &[
            "shell, line 1: sh cut.sh {keep} {floor} {left} {right} {size} {raw} -> set -e -u   at r.tlm:12:34",
        ],
    ),
    case(
        "a file that a command uses",
        |s| s.write("cut.sh", CUT.to_owned() + "# new\n"),
        "parts",
        &["inputs.uses cut.sh: another content   at r.tlm:12:19"],
    ),
    case(
        "a default overridden",
        |s| s.edit("keep: keep)", "keep: keep, floor: 4)"),
        "parts",
        &["floor: 3 -> 4   at r.tlm:23:52"],
    ),
    case(
        "another default",
        |s| s.edit("floor: Count = 3", "floor: Count = 4"),
        "parts",
        &["floor: 3 -> 4   at r.tlm:23:14"],
    ),
    case(
        "a field of a record",
        |s| s.edit("{w: 1", "{w: 5"),
        "mixed[arm={w: 5, h: 2}, rate=50%]",
        &["w: 1 -> 5   at r.tlm:24:45"],
    ),
    case(
        "a late value",
        |s| s.edit("parts.size)", "parts.size + 1)"),
        USED,
        &["n.output: size -> Int(+(size, 1))   at r.tlm:26:34"],
    ),
    case(
        "what is best",
        |s| s.edit("by: mixed.loss", "by: -mixed.loss"),
        TOP,
        &[
            "by.0.output: loss -> - Float(0, loss)   at r.tlm:25:14",
            "by.1.output: loss -> - Float(0, loss)   at r.tlm:25:14",
        ],
    ),
    case(
        "another winner",
        |s| s.edit("by: mixed.loss", "by: -mixed.loss"),
        USED,
        &["comes from another top[arm={w: 1, h: 2}]   at r.tlm:26:21"],
    ),
    case(
        "what comes before",
        |s| s.edit("= 4k", "= 5k"),
        USED,
        &[
            "comes from another top[arm={w: 1, h: 2}]   at r.tlm:26:21",
            "comes from another parts   at r.tlm:26:34",
        ],
    ),
    case(
        "the class of devices",
        |s| s.edit("fit(parts.left)", "fit(parts.left) run { device: cuda }"),
        "fitted",
        &["numerics: cpu/libtorch-2.11.0 -> cuda/libtorch-2.11.0   at r.tlm:27:14"],
    ),
];

#[test]
fn why_names_exactly_what_an_edit_changed() {
    let space = ran();
    for Case { what, edit, args, step, lines } in STALE {
        reset(&space);
        edit(&space);
        let why = space.tlm(&[&["why", "r.tlm", step], *args].concat());
        assert_eq!(why.code, Some(0), "{what}: {why:?}");
        let told: Vec<_> = why.out.lines().skip(1).map(str::trim_start).collect();
        assert_eq!(told, *lines, "{what}: {}", why.out);
    }
}

#[test]
fn edits_that_change_no_result_leave_all_fresh() {
    type Edit = fn(&Space);
    let fresh: &[(&str, Edit, &[&str])] = &[
        ("a comment and a layout", |s| s.edit("let top    =", "# Best.\n\nlet top ="), &[]),
        ("a renamed value", |s| s.edit("parts", "pieces"), &[]),
        ("a renamed axis", |s| s.edit("arm", "leg"), &[]),
        ("another spelling", |s| s.edit("= 4k", "= 4_000"), &[]),
        ("the same by -s", |_| (), &["-s", "keep=4000"]),
        ("a default written out", |s| s.edit("keep: keep)", "keep: keep, floor: 3)"), &[]),
        (
            "the order of an axis",
            |s| s.edit("[{w: 1, h: 2}, {w: 3, h: 4}]", "[{w: 3, h: 4}, {w: 1, h: 2}]"),
            &[],
        ),
        ("fewer values of an axis", |s| s.edit(", {w: 3, h: 4}]", "]"), &[]),
        (
            "how it is run",
            |s| s.edit("keep: keep)", "keep: keep) run { retries: 2, cpus: 1 }"),
            &[],
        ),
        (
            "a file renamed in its order",
            |s| fs::rename(s.path("texts/a.txt"), s.path("texts/aa.txt")).expect("renamed"),
            &[],
        ),
    ];
    let space = ran();
    for (what, edit, args) in fresh {
        reset(&space);
        edit(&space);
        let plan = space.tlm(&[&["plan", "r.tlm"], *args].concat());
        assert!(plan.out.ends_with("all fresh\n"), "{what}: {plan:?}");
    }
}
