//! What changes, as it does: `GET changes?instance=&prefix=`, server-sent events.
//!
//! Each event is `change` with a [`Change`] as JSON, sent when it is durable. One who
//! reads too slowly is told `missed` with the number of changes that are gone, and
//! then goes on; whoever keeps a picture reads it anew then.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use futures::Stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::access::Scoped;
use super::api::{Api, Result};
use super::{Problem, Query};
use crate::core::ids::InstanceId;

/// Connections that wait for changes; each is held open.
const MAX_LISTENERS: usize = 256;
/// Proxies close what is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which changes to tell.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    /// Of this instance.
    pub instance: Option<String>,
    /// Of instances whose ids begin so.
    pub prefix: Option<String>,
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/changes", get(changes))
}

async fn changes(
    Scoped(api): Scoped,
    Query(query): Query<ChangesQuery>,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    if api.store().listeners() >= MAX_LISTENERS {
        return Err(Problem::new("busy", format!("{MAX_LISTENERS} listen to changes already; try again")));
    }
    let instance = query.instance.as_deref().map(|id| api.id(id)).transpose()?;
    let prefix = query.prefix.unwrap_or_default();
    let namespace = api.namespace();
    let is_wanted = move |id: &InstanceId| {
        namespace.has(id.as_str())
            && instance.as_ref().is_none_or(|instance| instance == id)
            && id.local().starts_with(&prefix)
    };
    let (receiver, stopping) = (api.store().changes(), api.stopping());
    let stream =
        futures::stream::unfold((receiver, stopping, is_wanted), |(mut receiver, mut stopping, wanted)| async {
            let event = loop {
                let change = tokio::select! {
                    change = receiver.recv() => change,
                    _ = stopping.wait_for(|stopping| *stopping) => return None,
                };
                match change {
                    Ok(change) if wanted(change.instance()) => {
                        break Event::default()
                            .event("change")
                            .data(serde_json::to_string(&change).unwrap_or_default());
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => break Event::default().event("missed").data(missed.to_string()),
                    Err(RecvError::Closed) => return None,
                }
            };
            Some((Ok(event), (receiver, stopping, wanted)))
        });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
