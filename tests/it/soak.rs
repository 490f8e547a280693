//! The real server under mixed load for a while: clients that start and wait, workers that
//! answer and one that does not, clients that are slow, that hang up, and that come all at
//! once. Its memory stays flat, nothing is lost, and every start is answered once.
//!
//! Not among the ordinary tests, since it takes as long as it is told to:
//! `just soak` runs it for ten minutes, the whole check for one.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli_support::{Data, Running, request};
use crate::guests::guest;

const AS_JSON: &str = "content-type: application/json\r\n";
const STARTERS: usize = 4;
/// Connections of clients that say a byte now and then.
const SLOW: usize = 48;
/// Connections that come at once.
const FLOOD: usize = 200;
/// What the memory may grow by after the first third: queues and caches that fill.
const SLACK_KIB: u64 = 48 << 10;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    /// Answers to the starts of each id: of those that were new, and of all.
    starts: Mutex<BTreeMap<String, (u64, u64)>>,
    completed: AtomicU64,
    busy: AtomicU64,
    floods: AtomicU64,
    cut: AtomicU64,
}

struct Soak<'s> {
    address: &'s str,
    until: Instant,
    seen: Seen,
}

impl Soak<'_> {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = request(self.address, "POST", &format!("/api/v1{path}"), AS_JSON, &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// Starts instances, some of them twice at a time, and waits for each.
    fn starts(&self, who: usize) {
        for n in 0.. {
            if !self.goes_on() {
                return;
            }
            let id = format!("s{who}-{n}");
            if n % 3 == 0 {
                std::thread::scope(|scope| {
                    scope.spawn(|| self.start(&id));
                    self.start(&id);
                });
            } else {
                self.start(&id);
            }
        }
    }

    fn start(&self, id: &str) {
        let call = json!({ "name": "soak.echo", "input": id, "attempts": 50, "first_interval": 20 });
        let body = json!({
            "id": id, "orchestration": "call_with", "input": call, "reuse": "return-existing", "wait_ms": 30_000,
        });
        let (status, mut answer) = self.until_taken("/instances", &body);
        assert!(matches!(status, 200 | 201), "{id}: {status} {answer}");
        {
            let mut starts = self.seen.starts.lock().unwrap();
            let counted = starts.entry(id.to_owned()).or_default();
            counted.0 += u64::from(status == 201);
            counted.1 += 1;
        }
        while answer["status"] == "running" {
            let (status, text) =
                request(self.address, "GET", &format!("/api/v1/instances/{id}/outcome?wait_ms=30000"), "", "");
            // It may have been removed since: then it had completed.
            if status == 404 {
                break;
            }
            assert!(matches!(status, 200 | 503), "{id}: {status} {text}");
            if status == 200 {
                answer = serde_json::from_str(&text).unwrap();
            }
        }
        if answer["status"] == "completed" {
            assert_eq!(answer["output"]["to"], json!(id), "{answer}");
        } else {
            assert_eq!(answer["status"], "running", "{id}: {answer}");
        }
        self.seen.completed.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks again while the server says that it is busy: nothing was taken then.
    fn until_taken(&self, path: &str, body: &Value) -> (u16, Value) {
        loop {
            let (status, answer) = self.post(path, body);
            if status != 503 {
                return (status, answer);
            }
            assert_eq!(answer["code"], "busy", "{answer}");
            self.seen.busy.fetch_add(1, Ordering::Relaxed);
            std::thread::yield_now();
        }
    }

    fn register(&self) -> String {
        let (status, answer) = self.until_taken("/workers", &json!({ "activities": ["soak.echo"] }));
        assert_eq!(status, 201, "{answer}");
        answer["worker"].as_str().unwrap().to_owned()
    }

    /// Does what is there to be done.
    fn works(&self, starting: &AtomicU64) {
        let worker = self.register();
        while starting.load(Ordering::Acquire) > 0 {
            let (status, claimed) =
                self.until_taken(&format!("/workers/{worker}/claim"), &json!({ "max": 8, "wait_ms": 500 }));
            assert_eq!(status, 200, "{claimed}");
            let done = |task: &Value| json!({ "token": task["token"], "output": task["input"] });
            let done: Vec<_> = claimed["tasks"].as_array().unwrap().iter().map(done).collect();
            if !done.is_empty() {
                let (status, answer) = self.until_taken("/tasks/complete", &json!({ "tasks": done }));
                assert_eq!(status, 200, "{answer}");
            }
        }
    }

    /// Takes a task now and then, and is not heard of again.
    fn is_lost(&self) {
        while self.goes_on() {
            let worker = self.register();
            let claim = json!({ "max": 1, "wait_ms": 2_000, "lease_ms": 1_000 });
            let (status, answer) = self.until_taken(&format!("/workers/{worker}/claim"), &claim);
            assert_eq!(status, 200, "{answer}");
            std::thread::sleep(Duration::from_millis(700));
        }
    }

    fn connect(&self) -> Option<TcpStream> {
        TcpStream::connect(self.address).ok()
    }

    /// Holds connections whose requests come a byte at a time; hangs up in the middle.
    fn is_slow(&self) {
        let body = r#"{"id":"slow","orchestration":"nothing","input":"so slow that it never comes to its end"}"#;
        let request = format!(
            "POST /api/v1/instances HTTP/1.1\r\nhost: {}\r\n{AS_JSON}content-length: {}\r\n\r\n{body}",
            self.address,
            body.len() + 1,
        );
        while self.goes_on() {
            let mut held: Vec<_> = (0..SLOW).filter_map(|_| self.connect()).collect();
            for (n, byte) in request.bytes().enumerate() {
                if !self.goes_on() {
                    return;
                }
                held.iter_mut().for_each(|stream| drop(stream.write_all(&[byte])));
                // One after the other goes, wherever it is.
                if n % 4 == 0 && held.pop().is_some() {
                    self.seen.cut.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Comes with many at once; each is answered, if only with "busy".
    fn floods(&self) {
        while self.goes_on() {
            let request = format!(
                "GET /api/v1/instances?limit=5 HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
                self.address
            );
            let mut all: Vec<_> = (0..FLOOD).filter_map(|_| self.connect()).collect();
            all.iter_mut().for_each(|stream| drop(stream.write_all(request.as_bytes())));
            for mut stream in all {
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let mut answer = String::new();
                let read = stream.read_to_string(&mut answer);
                let status = answer.get(9..12).unwrap_or_default();
                assert!(matches!(status, "200" | "503"), "{read:?} {answer:?}");
                self.seen.floods.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Listens to changes and reads nothing.
    fn listens(&self) {
        while self.goes_on() {
            let mut held: Vec<_> = (0..16).filter_map(|_| self.connect()).collect();
            let request = format!("GET /api/v1/changes HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
            held.iter_mut().for_each(|stream| drop(stream.write_all(request.as_bytes())));
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// The server's memory, in KiB, a second apart.
    fn memory(&self, server: &Running) -> Vec<u64> {
        let mut samples = Vec::new();
        while self.goes_on() {
            std::thread::sleep(Duration::from_secs(1));
            samples.push(server.resident_kib());
        }
        samples
    }
}

#[test]
#[ignore = "it takes as long as DACAPO_SOAK_SECONDS says: `just soak`"]
fn soak() {
    let seconds = std::env::var("DACAPO_SOAK_SECONDS").map_or(60, |text| text.parse().expect("a number of seconds"));
    let data = Data::new("soak");
    let project = Data::new("soak-project");
    std::fs::write(project.path().join("tasks.wasm"), guest("tasks")).unwrap();
    let manifest = "name = \"tasks\"\n[orchestration]\npath = \"tasks.wasm\"\n";
    std::fs::write(project.path().join("dacapo.toml"), manifest).unwrap();
    // What has ended goes, so that nothing but the load itself takes room.
    let mut served = data.serve_with(&["--retain", "completed=1s"], &[("DACAPO_LOG", "error")]);
    data.run(&["upload", project.path().to_str().unwrap()]).ok();

    let address = served.address.clone();
    let soak = Soak { address: &address, until: Instant::now() + Duration::from_secs(seconds), seen: Seen::default() };
    let starting = AtomicU64::new(STARTERS as u64);
    let memory = std::thread::scope(|scope| {
        for who in 0..STARTERS {
            let (soak, starting) = (&soak, &starting);
            scope.spawn(move || {
                // Also where it fails, so that nobody waits for ever.
                let _done = Done(starting);
                soak.starts(who);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| soak.works(&starting));
        }
        scope.spawn(|| soak.is_lost());
        scope.spawn(|| soak.is_slow());
        scope.spawn(|| soak.floods());
        scope.spawn(|| soak.listens());
        soak.memory(&served.running)
    });

    let starts = soak.seen.starts.lock().unwrap();
    for (id, (new, all)) in starts.iter() {
        assert_eq!(*new, 1, "{id} was started once, whatever came: {all} answers");
    }
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let told = format!(
        "{} instances, {} answers with their result, {} floods, {} cut off, {} times busy",
        starts.len(),
        of(&soak.seen.completed),
        of(&soak.seen.floods),
        of(&soak.seen.cut),
        of(&soak.seen.busy)
    );
    let asked: u64 = starts.values().map(|(_, all)| all).sum();
    assert_eq!(of(&soak.seen.completed), asked, "{told}");
    assert!(starts.len() > 50 && of(&soak.seen.floods) > 0 && of(&soak.seen.cut) > 0, "{told}");
    // Between the first third, when everything has been in use once, and the end.
    let third = memory.len() / 3;
    let (early, late) = (memory[third..2 * third].iter().max(), memory[2 * third..].iter().max());
    let (early, late) = (early.copied().unwrap_or_default(), late.copied().unwrap_or_default());
    assert!(late < early + SLACK_KIB, "memory grew from {early} to {late} KiB; {told}; {memory:?}");

    // It is drained, and what it leaves is sound.
    served.running.terminate();
    assert_eq!(served.running.rest().0, Some(0), "{told}");
    assert_eq!(data.json(&["verify", "--replay"])["findings"], json!([]));
    assert_eq!(data.json(&["list", "--status", "running"])["instances"], json!([]));
    assert_eq!(data.json(&["list", "--status", "failed"])["instances"], json!([]));
}

/// One starter less when it goes.
struct Done<'s>(&'s AtomicU64);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}
