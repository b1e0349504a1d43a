//! `tlm serve`: what its page shows while runs come and go, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout};

use crate::run::space::{Space, check, eventually, signal, start, wait};

/// `slow` waits for a file `go`, or until the test is over, and `bad` fails.
const RECIPE: &str = r#"stage slow(raw: File) -> File version 1 shell "echo it works; while [ -e r.tlm ] && ! [ -e go ]; do sleep 0.01; done; cp {raw} {out}"
stage more(raw: File) -> File version 1 shell "cp {raw} {out}"
stage bad(raw: File) -> File version 1 shell "echo it fails; [ -e good ] && cp {raw} {out}"
let a = slow("texts/a.txt")
let b = more(a)
let c = bad("texts/b.txt")
let d = more(c)
plan default = b
plan rest = d
"#;

/// A server of the recipe of a space; dropped, it ends.
pub(super) struct Served {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    /// `127.0.0.1:8717`
    pub(super) host: String,
}

/// What a server answered.
#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Served {
    pub(super) fn start(space: &Space, args: &[&str]) -> Self {
        let mut child = start(&mut space.command(&[&["serve", "r.tlm"], args].concat()));
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut url = String::new();
        stdout.read_line(&mut url).expect("readable");
        let host = url.trim_end().strip_prefix("http://").and_then(|url| url.strip_suffix('/'));
        let host = host.unwrap_or_else(|| panic!("no address in `{url}`")).to_owned();
        Self { child, _stdout: stdout, host }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.host).expect("it listens")
    }

    /// Sends a text and returns the answer.
    fn say(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("readable");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
        Answer { code, head: head.to_owned(), body: body.to_owned() }
    }

    fn get(&self, path: &str, headers: &str) -> Answer {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host))
    }

    fn page(&self) -> String {
        let answer = self.get("/", "");
        assert_eq!(answer.code, 200, "{answer:?}");
        answer.body
    }

    /// Waits until the page shows the steps so, `a running, b waiting`, and has all these texts; returns it.
    #[track_caller]
    fn shows(&self, steps: &str, parts: &[&str]) -> String {
        let mut last = String::new();
        eventually(&format!("`{steps}` with {parts:?}"), || {
            last = self.page();
            let is_there = states(&last) == steps && parts.iter().all(|part| last.contains(part));
            is_there.then(|| last.clone())
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns how the steps of a page stand.
fn states(page: &str) -> String {
    let state = |head: &str| {
        let (name, rest) = head.split_once(" <span>")?;
        let (_, rest) = rest.split_once("<span class=\"word ")?;
        let (_, word) = rest.split_once("\">")?;
        Some((name.to_owned(), word.split('<').next()?.to_owned()))
    };
    let states: BTreeMap<_, _> = page.split("<h3>").skip(1).filter_map(state).collect();
    let states: Vec<_> = states.iter().map(|(name, word)| format!("{name} {word}")).collect();
    states.join(", ")
}

#[test]
fn the_page_follows_runs_that_come_and_go() {
    let space = Space::with(RECIPE);
    let served = Served::start(&space, &["--port", "0"]);
    served.shows("a not run, b not run", &["no run goes on", "2: 2 not run"]);
    let run = start(&mut space.run_command(&[]));
    let (process, running) = (format!("process {} on ", run.id()), "a running, b waiting");
    let page = served.shows(running, &[&process, "0 of 2 steps are over", "it works"]);
    let other = Served::start(&space, &["rest", "--port", "0"]);
    other.shows("c not run, d not run", &[&process]);

    signal(run.id(), "KILL");
    wait_for_end(run);
    served.shows("a not run, b not run", &["no run goes on"]);
    let run = start(&mut space.run_command(&[]));
    served.shows(running, &[&format!("process {} on ", run.id())]);

    // The step goes on, whatever becomes of the recipe; a mended one may have other steps.
    space.edit("plan default = b", "plan default = x");
    served.shows(running, &["This can't be shown now", "tlm::sema::unknown_name", "r.tlm:8:16"]);
    space.edit("plan default = x", "plan default = a");
    let page_of_a = served.shows("a running", &["plan default = a"]);
    assert!(!page_of_a.contains("be shown now") && page.contains("plan default = b"));
    space.edit("plan default = a", "plan default = b");

    space.write("go", "");
    served.shows("a fresh, b fresh", &["no run goes on", "2: 2 fresh"]);
    assert_eq!(wait(run).code, Some(0));

    assert_eq!(space.tlm(&["run", "r.tlm", "rest"]).code, Some(1));
    let failed = other.shows("c failed, d skipped", &["it fails", "failed: the command ended"]);
    let log = failed.split("href=\"log/").nth(1).and_then(|rest| rest.get(..64)).expect("a link");
    let log = other.get(&format!("/log/{log}"), "");
    assert!(log.code == 200 && log.body.starts_with("step c (bad) at "), "{log:?}");
    assert!(log.head.contains("Content-Type: text/plain; charset=utf-8"), "{log:?}");
    space.write("good", "");
    check(&space.tlm(&["run", "r.tlm", "rest"]), 0, &["finished d"]);
    other.shows("c fresh, d fresh", &[]);

    check(&space.tlm(&["gc", "--delete", "--keep-days", "0"]), 0, &[]);
    served.shows("a not run, b not run", &[]);
    fs::remove_dir_all(space.path(".tlm")).expect("removed");
    served.shows("a not run, b not run", &["The store is gone"]);
    assert!(!space.path(".tlm").exists());
    space.run(&[]).check(0, &["a", "b"]);
    served.shows("a fresh, b fresh", &[]);
}

/// Waits for a killed program; its last line may be cut.
fn wait_for_end(mut child: Child) {
    drop(child.stdout.take());
    child.wait().expect("it ends");
}

#[test]
fn curves_grow_while_a_training_writes_its_log() {
    let space = Space::with(
        r#"stage fit(raw: File) -> { log: TrainLog, loss: Float } version 1 shell """
  mkdir {log}
  for at in 1 2 3; do
    while [ -e r.tlm ] && ! [ -e go$at ]; do sleep 0.01; done
    echo '{{"tokens": '$at'00000, "loss": '$at'.5}}' >> {log}/log.jsonl
  done
  echo 2.5 > {loss}
"""
let r = fit("texts/a.txt")
plan default = r
report losses = curve(r.log)
"#,
    );
    let served = Served::start(&space, &["--port", "0"]);
    let run = start(&mut space.run_command(&[]));
    let page = served.shows("r running", &[]);
    assert!(!page.contains("Training loss"), "{page}");
    for (go, tokens) in [("go1", ">100k<"), ("go2", ">200k<")] {
        space.write(go, "");
        let drawn = |page: &str| page.replace(['\n', ' '], "");
        eventually(tokens, || drawn(&served.page()).contains(tokens).then_some(()));
        assert_eq!(served.page().matches("class=\"chart\"").count(), 2, "the figure, and all logs");
    }
    space.write("go3", "");
    served.shows("r fresh", &["loss = 2.5", "class=\"chart\""]);
    assert_eq!(wait(run).code, Some(0));
}

#[test]
fn what_is_not_asked_from_here_to_read_is_refused() {
    let space = Space::with(RECIPE);
    space.run(&["rest"]).check(1, &[]);
    let served = Served::start(&space, &["--port", "0"]);
    let own = &*served.host;
    let evil = format!("evil.example:{}", own.split(':').nth(1).expect("a port"));
    for (line, host, expected) in [
        ("GET / HTTP/1.1", own, 200),
        ("GET /?x HTTP/1.0", own, 200),
        ("GET / HTTP/1.1", "localhost", 200),
        ("GET / HTTP/1.1", &evil, 403),
        ("GET / HTTP/1.1", "", 403),
        ("POST / HTTP/1.1", own, 405),
        ("PUT /log/a HTTP/1.1", own, 405),
        ("DELETE / HTTP/1.1", own, 405),
        ("GET /favicon.ico HTTP/1.1", own, 204),
        ("GET /r.tlm HTTP/1.1", own, 404),
        ("GET //etc/passwd HTTP/1.1", own, 404),
        ("GET /log/../../r.tlm HTTP/1.1", own, 404),
        ("GET /log/%2e%2e%2f%2e%2e%2fr.tlm HTTP/1.1", own, 404),
        ("GET /log/ HTTP/1.1", own, 404),
        (&format!("GET /log/{} HTTP/1.1", "0".repeat(64)), own, 404),
        ("GET http://evil.example/ HTTP/1.1", own, 404),
        (&format!("GET /{} HTTP/1.1", "a".repeat(10_000)), own, 400),
        ("nonsense", own, 400),
    ] {
        let answer = served.say(&format!("{line}\r\nHost: {host}\r\nContent-Length: 3\r\n\r\na=b"));
        assert_eq!(answer.code, expected, "{line} {host}: {answer:?}");
        let head = answer.head.to_lowercase();
        assert!(!head.contains("access-control"), "{line}: {answer:?}");
        assert!(head.contains("content-security-policy: default-src 'none'"), "{line}: {answer:?}");
    }
    let page = served.get("/", "");
    let tag = page.head.lines().find_map(|line| line.strip_prefix("ETag: ")).expect("a tag");
    for (known, code) in [(tag, 304), ("\"other\"", 200)] {
        let answer = served.get("/", &format!("If-None-Match: {known}\r\n"));
        assert_eq!((answer.code, answer.body.is_empty()), (code, code == 304), "{answer:?}");
    }
    let head = served.say(&format!("HEAD / HTTP/1.1\r\nHost: {own}\r\n\r\n"));
    assert_eq!((head.code, &*head.body, &head.head), (200, "", &page.head));
}

#[test]
fn clients_that_dawdle_or_go_hold_up_nobody() {
    let space = Space::with(RECIPE);
    let served = Served::start(&space, &["--port", "0"]);
    let idle: Vec<_> = (0..20).map(|_| served.connect()).collect();
    for (at, mut stream) in idle.iter().enumerate() {
        stream.write_all(&b"GET / HTTP/1.1\r\nHost: a\r\n"[..at]).expect("written");
    }
    for _ in 0..20 {
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", served.host);
        served.connect().write_all(request.as_bytes()).expect("written");
    }
    served.shows("a not run, b not run", &[]);
    // More than there are places for: some are closed at once, and when the others go, there is room again.
    let many: Vec<_> = (0..100).map(|_| served.connect()).collect();
    drop((idle, many));
    eventually("room", || {
        let mut stream = served.connect();
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", served.host);
        let mut answer = Vec::new();
        stream.write_all(request.as_bytes()).ok()?;
        stream.read_to_end(&mut answer).ok()?;
        answer.starts_with(b"HTTP/1.1 200").then_some(())
    });
}

#[test]
fn ports_are_taken_once_and_ctrl_c_ends_it() {
    let space = Space::with(RECIPE);
    let (one, mut two) = (Served::start(&space, &[]), Served::start(&space, &[]));
    let port =
        |served: &Served| served.host.strip_prefix("127.0.0.1:").expect("loopback").to_owned();
    assert_ne!(port(&one), port(&two));
    let taken = space.tlm(&["serve", "r.tlm", "--port", &port(&one)]);
    check(&taken, 4, &["can't listen on port", "choose another with `--port N`"]);
    space.write("b.tlm", "plan default =");
    check(&space.tlm(&["serve", "b.tlm"]), 3, &["tlm::parse::unexpected"]);
    signal(two.child.id(), "INT");
    assert_eq!(two.child.wait().expect("it ends").code(), None);
}
