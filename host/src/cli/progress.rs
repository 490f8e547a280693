//! What a running command is at, on stderr: a line that moves if that is a
//! terminal, and lines that stay.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::output::{brief, clean, err, field};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::core::turn::{LogLevel, LogLine};
use crate::engine::ShowLog;
use crate::server::api::{Api, HistoryQuery, MAX_WAIT};

/// Between two looks at an instance that runs fast.
const CALM: Duration = Duration::from_millis(50);

/// Shows what goes on. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { quiet, bar }
    }

    /// A line that stays; unless quiet was asked for.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(clean(text)),
            None if self.quiet => {}
            None => err(clean(text)),
        }
    }

    /// A line that stays, on terminals only.
    pub(crate) fn step(&self, text: &str) {
        if self.bar.is_some() {
            self.line(text);
        }
    }

    /// What is being done now.
    pub(crate) fn now(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(brief(text, 500));
        }
    }

    /// Nothing more will be shown.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows the log lines of guests; those of `own` without its id.
    pub(crate) fn show_log(&self, own: InstanceId) -> ShowLog {
        let progress = self.clone();
        Arc::new(move |instance: &InstanceId, _: ExecutionNumber, line: &LogLine| {
            if line.level > LogLevel::Info {
                return;
            }
            let whose = if *instance == own { String::new() } else { format!("{instance} ") };
            progress.line(&log_line(&whose, line));
        })
    }

    /// Shows an instance's events from `from` on as they become durable, and what
    /// it waits for; until it has ended.
    pub(crate) async fn follow(self, api: Api, id: InstanceId, mut from: u32) {
        let mut execution = None;
        let mut unserved = Vec::new();
        loop {
            let began = tokio::time::Instant::now();
            if let Ok(view) = api.instance(&id) {
                self.now(&waits_for(&view));
                self.tell_unserved(&view, &mut unserved);
            }
            let reading = began.elapsed();
            let query = HistoryQuery {
                execution,
                from: Some(from),
                limit: None,
                wait_ms: if execution.is_none() { 0 } else { MAX_WAIT.as_millis() as u64 },
            };
            let Ok(page) = api.history(&id, query).await else { return };
            let (this, latest) = (page["execution"].as_u64(), page["latest_execution"].as_u64());
            execution = this.map(|number| number as ExecutionNumber);
            let events = page["events"].as_array().map_or(&[][..], Vec::as_slice);
            events.iter().filter(|event| is_step(event)).for_each(|event| self.step(&event_line(event)));
            from = page["next"].as_u64().unwrap_or(1) as u32;
            if events.is_empty() && this < latest {
                (execution, from) = (execution.map(|number| number + 1), 1);
            } else if events.is_empty() && super::client::has_ended(&page) {
                return;
            }
            // A long history takes long to read: leave most of the time to its run.
            tokio::time::sleep(CALM.max(reading * 4).min(Duration::from_secs(2))).await;
        }
    }

    fn tell_unserved(&self, view: &Value, told: &mut Vec<String>) {
        for name in pending(view).filter(|pending| pending["served"] == false).map(|pending| field(pending, "name")) {
            if !told.contains(&name) {
                self.line(&format!("no worker serves {name}; it waits until one does"));
                told.push(name);
            }
        }
    }
}

/// One guest log line.
pub(crate) fn log_line(whose: &str, line: &LogLine) -> String {
    let level = match line.level {
        LogLevel::Error => "ERROR",
        LogLevel::Warn => "WARN",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DEBUG",
        LogLevel::Trace => "TRACE",
    };
    format!("{level:>5} {whose}{}: {line}", line.target)
}

/// One event of the API's JSON.
pub(crate) fn event_line(event: &Value) -> String {
    let number = |name: &str| event[name].as_u64().unwrap_or(0);
    let (kind, what) = (field(event, "kind"), brief(&field(event, "summary"), 240));
    format!("{:>5} {:>5}  {}  {kind:<23} {what}", number("event"), number("turn"), field(event, "at"))
}

/// What an instance waits for, in one line.
pub(crate) fn waits_for(view: &Value) -> String {
    let waits: Vec<_> = pending(view).map(pending_line).collect();
    match waits.len() {
        0 => field(view, "status"),
        1..=3 => format!("waits for {}", waits.join(", ")),
        more => format!("waits for {} and {} more", waits[..3].join(", "), more - 3),
    }
}

/// One pending operation of the API's JSON.
pub(crate) fn pending_line(pending: &Value) -> String {
    let name = field(pending, "name");
    match pending["kind"].as_str() {
        Some("start") => format!("its beginning at {}", field(pending, "start_at")),
        Some("timer") => format!("a timer until {}", field(pending, "fire_at")),
        Some("event") => format!("the event {name:?}"),
        Some("orchestration") => {
            let later = pending["next_attempt_at"].as_str().map(|at| format!(" at {at}")).unwrap_or_default();
            format!("{name} as {}, attempt {}{later}", field(pending, "instance"), field(pending, "attempt"))
        }
        Some("entity") => format!("the operation {name:?} of {}", field(pending, "to")),
        Some("lock") => format!("a lock over {}", pending["entities"]),
        Some("signal") => format!("{} to take the signal {name:?}", field(pending, "to")),
        _ => {
            let of = match pending["max_attempts"].as_u64() {
                Some(0) | None => String::new(),
                Some(attempts) => format!(" of {attempts}"),
            };
            let mut line = format!("{name}, attempt {}{of}", field(pending, "attempt"));
            if pending["served"] == false {
                line.push_str(&format!(" (waits in queue {}: no worker serves it)", field(pending, "queue")));
            }
            if let Some(at) = pending["next_attempt_at"].as_str() {
                line.push_str(&format!(" at {at} after: {}", field(pending, "last_failure")));
            }
            line
        }
    }
}

fn pending(view: &Value) -> impl Iterator<Item = &Value> {
    view["pending"].as_array().into_iter().flatten()
}

/// Values that the guest read are no news to people.
fn is_step(event: &Value) -> bool {
    !matches!(event["kind"].as_str(), Some("now-read" | "random-drawn" | "guid-generated" | "patched"))
}
