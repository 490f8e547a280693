//! Remote workers as their authors meet them: a Python program, the Rust library,
//! and the commands that show what they do.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dacapo_sdk::worker::Worker;
use dacapo_sdk::{ActivityContext, Error, Result, RetryPolicy, activities};
use serde_json::{Value, json};

use crate::cli_support::{Data, Served, cargo, root, target_of_projects};

const FILM: &str = "@examples/film/input.json";

/// A program that is killed when this goes.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn started(data: &Data) -> Served {
    let served = data.serve();
    data.run(&["upload", "examples/film"]).ok();
    data.run(&["start", "film", "--id", "film-1", "--input", FILM]).ok();
    served
}

fn frames(count: u32) -> Value {
    (1..=count).map(|number| json!(format!("La Strada/{number:04}.png"))).collect()
}

/// Follows the instance to its end.
fn output(data: &Data, id: &str) -> Value {
    let mut follow = data.spawn(&["history", id, "--follow", "--json"]);
    let (_, lines) = follow.rest();
    let last: Value = serde_json::from_str(lines.last().expect("events")).expect("JSON");
    assert_eq!(last["kind"], "completed", "{last}");
    last["output"].clone()
}

#[test]
fn s42_a_worker_in_forty_lines_of_python_serves_a_queue() {
    let data = Data::new("python-worker");
    let served = started(&data);
    let follow = data.spawn(&["history", "film-1", "--follow", "--json"]);
    follow.line_with("activity-scheduled");
    let show = data.run(&["show", "film-1"]).ok().stdout;
    assert!(show.contains("(waits in queue render: no worker serves it)"), "{show}");
    let queues = data.json(&["queues"]);
    let render = queues["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "render").unwrap();
    assert_eq!(render["unserved"]["renderer.render"], 6, "{queues}");
    assert!(data.run(&["queues"]).ok().stdout.contains("renderer.render (6)"));
    let python = Command::new("python3")
        .args(["examples/film/worker.py", &format!("http://{}", served.address)])
        .current_dir(root())
        .stdin(Stdio::null())
        .spawn();
    let _python = Program(python.expect("python3 runs"));
    assert_eq!(output(&data, "film-1"), frames(6));
    let workers = data.json(&["workers"]);
    assert_eq!(workers["workers"][0]["name"], "worker.py");
    assert!(data.run(&["workers"]).ok().stdout.contains("renderer.render"));
    data.run(&["replay", "film-1"]).ok();
}

#[test]
fn s42_the_file_of_a_server_bounds_queues_and_activities_and_says_what_is_wrong_with_it() {
    let data = Data::new("configured");
    let served = data.serve_with(&["--config", "examples/film/serve.toml"], &[]);
    data.run(&["upload", "examples/film"]).ok();
    data.run(&["start", "film", "--id", "film-1", "--input", FILM]).ok();
    let follow = data.spawn(&["history", "film-1", "--follow", "--json"]);
    follow.line_with("activity-scheduled");
    let queues = data.json(&["queues"]);
    let render = queues["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "render").unwrap();
    let settings = &render["settings"];
    assert_eq!(settings["concurrency"], 2, "{queues}");
    assert_eq!((&settings["rate"]["tasks"], &settings["remote_only"]), (&json!(50), &json!(true)), "{queues}");
    drop(served);

    let file = data.path().join("wrong.toml");
    for (text, says) in [
        ("[queues.render]\nconcurrency = 0", "queue \"render\": concurrency is 0, expected at least 1"),
        ("[retention]\nrunning = \"1d\"", "unknown key retention.running; did you mean retention."),
        ("[retention]\nfailed = \"1 day\"", "expected a number and s, m, h or d"),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = data.run(&["serve", "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]);
        assert_ne!(refused.code, Some(0));
        assert!(refused.stderr.contains(says) && refused.stderr.contains("wrong.toml"), "{}", refused.stderr);
    }
}

#[test]
fn s42_the_example_worker_in_rust_serves_a_queue_and_stops_when_told() {
    let data = Data::new("rust-worker");
    let served = started(&data);
    let mut worker = cargo();
    worker.args(["run", "-p", "film-worker", "--", &format!("http://{}", served.address)]);
    let worker = worker.current_dir(root().join("examples")).env("CARGO_TARGET_DIR", target_of_projects()).spawn();
    let mut worker = Program(worker.expect("cargo runs"));
    assert_eq!(output(&data, "film-1"), frames(6));
    let told = Command::new("pkill").args(["-INT", "-P", &worker.0.id().to_string()]).status();
    let told = told.is_ok_and(|told| told.success()) || {
        // cargo has become the program itself.
        Command::new("kill").args(["-INT", &worker.0.id().to_string()]).status().is_ok_and(|told| told.success())
    };
    assert!(told && worker.0.wait().expect("it ends").success(), "it ends by itself");
    assert_eq!(data.json(&["workers"])["workers"], json!([]), "it took its leave");
}

// ---- the library ----

#[activities(service = "renderer")]
trait Renderer {
    #[activity(retry = RetryPolicy::attempts(2).first_interval(Duration::from_millis(1)))]
    async fn render(&self, ctx: ActivityContext, frame: Frame) -> Result<String>;
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Frame {
    title: String,
    number: u32,
}

/// Fails the first attempt of each frame, and panics at that of the last one.
struct Shaky;

impl Renderer for Shaky {
    async fn render(&self, ctx: ActivityContext, frame: Frame) -> Result<String> {
        ctx.heartbeat(&frame.number)?;
        match (ctx.attempt(), frame.number) {
            (1, 6) => panic!("frame 6 is too much"),
            (1, _) => Err(Error::new("not in the mood").with_type("Mood")),
            _ => {
                assert_eq!(ctx.last_heartbeat::<u32>()?, Some(frame.number), "a report follows its heartbeat");
                Ok(format!("{}/{:04}.png", frame.title, frame.number))
            }
        }
    }
}

#[test]
fn s16_a_worker_of_the_library_retries_intercepts_and_leaves_in_peace() {
    let data = Data::new("library-worker");
    let served = started(&data);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let seen = Arc::new(AtomicU32::new(0));
    let counted = seen.clone();
    let worker = Worker::new(format!("http://{}", served.address))
        .name("library")
        .queue("render")
        .concurrency(3)
        .around(move |attempt, next| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { next(attempt).await }
        })
        .serve(RendererActivities(Shaky));
    let working = runtime.spawn(worker.run_until(async move { drop(stopped.await) }));
    assert_eq!(output(&data, "film-1"), frames(6));
    assert_eq!(seen.load(Ordering::SeqCst), 12, "two attempts of each frame");
    let history = data.json(&["history", "film-1"]);
    let failed = history["events"].as_array().unwrap().iter().filter(|e| e["kind"] == "activity-attempt-failed");
    let types: Vec<&str> = failed.map(|event| event["failure"]["error_type"].as_str().unwrap()).collect();
    assert_eq!(types.iter().filter(|kind| **kind == "Mood").count(), 5, "{types:?}");
    assert_eq!(types.iter().filter(|kind| **kind == "Panic").count(), 1, "{types:?}");
    stop.send(()).unwrap();
    runtime.block_on(working).unwrap().unwrap();
    assert_eq!(data.json(&["workers"])["workers"], json!([]));
}

#[test]
fn s41_what_the_worker_api_does_not_take_is_told() {
    let data = Data::new("worker-api");
    let served = data.serve();
    let json = "content-type: application/json\r\n";
    let (status, body) = served.request("POST", "/api/v1/workers", json, r#"{"activities":[]}"#);
    assert_eq!((status, body.contains("at least one activity")), (400, true), "{body}");
    let (status, body) = served.request("POST", "/api/v1/workers/nobody/claim", json, "{}");
    assert_eq!((status, body.contains("unknown-worker")), (404, true), "{body}");
    let (status, body) = served.request("POST", "/api/v1/tasks/complete", json, r#"{"tasks":[{"token":"x"}]}"#);
    assert_eq!((status, body.contains(r#""answer":"ignored""#)), (200, true), "{body}");
    let (status, body) = served.request("POST", "/api/v1/tasks/heartbeat", json, r#"{"tasks":[{"token":"x"}]}"#);
    assert_eq!((status, body.contains(r#""answer":"lost""#)), (200, true), "{body}");
    let (status, body) = served.request("POST", "/api/v1/tasks/fail", json, r#"{"tasks":[{"token":"x","why":1}]}"#);
    assert_eq!((status, body.contains("why")), (400, true), "{body}");
}
