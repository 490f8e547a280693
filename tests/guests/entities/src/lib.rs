//! A counter as an entity, and orchestrations that call, signal and lock it.

use std::time::Duration;

use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{
    CallInterceptor, CallKind, Called, Context, EntityContext, EntityId, Error, Payload, Result, bail, entity,
    orchestration,
};
use serde::{Deserialize, Serialize};

/// A number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    n: i64,
}

#[entity(keep = 8)]
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

    /// Is gone; the number that it had.
    pub fn cash_in(&mut self, ctx: EntityContext) -> Result<i64> {
        ctx.delete();
        Ok(self.n)
    }

    /// Signals another one.
    pub async fn poke(&mut self, ctx: EntityContext, other: String) -> Result<()> {
        ctx.entity::<Counter>(other).add(1).signal().await
    }

    /// Calls another one, which is refused.
    pub async fn reach(&mut self, ctx: EntityContext, other: String) -> Result<i64> {
        ctx.entity::<Counter>(other).add(1).await
    }

    /// Adds, and traps.
    pub fn blow_up(&mut self, n: i64) -> Result<()> {
        self.n += n;
        panic!("as asked")
    }

    /// Waits, and traps.
    pub async fn blow_up_later(&mut self, ctx: EntityContext) -> Result<()> {
        ctx.call_activity::<i64>("step.keep", &1).await?;
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
    let counter = ctx.entity::<Counter>(adds.key);
    let mut seen = Vec::new();
    for _ in 0..adds.times {
        seen.push(counter.add(1).await?);
    }
    Ok(seen)
}

/// Doubles what is given to a counter and adds 100 to what it returns; it may not be spoiled.
struct Doubled;

impl CallInterceptor for Doubled {
    fn before(&self, called: Called<'_>, input: Payload) -> Result<Payload> {
        match (called.kind, called.name) {
            (CallKind::Entity, "counter.add") => Payload::json(&(2 * input.decode::<i64>()?)),
            _ => Err(Error::new(format!("{} may not be called", called.name)).with_type("NotAllowed")),
        }
    }

    fn after(&self, _called: Called<'_>, outcome: Result<Payload>) -> Result<Payload> {
        Payload::json(&(outcome?.decode::<i64>()? + 100))
    }
}

/// Calls and signals through an interceptor: the number, and how what it refuses fails.
#[orchestration]
async fn calls_through(ctx: Context, key: String) -> Result<(i64, String)> {
    ctx.intercept(Doubled);
    let counter = ctx.entity::<Counter>(key);
    counter.add(1).signal().await?;
    let number = counter.add(1).await?;
    let refused = counter.spoil(1).await.expect_err("it is refused");
    Ok((number, refused.error_type().to_owned()))
}

/// Adds one, and then what an activity says, which may fail: the number.
#[orchestration]
async fn saves(ctx: Context, key: String) -> Result<i64> {
    let counter = ctx.entity::<Counter>(key);
    let lock = ctx.lock([&counter]).await?;
    counter.add(1).await?;
    lock.unlock();
    counter.add_kept(5).await
}

/// Adds five and cashes in; what it got.
#[orchestration]
async fn cashes(ctx: Context, key: String) -> Result<i64> {
    let counter = ctx.entity::<Counter>(key);
    counter.add(5).await?;
    counter.cash_in().await
}

/// Asks for what traps, between two additions; the numbers, and what it was told.
#[orchestration]
async fn survives(ctx: Context, key: String) -> Result<(i64, String, i64)> {
    let counter = ctx.entity::<Counter>(key);
    let before = counter.add(1).await?;
    let told = counter.blow_up(70).await.expect_err("it traps");
    Ok((before, format!("{:?}", told.kind()), counter.add(1).await?))
}

/// Locks a counter and adds to it so often that its history begins anew meanwhile.
#[orchestration]
async fn fills(ctx: Context, key: String) -> Result<i64> {
    let counter = ctx.entity::<Counter>(key);
    let lock = ctx.lock([&counter]).await?;
    for _ in 0..9 {
        counter.add(1).await?;
    }
    lock.unlock();
    counter.add(1).await
}

/// Signals, and does not wait for what comes of it.
#[orchestration]
async fn pokes(ctx: Context, key: String) -> Result<()> {
    ctx.entity::<Counter>(key.clone()).add(1).signal().await?;
    ctx.entity::<Counter>(key).spoil(1).signal().await
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
    let (from, to) = (ctx.entity::<Counter>(order.from), ctx.entity::<Counter>(order.to));
    let _both = ctx.lock([&from, &to]).await?;
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
    let counters: Vec<_> = holds.keys.iter().map(|key| ctx.entity::<Counter>(key.clone())).collect();
    let lock = ctx.lock(&counters).await?;
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
    let entities = keys.into_iter().map(|key| ctx.entity::<Counter>(key).id());
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
    fn told<T>(outcome: Result<T>) -> String {
        outcome.err().map_or_else(|| "nothing".to_owned(), |error| error.message().to_owned())
    }
    let (a, b) = (ctx.entity::<Counter>("a"), ctx.entity::<Counter>("b"));
    let of_none = told(ctx.lock(Vec::<EntityId>::new()).await);
    let lock = ctx.lock([&a]).await?;
    let second = told(ctx.lock([&b]).await);
    let past_it = told(b.add(1).await);
    b.add(1).signal().await?;
    lock.unlock();
    let number = format!("b is {}", b.get().await?);
    let no_kind = told(ctx.call_entity::<()>(EntityId::new("nothing", "x"), "get", &()).await);
    let no_operation = told(ctx.call_entity::<()>(a.id(), "got", &()).await);
    let event = told(ctx.signal("@counter@a", "go", &()).await);
    let start = told(ctx.call::<pokes>(&"a".to_owned()).instance("@counter@c").await);
    Ok(vec![of_none, second, past_it, number, no_kind, no_operation, event, start])
}

dacapo_sdk::export_orchestrations!(adds, calls_through, cashes, saves, survives, fills, pokes, moves, holds, gives_up, oversteps; entities: Counter);
