//! Activities in wasm that need little of the world, and then some more.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use dacapo_sdk::{ActivityContext, Error, Result, activities, tracing};

#[activities(service = "compute")]
pub trait Computes {
    /// What it is told of its task and of the world; prints first if `how` is `aloud`.
    async fn told(&self, ctx: ActivityContext, how: String) -> Result<Vec<String>>;
    /// Logs a line, then does what `how` says.
    async fn ends(&self, ctx: ActivityContext, how: String) -> Result<String>;
}

struct Quiet;

impl Computes for Quiet {
    async fn told(&self, ctx: ActivityContext, how: String) -> Result<Vec<String>> {
        if how == "aloud" {
            println!("aloud");
        }
        let variables: Vec<_> = std::env::vars().collect();
        let began = Instant::now();
        // Its keys are hashed with drawn numbers.
        let counted: HashMap<_, _> = how.chars().map(|letter| (letter, how.matches(letter).count())).collect();
        let years = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()) / 31_556_952;
        Ok(vec![
            ctx.idempotency_key().to_owned(),
            format!("attempt {}", ctx.attempt()),
            format!("last {:?}", ctx.last_heartbeat::<u32>()?),
            format!("{variables:?}, {} arguments", std::env::args().count()),
            format!("{} years, {}", 1970 + years, began.elapsed() < Duration::from_secs(3600)),
            format!("{} letters", counted.values().sum::<usize>()),
            format!("{}", std::fs::read_dir("/").is_err()),
        ])
    }

    async fn ends(&self, ctx: ActivityContext, how: String) -> Result<String> {
        tracing::info!("it {how}");
        match how.as_str() {
            "fails" => Err(Error::new("it failed").with_type("Failed").non_retryable()),
            "traps" => std::arch::wasm32::unreachable(),
            "grows" => Ok(format!("{} bytes", vec![1_u8; 1 << 30].len())),
            "recurses" => Ok(deeper(&[how.len()]).to_string()),
            "beats" => ctx.heartbeat(&1).map(|()| how),
            "panics" => panic!("it panicked"),
            "prints" => {
                println!("it printed");
                Ok(how)
            }
            "takes-long" => {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(500) {}
                Ok(how)
            }
            _ => Ok(how),
        }
    }
}

/// The stack ends before this does.
fn deeper(below: &[usize]) -> usize {
    let here = [below[0] + 1; 64];
    if here[0] == usize::MAX { 0 } else { deeper(&here) + below[0] }
}

dacapo_sdk::export_activities!(ComputesActivities(Quiet));
