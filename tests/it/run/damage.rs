//! A byte of the store that is not as it was: no step gets it, and what was made of it once is what it was.

use std::fs;
use std::path::{Path, PathBuf};

use crate::damage::flip;
use crate::run::space::{ALL, Space};

/// Returns the longest file of an output, and the object it lies in.
fn file_of(space: &Space, step: &str, output: &str) -> (PathBuf, PathBuf) {
    let shown = space.tlm(&["show", step]).out;
    let line = shown.lines().find_map(|line| line.trim().strip_prefix(&format!("{output}: ")));
    let object = PathBuf::from(
        line.unwrap_or_else(|| panic!("{shown}")).rsplit_once(", ").expect("a size").0,
    );
    let files = walkdir::WalkDir::new(&object).into_iter().map(|entry| entry.expect("readable"));
    let files = files.filter(|entry| entry.file_type().is_file());
    let longest = files.max_by_key(|entry| entry.metadata().expect("readable").len());
    (longest.expect("has one").into_path(), object)
}

#[test]
fn a_damaged_input_is_found_before_a_step_gets_it_and_made_again_in_the_same_run() {
    let clean = Space::new();
    clean.run(&[]).check(0, &ALL);
    clean.run(&["-s", "keep=265"]).check(0, &["dev", "ds", "tok"]);
    // What is damaged, and what runs again because a step that has to run would read it.
    for (step, output, made_again) in [
        ("split", "train", &["dev", "ds", "split", "tok"][..]),
        ("counts", "out", &["counts", "dev", "ds", "tok"]),
        ("base", "out", &["base", "dev", "ds", "tok"]),
        // No step that has to run reads it.
        ("text", "out", &["dev", "ds", "tok"]),
    ] {
        let space = Space::new();
        space.run(&[]).check(0, &ALL);
        let (file, object) = file_of(&space, step, output);
        flip(&file, 3);
        let run = space.run(&["-s", "keep=265"]);
        run.check(0, made_again);
        if step != "text" {
            run.says(&[
                &format!("{}` is damaged: another content in bytes 0..", file.display()),
                &format!("the object was moved to `{}/", space.path(".tlm/quarantine").display()),
                "what was damaged is made again",
            ]);
            let kept = space.stored("quarantine");
            let name = object.file_name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(kept.iter().collect::<Vec<_>>(), [&format!("{name}.0")]);
            space.check_store();
        }
        assert_eq!(space.objects(), clean.objects(), "{step}");
    }
}

#[test]
fn verify_tells_what_is_damaged_who_made_it_and_who_uses_it_and_repair_sets_it_aside() {
    let space = Space::new();
    space.run(&[]).check(0, &ALL);
    space.check_store();
    let (file, object) = file_of(&space, "split", "train");
    flip(&file, 0);
    let len = fs::metadata(&file).expect("there").len();
    let name = Path::new(file.file_name().expect("has one")).display();
    let told = format!(
        "damaged: {}\n  {name}: another content in bytes 0..{len}\n  made by split (corpus.split); used by counts \
         (tokenizer.count), ds (dataset.pack)\n",
        object.display()
    );
    let verified = space.tlm(&["verify"]);
    assert_eq!(verified.code, Some(4), "{verified:?}");
    let help = "1 damaged object of 7 records; `tlm verify --repair` sets them aside, and the next `tlm run` makes what it needs\n";
    assert_eq!(verified.out, format!("{told}{help}"));
    let repaired = space.tlm(&["verify", "--repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    let moved = space.path(".tlm/quarantine").join(object.file_name().expect("has one"));
    let moved = format!("moved to `{}.0`\n", moved.display());
    let last = "1 damaged object set aside; the next `tlm run` makes what it needs\n";
    assert_eq!(repaired.out, format!("{told}{moved}{last}"));
    // All targets are there: nothing has to run.
    space.run(&[]).check(0, &[]);
    space.run(&["-s", "keep=265"]).check(0, &["dev", "ds", "split", "tok"]);
    space.check_store();
}
