//! Files from HTTP servers: resumed where the server can, checked by SHA-256 at the end.
//!
//! What was fetched lies in the step's folder, so a run goes on where the one before stopped. Tokens and the query of a URL are
//! told to the server only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use ureq::http::{Response, header::HeaderValue};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use crate::base::text;
use crate::base::world::World;
use crate::data::dataset::{read_json, write_json};
use crate::data::hub::{HubAddress, Listing};
use crate::data::wheel::copy_hashed;
use crate::stage::{Context, StageError};

/// Where the Hub is, unless `HF_ENDPOINT` says otherwise.
const HUB: &str = "https://huggingface.co";
/// The largest list of files.
const LISTING_MAX: u64 = 256 << 20;
/// How often a connection may fail in a row without any byte.
const TRIES: u32 = 4;
/// How long to wait after the first failure; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a server may keep silent.
const SILENCE: Duration = Duration::from_secs(60);

/// A file on a server.
pub(super) struct Remote {
    /// As the recipe names it, without what is nobody's business.
    shown: String,
    url: String,
    token: Option<String>,
    /// Bytes of other files that were fetched before, and of all together.
    before: u64,
    whole: Option<u64>,
}

impl Remote {
    /// Returns the file at a URL.
    pub(super) fn at(url: &str) -> Self {
        let bare = url.split(['?', '#']).next().unwrap_or_default();
        let shown = match bare.split_once("://") {
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}/{path}")
            }
            None => bare.to_owned(),
        };
        Self { shown, url: url.to_owned(), token: None, before: 0, whole: None }
    }

    /// Returns a file of a repository on the Hub.
    ///
    /// # Errors
    /// When the user's token can't be read.
    pub(super) fn on_hub(address: &HubAddress) -> Result<Self, StageError> {
        Self::of_hub(address, |endpoint| address.url(endpoint))
    }

    fn of_hub(address: &HubAddress, url: impl FnOnce(&str) -> String) -> Result<Self, StageError> {
        let world = World::of_process().map_err(|error| {
            StageError::environment(format!("can't tell the current folder: {error}"))
        })?;
        let token = token(&world)?;
        let url = url(world.var("HF_ENDPOINT").unwrap_or(HUB));
        Ok(Self { shown: address.to_string(), url, token, before: 0, whole: None })
    }

    /// Tells progress as a part of several files.
    pub(super) fn among(self, before: u64, whole: Option<u64>) -> Self {
        Self { before, whole, ..self }
    }

    /// Looks at what the Hub says of the file.
    ///
    /// # Errors
    /// When there is no such file, it may not be read, or has another digest.
    pub(super) fn check(
        &self,
        address: &HubAddress,
        digest: &str,
        context: &mut Context,
    ) -> Result<(), StageError> {
        retry(context, self, |_, agent| self.look(agent, address, digest))
    }

    /// Asks the Hub what is in a repository.
    ///
    /// # Errors
    /// When there is no such repository or revision, or it may not be read.
    pub(super) fn listing(
        address: &HubAddress,
        context: &mut Context,
    ) -> Result<Listing, StageError> {
        let remote = Self::of_hub(address, |endpoint| address.listing_url(endpoint))?;
        let mut listing = None;
        retry(context, &remote, |_, agent| {
            let mut response = remote.ask(agent.get(&remote.url), address)?;
            let mut body = Vec::new();
            let reader = response.body_mut().as_reader().take(LISTING_MAX);
            { reader }.read_to_end(&mut body).map_err(|error| Stop::Dropped(error.to_string()))?;
            listing = Some(serde_json::from_slice(&body).map_err(|error| {
                StageError::environment(format!("`{remote}`: no list of files: {error}"))
                    .help("check `HF_ENDPOINT`: is this a server in the Hub's layout?")
            })?);
            Ok(())
        })?;
        Ok(listing.expect("it was answered"))
    }

    /// Asks the Hub about the file: it knows the SHA-256 of large ones.
    fn look(&self, agent: &Agent, address: &HubAddress, digest: &str) -> Result<(), Stop> {
        let request = agent.head(&self.url).config().max_redirects(0).build();
        let response = self.ask(request, address)?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let known = header("x-linked-etag").map(|etag| etag.trim_matches('"'));
        match known.filter(|known| known.len() == 64 && *known != digest) {
            Some(known) => Err(Stop::Failed(self.other_digest(digest, known))),
            None => Ok(()),
        }
    }

    /// Asks the Hub a question.
    fn ask(
        &self,
        request: RequestBuilder<WithoutBody>,
        address: &HubAddress,
    ) -> Result<Response<Body>, Stop> {
        let response = self.send(request)?;
        self.refusal(address, &response)?;
        Ok(response)
    }

    /// Sends a request with the user's token.
    fn send(&self, mut request: RequestBuilder<WithoutBody>) -> Result<Response<Body>, Stop> {
        if let Some(token) = &self.token {
            request = request.header("authorization", bearer(token)?);
        }
        request.call().map_err(|error| Stop::of(&error))
    }

    /// Tells what it means that the Hub does not answer a question.
    fn refusal(&self, address: &HubAddress, response: &Response<Body>) -> Result<(), Stop> {
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let code = header("x-error-code").unwrap_or_default();
        let failed = match (status, code) {
            (_, "EntryNotFound") => Some((
                format!("`{self}`: there is no file `{}` in it", address.path()),
                "look at the repository's files".to_owned(),
            )),
            (_, "RevisionNotFound") => Some((
                format!("`{self}`: there is no revision `{}`", address.revision()),
                "name a commit, a branch or a tag".to_owned(),
            )),
            (_, "GatedRepo") | (401 | 403, _) => Some((
                format!("`{self}`: not allowed, or there is no such repository"),
                match self.token {
                    None => "check its name; a gated or private one needs your token: set `HF_TOKEN`, or run `hf auth login`",
                    Some(_) => "check its name, and that your token's account has access to it",
                }
                .to_owned(),
            )),
            _ => None,
        };
        if let Some((message, help)) = failed {
            return Err(Stop::Failed(StageError::input(message).help(help)));
        }
        if status >= 400 { Err(self.status(status)) } else { Ok(()) }
    }

    /// Downloads the file to `out`, from where an earlier attempt stopped.
    ///
    /// # Errors
    /// When the server does not give it, or it has another digest.
    pub(super) fn fetch(
        &self,
        wanted: Wanted<'_>,
        out: &Path,
        context: &mut Context,
    ) -> Result<(), StageError> {
        let mut partial = Partial::open(context.state_dir(), &self.url)?;
        retry(context, self, |context, agent| partial.go_on(self, agent, context))?;
        let found = sha256(&partial.path, context)?;
        let error = match wanted {
            Wanted::ByRecipe(digest) if digest != found => self.other_digest(digest, &found),
            Wanted::ByHub(Some(digest)) if digest != found => StageError::environment(format!(
                "`{self}`: what was fetched has SHA-256 {found}, which is not what the Hub says"
            ))
            .help("run the same command again: it fetches the file anew"),
            _ => return keep(&partial.path, out, context),
        };
        partial.forget();
        Err(error)
    }

    fn other_digest(&self, wanted: &str, found: &str) -> StageError {
        StageError::input(format!("`{self}`: expected SHA-256 {wanted}, found {found}"))
            .help("if you trust this file, put the digest found into the recipe")
    }

    /// Returns what it means that the server answers with an error.
    fn status(&self, status: u16) -> Stop {
        let message = format!("`{self}`: the server answers {status}");
        match status {
            404 | 410 => Stop::Failed(
                StageError::input(format!("`{self}`: the server has no such file"))
                    .help("check the address"),
            ),
            401 | 403 | 407 => Stop::Failed(
                StageError::input(format!("{message}: not allowed"))
                    .help("download it yourself and use `file:PATH`"),
            ),
            408 | 425 | 429 | 500.. => Stop::Dropped(format!("the server answers {status}")),
            _ => Stop::Failed(StageError::input(message).help("check the address")),
        }
    }
}

/// The SHA-256 that a file has to have, and who says so.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    ByRecipe(&'a str),
    /// It knows that of large files only.
    ByHub(Option<&'a str>),
}

/// Returns the SHA-256 of a file.
pub(super) fn sha256(path: &Path, context: &Context) -> Result<String, StageError> {
    let file = File::open(path).map_err(|error| StageError::io("read", path, &error))?;
    let hashed =
        copy_hashed(&mut BufReader::new(file), &mut io::sink(), |_| !context.interrupted());
    hashed
        .map_err(|error| StageError::environment(format!("`{}`: {error}", path.display())))?
        .ok_or(StageError::Interrupted)
}

/// Moves a file that was fetched to its place.
fn keep(path: &Path, out: &Path, context: &Context) -> Result<(), StageError> {
    fs::rename(path, out).map_err(|error| StageError::io("move", path, &error))?;
    let _ = fs::remove_file(Partial::note_path(context.state_dir()));
    Ok(())
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Why a request did not come to its end.
enum Stop {
    /// Another try may go on.
    Dropped(String),
    Failed(StageError),
}

impl From<StageError> for Stop {
    fn from(error: StageError) -> Self {
        Self::Failed(error)
    }
}

impl Stop {
    fn of(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Self::Failed(StageError::input("this is no URL").help("check the address"))
            }
            error => Self::Dropped(error.to_string()),
        }
    }
}

/// Tries until it works, fails for good, or fails too often in a row.
fn retry(
    context: &mut Context,
    remote: &Remote,
    mut go_on: impl FnMut(&mut Context, &Agent) -> Result<(), Stop>,
) -> Result<(), StageError> {
    let certificates = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects_will_error(false)
        .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .tls_config(certificates)
        .user_agent(concat!("tlm/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut failures = 0;
    let mut before = None;
    loop {
        let why = match go_on(context, &agent) {
            Ok(()) => return Ok(()),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Dropped(why)) => why,
        };
        let done = fs::metadata(Partial::path(context.state_dir())).map_or(0, |meta| meta.len());
        failures = if before.is_some_and(|before| done > before) { 1 } else { failures + 1 };
        before = Some(done);
        if failures == TRIES {
            return Err(StageError::environment(format!("can't fetch `{remote}`: {why}")).help(
                match done {
                    0 => {
                        "check the network and the proxy settings, then run the same command again"
                            .to_owned()
                    }
                    _ => format!(
                        "{} are kept: run the same command again, and it goes on from there",
                        text::bytes(done)
                    ),
                },
            ));
        }
        context.log(format!("`{remote}`: {why}; trying again"));
        wait(context, PAUSE * (1 << (failures - 1)))?;
    }
}

fn wait(context: &Context, time: Duration) -> Result<(), StageError> {
    let began = Instant::now();
    while began.elapsed() < time {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What is known of a file that is not there as a whole.
#[derive(Serialize, Deserialize)]
struct Note {
    url: String,
    /// What the server names this version of the file by.
    validator: Option<String>,
}

/// A file that is being fetched.
struct Partial {
    path: PathBuf,
    note_path: PathBuf,
    note: Note,
}

impl Partial {
    fn path(state: &Path) -> PathBuf {
        state.join("download.part")
    }

    fn note_path(state: &Path) -> PathBuf {
        state.join("download.json")
    }

    /// Opens what an earlier attempt left of the same file.
    fn open(state: &Path, url: &str) -> Result<Self, StageError> {
        let (path, note_path) = (Self::path(state), Self::note_path(state));
        let kept = read_json::<Note>(&note_path).ok().filter(|note| note.url == url);
        if kept.is_none() {
            let _ = fs::remove_file(&path);
        }
        let note = kept.unwrap_or(Note { url: url.to_owned(), validator: None });
        Ok(Self { path, note_path, note })
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.note_path);
    }

    /// Asks for what is missing and appends it.
    fn go_on(&mut self, remote: &Remote, agent: &Agent, context: &mut Context) -> Result<(), Stop> {
        let have = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        let mut request = agent.get(&self.note.url);
        // Without a name of the version nobody can tell whether what follows belongs to what is there.
        let resumed = self.note.validator.clone().filter(|_| have > 0);
        if let Some(validator) = &resumed {
            request = request.header("range", format!("bytes={have}-"));
            request = request.header("if-range", validator);
        }
        let response = remote.send(request)?;
        let status = response.status().as_u16();
        let start = match status {
            200 => 0,
            206 if range_start(&response) == Some(have) => have,
            416 if whole_size(&response) == Some(have) => return Ok(()),
            206 | 416 => {
                self.forget();
                self.note.validator = None;
                return Err(Stop::Dropped("the server gives another part than asked for".into()));
            }
            300..400 => {
                let message = format!("`{remote}`: too many redirections");
                return Err(StageError::input(message).help("check the address").into());
            }
            _ => return Err(remote.status(status)),
        };
        if start == 0 {
            self.note.validator = validator(&response);
            write_json(&self.note_path, &self.note).map_err(StageError::from)?;
        }
        self.append(start, response, remote, context)
    }

    fn append(
        &self,
        start: u64,
        mut response: Response<Body>,
        remote: &Remote,
        context: &mut Context,
    ) -> Result<(), Stop> {
        let failed = |error: io::Error| StageError::io("write", &self.path, &error);
        let file = OpenOptions::new().create(true).append(true).open(&self.path).map_err(failed)?;
        file.set_len(start).map_err(failed)?;
        let total = response.body().content_length().map(|rest| start + rest);
        let (mut file, mut done) = (file, start);
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            if context.interrupted() {
                return Err(StageError::Interrupted.into());
            }
            let len = match body.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| Stop::Dropped(error.to_string()))?,
            };
            if len == 0 {
                break;
            }
            file.write_all(&buffer[..len]).map_err(failed)?;
            done += len as u64;
            let whole = remote.whole.or(total.map(|total| total + remote.before));
            let done = remote.before + done;
            context.progress(done, whole.map(|whole| whole.max(done)), "bytes");
        }
        match total.filter(|total| *total != done) {
            Some(total) => {
                Err(Stop::Dropped(format!("the file ends after {done} of {total} bytes")))
            }
            None => Ok(()),
        }
    }
}

/// Returns what `If-Range` may name a version by: a strong entity tag, or the time of the last change.
fn validator(response: &Response<Body>) -> Option<String> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let strong = header("etag").filter(|etag| !etag.starts_with("W/"));
    strong.or_else(|| header("last-modified")).map(str::to_owned)
}

/// Returns the first byte in `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// Returns the size of the file in `Content-Range: bytes */10`.
fn whole_size(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes */")?.trim().parse().ok()
}

/// Returns the user's token for the Hub, from where its own tools look for it.
fn token(world: &World) -> Result<Option<String>, StageError> {
    let given = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().find_map(|name| world.var(name));
    if let Some(token) = given {
        return Ok(Some(token.trim().to_owned()));
    }
    let path = world.path_var("HF_TOKEN_PATH").or_else(|| {
        let home = world.path_var("HF_HOME").or_else(|| {
            let cache = world.path_var("XDG_CACHE_HOME");
            let cache = cache.or_else(|| Some(world.path_var("HOME")?.join(".cache")));
            Some(cache?.join("huggingface"))
        });
        Some(home?.join("token"))
    });
    let Some(path) = path else { return Ok(None) };
    match fs::read_to_string(&path) {
        Ok(token) => Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StageError::io("read", &path, &error)),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, StageError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        StageError::input("your token for the Hub has characters that no token has")
            .help("set `HF_TOKEN`, or run `hf auth login` again")
    })?;
    value.set_sensitive(true);
    Ok(value)
}
