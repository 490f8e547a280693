//! The whole program, killed with SIGKILL at each write of its journal.
//!
//! A first, undisturbed run counts the commits. Then one run per commit dies just
//! before it, and one just after it and before anything is let out; the same
//! command goes on. The real binary, the real examples, real HTTP, a real disk.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::cli_support::{Data, root};

/// An example, built once, as a project of finished modules.
struct Example {
    name: &'static str,
    orchestration: &'static str,
    service: &'static str,
    env: &'static str,
}

const INVOICE: Example =
    Example { name: "invoice", orchestration: "invoice", service: "accounting", env: "ACCOUNTING_URL" };
const TRIP: Example =
    Example { name: "trip-booking", orchestration: "trip_booking", service: "booking", env: "BOOKING_URL" };

/// The demo service of one run; it ends when this is dropped.
struct Service {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cargo(folder: &Path, arguments: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo).arg("build").arg("--release").args(arguments).current_dir(folder).status();
    assert!(done.expect("cargo runs").success(), "{} does not build", folder.display());
}

fn artifacts() -> PathBuf {
    root().join("examples/target")
}

fn demo_service() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        cargo(&root().join("examples/demo-service"), &[]);
        artifacts().join("release/demo-service")
    })
}

impl Example {
    fn build(&self) {
        for part in ["orchestration", "activities"] {
            cargo(&root().join("examples").join(self.name).join(part), &["--target", "wasm32-wasip2"]);
        }
    }

    /// A dacapo.toml of the built modules, granted what the example's own grants.
    fn project(&self, folder: &Path) {
        let wasm = artifacts().join("wasm32-wasip2/release");
        let (orchestration, service) = (self.orchestration, self.service);
        let text = format!(
            "name = \"{name}\"\n[orchestration]\npath = \"{wasm}/{orchestration}.wasm\"\n\
             [[activities]]\npath = \"{wasm}/{orchestration}_activities.wasm\"\n[activities.grants]\n\
             env = {{ {env} = \"${{services.{service}.url}}\" }}\nhosts = [\"${{services.{service}.host}}\"]\n\
             [[services]]\nname = \"{service}\"\npath = \"nowhere\"\n",
            name = self.name,
            env = self.env,
            wasm = wasm.display(),
        );
        std::fs::create_dir_all(folder).expect("the project's folder can be made");
        std::fs::write(folder.join("dacapo.toml"), text).expect("the project's file can be written");
    }

    fn service(folder: &Path) -> Service {
        std::fs::create_dir_all(folder).expect("the service's folder can be made");
        let mut child = Command::new(demo_service())
            .env("DACAPO_SERVICE_DATA", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo service starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the demo service says where it listens");
        let url = line.trim().strip_prefix("listening on ").expect("its first line").to_owned();
        Service { child, url, log: folder.join("requests.jsonl") }
    }

    fn command(&self, data: &Data, service: &Service) -> Command {
        let folder = data.path().join("project");
        self.project(&folder);
        let input = format!("@{}", root().join("examples").join(self.name).join("input.json").display());
        let mut command = data.command(&["run", folder.to_str().expect("the path is text"), self.orchestration]);
        command.args(["--input", &input, "--id", "the-one", "--json", "--quiet"]);
        command.args(["--service", &format!("{}={}", self.service, service.url)]);
        command
    }
}

/// What an undisturbed run leaves behind.
#[derive(Debug, PartialEq)]
struct Left {
    output: Value,
    /// Path and idempotency key of each call that reached the service.
    effects: BTreeSet<(String, String)>,
}

/// Every guid is drawn from the instance's own seed; all else is the same.
fn without_guids(text: &str) -> String {
    let is_guid = |part: &str| {
        part.len() == 36
            && part.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.get(..36).is_some_and(is_guid) {
            out.push_str("GUID");
            rest = &rest[36..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn effects(log: &Path) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("the service logs JSON"))
        .map(|line| {
            (line["path"].as_str().unwrap_or_default().to_owned(), line["key"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

/// Runs to the end, checks the replay, and says what is left.
fn finish(example: &Example, data: &Data, service: &Service, crash: Option<&str>) -> Left {
    let mut command = example.command(data, service);
    if let Some(crash) = crash {
        command.env("DACAPO_CRASH", crash);
    }
    let done = command.output().expect("dacapo runs");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {:?}\n{stderr}", example.name, done.status);
    let output = without_guids(&String::from_utf8(done.stdout).expect("the output is text"));
    let replay = data.run(&["replay", "the-one", "--json"]);
    assert_eq!(replay.code, Some(0), "the history replays: {replay:?}");
    Left { output: serde_json::from_str(&output).expect("the output is JSON"), effects: effects(&service.log) }
}

fn sweep(example: &Example) {
    example.build();
    let calm = Data::new(&format!("{}-calm", example.name));
    let service = Example::service(&calm.path().join("service"));
    let counted = calm.path().join("commits");
    let expected = finish(example, &calm, &service, Some(&format!("count:{}", counted.display())));
    let commits: u32 = std::fs::read_to_string(&counted).expect("commits are counted").parse().expect("a number");
    assert!(commits >= 3, "a start, a call and a result are three writes at least, counted {commits}");
    assert!(!expected.effects.is_empty(), "the example has effects");

    let points: Vec<String> = (1..=commits).flat_map(|n| [format!("before:{n}"), format!("after:{n}")]).collect();
    std::thread::scope(|scope| {
        for some in points.chunks(points.len().div_ceil(4)) {
            let expected = &expected;
            scope.spawn(move || some.iter().for_each(|point| die_and_go_on(example, point, expected)));
        }
    });
}

fn die_and_go_on(example: &Example, point: &str, expected: &Left) {
    let data = Data::new(&format!("{}-{}", example.name, point.replace(':', "-")));
    let service = Example::service(&data.path().join("service"));
    let mut command = example.command(&data, &service);
    let died = command.env("DACAPO_CRASH", point).output().expect("dacapo runs");
    assert_eq!(died.status.signal(), Some(9), "{} is killed {point} its commit: {died:?}", example.name);
    let left = finish(example, &data, &service, None);
    assert_eq!(left.output, expected.output, "{} killed {point}", example.name);
    assert_eq!(left.effects, expected.effects, "{} killed {point}: each effect, with its key", example.name);
}

#[test]
fn s06_invoice_goes_on_after_sigkill_at_every_write() {
    sweep(&INVOICE);
}

#[test]
fn s06_trip_booking_goes_on_after_sigkill_at_every_write() {
    sweep(&TRIP);
}
