//! `tlm serve`: the HTML page of a recipe, drawn anew while something goes on.
//!
//! Nothing is looked at unless a browser asks, and then no more often than a twentieth of the time allows. The recipe is planned
//! again when a file changed that the plan depends on; how runs stand is read from what they tell in the store.

mod http;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use crate::base::{Digest, World, text};
use crate::cli::recipe::{self, Session};
use crate::cli::run::machine_text;
use crate::cli::serve::http::{Answer, Request};
use crate::cli::{Console, ENVIRONMENT, Exit, PlanArgs};
use crate::exec::log_end;
use crate::graph;
use crate::report::html::{self, Live, Page, Status};
use crate::report::{Going, Now, Results};

/// The port, or else the next one that is free.
const PORT: u16 = 8717;
/// How many ports are tried.
const PORTS: u16 = 20;
/// How soon the page is drawn again.
const PAUSE: Duration = Duration::from_millis(100);
/// Which part of the time drawing may take.
const SHARE: u32 = 20;
/// How much of the end of a step's log is shown.
const LOG_BYTES: u64 = 1 << 20;

/// `tlm serve`
pub(super) fn serve(
    args: &PlanArgs,
    port: Option<u16>,
    console: &mut Console<'_>,
) -> Result<(), Exit> {
    let session = recipe::open(args, console)?;
    let listener = listen(port).map_err(|error| {
        let port = port.unwrap_or(PORT);
        let message = format!("can't listen on port {port} of this machine: {error}");
        console.fail(ENVIRONMENT, message, "choose another with `--port N`; 0 is any free one")
    })?;
    let at = listener.local_addr()?;
    writeln!(console.out, "http://{at}/")?;
    console.out.flush()?;
    console.say("serves until Ctrl-C\n");
    let desk = Desk::new(args, console.world.unseen(), session);
    http::serve(&listener, &|request| desk.answer(request));
    Ok(())
}

/// Takes a port that only this machine reaches.
fn listen(port: Option<u16>) -> io::Result<TcpListener> {
    let take = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if let Some(port) = port {
        return take(port);
    }
    let is_free = |taken: &io::Result<_>| !matches!(taken, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
    let mut taken = (PORT..PORT + PORTS).map(take);
    taken.find(is_free).unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))
}

/// What answers.
struct Desk<'d> {
    args: &'d PlanArgs,
    world: World,
    desk: Mutex<Shown>,
}

/// What is shown.
struct Shown {
    /// The last plan that could be made.
    session: Session,
    /// What it was made of.
    look: Look,
    /// Why it could not be made again.
    problem: Option<String>,
    /// Whether a run went on when the page was drawn.
    is_moving: bool,
    drawn: Arc<Drawn>,
    /// When it was last looked whether the page is as it was, and how long that took.
    looked: Instant,
    cost: Duration,
}

/// The page.
#[derive(Default)]
struct Drawn {
    html: Arc<[u8]>,
    tag: String,
    /// What the page may do.
    policy: String,
}

/// What a file or folder looks like from outside: inode, size, and when it was changed.
type Look = Vec<(PathBuf, Option<(u64, u64, i64, i64)>)>;

impl<'d> Desk<'d> {
    fn new(args: &'d PlanArgs, world: World, session: Session) -> Self {
        let now = Instant::now();
        let mut shown = Shown {
            look: Look::new(),
            session,
            problem: None,
            is_moving: false,
            drawn: Arc::default(),
            looked: now,
            cost: Duration::ZERO,
        };
        shown.look_again(args, &world);
        Self { args, world, desk: Mutex::new(shown) }
    }

    fn answer(&self, request: &Request<'_>) -> Answer {
        match request.path {
            "/" => {
                let Drawn { html, tag, policy } = &*self.page();
                Answer::of("text/html; charset=utf-8", Arc::clone(html)).with(tag, policy)
            }
            // Browsers ask for it.
            "/favicon.ico" => Answer::none(http::NO_CONTENT),
            path => match path.strip_prefix("/log/").and_then(|key| self.log(key.parse().ok()?)) {
                Some(log) => Answer::of("text/plain; charset=utf-8", log.into_bytes().into()),
                None => Answer::none(http::NOT_FOUND),
            },
        }
    }

    fn page(&self) -> Arc<Drawn> {
        let mut shown = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.looked.elapsed() >= PAUSE.max(shown.cost * SHARE) {
            shown.look_again(self.args, &self.world);
        }
        Arc::clone(&shown.drawn)
    }

    /// Returns the end of the log of a step of the plan.
    fn log(&self, key: Digest) -> Option<String> {
        let shown = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        shown.session.plan.steps().find(|planned| planned.recipe == key)?;
        log_end(&shown.session.store.log_path(key), LOG_BYTES).ok()
    }
}

impl Shown {
    /// Draws the page again if it may have changed.
    fn look_again(&mut self, args: &PlanArgs, world: &World) {
        let began = Instant::now();
        let look = self.look_at_files();
        let is_new = look != self.look || self.problem.is_some();
        // What changes from here on is seen the next time.
        self.look = look;
        if is_new {
            self.plan_again(args, world);
        }
        let now = Now::of(&self.session.store, world.now());
        if is_new || self.is_moving || !now.runs.is_empty() {
            self.is_moving = !now.runs.is_empty();
            self.draw(&now);
        }
        (self.looked, self.cost) = (Instant::now(), began.elapsed());
    }

    /// Looks at all that the plan and how it stands depend on, as far as a run that goes on does not tell that.
    fn look_at_files(&self) -> Look {
        let Session { source, plan, store, .. } = &self.session;
        let recipes = source.files().map(|(path, _)| path);
        let found = plan
            .sources()
            .filter(|source| graph::finds(&source.files.pattern, &source.files.base, source.paths));
        let sources = found.flat_map(|source| source.paths.iter().cloned());
        recipes.chain(sources).chain(store.moving()).map(looked_at).collect()
    }

    fn plan_again(&mut self, args: &PlanArgs, world: &World) {
        if !self.session.store.is_still_there() {
            self.problem = Some("The store is gone. `tlm run` makes a new one.".to_owned());
            return;
        }
        let mut told = Vec::new();
        let (out, err) = (&mut io::sink(), &mut told);
        let mut console = Console { world, out, err, unheard: false };
        match recipe::open(args, &mut console) {
            Ok(mut session) => {
                session.plan.settle(&session.store);
                (self.session, self.problem) = (session, None);
            }
            Err(_) => self.problem = Some(String::from_utf8_lossy(&told).into_owned()),
        }
    }

    fn draw(&mut self, now: &Now) {
        let Session { source, plan, store, machine } = &self.session;
        let outcome = now.outcome(plan, store);
        let results = Results { plan, outcome: &outcome, store, now: Some(now) };
        let tables = results.tables();
        let mut page = results.page(&source.path, source.text(), Vec::new(), tables, String::new());
        page.facts = vec![
            ("steps".to_owned(), counts(&page)),
            ("machine".to_owned(), machine_text(machine)),
            ("tlm".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let runs = now.runs.iter().map(line).collect();
        page.live = Some(Live { problem: self.problem.clone(), runs });
        let html = html::render(&page).unwrap_or_else(|error| error.to_string());
        let tag = format!("\"{}\"", Digest::of(html.as_bytes()).short());
        let policy = policy(&html);
        self.drawn = Arc::new(Drawn { html: html.into_bytes().into(), tag, policy });
    }
}

fn looked_at(path: PathBuf) -> (PathBuf, Option<(u64, u64, i64, i64)>) {
    let look = fs::metadata(&path).ok();
    let look = look.map(|look| (look.ino(), look.len(), look.mtime(), look.mtime_nsec()));
    (path, look)
}

/// Returns `24: 16 fresh, 2 running, 6 waiting`.
fn counts(page: &Page) -> String {
    let counted = |status: Status| {
        let count = page.steps.iter().filter(|step| step.status == status).count();
        (count > 0).then(|| format!("{} {}", text::thousands(count as u64), status.word()))
    };
    let counts: Vec<_> = Status::ALL.into_iter().filter_map(counted).collect();
    format!("{}: {}", text::thousands(page.steps.len() as u64), counts.join(", "))
}

/// Returns `process 4711 on box: tlm run a.tlm · 3 of 8 steps are over · about 5m02s left`.
fn line(run: &Going) -> String {
    let steps = format!("{} of {} are over", run.over, text::plural(run.steps, "step"));
    let parts = [Some(run.process.clone()), Some(steps), run.left.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// Returns the policy that lets a page do no more than what its own style and script do: ask where it came from.
fn policy(html: &str) -> String {
    let hash = |tag: &str| {
        let open = format!("<{tag}>");
        let (_, rest) = html.split_once(&open)?;
        let (inside, _) = rest.split_once(&format!("</{tag}>"))?;
        Some(format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(inside))))
    };
    let [style, script] = ["style", "script"].map(|tag| hash(tag).unwrap_or("'none'".to_owned()));
    format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src 'self'; {}",
        http::NO_FRAMES
    )
}
