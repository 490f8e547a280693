//! Ordinary Rust that asks the ordinary world: what it learns must be the same
//! at every replay.

use std::collections::{HashMap, HashSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dacapo_sdk::{Context, Result, orchestration};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

/// What the ordinary world said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    unix_ms: u64,
    elapsed_ms: u64,
    /// Ten keys in the order in which a `HashMap` has them.
    hash_order: Vec<u32>,
    uuid: String,
    drawn: u64,
    variables: usize,
}

fn look(since: Instant) -> Seen {
    let map: HashMap<u32, ()> = (0..10).map(|key| (key, ())).collect();
    let set: HashSet<u32> = map.keys().copied().collect();
    Seen {
        unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        elapsed_ms: since.elapsed().as_millis() as u64,
        hash_order: map.into_keys().chain(set).collect(),
        uuid: uuid::Uuid::new_v4().to_string(),
        drawn: rand::rng().random(),
        variables: std::env::vars().count() + std::env::args().count(),
    }
}

/// Looks around at its start, after an activity and after a timer.
#[orchestration]
async fn looks(ctx: Context) -> Result<Vec<Seen>> {
    let start = Instant::now();
    println!("looking around");
    let first = look(start);
    let kept: Seen = ctx.call_activity("step.keep", &first).await?;
    let second = look(start);
    ctx.delay(std::time::Duration::from_secs(60)).await;
    Ok(vec![first, kept, second, look(start)])
}

dacapo_sdk::export_orchestrations!(looks);
