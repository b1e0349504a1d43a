//! A folder with texts, a small tokenizer and a recipe, and the program run in it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// text -> split -> { counts -> tok, ds, dev }, base -> { counts, tok }.
pub(super) const RECIPE: &str = r#"use std.{corpus, tokenizer, dataset}

param keep : Count = 270

let text   = corpus.text("texts/*.txt", delimiter: "\n\n")
let split  = corpus.split(text, valid: 25%, seed: 7)
let base   = tokenizer.open("tokenizer.json")
let counts = tokenizer.count(split.train, base)
let tok    = tokenizer.prune(base, counts, keep: keep)
let ds     = dataset.pack(split.train, tok, seq: 32)
let dev    = dataset.pack(split.valid, tok, seq: 16)

plan default = [ds, dev]
plan words   = counts

## What was packed.
report sizes = table([tok.size, ds.sequences, dev.tokens])
"#;

/// The steps of [`RECIPE`] that its default plan needs, in alphabetical order.
pub(super) const ALL: [&str; 7] = ["base", "counts", "dev", "ds", "split", "text", "tok"];

/// Nothing here takes so long; it only keeps a hanging program from hanging the tests.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Space {
    dir: tempfile::TempDir,
}

/// A program that ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl Space {
    /// A folder with [`RECIPE`] as `r.tlm` and what it names.
    pub(super) fn new() -> Self {
        Self::with(RECIPE)
    }

    pub(super) fn with(recipe: &str) -> Self {
        let space = Self { dir: tempfile::tempdir().expect("a folder") };
        space.write("r.tlm", recipe);
        space.write("texts/a.txt", text(0));
        space.write("texts/b.txt", text(1));
        space.write("tokenizer.json", tokenizer().to_string());
        space
    }

    /// Returns another folder with all that is in this one.
    pub(super) fn copied(&self) -> Self {
        let copy = Self { dir: tempfile::tempdir().expect("a folder") };
        let paths = [self.path("."), copy.path("")];
        let copied = Command::new("cp").arg("-a").args(paths).status();
        assert!(copied.expect("it starts").success());
        copy
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("created");
        fs::write(path, content).expect("written");
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("readable")
    }

    /// Writes a program in the shell's language.
    pub(super) fn script(&self, name: &str, body: &str) {
        self.write(name, format!("#!/bin/sh\n{body}\n"));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(name), mode).expect("made executable");
    }

    /// Replaces a text in the recipe.
    #[track_caller]
    pub(super) fn edit(&self, from: &str, to: &str) {
        let recipe = self.read("r.tlm");
        assert!(recipe.contains(from), "no `{from}` in the recipe");
        self.write("r.tlm", recipe.replace(from, to));
    }

    /// Returns a call of `tlm` in this folder, as a user without settings makes it.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlm"));
        self.at_home(&mut command);
        command.args(args);
        command
    }

    /// Sets a program's folder and clears what it could inherit.
    pub(super) fn at_home(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).env("CUDA_VISIBLE_DEVICES", "").env("TZ", "UTC");
        ["TLM_STORE", "TLM_TORCH", "LIBTORCH", "NO_COLOR"].iter().for_each(|name| {
            command.env_remove(name);
        });
    }

    pub(super) fn tlm(&self, args: &[&str]) -> Ended {
        finish(&mut self.command(args))
    }

    /// `tlm run --json r.tlm`, and more arguments.
    pub(super) fn run(&self, more: &[&str]) -> Run {
        Run::of(finish(&mut self.run_command(more)))
    }

    pub(super) fn run_command(&self, more: &[&str]) -> Command {
        self.command(&[&["run", "--json", "r.tlm"], more].concat())
    }

    /// Returns the names in a folder of the store.
    pub(super) fn stored(&self, folder: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(".tlm").join(folder)).expect("the store's folder");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        entries.map(|entry| name(entry).into_string().expect("text")).collect()
    }

    /// Returns the names of all objects, which are their digests.
    pub(super) fn objects(&self) -> BTreeSet<String> {
        let folders = self.stored("objects").into_iter();
        folders.flat_map(|folder| self.stored(&format!("objects/{folder}"))).collect()
    }

    /// Checks that all objects are whole and that nothing half made lies about.
    #[track_caller]
    pub(super) fn check_store(&self) {
        let verified = self.tlm(&["verify"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        assert_eq!(self.stored("staging"), BTreeSet::new());
    }
}

/// The events of `tlm run --json`.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) code: Option<i32>,
    pub(super) events: Vec<Value>,
    pub(super) err: String,
}

impl Run {
    pub(super) fn of(ended: Ended) -> Self {
        let event = |line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{ended:?}"))
        };
        let events = ended.out.lines().map(event).collect();
        Self { code: ended.code, events, err: ended.err }
    }

    pub(super) fn all(&self, event: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |line| line["event"] == event)
    }

    /// Returns the names of the steps with such an event, in alphabetical order.
    pub(super) fn steps(&self, event: &str) -> Vec<&str> {
        let mut names: Vec<_> = self.all(event).map(name).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn summary(&self) -> &Value {
        self.events.last().expect("a summary")
    }

    /// Checks the exit code and which steps ran to their end.
    #[track_caller]
    pub(super) fn check(&self, code: i32, finished: &[&str]) {
        assert_eq!((self.code, self.steps("finished")), (Some(code), finished.to_vec()), "{self}");
    }

    /// Checks that stderr says all this.
    #[track_caller]
    pub(super) fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.err.contains(part), "no `{part}` in:\n{}", self.err);
        }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<_> = self.events.iter().map(Value::to_string).collect();
        write!(f, "exit code {:?}\n{}\n{}", self.code, lines.join("\n"), self.err)
    }
}

/// Returns an event's step.
pub(super) fn name(event: &Value) -> &str {
    event["step"]["name"].as_str().expect("a step's name")
}

/// Checks the exit code, and that the output or standard error has all this.
#[track_caller]
pub(super) fn check(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    for part in parts {
        let found = ended.out.contains(part) || ended.err.contains(part);
        assert!(found, "no `{part}` in:\n{}{}", ended.out, ended.err);
    }
}

/// Runs a program to its end.
pub(super) fn finish(command: &mut Command) -> Ended {
    wait(start(command))
}

pub(super) fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it starts")
}

/// Waits for a program, but not forever.
pub(super) fn wait(child: Child) -> Ended {
    let id = child.id().to_string();
    let waiter = std::thread::spawn(move || child.wait_with_output().expect("it ends"));
    eventually(&format!("the end of process {id}"), || waiter.is_finished().then_some(()));
    let Output { status, stdout, stderr } = waiter.join().expect("no panic");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Asks until there is an answer.
#[track_caller]
pub(super) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn signal(id: u32, name: &str) {
    // An error means that the process is gone.
    let _ = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).output();
}

/// Returns some documents, different for each seed.
pub(super) fn text(seed: usize) -> String {
    let word = |at: usize| ["the cat", "abcabc", "sat on", "ümlaut", "the mat"][at % 5];
    let document = |at: usize| {
        let words: Vec<_> = (0..20).map(|i| word(i * i + at * (seed + 3))).collect();
        format!("{at} {seed} {}", words.join(" "))
    };
    (0..30).map(document).collect::<Vec<_>>().join("\n\n")
}

/// A byte-level BPE tokenizer: `<|endoftext|>`, the bytes, and a few merges.
pub(super) fn tokenizer() -> Value {
    let mut tokens = vec!["<|endoftext|>".to_owned()];
    tokens.extend(byte_symbols().map(String::from));
    let merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("a", "t"),
        ("c", "at"),
        ("Ġ", "cat"),
        ("s", "at"),
        ("Ġ", "sat"),
        ("a", "b"),
        ("ab", "c"),
        ("Ġ", "abc"),
        ("o", "n"),
        ("Ġ", "on"),
        ("m", "at"),
        ("Ġ", "mat"),
        ("l", "a"),
    ];
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{
            "id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges.map(|(a, b)| json!([a, b])),
        },
    })
}

/// The characters that stand for the 256 bytes.
fn byte_symbols() -> impl Iterator<Item = char> {
    let plain = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let shown = (0..256).filter(plain);
    let moved = (0..256).filter(move |byte| !plain(byte)).zip(256..).map(|(_, symbol)| symbol);
    shown.chain(moved).map(|symbol| char::from_u32(symbol).expect("a character"))
}

/// Returns the processes whose command line mentions a path, this test's own apart.
pub(super) fn processes_of(path: &Path) -> Vec<u32> {
    let wanted = path.to_str().expect("text").as_bytes().to_vec();
    let mentions = |id: &u32| {
        let cwd = fs::read_link(format!("/proc/{id}/cwd")).ok();
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let inside = cwd.is_some_and(|cwd| cwd.starts_with(path));
        !line.is_empty() && (inside || line.windows(wanted.len()).any(|part| part == wanted))
    };
    let entries = fs::read_dir("/proc").expect("Linux");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(mentions).collect()
}
