// SPDX-License-Identifier: Apache-2.0
//! A real Chromium, without a window, spoken to over the protocol of its developer tools.
//!
//! By two pipes, messages of JSON with a zero behind each: no port is open to others, and no library is needed.
//! <https://chromedevtools.github.io/devtools-protocol/>

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Debian's names, the smaller first.
const PROGRAMS: [&str; 2] = ["chromium-headless-shell", "chromium"];
/// Longer than an answer takes on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Set by `cargo xtask test`, which installs one: then a lack is a failure.
const NEEDED: &str = "CIMA_TESTS_NEED_BROWSER";

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    /// What it told unasked.
    told: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `None`, said on standard error: there is none here, and nobody promised one.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = PROGRAMS.into_iter().find(|program| is_here(program)) else {
            let lack = format!("neither {} nor {} is installed", PROGRAMS[0], PROGRAMS[1]);
            assert!(env::var_os(NEEDED).is_none(), "{lack}");
            eprintln!("SKIPPED: {lack}: apt-get install {}", PROGRAMS[0]);
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // The shell makes what are its standard streams the two that the browser looks for.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
                "sh",
            ])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--remote-debugging-pipe"])
            .args([
                "--disable-gpu",
                "--disable-background-networking",
                "--hide-scrollbars",
            ])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut browser = Self {
            child,
            input,
            messages: listen(output),
            session: None,
            calls: 0,
            told: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &target);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser.size(1280, 900);
        Some(browser)
    }

    /// Asks, and waits for the answer.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let bytes = [message.to_string().as_bytes(), b"\0"].concat();
        self.input.write_all(&bytes).unwrap();
        loop {
            let message = self.next(method);
            if message["id"] != id {
                self.told.push(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {message}");
            return message["result"].clone();
        }
    }

    #[track_caller]
    fn next(&self, wanted: &str) -> Value {
        let message = self.messages.recv_timeout(PATIENCE);
        message.unwrap_or_else(|error| panic!("the browser is silent on {wanted}: {error}"))
    }

    /// Opens a file, and waits until all of it is there.
    #[track_caller]
    pub(crate) fn open(&mut self, path: &Path) {
        self.told.clear();
        let url = format!("file://{}", path.display());
        self.call("Page.navigate", &json!({"url": url}));
        while !self.has_told("Page.loadEventFired") {
            let message = self.next("the page");
            self.told.push(message);
        }
    }

    fn has_told(&self, method: &str) -> bool {
        self.told.iter().any(|message| message["method"] == method)
    }

    /// What an expression is in the page.
    #[track_caller]
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true});
        let answer = self.call("Runtime.evaluate", &asked);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// A window of this size.
    pub(crate) fn size(&mut self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// What the page is shown on, `screen` or `print`, and in which light.
    pub(crate) fn media(&mut self, media: &str, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({"media": media, "features": features}),
        );
    }

    /// Moves the mouse from one place to another with its button down.
    pub(crate) fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        let steps = [
            ("mousePressed", from),
            ("mouseMoved", to),
            ("mouseReleased", to),
        ];
        for (what, (x, y)) in steps {
            let event = json!({"type": what, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1});
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Presses a key.
    pub(crate) fn key(&mut self, key: &str) {
        for what in ["rawKeyDown", "keyUp"] {
            let code = if key == "Tab" { 9 } else { 13 };
            let event =
                json!({"type": what, "key": key, "code": key, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// The window as a PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        BASE64_STANDARD
            .decode(picture["data"].as_str().unwrap())
            .unwrap()
    }

    /// The page as a PDF.
    pub(crate) fn pdf(&mut self) -> Vec<u8> {
        let pdf = self.call("Page.printToPDF", &json!({"printBackground": false}));
        BASE64_STANDARD
            .decode(pdf["data"].as_str().unwrap())
            .unwrap()
    }

    /// All that the page loaded, or tried to.
    pub(crate) fn loaded(&self) -> Vec<String> {
        let requests = self
            .told
            .iter()
            .filter(|message| message["method"] == "Network.requestWillBeSent");
        let url = |message: &Value| {
            message["params"]["request"]["url"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        requests.map(url).collect()
    }

    /// What a page that is as it should be does not say: errors, warnings, breaches of its policy, dialogs.
    pub(crate) fn complaints(&mut self) -> Vec<Value> {
        // Whatever is on its way is here once the next question is answered; no timer runs in a page without scripts.
        thread::sleep(Duration::from_millis(50));
        self.eval("0");
        const COMPLAINTS: [&str; 4] = [
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        ];
        let is_one = |message: &&Value| COMPLAINTS.iter().any(|one| message["method"] == *one);
        self.told.iter().filter(is_one).cloned().collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn is_here(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn listen(output: ChildStdout) -> Receiver<Value> {
    let (sender, messages) = channel();
    thread::spawn(move || {
        for message in BufReader::new(output).split(0) {
            let Ok(message) = message else { return };
            let Ok(message) = serde_json::from_slice(&message) else {
                return;
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    messages
}

#[test]
fn the_browser_says_what_a_page_does_wrong() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.html");
    let policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">";
    std::fs::write(
        &path,
        format!("{policy}<script>window.hostile = 1</script><img src=x>"),
    )
    .unwrap();
    browser.open(&path);
    assert_eq!(browser.eval("typeof window.hostile"), "undefined");
    let complaints = browser.complaints();
    assert!(complaints.len() >= 2, "{complaints:?}");
    std::fs::write(
        &path,
        "<script>window.hostile = 1; console.error('x')</script><img src=x>",
    )
    .unwrap();
    browser.open(&path);
    assert_eq!(browser.eval("window.hostile"), 1);
    assert_eq!(browser.loaded().len(), 2);
    assert!(!browser.complaints().is_empty());
}
