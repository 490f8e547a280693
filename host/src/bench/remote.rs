//! Workers over loopback HTTP, both sides in this process so that both are counted.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::machine::{Machine, Opened};
use super::steps::run_hello5;
use super::{Measured, Settings, process};
use crate::server::access::Admission;
use crate::server::api::Api;
use crate::server::watched::Watched;
use crate::server::{Serve, Server};

const WORKERS: usize = 2;
const TASKS_AT_ONCE: usize = 128;

/// What workers have done together.
#[derive(Default)]
struct Done {
    stop: AtomicBool,
    requests: AtomicU64,
    tasks: AtomicU64,
}

/// CPU of a step with both sides.
pub(super) async fn hello5(settings: &Settings) -> anyhow::Result<Measured> {
    let instances = settings.scaled(10_000);
    let machine = Machine::open_with(settings, "remote", Opened { without_activities: true, ..Opened::default() })?;
    let (engine, watched) = (machine.engine.clone(), Watched::new(machine.store.clone()));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let serve = Serve { listen, access: Admission::open(), tls: None };
    let server = Server::start(serve, |stopping| Api::new(watched, Some(engine), stopping)).await;
    let server = server.map_err(|problem| anyhow::anyhow!("{problem:?}"))?;
    let url = format!("http://{}/api/v1", server.address);
    let done = Arc::new(Done::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (url, done) = (url.clone(), done.clone());
            std::thread::spawn(move || work(&url, &done))
        })
        .collect();
    let ran = run_hello5(&machine, instances).await;
    done.stop.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    let ran = ran?;
    let requests = done.requests.load(Ordering::Relaxed);
    let per_request = done.tasks.load(Ordering::Relaxed) as f64 * 2.0 / requests as f64;
    let bare = bare_requests(&format!("{url}/health"), requests as u32).await?;
    server.stop().await;
    let floor = json!({
        "what": "as many bare HTTP requests to the same server",
        "cpu_us_per_step": bare / ran.steps,
    });
    let detail = json!({
        "instances": instances,
        "workers": WORKERS,
        "tasks_per_request": per_request,
        "steps_per_s": ran.steps_per_s(),
    });
    Ok(Measured::at_most("hello5-remote", "cpu_us_per_step", ran.cpu_per_step(), 60.0, floor, detail))
}

/// Fetches tasks and completes them with their input.
fn work(url: &str, done: &Done) -> anyhow::Result<()> {
    let agent = ureq::Agent::new_with_defaults();
    let post = |path: &str, body: Value| -> anyhow::Result<Value> {
        done.requests.fetch_add(1, Ordering::Relaxed);
        Ok(agent.post(format!("{url}/{path}")).send_json(body)?.body_mut().read_json()?)
    };
    let registered = post("workers", json!({ "name": "bench", "activities": ["hello.say"] }))?;
    let id = registered["worker"].as_str().ok_or_else(|| anyhow::anyhow!("no worker id in {registered}"))?;
    while !done.stop.load(Ordering::SeqCst) {
        let claimed = post(&format!("workers/{id}/claim"), json!({ "max": TASKS_AT_ONCE, "wait_ms": 100 }))?;
        let tasks: Vec<Value> = claimed["tasks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|task| json!({ "token": task["token"], "output": task["input"] }))
            .collect();
        if !tasks.is_empty() {
            done.tasks.fetch_add(tasks.len() as u64, Ordering::Relaxed);
            post("tasks/complete", json!({ "tasks": tasks }))?;
        }
    }
    Ok(())
}

/// CPU of so many requests, microseconds.
async fn bare_requests(url: &str, requests: u32) -> anyhow::Result<f64> {
    let url = url.to_owned();
    let cpu = process::cpu_us();
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let agent = ureq::Agent::new_with_defaults();
        for _ in 0..requests {
            agent.get(&url).call()?.body_mut().read_to_vec()?;
        }
        Ok(())
    })
    .await??;
    Ok(process::cpu_us() - cpu)
}
