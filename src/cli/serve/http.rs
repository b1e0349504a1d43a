//! HTTP/1.1 as far as a browser on the same machine needs it to look at pages: an answer a connection.
//!
//! Whoever else can reach a port of this machine is a page of the web in that browser. It may ask, under a name of its own
//! that leads here, so only requests to this machine's own names are answered, and none gives a foreign page the right to
//! read what it gets. Connections are few, and none may take long, so nobody holds up the others.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How many connections there may be; more are closed at once.
const CONNECTIONS: usize = 64;
/// How long a request may be.
const HEAD_BYTES: usize = 8 << 10;
/// How many headers it may have.
const HEADERS: usize = 64;
/// How long a client may take to ask.
const ASKING: Duration = Duration::from_secs(5);
/// How long a client may take to hear the answer.
const HEARING: Duration = Duration::from_secs(30);
/// How long a client may go on talking after the answer, and how much.
const LINGERING: Duration = Duration::from_millis(500);
const LINGERING_BYTES: usize = 64 << 10;
/// How much is written at once.
const CHUNK: usize = 64 << 10;
/// How long to wait when no connection can be taken, as when there are no descriptors.
const REST: Duration = Duration::from_millis(100);
/// The stack of a thread, as large as that of the main one: recipes nest.
const STACK: usize = 8 << 20;

/// What no page may do, and in no page any other.
pub(super) const NO_FRAMES: &str = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type Status = (u16, &'static str);
const OK: Status = (200, "OK");
pub(super) const NO_CONTENT: Status = (204, "No Content");
const NOT_MODIFIED: Status = (304, "Not Modified");
const BAD_REQUEST: Status = (400, "Bad Request");
const FORBIDDEN: Status = (403, "Forbidden");
pub(super) const NOT_FOUND: Status = (404, "Not Found");
const NOT_ALLOWED: Status = (405, "Method Not Allowed");

/// A request to read something.
#[derive(Debug)]
pub(super) struct Request<'r> {
    /// `/log/abc`, without what follows a `?`.
    pub(super) path: &'r str,
    is_head: bool,
    /// The tags of what it has already.
    known: &'r str,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: Status,
    kind: &'static str,
    /// Names what the body says, in quotes, if it may be asked for again.
    tag: Option<String>,
    /// What a browser lets the body do.
    policy: String,
    body: Arc<[u8]>,
}

impl Answer {
    /// Returns an answer with a body of some content type, which may do nothing.
    pub(super) fn of(kind: &'static str, body: Arc<[u8]>) -> Self {
        let policy = format!("default-src 'none'; {NO_FRAMES}");
        Self { status: OK, kind, tag: None, policy, body }
    }

    /// Returns the same under a tag and a policy of its own.
    pub(super) fn with(self, tag: &str, policy: &str) -> Self {
        Self { tag: Some(tag.to_owned()), policy: policy.to_owned(), ..self }
    }

    /// Returns an answer that says no more than how it stands.
    pub(super) fn none(status: Status) -> Self {
        let body = if status == NO_CONTENT { String::new() } else { format!("{}\n", status.1) };
        Self { status, ..Self::of("text/plain; charset=utf-8", body.into_bytes().into()) }
    }

    /// Returns what is said before the body.
    fn head(&self) -> String {
        let Self { status: (code, word), kind, policy, body, .. } = self;
        let mut head = format!(
            "HTTP/1.1 {code} {word}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Cache-Control: no-cache\r\nContent-Security-Policy: {policy}\r\nX-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n",
            body.len()
        );
        if let Some(tag) = &self.tag {
            let _ = write!(head, "ETag: {tag}\r\n");
        }
        if self.status == NOT_ALLOWED {
            head += "Allow: GET, HEAD\r\n";
        }
        head + "\r\n"
    }
}

/// Answers until the process ends.
pub(super) fn serve(listener: &TcpListener, answer: &(dyn Fn(&Request<'_>) -> Answer + Sync)) {
    let open = AtomicUsize::new(0);
    thread::scope(|scope| {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(REST);
                continue;
            };
            let Some(place) = Place::take(&open) else { continue };
            let talk = move || {
                let _place = place;
                // An error means that the client is gone.
                let _ = talk(&stream, answer);
            };
            // Without a thread the connection is closed.
            let _ = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, talk);
        }
    });
}

/// The right to have a connection.
struct Place<'o>(&'o AtomicUsize);

impl<'o> Place<'o> {
    fn take(open: &'o AtomicUsize) -> Option<Self> {
        let more = |count| (count < CONNECTIONS).then_some(count + 1);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(open))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hears a request and answers it.
fn talk(stream: &TcpStream, answer: &dyn Fn(&Request<'_>) -> Answer) -> io::Result<()> {
    let mut head = Vec::new();
    let until = Instant::now() + ASKING;
    while understand(&head).is_none() {
        match read(stream, HEAD_BYTES, until)? {
            more if more.is_empty() => return Ok(()),
            more => head.extend(more),
        }
    }
    let (answer, has_body) = match understand(&head) {
        None => return Ok(()),
        Some(Err(status)) => (Answer::none(status), true),
        Some(Ok(request)) => {
            let answer = answer(&request);
            let is_known = |tag: &String| names(request.known, tag);
            match answer.tag.as_ref().is_some_and(is_known) {
                true => (Answer { status: NOT_MODIFIED, ..answer }, false),
                false => (answer, !request.is_head),
            }
        }
    };
    let until = Instant::now() + HEARING;
    write(stream, answer.head().as_bytes(), until)?;
    if has_body {
        write(stream, &answer.body, until)?;
    }
    linger(stream)
}

/// Returns what is asked, or how that is refused; none while the request is not whole.
fn understand(head: &[u8]) -> Option<Result<Request<'_>, Status>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES => return None,
        _ => return Some(Err(BAD_REQUEST)),
    }
    let named = |name: &str| {
        let own = parsed.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
        own.map(|header| str::from_utf8(header.value).unwrap_or_default()).collect::<Vec<_>>()
    };
    let is_here = match named("Host")[..] {
        [host] => is_own(host),
        _ => return Some(Err(BAD_REQUEST)),
    };
    let target = parsed.path.unwrap_or_default();
    Some(match parsed.method {
        _ if !is_here => Err(FORBIDDEN),
        Some(method @ ("GET" | "HEAD")) => Ok(Request {
            path: target.split('?').next().unwrap_or_default(),
            is_head: method == "HEAD",
            known: named("If-None-Match").first().copied().unwrap_or_default(),
        }),
        _ => Err(NOT_ALLOWED),
    })
}

/// Returns whether a host is this machine, by a name that nobody can give to another.
fn is_own(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let is_port = port.parse::<u16>().is_ok();
    is_port && (name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost"))
}

/// Returns whether a list of tags has one.
fn names(list: &str, tag: &str) -> bool {
    list.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
}

/// Reads some bytes; none when there are no more. An error is that it takes too long.
fn read(mut stream: &TcpStream, most: usize, until: Instant) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(left(until)?))?;
    let mut bytes = vec![0; most];
    let count = stream.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn write(mut stream: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        let written = stream.write(&bytes[..bytes.len().min(CHUNK)])?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Returns the time that is left; an error when there is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Hears the client out: one whose connection is closed while it talks may lose the answer.
fn linger(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let (until, mut heard) = (Instant::now() + LINGERING, 0);
    while heard < LINGERING_BYTES {
        match read(stream, CHUNK, until)?.len() {
            0 => break,
            more => heard += more,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the path that a request asks for, or the code of its refusal.
    fn understood(head: &str) -> Option<Result<String, u16>> {
        let asked = understand(head.as_bytes())?;
        Some(asked.map(|request| request.path.to_owned()).map_err(|(code, _)| code))
    }

    #[test]
    fn only_requests_to_read_from_this_machine_are_understood() {
        let own = "Host: 127.0.0.1:8717\r\n\r\n";
        for (head, expected) in [
            (format!("GET / HTTP/1.1\r\n{own}"), Some(Ok("/"))),
            (format!("HEAD /log/a?b=/c HTTP/1.1\r\n{own}"), Some(Ok("/log/a"))),
            (format!("GET http://evil/ HTTP/1.1\r\n{own}"), Some(Ok("http://evil/"))),
            ("GET / HTTP/1.1\r\nhost: LocalHost\r\n\r\n".into(), Some(Ok("/"))),
            ("GET / HTTP/1.1\r\nHost: localhost:80".into(), None),
            (String::new(), None),
            (format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_BYTES)), Some(Err(400))),
            (format!("GET / HTTP/1.1\r\n{}{own}", "X: y\r\n".repeat(HEADERS)), Some(Err(400))),
            ("GET /\r\n\r\n".into(), Some(Err(400))),
            ("\u{16}\u{3}\u{1}".into(), Some(Err(400))),
            ("GET / HTTP/1.1\r\n\r\n".into(), Some(Err(400))),
            (format!("GET / HTTP/1.1\r\nHost: evil\r\n{own}"), Some(Err(400))),
            ("GET / HTTP/1.1\r\nHost: evil.example:8717\r\n\r\n".into(), Some(Err(403))),
            ("GET / HTTP/1.1\r\nHost: 127.0.0.1.evil\r\n\r\n".into(), Some(Err(403))),
            ("GET / HTTP/1.1\r\nHost: localhost:8717@evil\r\n\r\n".into(), Some(Err(403))),
            (format!("POST / HTTP/1.1\r\n{own}"), Some(Err(405))),
            (format!("OPTIONS * HTTP/1.1\r\n{own}"), Some(Err(405))),
        ] {
            let expected = expected.map(|asked| asked.map(str::to_owned));
            assert_eq!(understood(&head), expected, "{head}");
        }
    }

    #[test]
    fn tags_are_found_in_lists() {
        for (list, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("\"ab\"", false),
            ("", false),
        ] {
            assert_eq!(names(list, "\"a\""), expected, "{list}");
        }
    }
}
