//! Logging: `tracing` events and panics become log lines of the host. Replay
//! safe, since the host shows a line once, at the turn that first produced it.
//!
//! Events are forwarded with their fields; spans are not.

#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::bindings::types::{LogLevel, LogLine, Tag};

/// Takes a line to the host.
pub(crate) type Sink = fn(&LogLine);

static INSTALLED: Once = Once::new();

/// Forwards events and panics of this guest to `sink`. The first call counts.
pub(crate) fn install(sink: Sink) {
    INSTALLED.call_once(|| {
        // An error means that the guest has set a subscriber of its own.
        let _ = tracing::subscriber::set_global_default(Forward { sink, spans: AtomicU64::new(1) });
        std::panic::set_hook(Box::new(move |panic| {
            let message = panic.payload_as_str().unwrap_or("panicked without a message");
            let location = panic.location().map(ToString::to_string).unwrap_or_default();
            sink(&LogLine {
                level: LogLevel::Error,
                target: "panic".to_owned(),
                message: message.to_owned(),
                fields: vec![Tag { name: "location".to_owned(), value: location }],
            });
        }));
    });
}

struct Forward {
    sink: Sink,
    spans: AtomicU64,
}

impl Subscriber for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = LogLine {
            level: match *metadata.level() {
                Level::ERROR => LogLevel::Error,
                Level::WARN => LogLevel::Warn,
                Level::INFO => LogLevel::Info,
                Level::DEBUG => LogLevel::Debug,
                Level::TRACE => LogLevel::Trace,
            },
            target: metadata.target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut Fields(&mut line));
        (self.sink)(&line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields<'a>(&'a mut LogLine);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.0.message = value;
        } else {
            self.0.fields.push(Tag { name: field.name().to_owned(), value });
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}
