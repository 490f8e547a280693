//! The `dacapo` command as tests use it: the real binary, a fresh data folder, and
//! no waiting but for what it says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

use crate::harness::temporary;

/// Nothing waits so long unless it waits for ever.
const FOR_EVER: Duration = Duration::from_secs(300);

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// The binary, built once: a test binary of this crate lies in `deps` beside it.
pub(crate) fn dacapo() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = cargo().args(["build", "--release", "-p", "dacapo"]).current_dir(root()).status();
        assert!(built.expect("cargo runs").success(), "dacapo does not build");
        let test = std::env::current_exe().expect("this program has a path");
        let binary = test.parent().and_then(Path::parent).expect("it is in target/release/deps").join("dacapo");
        assert!(binary.is_file(), "{} is not there; test with --release", binary.display());
        binary
    })
}

/// cargo, without what the cargo that runs this test says of this package: build
/// scripts would see a change in it and build again.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let outer = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];
        if name.to_str().is_some_and(|name| outer.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// What projects depend on is much the same, and compiled once, in here.
pub(crate) fn target_of_projects() -> PathBuf {
    root().join("target/tmp/cli-new-target")
}

/// Runs the tests of a project as its owner would. `tests` are among them, and pass.
pub(crate) fn run_tests_of(project: &Path, what: &[&str], tests: &[&str]) {
    let tested = cargo()
        .arg("test")
        .args(what)
        .current_dir(project)
        .env("CARGO_TARGET_DIR", target_of_projects())
        .env("DACAPO", dacapo())
        .env("DACAPO_CACHE", temporary("compiled"))
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&tested.stdout);
    assert!(tested.status.success(), "{said}\n{}", String::from_utf8_lossy(&tested.stderr));
    for test in tests {
        assert!(said.contains(&format!("{test} ... ok")), "{test}\n{said}");
    }
}

/// A data folder; it goes when this does.
pub(crate) struct Data(PathBuf);

impl Data {
    pub(crate) fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the test's folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(dacapo());
        command.args(arguments).arg("--data").arg(&self.0);
        // What is set for the tests themselves, such as their seed, is nothing to a server.
        let outer = std::env::vars_os().map(|(name, _)| name);
        outer.filter(|name| name.to_str().is_some_and(|name| name.starts_with("DACAPO_"))).for_each(|name| {
            command.env_remove(name);
        });
        // A module is compiled once for all tests.
        command.env("DACAPO_CACHE", temporary("compiled"));
        command.current_dir(root()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, &[])
    }

    /// Runs a command to its end, with these environment variables.
    pub(crate) fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Done {
        let output = self.command(arguments).envs(environment.iter().copied()).output().expect("dacapo can be run");
        Done {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is text"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that must succeed, with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).ok().json()
    }

    /// Starts a command whose lines are read as they come.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        self.spawn_with(self.command(arguments))
    }

    fn spawn_with(&self, mut command: Command) -> Running {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let errors = self.0.join(format!("stderr-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let stderr = std::fs::File::create(&errors).expect("the test's folder can be written to");
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("dacapo can be run");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines, errors }
    }

    /// Makes a token, with these scopes with commas between them.
    pub(crate) fn token(&self, scopes: &str, namespace: &str) -> String {
        let made = self.json(&["token", "create", "--scope", scopes, "--namespace", namespace]);
        made["token"].as_str().expect("a token").to_owned()
    }

    /// Serves this folder on a free port.
    pub(crate) fn serve(&self) -> Served {
        self.serve_with(&[], &[])
    }

    /// Serves with more arguments and these environment variables.
    pub(crate) fn serve_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Served {
        let mut command = self.command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
        command.envs(environment.iter().copied());
        let running = self.spawn_with(command);
        let line = running.line();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected: {line}"));
        let address = url.split_once("://").expect("a url").1.to_owned();
        Served { running, address }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.failed(0)
    }

    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// What stdout has.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The error object on stderr's last line.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", self.stderr))
    }
}

/// A command that runs; killed when this goes.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: PathBuf,
}

impl Running {
    /// Its next line.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(FOR_EVER).expect("one more line")
    }

    /// Its next line; none if it ends first.
    pub(crate) fn try_line(&self) -> Option<String> {
        self.lines.recv().ok()
    }

    /// Its lines up to the first with `text` in it.
    #[track_caller]
    pub(crate) fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Its lines until it ends.
    pub(crate) fn rest(&mut self) -> (Option<i32>, Vec<String>) {
        let lines = self.lines.iter().collect();
        (self.child.wait().expect("it ends").code(), lines)
    }

    /// What it wrote to stderr until now.
    pub(crate) fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).expect("it has a file for stderr")
    }

    /// Ends it without any warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it can be killed");
    }

    /// Its memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status("VmRSS").trim_end_matches(" kB").parse().expect("a number")
    }

    /// What the operating system says of it, by that name.
    pub(crate) fn status(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|line| line.0 == name).unwrap_or_else(|| panic!("no {name} in {status}"));
        value.trim().to_owned()
    }

    pub(crate) fn terminate(&self) {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(killed.expect("kill runs").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server.
pub(crate) struct Served {
    pub(crate) running: Running,
    pub(crate) address: String,
}

impl Served {
    /// One raw request; the status and the body.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let (status, body) = self.bytes(method, path, headers, body.as_bytes());
        (status, String::from_utf8(body).expect("an answer of text"))
    }

    /// [`Self::request`] of bytes.
    pub(crate) fn bytes(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let (head, body) = self.whole(method, path, headers, body);
        (head[9..12].parse().expect("a status"), body)
    }

    /// [`Self::request`] with the whole head of the answer.
    pub(crate) fn whole(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
        let mut stream = send(&self.address, method, path, headers, body);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(answer[..end].to_vec()).expect("a head is text");
        (head, answer.split_off(end + 4))
    }

    /// A request whose answer is read as it comes.
    pub(crate) fn open(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        send(&self.address, method, path, headers, body)
    }

    /// The status of an answer that may not end.
    pub(crate) fn head(&self, method: &str, path: &str, token: Option<&str>) -> u16 {
        let authorization = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let mut line = String::new();
        let stream = send(&self.address, method, path, &authorization, b"");
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        line[9..12].parse().expect("a status")
    }
}

/// One raw request to the server at `address`; the status and the body.
pub(crate) fn request(address: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut answer = String::new();
    send(address, method, path, headers, body.as_bytes()).read_to_string(&mut answer).expect("an answer of text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

fn send(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(FOR_EVER)).expect("a timeout can be set");
    let length = body.len();
    let host =
        if headers.to_ascii_lowercase().contains("host:") { String::new() } else { format!("host: {address}\r\n") };
    let head =
        format!("{method} {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).expect("it can be sent");
    match stream.write_all(body) {
        // It has answered without reading all: that is what the caller looks at.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        sent => sent.expect("it can be sent"),
    }
    stream
}
