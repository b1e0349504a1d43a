//! The page of `tlm serve` in a browser, which is talked to through pipes: Debian's `chromium`, without a window.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::serve::Served;
use crate::run::space::{Space, eventually, start, wait};

/// A browser with one page; dropped, it ends.
struct Browser {
    child: Child,
    requests: File,
    answers: BufReader<File>,
    session: Option<String>,
    count: u64,
    /// What it told without being asked.
    events: Vec<Value>,
    _folder: TempDir,
}

impl Browser {
    /// Starts one; none if there is no such program.
    fn start() -> Option<Self> {
        let found = Command::new("sh").args(["-c", "command -v chromium"]).output();
        found.expect("it starts").status.success().then_some(())?;
        let folder = tempfile::tempdir().expect("a folder");
        let [requests, answers] = ["requests", "answers"].map(|name| folder.path().join(name));
        let made = Command::new("mkfifo").args([&requests, &answers]).status();
        assert!(made.expect("it starts").success());
        // The browser reads from descriptor 3 and writes to 4. One that hangs ends after a minute.
        let script = "exec timeout --kill-after=5 60 chromium --headless --no-sandbox --disable-gpu --no-first-run \
            --disable-background-networking --disable-component-update --remote-debugging-pipe \
            --user-data-dir=\"$1/profile\" 3<\"$1/requests\" 4>\"$1/answers\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("it starts");
        let requests = OpenOptions::new().write(true).open(requests).expect("open");
        let answers = BufReader::new(File::open(answers).expect("open"));
        let (session, events) = (None, Vec::new());
        let mut browser =
            Self { child, requests, answers, session, count: 0, events, _folder: folder };
        let target = browser.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let attached = browser.ask(
            "Target.attachToTarget",
            &json!({"targetId": target["targetId"], "flatten": true}),
        );
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        ["Runtime.enable", "Log.enable"].iter().for_each(|method| {
            browser.ask(method, &json!({}));
        });
        Some(browser)
    }

    /// Asks the browser something of its protocol, <https://chromedevtools.github.io/devtools-protocol>.
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.count += 1;
        let mut request = json!({"id": self.count, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).expect("it listens");
        loop {
            let mut answer = Vec::new();
            self.answers.read_until(0, &mut answer).expect("it answers");
            assert_eq!(answer.pop(), Some(0), "the browser ended");
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            if answer["id"] == self.count {
                assert_eq!(answer["error"], Value::Null, "{request}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// Returns what a script comes to on the page.
    fn run(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", &params);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{script}");
        answer["result"]["value"].clone()
    }

    /// Waits until a script comes to true.
    #[track_caller]
    fn sees(&mut self, script: &str) {
        eventually(script, || (self.run(script) == true).then_some(()));
    }

    /// Returns what the page complained about.
    fn complaints(&self) -> Vec<String> {
        let is_one = |event: &&Value| {
            let kind = event["method"].as_str().unwrap_or_default();
            ["Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"]
                .contains(&kind)
        };
        self.events.iter().filter(is_one).map(Value::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helpers too.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).output();
        let _ = self.child.wait();
    }
}

const RECIPE: &str = r#"stage slow(raw: File; at: Count) -> { out: File, loss: Float } version 1 shell """
  for line in $(seq 100); do echo line $line of {at}; done
  while [ -e r.tlm ] && ! [ -e go{at} ]; do sleep 0.01; done
  echo it goes on
  cp {raw} {out}
  echo {at}.5 > {loss}
"""
axis at = [9, 7, 3, 4, 5, 6, 2, 8, 1]
let a = slow("texts/a.txt", at: at) run { cpus: 1 }
plan default = a over at
report losses = table(a.loss, rows: at)
report drawn = bars(a.loss, rows: at)
"#;

#[test]
fn a_browser_follows_a_run_and_keeps_what_its_reader_did() {
    let Some(mut browser) = Browser::start() else {
        return eprintln!("skipped: there is no `chromium` to look at the page with");
    };
    let space = Space::with(RECIPE);
    let served = Served::start(&space, &["--port", "0"]);
    (2..10).for_each(|at| space.write(&format!("go{at}"), ""));
    space.tlm(&["run", "r.tlm", "--only", "at=9,7,3,4,5,6,2"]);
    browser.ask("Page.navigate", &json!({"url": format!("http://{}/", served.host)}));
    browser.sees("document.readyState == 'complete' && !!document.querySelector('#head .live')");
    browser.run(
        "mark = 'kept';
         values = () => [...document.querySelectorAll('#table-losses tbody tr:not([hidden])')].map(row => row.cells[1].textContent);
         document.querySelectorAll('#table-losses thead button')[1].click();
         filter = document.querySelector('#table-losses input.filter'); filter.value = '.5'; filter.oninput();
         document.querySelector('#table-drawn details').open = true;
         location.hash = '#step-1'; document.querySelector('#step-1').scrollIntoView();
         filter.focus({ preventScroll: true }); filter.setSelectionRange(1, 1);",
    );
    browser.sees("values().join() == '2.500,3.500,4.500,5.500,6.500,7.500,9.500'");
    let place = "Math.round(document.querySelector('#step-1').getBoundingClientRect().top)";
    let before = browser.run(place);

    let run = start(&mut space.run_command(&[]));
    browser.sees("!!document.querySelector('.step .word.running')");
    browser.sees("values().join() == '2.500,3.500,4.500,5.500,6.500,7.500,8.500,9.500'");
    let kept = browser.run(
        "[mark, document.querySelectorAll('#table-losses th')[1].ariaSort, document.querySelector('input.filter').value,
          document.querySelector('#table-drawn details').open, document.querySelector(':target').id,
          document.activeElement == document.querySelector('input.filter'), document.activeElement.selectionStart]",
    );
    assert_eq!(kept, json!(["kept", "ascending", ".5", true, "step-1", true, 1]));
    assert_eq!(browser.run(place), before, "the page moved");
    // A log shows its end, unless its reader looks at something above.
    let log = "document.querySelector('.step:has(.running) pre.log')";
    browser.sees(&format!("{log}.textContent.endsWith('line 100 of 1')"));
    assert_eq!(
        browser.run(&format!("{log}.scrollTop + {log}.clientHeight >= {log}.scrollHeight - 1")),
        true
    );

    assert_eq!(browser.complaints(), [""; 0]);
    let port = served.host.split(':').nth(1).expect("a port").to_owned();
    drop(served);
    browser.sees("document.body.classList.contains('lost')");
    let _again = Served::start(&space, &["--port", &port]);
    space.write("go1", "");
    browser.sees(
        "!document.querySelector('.word.running') && !document.body.classList.contains('lost')",
    );
    browser.sees("mark == 'kept' && values()[0] == '1.500'");
    assert_eq!(wait(run).code, Some(0));
    let others = browser.complaints();
    // That nobody listened is told by the browser itself.
    assert!(others.iter().all(|one| one.contains("ERR_CONNECTION_REFUSED")), "{others:?}");
}
