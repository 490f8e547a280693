//! Serves the queue `render` of the host at the address that it is given, until
//! ctrl-c: then it ends what it has begun.

use dacapo_sdk::worker::Worker;
use dacapo_sdk::{ActivityContext, Result};
use film_api::{Frame, Renderer, RendererActivities};

struct Pencil;

impl Renderer for Pencil {
    async fn render(&self, ctx: ActivityContext, frame: Frame) -> Result<String> {
        // An attempt before this one may have got somewhere.
        let done = ctx.last_heartbeat::<u32>()?.unwrap_or(0);
        for step in done + 1..=frame.steps {
            tokio::task::yield_now().await;
            ctx.heartbeat(&step)?;
        }
        Ok(format!("{}/{:04}.png", frame.title, frame.number))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7007".to_owned());
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let worker = Worker::new(host).name("film-worker").queue("render").serve(RendererActivities(Pencil));
    worker.concurrency(4).run_until(stop).await?;
    Ok(())
}
