//! A browser for tests: headless Chromium, spoken to over two pipes in its own
//! debugging protocol, one page at a time. Clicks and keys are real ones. Nothing
//! sleeps: a test waits for the page to say that something is so.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli_support::root;

/// Nothing waits so long unless it waits for ever.
const FOR_EVER: Duration = Duration::from_secs(120);
/// The accessibility checker, as npm knows it.
const AXE: &str = "axe-core@4.14.1";

pub(crate) struct Browser {
    child: Child,
    profile: PathBuf,
    messages: Receiver<Value>,
    session: String,
    base: String,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    /// What the console said that is an error.
    errors: Vec<String>,
    loads: u64,
    /// What is being asked, to be told if no answer comes.
    asked: String,
}

impl Browser {
    /// Opens a page of the server at `address`, `width` wide.
    pub(crate) fn open(test: &str, address: &str, width: u32, dark: bool) -> Self {
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("browser-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&profile);
        let program = std::env::var("DACAPO_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        // The protocol is spoken over descriptors 3 and 4; the shell puts the pipes there.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#, "sh", &program])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            stdout
                .split(0)
                .map_while(Result::ok)
                .try_for_each(|message| sender.send(serde_json::from_slice(&message).expect("the browser speaks JSON")))
        });
        let base = format!("http://{address}");
        let mut browser = Self { child, profile, messages, session: String::new(), base, state: RefCell::default() };
        let target = browser.send("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.send("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_owned);
        browser.session = session.expect("a session has an id");
        for domain in ["Page", "Runtime", "Log"] {
            browser.send(&format!("{domain}.enable"), json!({}));
        }
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        browser.send("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!([{ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } }]);
        browser.send("Emulation.setEmulatedMedia", json!({ "features": scheme }));
        browser
    }

    /// Goes to a path and waits until it is loaded.
    #[track_caller]
    pub(crate) fn go(&self, path: &str) {
        let loads = self.state.borrow().loads;
        let gone = self.send("Page.navigate", json!({ "url": format!("{}{path}", self.base) }));
        assert!(gone["errorText"].is_null(), "{path}: {gone}");
        while self.state.borrow().loads == loads {
            self.hear();
        }
    }

    /// The value of an expression on the page.
    #[track_caller]
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression).unwrap_or_else(|why| panic!("{expression}: {why}"))
    }

    fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let asked = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.try_send("Runtime.evaluate", asked)?;
        match answer.get("exceptionDetails") {
            Some(thrown) => Err(thrown.to_string()),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Waits until `condition` holds, also on the page that this one leads to.
    #[track_caller]
    pub(crate) fn until(&self, condition: &str) {
        let waiting = format!(
            "new Promise((done) => {{
                const look = () => {{ if (!({condition})) return; observer.disconnect(); done(true); }};
                const observer = new MutationObserver(look);
                observer.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
                look();
            }})"
        );
        let began = std::time::Instant::now();
        loop {
            match self.try_eval(&waiting) {
                Ok(_) => return,
                // The page went away under the promise; the next one is asked.
                Err(why) if began.elapsed() < FOR_EVER && is_gone(&why) => {}
                Err(why) => panic!("{condition}: {why}"),
            }
        }
    }

    /// Waits until something on the page has that text.
    #[track_caller]
    pub(crate) fn sees(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!("[...document.querySelectorAll({selector})].some((e) => e.textContent.includes({text}))"));
    }

    /// Clicks in the middle of something, with whatever is above it there.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        self.until(&format!("document.querySelector({})?.checkVisibility()", json!(selector)));
        let place = self.eval(&format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{ block: 'center' }});
               const r = e.getBoundingClientRect(); const x = r.x + r.width / 2, y = r.y + r.height / 2;
               const above = document.elementFromPoint(x, y);
               return {{ x, y, hit: e.contains(above) || above?.contains(e) === true }}; }})()",
            json!(selector)
        ));
        assert_eq!(place["hit"], true, "{selector} is covered by something else");
        for (kind, buttons) in [("mousePressed", 1), ("mouseReleased", 0)] {
            let at = json!({
                "type": kind, "x": place["x"], "y": place["y"], "button": "left", "buttons": buttons, "clickCount": 1,
            });
            self.send("Input.dispatchMouseEvent", at);
        }
    }

    /// Clicks what leads to another page, and waits for that.
    #[track_caller]
    pub(crate) fn follow(&self, selector: &str) {
        let loads = self.state.borrow().loads;
        self.click(selector);
        while self.state.borrow().loads == loads {
            self.hear();
        }
    }

    /// Types into a field what it is to have.
    #[track_caller]
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        self.until(&format!("document.querySelector({})?.checkVisibility()", json!(selector)));
        self.eval(&format!(
            "document.querySelector({0}).focus(), document.querySelector({0}).select()",
            json!(selector)
        ));
        self.send("Input.insertText", json!({ "text": text }));
    }

    /// Chooses from a list.
    #[track_caller]
    pub(crate) fn choose(&self, selector: &str, value: &str) {
        self.eval(&format!(
            "(() => {{ const e = document.querySelector({}); e.value = {};
               if (e.value !== {1}) throw new Error('no such choice');
               e.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()",
            json!(selector),
            json!(value)
        ));
    }

    /// Presses a key.
    pub(crate) fn press(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = match (kind, key) {
                ("keyUp", _) => "",
                (_, "Enter") => "\r",
                (_, key) if key.len() == 1 => key,
                _ => "",
            };
            let code = match key {
                "Enter" => 13,
                "Escape" => 27,
                "Tab" => 9,
                _ => 0,
            };
            let event = json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
            self.send("Input.dispatchKeyEvent", event);
        }
    }

    /// Gives a file to a field.
    pub(crate) fn give(&self, selector: &str, file: &Path) {
        let document = self.send("DOM.getDocument", json!({}));
        let found = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let node = self.send("DOM.querySelector", found)["nodeId"].clone();
        self.send("DOM.setFileInputFiles", json!({ "nodeId": node, "files": [file] }));
    }

    /// Errors on the console since the last call.
    pub(crate) fn errors(&self) -> Vec<String> {
        // Whatever was said before this answer has been heard by then.
        self.eval("1");
        std::mem::take(&mut self.state.borrow_mut().errors)
    }

    /// What an accessibility checker finds that is serious.
    pub(crate) fn barriers(&self) -> Vec<String> {
        self.eval(&format!("{}\n;1", axe()));
        let tags = r#"["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]"#;
        let found = self.eval(&format!(
            "axe.run(document, {{ runOnly: {{ type: 'tag', values: {tags} }}, resultTypes: ['violations'] }})
                .then((done) => done.violations.filter((v) => ['serious', 'critical'].includes(v.impact))
                    .map((v) => v.id + ': ' + v.help + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join('; ')))"
        ));
        found.as_array().expect("a list").iter().map(Value::to_string).collect()
    }

    fn send(&self, method: &str, parameters: Value) -> Value {
        self.try_send(method, parameters).unwrap_or_else(|why| panic!("{method}: {why}"))
    }

    fn try_send(&self, method: &str, parameters: Value) -> Result<Value, String> {
        let id = {
            let mut state = self.state.borrow_mut();
            state.last_id += 1;
            state.asked = format!("{method} {parameters}");
            state.last_id
        };
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut pipe = self.child.stdin.as_ref().expect("stdin is piped");
        let sent = pipe.write_all(format!("{message}\0").as_bytes());
        sent.unwrap_or_else(|error| panic!("{error}: {}", missing()));
        loop {
            let answer = self.hear();
            if answer["id"] == id {
                return match answer.get("error") {
                    Some(error) => Err(error.to_string()),
                    None => Ok(answer["result"].clone()),
                };
            }
        }
    }

    /// The next message; what the page says by itself is noted.
    fn hear(&self) -> Value {
        let message = self.messages.recv_timeout(FOR_EVER).unwrap_or_else(|error| {
            panic!("{error} after {}: it never came about, or {}", self.state.borrow().asked, missing())
        });
        let (mut state, told) = (self.state.borrow_mut(), &message["params"]);
        match message["method"].as_str() {
            Some("Page.loadEventFired") => state.loads += 1,
            Some("Runtime.exceptionThrown") => state.errors.push(told["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if told["type"] == "error" => state.errors.push(told["args"].to_string()),
            Some("Log.entryAdded") if told["entry"]["level"] == "error" => {
                state.errors.push(format!("{} {}", told["entry"]["text"], told["entry"]["url"]));
            }
            _ => {}
        }
        drop(state);
        message
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

fn is_gone(why: &str) -> bool {
    ["navigated", "collected", "context was destroyed", "Cannot find context"].iter().any(|text| why.contains(text))
}

fn missing() -> &'static str {
    "the browser has ended; these tests need Debian's `chromium`, or another one named by DACAPO_CHROMIUM"
}

/// The checker's source, fetched by npm the first time.
fn axe() -> String {
    static FETCH: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = FETCH.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = root().join("target/browser");
    let file = folder.join("node_modules/axe-core/axe.min.js");
    if !file.is_file() {
        let npm = Command::new("npm")
            .args(["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"])
            .arg(&folder)
            .arg(AXE)
            .output();
        let npm = npm.expect("npm runs: it fetches the accessibility checker that these tests use");
        assert!(npm.status.success(), "npm could not fetch {AXE}: {}", String::from_utf8_lossy(&npm.stderr));
    }
    std::fs::read_to_string(&file).expect("npm has put it there")
}
