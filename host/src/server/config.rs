//! What the settings of a server mean, and whether they are good ones. Which there
//! are, and where each comes from, is [`super::settings`]'s; `host/docs/configuration.md`
//! lists them.
//!
//! ```toml
//! listen = "127.0.0.1:7007"
//!
//! [engine]                           # each line may be left out
//! workers = 4                        # threads that run orchestrations
//!
//! [queues.printers]                  # a queue without a table has no bounds
//! concurrency = 4                    # tasks that run at the same time
//! rate = { tasks = 10, per_ms = 1000 }
//! weights = { gold = 3 }             # shares of fairness keys; those not named have 1
//!
//! [activities."hotel.reserve"]       # the same two bounds, in all queues together
//! concurrency = 2
//!
//! [retention]                        # how long instances that ended are kept
//! completed = "30d"
//!
//! [[webhooks]]                       # see the module `webhooks`
//! name = "orders"
//! secret = "shop"
//! start = "fulfil"
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::api::Result;
use super::problem::Problem;
use super::settings::Settings;
use super::webhooks::Webhook;
use crate::core::namespace::Namespace;
use crate::engine::{EngineSettings, NamespaceSettings, QueueSettings, Rate, TaskLimits};

/// What the file says. See the module's page.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// The data folder.
    pub data: Option<PathBuf>,
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// The certificate.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// How much the audit records may have.
    pub audit_bytes: Option<u64>,
    /// What is logged.
    pub log: Option<String>,
    /// How it is logged.
    pub log_format: Option<LogFormat>,
    /// Where spans are sent, see [`super::otlp`].
    pub otlp_endpoint: Option<String>,
    /// See [`crate::store::redb::Options::payloads_above`].
    pub large_payload_bytes: Option<usize>,
    /// See [`crate::store::redb::Options::cache_bytes`].
    pub store_cache_bytes: Option<usize>,
    /// See [`crate::store::codec::Codec::compress_above`].
    pub compress_above: Option<usize>,
    /// Keys that encrypt the journal.
    pub key_file: Option<PathBuf>,
    /// Secrets of activities and webhooks.
    pub secrets_file: Option<PathBuf>,
    /// How the engine works.
    pub engine: EngineConfig,
    /// Queues with bounds, by name.
    pub queues: BTreeMap<String, QueueSettings>,
    /// Activities with bounds, by name.
    pub activities: BTreeMap<String, TaskLimits>,
    /// Bounds of namespaces, by name.
    pub namespaces: BTreeMap<String, NamespaceSettings>,
    /// How long instances that ended are kept, by status: `30d`.
    pub retention: BTreeMap<String, String>,
    /// Its webhooks.
    pub webhooks: Vec<Webhook>,
}

/// How lines are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object for each line.
    Json,
}

/// How the engine works; what is left out is as in [`EngineSettings::default`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// See [`EngineSettings::workers`].
    pub workers: Option<usize>,
    /// See [`EngineSettings::activity_concurrency`].
    pub activity_concurrency: Option<usize>,
    /// See [`EngineSettings::worker_losses`].
    pub worker_losses: Option<u32>,
    /// See [`crate::sandbox::settings::SandboxSettings::resident_guests`].
    pub resident_guests: Option<u32>,
    /// See [`crate::sandbox::settings::SandboxSettings::memory_bytes`].
    pub guest_memory_bytes: Option<usize>,
    /// See [`crate::sandbox::settings::SandboxSettings::turn_budget`].
    pub turn_budget_ms: Option<u64>,
    /// See [`EngineSettings::evict_after`].
    pub evict_after_ms: Option<u64>,
    /// See [`EngineSettings::snapshot_every`].
    pub snapshot_every: Option<u32>,
    /// See [`crate::core::turn::Limits::payload_bytes`].
    pub payload_bytes: Option<usize>,
}

impl ServerConfig {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Says what is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self =
            toml::from_str(text).map_err(|error| Problem::invalid(error.to_string().trim_end().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    /// What the settings in force mean.
    ///
    /// # Errors
    /// Says what is wrong with which, and where it comes from.
    pub fn of(settings: &Settings) -> Result<Self> {
        let read = |error: toml::de::Error| Problem::invalid(error.to_string().trim_end().to_owned());
        for (setting, value, origin) in &settings.shown {
            // Each alone first, so that a fault has the name of its place.
            let alone = super::settings::alone(setting, value.as_ref());
            let config = toml::Value::Table(alone).try_into::<Self>().map_err(read);
            config
                .and_then(|config| config.check())
                .map_err(|problem| Problem::new(&problem.code, format!("{origin}: {}", problem.detail)))?;
        }
        toml::Value::Table(settings.table.clone()).try_into().map_err(read)
    }

    fn check(&self) -> Result<()> {
        self.engine.check()?;
        if let Some(found) = self.audit_bytes.filter(|found| *found < 1 << 16) {
            let least = 1 << 16;
            return Err(Problem::invalid(format!("audit_bytes is {found}, expected at least {least}")));
        }
        let least = [
            ("large_payload_bytes", self.large_payload_bytes, crate::core::large::SMALL_BYTES),
            ("store_cache_bytes", self.store_cache_bytes, 1 << 20),
        ];
        for (name, found, least) in least {
            if let Some(found) = found.filter(|found| *found < least) {
                return Err(Problem::invalid(format!("{name} is {found}, expected at least {least}")));
            }
        }
        for (name, queue) in &self.queues {
            let of = format!("queue {name:?}");
            check_limits(&of, queue.concurrency, queue.rate)?;
            if let Some((key, _)) = queue.weights.iter().find(|(_, weight)| **weight == 0) {
                return Err(Problem::invalid(format!("{of}: the weight of {key:?} is 0, expected at least 1")));
            }
        }
        for (name, limits) in &self.namespaces {
            Namespace::new(name).map_err(|error| Problem::invalid(error.to_string()))?;
            check_limits(&format!("namespace {name:?}"), None, limits.starts)?;
            if let Some(found) = limits.guest_memory_bytes.filter(|found| *found < 1 << 20) {
                let least = 1 << 20;
                return Err(Problem::invalid(format!(
                    "namespace {name:?}: guest_memory_bytes is {found}, expected at least {least}"
                )));
            }
        }
        for (name, limits) in &self.activities {
            check_limits(&format!("activity {name:?}"), limits.concurrency, limits.rate)?;
        }
        Ok(())
    }

    /// Puts what the file says of engine, queues and activities into `settings`.
    pub fn apply(&self, settings: &mut EngineSettings) {
        let EngineConfig {
            workers,
            activity_concurrency,
            worker_losses,
            resident_guests,
            guest_memory_bytes,
            turn_budget_ms,
            evict_after_ms,
            snapshot_every,
            payload_bytes,
        } = self.engine;
        set(&mut settings.workers, workers);
        set(&mut settings.activity_concurrency, activity_concurrency);
        set(&mut settings.worker_losses, worker_losses);
        set(&mut settings.sandbox.resident_guests, resident_guests);
        set(&mut settings.sandbox.memory_bytes, guest_memory_bytes);
        set(&mut settings.sandbox.turn_budget, turn_budget_ms.map(Duration::from_millis));
        set(&mut settings.evict_after, evict_after_ms.map(Duration::from_millis));
        set(&mut settings.snapshot_every, snapshot_every);
        set(&mut settings.limits.payload_bytes, payload_bytes);
        settings.queues.extend(self.queues.clone());
        settings.activities.extend(self.activities.clone());
        settings.namespaces.extend(self.namespaces.clone());
    }
}

impl EngineConfig {
    fn check(&self) -> Result<()> {
        let least: [(&str, Option<u64>, u64); 7] = [
            ("workers", self.workers.map(|n| n as u64), 1),
            ("activity_concurrency", self.activity_concurrency.map(|n| n as u64), 1),
            ("worker_losses", self.worker_losses.map(u64::from), 1),
            // Workers that run side by side must find room.
            ("resident_guests", self.resident_guests.map(u64::from), 16),
            ("guest_memory_bytes", self.guest_memory_bytes.map(|n| n as u64), 1 << 20),
            ("turn_budget_ms", self.turn_budget_ms, 10),
            ("payload_bytes", self.payload_bytes.map(|n| n as u64), 1 << 10),
        ];
        match least.into_iter().find(|(_, found, least)| found.is_some_and(|found| found < *least)) {
            Some((name, Some(found), least)) => {
                Err(Problem::invalid(format!("engine.{name} is {found}, expected at least {least}")))
            }
            _ => Ok(()),
        }
    }
}

fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *setting = given;
    }
}

fn check_limits(of: &str, concurrency: Option<usize>, rate: Option<Rate>) -> Result<()> {
    if concurrency == Some(0) {
        let message = format!("{of}: concurrency is 0, expected at least 1; leave it out for no bound");
        return Err(Problem::invalid(message));
    }
    match rate {
        Some(Rate { tasks, per_ms }) if tasks == 0 || per_ms == 0 => Err(Problem::invalid(format!(
            "{of}: the rate is {tasks} tasks per {per_ms} ms, expected at least 1 of each; leave it out for no bound"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [engine]
        workers = 3
        activity_concurrency = 7
        worker_losses = 2
        resident_guests = 64
        guest_memory_bytes = 16777216
        turn_budget_ms = 500
        evict_after_ms = 0
        snapshot_every = 500
        payload_bytes = 4096

        [queues.printers]
        concurrency = 4
        rate = { tasks = 10, per_ms = 1000 }
        weights = { gold = 3 }

        [activities."hotel.reserve"]
        concurrency = 2

        [retention]
        completed = "30d"
    "#;

    #[test]
    fn what_the_file_says_reaches_the_engine() {
        let mut settings = EngineSettings::default();
        ServerConfig::parse(FILE).unwrap().apply(&mut settings);
        assert_eq!((settings.workers, settings.activity_concurrency, settings.worker_losses), (3, 7, 2));
        assert_eq!((settings.sandbox.resident_guests, settings.sandbox.memory_bytes), (64, 16 << 20));
        assert_eq!((settings.sandbox.turn_budget, settings.evict_after), (Duration::from_millis(500), Duration::ZERO));
        assert_eq!((settings.snapshot_every, settings.limits.payload_bytes), (500, 4096));
        let printers = &settings.queues["printers"];
        assert_eq!((printers.concurrency, printers.weights["gold"]), (Some(4), 3));
        assert_eq!(printers.rate, Some(Rate { tasks: 10, per_ms: 1000 }));
        assert_eq!(settings.activities["hotel.reserve"], TaskLimits { concurrency: Some(2), rate: None });
        let mut untouched = EngineSettings::default();
        ServerConfig::parse("").unwrap().apply(&mut untouched);
        assert_eq!(untouched.activity_concurrency, EngineSettings::default().activity_concurrency);
    }

    #[test]
    fn mistakes_in_the_file_are_told() {
        let told = |from: &str, to: &str| {
            assert!(FILE.contains(from), "{from}");
            ServerConfig::parse(&FILE.replace(from, to)).unwrap_err().detail
        };
        assert_eq!(told("workers = 3", "workers = 0"), "engine.workers is 0, expected at least 1");
        assert!(told("workers = 3", "wrokers = 3").contains("wrokers"));
        let zero = told("concurrency = 4", "concurrency = 0");
        assert_eq!(zero, "queue \"printers\": concurrency is 0, expected at least 1; leave it out for no bound");
        assert!(told("concurrency = 2", "concurrency = 0").starts_with("activity \"hotel.reserve\": concurrency"));
        assert!(told("tasks = 10", "tasks = 0").contains("the rate is 0 tasks per 1000 ms"));
        assert!(told("gold = 3", "gold = 0").contains("the weight of \"gold\" is 0"));
        assert!(told("per_ms = 1000", "per_second = 1").contains("per_second"));
    }
}
