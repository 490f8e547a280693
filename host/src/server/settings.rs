//! The settings of a server, and where their values come from.
//!
//! Each has one name: the key `engine.workers` of the file is the flag
//! `--engine-workers` and the variable `DACAPO_ENGINE_WORKERS`. A flag counts before
//! a variable, a variable before the file, the file before the default. The values
//! of tables are TOML also in a flag or a variable (`--queues '{ a = { concurrency = 1 } }'`),
//! and replace the table of the file as a whole.
//!
//! [`SETTINGS`] is the list; flags are made of it, the file and the environment are
//! checked against it, and the documentation is compared with it by a test. What a
//! value means, and whether it is a good one, is [`super::config`]'s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use super::api::Result;
use super::problem::Problem;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text; in flags and variables without quotes.
    Text,
    /// A whole number, 0 or more.
    Number,
    /// `true` or `false`.
    Switch,
    /// Several texts; in flags and variables with commas between them.
    Texts,
    /// A table, or a list of tables; its keys are settings too.
    Table,
}

/// One key. A `*` in it stands for any name.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its path in the file.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// In what it is counted or written.
    pub unit: &'static str,
    /// What counts if nothing is given.
    pub default: &'static str,
    /// What it does.
    pub what: &'static str,
}

const fn setting(
    key: &'static str,
    kind: Kind,
    unit: &'static str,
    default: &'static str,
    what: &'static str,
) -> Setting {
    Setting { key, kind, unit, default, what }
}

/// Every setting.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("data", Kind::Text, "folder", ".dacapo", "the data folder: journal, modules, the server's address"),
    setting("listen", Kind::Text, "address:port", "127.0.0.1:7007", "where to listen; port 0 takes a free one"),
    setting("tls_cert", Kind::Text, "file", "", "the certificate in PEM, with those that lead to its root; needed beyond loopback"),
    setting("tls_key", Kind::Text, "file", "", "its private key in PEM"),
    setting("audit_bytes", Kind::Number, "bytes", "67108864", "how much the audit records may have, the oldest go; at least 65536"),
    setting("log", Kind::Text, "filter", "info", "what is logged: a level, or `part=level` with commas between them"),
    setting("log_format", Kind::Text, "text or json", "text", "how it is logged; `json` is an object for each line"),
    setting("otlp_endpoint", Kind::Text, "URL", "", "an OpenTelemetry collector that spans are sent to, as http://127.0.0.1:4318; else OTEL_EXPORTER_OTLP_ENDPOINT"),
    setting("large_payload_bytes", Kind::Number, "bytes", "32768", "payloads of more stand in the store's table of large ones, each once; at least 1024"),
    setting("store_cache_bytes", Kind::Number, "bytes", "268435456", "how much of the journal's file is kept in memory; at least 1048576"),
    setting("compress_above", Kind::Number, "bytes", "", "rows of the journal with more are compressed with zstd; others of more than 256 with LZ4, which is faster and not as small"),
    setting("key_file", Kind::Text, "file", "", "keys that encrypt the journal, `id:hex` in each line; the first one writes"),
    setting("secrets_file", Kind::Text, "file", "", "secrets of activities and webhooks, `name = \"value\"` in each line"),
    setting("engine.workers", Kind::Number, "threads", "one for each core", "threads that run orchestrations; at least 1"),
    setting("engine.activity_concurrency", Kind::Number, "tasks", "256", "activities that run at the same time in this process; at least 1"),
    setting("engine.worker_losses", Kind::Number, "workers", "3", "remote workers that a call without a retry policy may lose; at least 1"),
    setting("engine.resident_guests", Kind::Number, "guests", "4096", "orchestrations in memory at the same time; at least 16"),
    setting("engine.guest_memory_bytes", Kind::Number, "bytes", "67108864", "memory of each guest; at least 1048576"),
    setting("engine.turn_budget_ms", Kind::Number, "milliseconds", "10000", "how long an orchestration may compute without waiting; at least 10"),
    setting("engine.evict_after_ms", Kind::Number, "milliseconds", "10000", "a guest that has not run for so long leaves the memory"),
    setting("engine.snapshot_every", Kind::Number, "events", "5000", "the state of an instance is kept each so many events, so that it goes on later without a replay of those; 0: never"),
    setting("engine.payload_bytes", Kind::Number, "bytes", "2097152", "largest input, result or event; at least 1024"),
    setting("retention.completed", Kind::Text, "number and s, m, h or d", "", "how long instances that completed are kept; for ever without it"),
    setting("retention.failed", Kind::Text, "number and s, m, h or d", "", "how long instances that failed are kept; for ever without it"),
    setting("retention.terminated", Kind::Text, "number and s, m, h or d", "", "how long instances that were terminated are kept; for ever without it"),
    setting("queues", Kind::Table, "table for each name", "", "queues with bounds; a queue without a table has none"),
    setting("queues.*.concurrency", Kind::Number, "tasks", "", "tasks of the queue that run at the same time, here and at remote workers; at least 1"),
    setting("queues.*.rate", Kind::Table, "table", "", "how fast tasks of the queue start"),
    setting("queues.*.rate.tasks", Kind::Number, "tasks", "", "so many, all at once if they come at once; at least 1"),
    setting("queues.*.rate.per_ms", Kind::Number, "milliseconds", "", "in any such time; at least 1"),
    setting("queues.*.remote_only", Kind::Switch, "true or false", "false", "only remote workers serve the queue"),
    setting("queues.*.weights", Kind::Table, "number for each key", "", "shares of fairness keys; one that is not named has 1"),
    setting("queues.*.weights.*", Kind::Number, "share", "1", "the share of that key; at least 1"),
    setting("activities", Kind::Table, "table for each name", "", "activities with bounds, by `service.method`"),
    setting("activities.*.concurrency", Kind::Number, "tasks", "", "tasks of the activity that run at the same time, in all queues together; at least 1"),
    setting("activities.*.rate", Kind::Table, "table", "", "how fast tasks of the activity start"),
    setting("activities.*.rate.tasks", Kind::Number, "tasks", "", "so many, all at once if they come at once; at least 1"),
    setting("activities.*.rate.per_ms", Kind::Number, "milliseconds", "", "in any such time; at least 1"),
    setting("namespaces", Kind::Table, "table for each name", "", "bounds of namespaces; a namespace is made by a token that is for it"),
    setting("namespaces.*.instances", Kind::Number, "instances", "", "instances that are kept, those that have ended included"),
    setting("namespaces.*.starts", Kind::Table, "table", "", "how fast instances begin, whoever starts them"),
    setting("namespaces.*.starts.tasks", Kind::Number, "instances", "", "so many, all at once if they come at once; at least 1"),
    setting("namespaces.*.starts.per_ms", Kind::Number, "milliseconds", "", "in any such time; at least 1"),
    setting("namespaces.*.stored_bytes", Kind::Number, "bytes", "", "bytes of the histories that are kept, payloads included; then nothing more is taken, and what runs goes on"),
    setting("namespaces.*.guest_memory_bytes", Kind::Number, "bytes", "", "memory of each of its guests, if that is less than everybody's; at least 1048576"),
    setting("namespaces.*.secrets", Kind::Texts, "list of names", "", "secrets that its modules may be granted; the namespace default may be granted all"),
    setting("namespaces.*.directories", Kind::Texts, "list of folders", "", "folders of this host that its modules may be granted"),
    setting("namespaces.*.hosts", Kind::Texts, "list of hosts", "", "hosts that its modules may be granted, as `name` or `name:port`; `*` for all"),
    setting("webhooks", Kind::Table, "list of tables", "", "requests of other systems that start an instance or raise an event"),
    setting("webhooks.*.name", Kind::Text, "name", "", "the end of its path: `/hooks/NAME`"),
    setting("webhooks.*.namespace", Kind::Text, "namespace", "default", "where what it starts and tells is"),
    setting("webhooks.*.secret", Kind::Text, "name of a secret", "", "the key that signs its requests"),
    setting("webhooks.*.start", Kind::Text, "orchestration", "", "what a request starts; the body is the input"),
    setting("webhooks.*.module", Kind::Text, "name, name@version or hash", "", "whose orchestration it is"),
    setting("webhooks.*.raise", Kind::Text, "event", "", "the event that a request raises; the body is the value"),
    setting("webhooks.*.instance", Kind::Text, "id with {/json/pointers}", "", "which instance; what is started is called `NAME/WEBHOOK-ID` without it"),
    setting("webhooks.*.tolerance_seconds", Kind::Number, "seconds", "300", "how far a request's timestamp may be from now"),
    setting("webhooks.*.body_bytes", Kind::Number, "bytes", "262144", "largest body"),
];

/// Variables that are read and are no settings: what is secret and only stands in the
/// environment, and what commands that talk to a server take.
pub const VARIABLES: &[(&str, &str)] = &[
    ("DACAPO_CONFIG", "the file with settings, as `--config`"),
    ("DACAPO_SERVER", "for commands that talk to a server: its address, as `--server`"),
    ("DACAPO_TOKEN", "for those commands and for workers: their token, as `--token`"),
    ("DACAPO_TOKEN_FILE", "for those: a file with the token, as `--token-file`"),
    (
        "DACAPO_CACHE",
        "folder where modules are kept as they were compiled, for all data folders and for commands that have none; without it, `cache` in the data folder. Who can write there decides what runs",
    ),
    ("DACAPO_CA", "for those: the certificate in PEM that the server's leads to, as `--ca`"),
    ("DACAPO_KEYS", "keys that encrypt the journal, `id:hex` with commas between them, instead of `key_file`"),
    ("DACAPO_SECRET_*", "the secret of that name, in capitals and with `_` for what is no letter or digit"),
    ("DACAPO_CRASH", "for tests: dies at that write"),
];

impl Setting {
    /// The flag without its dashes.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The variable.
    pub fn variable(&self) -> String {
        format!("DACAPO_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Whether it is part of another one's table, and has no flag of its own.
    pub fn is_inner(&self) -> bool {
        self.key.contains('*')
    }

    /// Whether the path `found` is this key.
    fn is_at(&self, found: &[&str]) -> bool {
        let parts = self.key.split('.');
        parts.clone().count() == found.len() && parts.zip(found).all(|(part, found)| part == "*" || part == *found)
    }

    /// Whether keys below the path `found` may be this one.
    fn is_below(&self, found: &[&str]) -> bool {
        let parts = self.key.split('.');
        parts.clone().count() > found.len() && parts.zip(found).all(|(part, found)| part == "*" || part == *found)
    }

    /// Reads what a flag or a variable says.
    fn read(&self, text: &str) -> Result<Value, String> {
        let expected = || format!("is {text:?}: expected {}", self.expected());
        match self.kind {
            Kind::Text => Ok(Value::String(text.to_owned())),
            Kind::Number => {
                let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
                number.map(Value::Integer).ok_or_else(expected)
            }
            Kind::Switch => text.parse().map(Value::Boolean).map_err(|_| expected()),
            Kind::Texts => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Ok(Value::Array(parts.map(|part| Value::String(part.to_owned())).collect()))
            }
            Kind::Table => {
                let read = toml::from_str::<Table>(&format!("value = {text}"));
                let value = read.ok().and_then(|mut table| table.remove("value"));
                value.ok_or_else(|| format!("is {text:?}: expected a table or list in TOML, such as {{ a = 1 }}"))
            }
        }
    }

    fn expected(&self) -> String {
        match self.kind {
            Kind::Number => format!("a whole number ({})", self.unit),
            Kind::Switch => "true or false".to_owned(),
            Kind::Text => format!("a text ({})", self.unit),
            Kind::Texts => format!("a list of texts ({})", self.unit),
            Kind::Table => format!("a {}", self.unit),
        }
    }

    fn takes(&self, value: &Value) -> bool {
        match self.kind {
            Kind::Text => value.is_str(),
            Kind::Number => value.as_integer().is_some_and(|number| number >= 0),
            Kind::Switch => value.is_bool(),
            Kind::Texts => value.as_array().is_some_and(|values| values.iter().all(Value::is_str)),
            Kind::Table => value.is_table() || value.is_array(),
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag(String),
    /// A variable.
    Variable(String),
    /// The file.
    File(PathBuf),
    /// Nobody gave one.
    Default,
}

impl Origin {
    /// The kind of place, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Flag(_) => "flag",
            Self::Variable(_) => "environment",
            Self::File(_) => "file",
            Self::Default => "default",
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable(variable) => f.write_str(variable),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What was given, before it is put together.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Keys and what their flags say.
    pub flags: Vec<(&'static str, String)>,
    /// The environment; what does not begin with `DACAPO_` is not looked at.
    pub variables: Vec<(String, String)>,
    /// The file and its text.
    pub file: Option<(PathBuf, String)>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All that was given, as one file would say it.
    pub table: Table,
    /// Each setting that is not inside of a table, in the order of [`SETTINGS`].
    pub shown: Vec<(Setting, Option<Value>, Origin)>,
}

impl Settings {
    /// Puts together what was given.
    ///
    /// # Errors
    /// Says which flag, variable or key of the file is unknown, and the nearest one
    /// that is known; or which has a value of another kind.
    pub fn of(given: &Given) -> Result<Self> {
        let variables = known_variables(&given.variables)?;
        let file = match &given.file {
            Some((path, text)) => Some((path, read_file(path, text)?)),
            None => None,
        };
        let (mut table, mut shown) = (Table::new(), Vec::new());
        for setting in SETTINGS.iter().filter(|setting| !setting.is_inner()) {
            let flag = given.flags.iter().rev().find(|(key, _)| *key == setting.key);
            let (text, origin) = if let Some((_, text)) = flag {
                (Some(text), Origin::Flag(setting.flag()))
            } else if let Some(text) = variables.get(&setting.variable()) {
                (Some(text), Origin::Variable(setting.variable()))
            } else {
                (None, Origin::Default)
            };
            let wrong = |why: String| Problem::invalid(format!("{origin} {why}"));
            let (value, origin) = match (text, &file) {
                (Some(text), _) => {
                    let value = setting.read(text).map_err(wrong)?;
                    check(&setting.key.split('.').collect::<Vec<_>>(), &value, &|why| wrong(format!("has {why}")))?;
                    (Some(value), origin)
                }
                (None, Some((path, file))) => match at(file, setting.key) {
                    Some(value) => (Some(value.clone()), Origin::File((*path).clone())),
                    None => (None, Origin::Default),
                },
                (None, None) => (None, Origin::Default),
            };
            if let Some(value) = &value {
                put(&mut table, setting.key, value.clone());
            }
            shown.push((*setting, value, origin));
        }
        Ok(Self { table, shown })
    }

    /// Where the value of `key` comes from, or that of the table it is in.
    pub fn origin(&self, key: &str) -> &Origin {
        let is_of = |setting: &Setting| {
            key == setting.key || key.strip_prefix(setting.key).is_some_and(|rest| rest.starts_with('.'))
        };
        self.shown.iter().find(|(setting, ..)| is_of(setting)).map_or(&Origin::Default, |(.., origin)| origin)
    }
}

/// The table that has only this one.
pub(super) fn alone(setting: &Setting, value: Option<&Value>) -> Table {
    let mut table = Table::new();
    if let Some(value) = value {
        put(&mut table, setting.key, value.clone());
    }
    table
}

/// The variables that begin with `DACAPO_`; an empty one counts as not set.
fn known_variables(all: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let settings = || SETTINGS.iter().filter(|setting| !setting.is_inner()).map(Setting::variable);
    let is_known = |name: &str| {
        let other = |known: &str| known.strip_suffix('*').map_or(known == name, |prefix| name.starts_with(prefix));
        VARIABLES.iter().any(|(known, _)| other(known)) || settings().any(|known| known == name)
    };
    let mut found = BTreeMap::new();
    for (name, value) in all.iter().filter(|(name, _)| name.starts_with("DACAPO_")) {
        if !is_known(name) {
            let known: Vec<_> = settings().chain(VARIABLES.iter().map(|(name, _)| (*name).to_owned())).collect();
            let near = nearest(name, known.iter().map(String::as_str));
            return Err(Problem::invalid(format!(
                "the environment has {name}, which is unknown; did you mean {near}? `dacapo config` lists all"
            )));
        }
        if !value.is_empty() {
            found.insert(name.clone(), value.clone());
        }
    }
    Ok(found)
}

fn read_file(path: &std::path::Path, text: &str) -> Result<Table> {
    let wrong = |why: String| Problem::invalid(format!("{}: {why}", path.display()));
    let table: Table = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
    for (key, value) in &table {
        check(&[key], value, &|why| wrong(why))?;
    }
    Ok(table)
}

/// Whether everything from `path` on is known and of its kind.
fn check(path: &[&str], value: &Value, wrong: &dyn Fn(String) -> Problem) -> Result<()> {
    let known = SETTINGS.iter().find(|setting| setting.is_at(path));
    let has_below = SETTINGS.iter().any(|setting| setting.is_below(path));
    match known {
        Some(setting) if !setting.takes(value) => {
            return Err(wrong(format!("{} is {value}: expected {}", path.join("."), setting.expected())));
        }
        None if !has_below => return Err(wrong(unknown(path))),
        None if !value.is_table() && !value.is_array() => {
            return Err(wrong(format!("{} is {value}: expected a table", path.join("."))));
        }
        _ => {}
    }
    let below: Vec<(&str, &Value)> = match value {
        Value::Table(table) => table.iter().map(|(key, value)| (key.as_str(), value)).collect(),
        Value::Array(values) if has_below => values.iter().map(|value| ("*", value)).collect(),
        _ => Vec::new(),
    };
    below.into_iter().try_for_each(|(key, value)| check(&[path, &[key]].concat(), value, wrong))
}

fn unknown(path: &[&str]) -> String {
    // The names that somebody chose stay in what is proposed.
    let concrete = |setting: &Setting| {
        let mut is_there = true;
        let part = |(at, part): (usize, &'static str)| {
            let found = path.get(at).copied();
            let shown = if part == "*" && is_there { found.unwrap_or("*") } else { part };
            is_there &= found == Some(shown);
            shown.to_owned()
        };
        setting.key.split('.').enumerate().map(part).collect::<Vec<_>>().join(".")
    };
    let known: Vec<String> = SETTINGS.iter().map(concrete).collect();
    let found = path.join(".");
    let parts = |key: &str| key.rsplit_once('.').map(|(table, last)| (table.to_owned(), last.to_owned()));
    let (table, _) = parts(&found).unwrap_or_default();
    // The same name elsewhere, else one of the same table, else any.
    let elsewhere = known.iter().find(|key| key.rsplit('.').next() == path.last().copied());
    let beside: Vec<&str> =
        known.iter().filter(|key| parts(key).is_some_and(|key| key.0 == table)).map(String::as_str).collect();
    let near = match elsewhere {
        Some(key) => key,
        None if beside.is_empty() => nearest(&found, known.iter().map(String::as_str)),
        None => nearest(&found, beside.into_iter()),
    };
    format!("unknown key {found}; did you mean {near}? `dacapo config` lists all")
}

/// The one of `known` that is written most like `found`, as a whole or in its last part.
fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let far = |key: &&str| distance(found, key).min(distance(&last(found), &last(key)) + 1);
    known.min_by_key(far).unwrap_or_default()
}

/// How many letters must be put in, left out or replaced.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (at, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

fn at<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        Some((outer, inner)) => at(table.get(outer)?.as_table()?, inner),
        None => table.get(key),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((outer, inner)) => {
            let entry = table.entry(outer).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(within) = entry {
                put(within, inner, value);
            }
        }
        None => drop(table.insert(key.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: &str) -> Given {
        Given {
            flags: flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            file: Some(("serve.toml".into(), file.to_owned())),
        }
    }

    fn told(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: &str) -> String {
        Settings::of(&given(flags, variables, file)).unwrap_err().detail
    }

    #[test]
    fn a_flag_counts_before_a_variable_before_the_file_before_the_default() {
        let file = "[engine]\nworkers = 1\nresident_guests = 100\nworker_losses = 9";
        let flags = [("engine.workers", "3")];
        let variables = [("DACAPO_ENGINE_WORKERS", "2"), ("DACAPO_ENGINE_RESIDENT_GUESTS", "200"), ("HOME", "/")];
        let settings = Settings::of(&given(&flags, &variables, file)).unwrap();
        let of = |key: &str| at(&settings.table, key).and_then(Value::as_integer);
        assert_eq!(of("engine.workers"), Some(3));
        assert_eq!(settings.origin("engine.workers").to_string(), "--engine-workers");
        assert_eq!(of("engine.resident_guests"), Some(200));
        assert_eq!(settings.origin("engine.resident_guests").to_string(), "DACAPO_ENGINE_RESIDENT_GUESTS");
        assert_eq!(of("engine.worker_losses"), Some(9));
        assert_eq!(settings.origin("engine.worker_losses").to_string(), "serve.toml");
        assert_eq!(of("engine.turn_budget_ms"), None);
        assert_eq!(settings.origin("engine.turn_budget_ms"), &Origin::Default);
    }

    #[test]
    fn tables_are_toml_wherever_they_stand_and_replace_the_one_of_the_file() {
        let file = "[queues.a]\nconcurrency = 1";
        let variables = [("DACAPO_QUEUES", "{ b = { concurrency = 2 } }")];
        let settings = Settings::of(&given(&[], &variables, file)).unwrap();
        assert_eq!(settings.table["queues"].to_string(), "{ b = { concurrency = 2 } }");
        let wrong = told(&[("queues", "{ b = { concurency = 2 } }")], &[], "");
        assert_eq!(
            wrong,
            "--queues has unknown key queues.b.concurency; did you mean queues.b.concurrency? `dacapo config` lists all"
        );
        assert!(told(&[("queues", "b")], &[], "").starts_with("--queues is \"b\": expected a table or list in TOML"));
    }

    #[test]
    fn what_is_unknown_is_told_with_the_nearest_that_is_known() {
        let near = |file: &str| {
            let told = told(&[], &[], file);
            told.split_once("did you mean ").unwrap().1.split_once('?').unwrap().0.to_owned()
        };
        assert_eq!(near("[engine]\nwrokers = 3"), "engine.workers");
        assert_eq!(near("lissen = \"x\""), "listen");
        assert_eq!(near("turn_budget_ms = 3"), "engine.turn_budget_ms");
        assert_eq!(near("[queue.x]\nconcurrency = 1"), "queues");
        assert_eq!(near("[[webhooks]]\nsceret = \"x\""), "webhooks.*.secret");
        assert_eq!(near("[queues.x.rate]\nper_second = 1"), "queues.x.rate.per_ms");
        let variable = told(&[], &[("DACAPO_ENGINE_WORKER", "1")], "");
        assert_eq!(
            variable,
            "the environment has DACAPO_ENGINE_WORKER, which is unknown; did you mean DACAPO_ENGINE_WORKERS? \
             `dacapo config` lists all"
        );
        assert!(Settings::of(&given(&[], &[("DACAPO_SECRET_SHOP", "x"), ("DACAPO_LISTEN", "")], "")).is_ok());
    }

    #[test]
    fn values_of_another_kind_are_told_with_their_place() {
        let number = told(&[], &[("DACAPO_ENGINE_WORKERS", "many")], "");
        assert_eq!(number, "DACAPO_ENGINE_WORKERS is \"many\": expected a whole number (threads)");
        let file = told(&[], &[], "[engine]\nworkers = \"many\"");
        assert_eq!(file, "serve.toml: engine.workers is \"many\": expected a whole number (threads)");
        assert!(told(&[], &[], "engine = 3").contains("engine is 3: expected a table"));
        assert!(told(&[], &[], "a = ").contains("serve.toml"));
    }

    #[test]
    fn every_setting_has_names_of_its_own_and_the_default_that_it_says() {
        use crate::engine::EngineSettings;
        use crate::store::redb::Options;
        let names: std::collections::BTreeSet<_> = SETTINGS.iter().map(Setting::flag).collect();
        assert_eq!(names.len(), SETTINGS.len());
        let (engine, store) = (EngineSettings::default(), Options::default());
        let default = |key: &str| {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
            setting.default.parse::<u128>().unwrap()
        };
        for (key, found) in [
            ("large_payload_bytes", store.payloads_above as u128),
            ("store_cache_bytes", store.cache_bytes as u128),
            ("engine.activity_concurrency", engine.activity_concurrency as u128),
            ("engine.worker_losses", engine.worker_losses.into()),
            ("engine.resident_guests", engine.sandbox.resident_guests.into()),
            ("engine.guest_memory_bytes", engine.sandbox.memory_bytes as u128),
            ("engine.turn_budget_ms", engine.sandbox.turn_budget.as_millis()),
            ("engine.evict_after_ms", engine.evict_after.as_millis()),
            ("engine.snapshot_every", engine.snapshot_every.into()),
            ("engine.payload_bytes", engine.limits.payload_bytes as u128),
        ] {
            assert_eq!(default(key), found, "{key}");
        }
    }
}
