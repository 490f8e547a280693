//! A counter as an entity, and orchestrations that call, signal and lock it.

use std::time::Duration;

use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{Context, EntityContext, Result, bail, entity, orchestration};
use serde::{Deserialize, Serialize};

/// A number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    n: i64,
}

#[entity(keep = 20)]
impl Counter {
    /// Adds; the number then.
    pub fn add(&mut self, n: i64) -> Result<i64> {
        self.n += n;
        Ok(self.n)
    }

    /// The number.
    pub fn get(&self) -> Result<i64> {
        Ok(self.n)
    }

    /// Adds and fails.
    pub fn spoil(&mut self, n: i64) -> Result<i64> {
        self.n += n;
        bail!("spoiled at {}", self.n)
    }

    /// Adds what an activity returns.
    pub async fn add_kept(&mut self, ctx: EntityContext, n: i64) -> Result<i64> {
        self.n += ctx.call_activity::<i64>("step.keep", &n).await?;
        Ok(self.n)
    }

    /// Is gone; the key that it had.
    pub fn forget(&mut self, ctx: EntityContext) -> Result<String> {
        ctx.delete();
        Ok(ctx.key().to_owned())
    }

    /// Signals another one.
    pub async fn poke(&mut self, ctx: EntityContext, other: String) -> Result<()> {
        CounterProxy::new(&ctx, other).add(1).one_way().await
    }

    /// Calls another one, which is refused.
    pub async fn reach(&mut self, ctx: EntityContext, other: String) -> Result<i64> {
        CounterProxy::new(&ctx, other).add(1).await
    }

    /// Traps.
    pub fn blow_up(&mut self) -> Result<()> {
        panic!("as asked")
    }
}

/// Which counter, and how often.
#[derive(Debug, Serialize, Deserialize)]
pub struct Adds {
    key: String,
    times: u32,
}

/// Adds one, several times; the number after each.
#[orchestration]
async fn adds(ctx: Context, adds: Adds) -> Result<Vec<i64>> {
    let counter = CounterProxy::new(&ctx, adds.key);
    let mut seen = Vec::new();
    for _ in 0..adds.times {
        seen.push(counter.add(1).await?);
    }
    Ok(seen)
}

/// Signals, and does not wait for what comes of it.
#[orchestration]
async fn pokes(ctx: Context, key: String) -> Result<()> {
    CounterProxy::new(&ctx, key.clone()).add(1).one_way().await?;
    CounterProxy::new(&ctx, key).spoil(1).one_way().await
}

/// From which counter to which one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Move {
    from: String,
    to: String,
    amount: i64,
}

/// Moves an amount between two counters, which nobody sees half done.
#[orchestration]
async fn moves(ctx: Context, order: Move) -> Result<(i64, i64)> {
    let (from, to) = (CounterProxy::new(&ctx, order.from), CounterProxy::new(&ctx, order.to));
    let _both = ctx.lock([from.entity(), to.entity()]).await?;
    let before = from.get().await? + to.get().await?;
    let left = from.add(-order.amount).await?;
    let right = to.add(order.amount).await?;
    if left + right != before {
        bail!("somebody came between: {before} before, {left} and {right} after");
    }
    Ok((left, right))
}

/// Which counters to hold, and how to end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holds {
    keys: Vec<String>,
    how: String,
}

/// Locks, does something that takes a while, and ends one way or the other.
#[orchestration]
async fn holds(ctx: Context, holds: Option<Holds>) -> Result<String> {
    let Some(holds) = holds else {
        ctx.wait_for_event::<()>("end").await?;
        return Ok("anew".to_owned());
    };
    let counters: Vec<_> = holds.keys.iter().map(|key| CounterProxy::new(&ctx, key.clone())).collect();
    let lock = ctx.lock(counters.iter().map(CounterProxy::entity)).await?;
    counters[0].add(100).await?;
    ctx.call_activity::<String>("step.one", "held").await?;
    match holds.how.as_str() {
        "fail" => bail!("as asked"),
        "panic" => panic!("as asked"),
        "anew" => ctx.continue_as_new(None::<Holds>),
        "unlock" => {
            lock.unlock();
            ctx.wait_for_event::<()>("end").await?;
            Ok("unlocked".to_owned())
        }
        "forget" => {
            // Then the end unlocks.
            std::mem::forget(lock);
            Ok("forgot".to_owned())
        }
        _ => Ok("completed".to_owned()),
    }
}

/// Waits for a lock, but not for long.
#[orchestration]
async fn gives_up(ctx: Context, keys: Vec<String>) -> Result<String> {
    let entities = keys.into_iter().map(|key| CounterProxy::new(&ctx, key).entity());
    select_biased! {
        lock = ctx.lock(entities).fuse() => {
            lock?.unlock();
            Ok("locked".to_owned())
        }
        () = ctx.delay(Duration::from_secs(1)) => Ok("gave up".to_owned()),
    }
}

/// Asks for what could wait for ever; what it was told.
#[orchestration]
async fn oversteps(ctx: Context) -> Result<Vec<String>> {
    let (a, b) = (CounterProxy::new(&ctx, "a"), CounterProxy::new(&ctx, "b"));
    let mut told = Vec::new();
    told.extend(ctx.lock([]).await.map(|_| ()).map_err(|error| error.message().to_owned()).err());
    let lock = ctx.lock([a.entity()]).await?;
    told.extend(ctx.lock([b.entity()]).await.map(|_| ()).map_err(|error| error.message().to_owned()).err());
    told.extend(b.add(1).await.map_err(|error| error.message().to_owned()).err());
    b.add(1).one_way().await?;
    lock.unlock();
    told.push(format!("b is {}", b.get().await?));
    let nobody = ctx.call_entity::<()>(dacapo_sdk::EntityId::new("nothing", "x"), "get", &()).await;
    told.extend(nobody.map_err(|error| error.message().to_owned()).err());
    let nothing = ctx.call_entity::<()>(a.entity(), "got", &()).await;
    told.extend(nothing.map_err(|error| error.message().to_owned()).err());
    Ok(told)
}

dacapo_sdk::export_orchestrations!(adds, pokes, moves, holds, gives_up, oversteps; entities: Counter);
