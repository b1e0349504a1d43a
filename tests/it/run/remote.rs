//! Files from HTTP servers and from one in the layout of the Hugging Face Hub: resumed, checked, and told what is wrong with.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::run::inputs::made;
use crate::run::space::{Run, Space, finish};

/// A request as a server sees it; names of headers are in small letters.
struct Request {
    line: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
        let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Some(Self { headers: headers.collect(), line })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// After so many bytes of the body the connection ends.
    cut: Option<usize>,
}

impl Reply {
    fn new(status: u16, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { status, headers, body: Vec::new(), cut: None }
    }

    /// Answers with a file, or the part of it that is asked for.
    fn file(request: &Request, body: &[u8], etag: &str) -> Self {
        let from = request.header("range").and_then(|range| {
            let start = range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()?;
            (request.header("if-range") == Some(etag)).then_some(start)
        });
        let mut reply = Self::new(200, &[("ETag", etag)]);
        reply.body = body[from.unwrap_or_default()..].to_vec();
        if let Some(from) = from {
            reply.status = 206;
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            reply.headers.push(("Content-Range", range));
        }
        reply
    }

    fn write(&self, mut to: &TcpStream, head: bool) {
        let mut text = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        let body = &self.body[..self.cut.unwrap_or(self.body.len())];
        let _ = to.write_all(text.as_bytes());
        if !head {
            let _ = to.write_all(body);
        }
    }
}

/// A server on this machine, and what it was asked: lines with the headers that matter here.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(request) = Request::read(&stream) else { continue };
                let headers = ["range", "if-range", "authorization"].iter();
                let shown = headers.filter_map(|name| Some(format!(" {}", request.header(name)?)));
                let line = request.line.clone() + &shown.collect::<String>();
                let mut log = log.lock().expect("no panic");
                log.push(line);
                answer(&request, log.len()).write(&stream, request.line.starts_with("HEAD"));
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

const TEXT: &str = "the cat sat on the mat, and so on: a text of some length\n";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets the environment of a user who has nothing set.
fn plain<'c>(space: &Space, command: &'c mut Command) -> &'c mut Command {
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    {
        command.env_remove(name);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", space.path("cache"))
}

fn run(space: &Space, uri: &str, digest: &str, vars: &[(&str, &str)]) -> Run {
    space.write(
        "r.tlm",
        format!(
            "use std.{{corpus}}\nlet text = corpus.text(\"{uri}\", sha256: \"{digest}\")\nplan default = text\n"
        ),
    );
    let mut command = space.run_command(&[]);
    Run::of(finish(plain(space, &mut command).envs(vars.iter().copied())))
}

#[track_caller]
fn check_text(space: &Space) {
    let corpus = tlm::data::Corpus::open(&made(space, "text")).expect("a corpus");
    assert_eq!(corpus.document(0).expect("text"), TEXT);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let server = Server::start(|request, count| {
        let mut reply = Reply::file(request, TEXT.as_bytes(), "\"one\"");
        reply.cut = [Some(10), Some(0), Some(7), None].get(count - 1).copied().flatten();
        reply
    });
    let space = Space::new();
    let uri = format!("http://127.0.0.1:{}/a.txt?key=secret", server.port);
    let run = run(&space, &uri, &sha256(TEXT.as_bytes()), &[]);
    assert_eq!(run.code, Some(0), "{run}");
    let range = |from: usize| format!("GET /a.txt?key=secret bytes={from}- \"one\"");
    assert_eq!(
        server.asked(),
        ["GET /a.txt?key=secret".to_owned(), range(10), range(10), range(17)]
    );
    check_text(&space);
    let log = space.tlm(&["log", "text.files"]).out;
    assert!(log.contains("/a.txt`: ") && !log.contains("secret"), "{log}");
}

#[test]
fn a_run_goes_on_where_the_one_before_gave_up() {
    let server = Server::start(|request, count| {
        let mut reply = Reply::file(request, TEXT.as_bytes(), "\"one\"");
        match count {
            1 => reply.cut = Some(20),
            2..5 => reply = Reply::new(503, &[]),
            _ => {}
        }
        reply
    });
    let space = Space::new();
    let (uri, digest) = (format!("http://127.0.0.1:{}/a", server.port), sha256(TEXT.as_bytes()));
    let first = run(&space, &uri, &digest, &[]);
    assert_eq!(first.code, Some(4), "{first}");
    first.says(&["the server answers 503", "20 B are kept: run the same command again"]);
    let second = run(&space, &uri, &digest, &[]);
    assert_eq!(second.code, Some(0), "{second}");
    assert_eq!(server.asked().last().expect("a request"), "GET /a bytes=20- \"one\"");
    check_text(&space);
}

#[test]
fn a_file_that_changes_on_the_server_is_fetched_anew() {
    let server = Server::start(|request, count| match count {
        1 => Reply {
            cut: Some(9),
            ..Reply::file(request, b"another text, which is gone", "\"one\"")
        },
        _ => Reply::file(request, TEXT.as_bytes(), "\"two\""),
    });
    let space = Space::new();
    let uri = format!("http://127.0.0.1:{}/a", server.port);
    let run = run(&space, &uri, &sha256(TEXT.as_bytes()), &[]);
    assert_eq!(run.code, Some(0), "{run}");
    check_text(&space);
}

#[test]
fn what_a_server_says_no_to_is_told() {
    let server = Server::start(|request, _| match request.line.as_str() {
        "GET /gone" => Reply::new(404, &[]),
        "GET /closed" => Reply::new(403, &[]),
        "GET /loop" => Reply::new(302, &[("Location", "/loop")]),
        "GET /moved" => Reply::new(302, &[("Location", "/there")]),
        _ => Reply::file(request, TEXT.as_bytes(), "\"one\""),
    });
    let digest = sha256(TEXT.as_bytes());
    for (path, digest, told) in [
        ("gone", &*digest, "/gone`: the server has no such file"),
        ("closed", &digest, "/closed`: the server answers 403: not allowed"),
        ("loop", &digest, "/loop`: too many redirections"),
        ("other", &"0".repeat(64), "expected SHA-256 0000"),
    ] {
        let space = Space::new();
        let uri = format!("http://user:secret@127.0.0.1:{}/{path}", server.port);
        let run = run(&space, &uri, digest, &[]);
        assert_eq!(run.code, Some(1), "{run}");
        run.says(&[told]);
        assert!(!run.to_string().contains("secret"), "{run}");
    }
    let space = Space::new();
    let uri = format!("http://127.0.0.1:{}/moved", server.port);
    assert_eq!(run(&space, &uri, &digest, &[]).code, Some(0));
    check_text(&space);
}

/// A server in the layout of the Hub, which sends large files elsewhere.
fn hub(elsewhere: u16) -> Server {
    Server::start(move |request, _| {
        let (_, path) = request.line.split_once(' ').expect("a request line");
        let allowed = request.header("authorization") == Some("Bearer hf_secret");
        match path {
            "/datasets/o/n/resolve/v1/a.txt" if !allowed => {
                Reply::new(401, &[("X-Error-Code", "GatedRepo")])
            }
            "/datasets/o/n/resolve/v1/a.txt" => Reply::new(
                302,
                &[
                    ("Location", &format!("http://localhost:{elsewhere}/blob")),
                    ("X-Linked-Etag", &format!("\"{}\"", sha256(TEXT.as_bytes()))),
                ],
            ),
            "/o/n/resolve/main/small.txt" => Reply::file(request, TEXT.as_bytes(), "\"abc\""),
            "/o/n/resolve/main/none.txt" => Reply::new(404, &[("X-Error-Code", "EntryNotFound")]),
            "/o/n/resolve/v9/a.txt" => Reply::new(404, &[("X-Error-Code", "RevisionNotFound")]),
            _ => Reply::new(401, &[("X-Error-Code", "RepoNotFound")]),
        }
    })
}

#[test]
fn files_of_the_hub_are_fetched_with_the_user_s_token_which_goes_nowhere_else() {
    let store = Server::start(|request, _| Reply::file(request, TEXT.as_bytes(), "\"abc\""));
    let hub = hub(store.port);
    let endpoint = format!("http://127.0.0.1:{}", hub.port);
    let vars = [("HF_ENDPOINT", &*endpoint), ("HF_TOKEN", "hf_secret")];
    let digest = sha256(TEXT.as_bytes());
    let space = Space::new();
    let large = "hf:datasets/o/n@v1/a.txt";
    let run = run(&space, large, &digest, &vars);
    assert_eq!(run.code, Some(0), "{run}");
    check_text(&space);
    let path = "/datasets/o/n/resolve/v1/a.txt Bearer hf_secret";
    assert_eq!(hub.asked(), [format!("HEAD {path}"), format!("GET {path}")]);
    assert_eq!(store.asked(), ["GET /blob"]);
    // From the file that the Hub's own tools write, too; and small files without any.
    let space = Space::new();
    space.write("cache/huggingface/token", "hf_secret\n");
    assert_eq!(self::run(&space, large, &digest, &vars[..1]).code, Some(0));
    let space = Space::new();
    assert_eq!(self::run(&space, "hf:o/n/small.txt", &digest, &vars[..1]).code, Some(0));
    check_text(&space);
}

#[test]
fn what_is_wrong_on_the_hub_is_told_before_anything_is_fetched() {
    let hub = hub(1);
    let endpoint = format!("http://127.0.0.1:{}", hub.port);
    let (open, token) = (("HF_ENDPOINT", &*endpoint), ("HF_TOKEN", "hf_secret"));
    let (digest, other) = (sha256(TEXT.as_bytes()), "0".repeat(64));
    for (uri, digest, vars, told) in [
        ("hf:datasets/o/n@v1/a.txt", &digest, &[open][..], "set `HF_TOKEN`, or run"),
        ("hf:o/other/a.txt", &digest, &[open, token], "that your token's account has access"),
        ("hf:o/n/none.txt", &digest, &[open], "there is no file `none.txt` in it"),
        ("hf:o/n@v9/a.txt", &digest, &[open], "there is no revision `v9`"),
        ("hf:datasets/o/n@v1/a.txt", &other, &[open, token], "expected SHA-256 0000"),
        ("hf:nothing", &digest, &[open], "is no address"),
    ] {
        let space = Space::new();
        let run = run(&space, uri, digest, vars);
        assert_eq!(run.code, Some(1), "{run}");
        run.says(&[told]);
        assert!(!run.to_string().contains("hf_secret"), "{run}");
    }
    assert!(hub.asked().iter().all(|line| line.starts_with("HEAD")), "{:?}", hub.asked());
}

/// The files of a repository.
const FILES: [(&str, &str); 4] = [
    (".gitattributes", "x"),
    ("data/a.txt", TEXT),
    ("data/more/b.txt", "the second text"),
    ("readme.md", "about"),
];

/// Returns what `sha256sum` prints for some of them, digested.
fn pin(names: &[&str]) -> String {
    let files = FILES.iter().filter(|(name, _)| names.contains(name));
    let lines: String =
        files.map(|(name, text)| format!("{}  {name}\n", sha256(text.as_bytes()))).collect();
    sha256(lines.as_bytes())
}

/// A server of a repository whose branch `main` is at commit `c0ffee`; `more` files are listed too.
fn repository(
    more: &'static str,
    answer: impl Fn(&str) -> Option<Reply> + Send + 'static,
) -> Server {
    Server::start(move |request, _| {
        let (_, path) = request.line.split_once(' ').expect("a request line");
        if request.header("authorization") != Some("Bearer hf_secret") {
            return Reply::new(401, &[("X-Error-Code", "RepoNotFound")]);
        }
        if let Some(reply) = answer(path) {
            return reply;
        }
        let listed = FILES.iter().map(|(name, text)| {
            let lfs = name.ends_with("a.txt").then(|| json!({"sha256": sha256(text.as_bytes())}));
            json!({"rfilename": name, "size": text.len(), "lfs": lfs})
        });
        let mut listed: Vec<_> = listed.rev().collect();
        if !more.is_empty() {
            listed.push(json!({"rfilename": more}));
        }
        let mut reply = Reply::new(200, &[]);
        match path.strip_prefix("/datasets/o/n/resolve/c0ffee/") {
            None if path == "/api/datasets/o/n/revision/main?blobs=true" => {
                reply.body = json!({"sha": "c0ffee", "siblings": listed}).to_string().into_bytes();
            }
            None => return Reply::new(404, &[("X-Error-Code", "RevisionNotFound")]),
            Some(path) => match FILES.iter().find(|(name, _)| *name == path) {
                Some((_, text)) => return Reply::file(request, text.as_bytes(), "\"one\""),
                None => return Reply::new(404, &[("X-Error-Code", "EntryNotFound")]),
            },
        }
        reply
    })
}

fn run_repository(space: &Space, server: &Server, uri: &str, digest: &str) -> Run {
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    run(space, uri, digest, &[("HF_ENDPOINT", &endpoint), ("HF_TOKEN", "hf_secret")])
}

#[test]
fn a_repository_is_fetched_as_a_folder_of_one_commit() {
    let all = FILES.map(|(name, _)| name);
    for (uri, names) in [
        ("hf:datasets/o/n", &all[..]),
        ("hf:datasets/o/n@main", &all),
        ("hf:datasets/o/n@main/data/*", &all[1..3]),
        ("hf:datasets/o/n@main/*.txt", &all[1..3]),
    ] {
        let space = Space::new();
        let run = run_repository(&space, &repository("", |_| None), uri, &pin(names));
        assert_eq!(run.code, Some(0), "{run}");
        let corpus = tlm::data::Corpus::open(&made(&space, "text")).expect("a corpus");
        let read: Vec<_> =
            (0..corpus.documents()).map(|at| corpus.document(at).expect("text")).collect();
        let texts: Vec<_> =
            FILES.iter().filter(|(name, _)| names.contains(name)).map(|(_, text)| *text).collect();
        assert_eq!(read, texts, "{uri}");
    }
}

#[test]
fn a_repository_goes_on_with_the_files_that_are_missing() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let server = repository("", move |path| {
        (path.ends_with("b.txt") && is_down.load(Ordering::Relaxed)).then(|| Reply::new(503, &[]))
    });
    let space = Space::new();
    let (uri, digest) = ("hf:datasets/o/n", pin(&FILES.map(|(name, _)| name)));
    let first = run_repository(&space, &server, uri, &digest);
    assert_eq!(first.code, Some(4), "{first}");
    let asked = server.asked().len();
    down.store(false, Ordering::Relaxed);
    let second = run_repository(&space, &server, uri, &digest);
    assert_eq!(second.code, Some(0), "{second}");
    let files = ["data/more/b.txt", "readme.md"];
    let again = server.asked()[asked..]
        .iter()
        .map(|line| line.split(' ').nth(1).expect("a path").to_owned())
        .collect::<Vec<_>>();
    let paths = files.map(|file| format!("/datasets/o/n/resolve/c0ffee/{file}"));
    assert_eq!(again[1..], paths, "after the list");
}

#[test]
fn what_is_wrong_with_a_repository_is_told() {
    let nothing = "0".repeat(64);
    let found = format!("found {}", pin(&FILES.map(|(name, _)| name)));
    for (more, uri, code, told) in [
        ("", "hf:datasets/o/n", 1, &*found),
        ("", "hf:datasets/o/n@v9", 1, "there is no revision `v9`"),
        ("", "hf:o/n", 1, "there is no revision `main`"),
        ("", "hf:datasets/o/n@main/*.bin", 1, "`hf:datasets/o/n@main/*.bin` names no files"),
        ("../../x", "hf:datasets/o/n", 1, "`../../x` is no path inside a folder"),
        ("gone.txt", "hf:datasets/o/n", 1, "gone.txt`: the server has no such file"),
    ] {
        let space = Space::new();
        let run = run_repository(&space, &repository(more, |_| None), uri, &nothing);
        assert_eq!(run.code, Some(code), "{run}");
        run.says(&[told]);
        assert!(!run.to_string().contains("hf_secret"), "{run}");
    }
    let space = Space::new();
    let other = repository("", |path| {
        let mut reply = Reply::new(200, &[]);
        reply.body = b"another text".to_vec();
        path.ends_with("a.txt").then_some(reply)
    });
    let run = run_repository(&space, &other, "hf:datasets/o/n", &nothing);
    assert_eq!(run.code, Some(4), "{run}");
    run.says(&["which is not what the Hub says"]);
}
