//! Renders a film: every frame is a task of the queue `render`, which programs on
//! other machines serve.

use std::time::Duration;

use dacapo_sdk::futures::future::try_join_all;
use dacapo_sdk::{Context, Result, RetryPolicy, orchestration};
use film_api::{Film, Frame, RendererProxy};

/// Renders all frames side by side; returns where they are.
#[orchestration]
pub async fn film(ctx: Context, film: Film) -> Result<Vec<String>> {
    let renderer = RendererProxy::new(&ctx);
    let frames = (1..=film.frames).map(|number| {
        let frame = Frame { title: film.title.clone(), number, steps: film.steps };
        renderer
            .render(frame)
            .queue("render")
            // A film of a thousand frames holds up no other film.
            .fairness_key(film.title.clone())
            .heartbeat(Duration::from_secs(60))
            .retry(RetryPolicy::attempts(5))
    });
    try_join_all(frames).await
}

dacapo_sdk::export_orchestrations!(film);
