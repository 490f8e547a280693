//! Answers as people read them.

use super::Logged;
use super::view::{EventView, View};
use crate::core::divergence::SourceLine;
use crate::replay::source::Sources;

/// Where this is: the event that happened last, and who asked for it.
pub(super) fn place(view: &View, sources: &mut Sources) -> String {
    let supposed = match view.what_if {
        Some(event) => format!(", what if from event {event} on"),
        None => String::new(),
    };
    let Some(event) = &view.event else {
        return format!("before event 1 of {}{supposed}", view.events);
    };
    let at = view.at.as_deref().unwrap_or_default();
    let mut text = format!(
        "event {} of {}, turn {} of {}, {at}{supposed}\n  {} {}",
        view.position, view.events, view.turn, view.turns, event.kind, event.summary
    );
    text.push_str(&asked_at(&view.source, sources));
    text
}

/// One event in full.
pub(super) fn event(event: &EventView, source: &[SourceLine], sources: &mut Sources) -> String {
    let mut text = format!("event {}, turn {}: {}", event.number, event.turn, event.kind);
    for (name, value) in event.fields.as_object().into_iter().flatten().filter(|(name, _)| *name != "kind") {
        text.push_str(&format!("\n  {name}: {value}"));
    }
    text.push_str(&asked_at(source, sources));
    text
}

fn asked_at(source: &[SourceLine], sources: &mut Sources) -> String {
    let Some((inner, outer)) = source.split_first() else { return String::new() };
    let mut text = format!("\n  asked at {}", sources.place(inner));
    if let Some(line) = sources.text(inner) {
        text.push_str(&format!("\n      {line}"));
    }
    for caller in outer.iter().take(3) {
        text.push_str(&format!("\n  called by {}", sources.place(caller)));
    }
    text
}

pub(super) fn list(events: &[EventView], position: u32) -> String {
    let line = |event: &EventView| {
        let mark = if event.number == position { '>' } else { ' ' };
        let summary = crate::core::payload::shortened(&event.summary, 120);
        format!("{mark}{:>5} {:>5}  {:<23} {summary}", event.number, event.turn, event.kind)
    };
    events.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn pending(view: &View, sources: &mut Sources) -> String {
    if view.pending.is_empty() {
        return "nothing is pending".to_owned();
    }
    let mut lines = Vec::new();
    for pending in &view.pending {
        let due = pending.due.as_ref().map(|due| format!(", due {due}")).unwrap_or_default();
        lines.push(format!("{} (event {}){due}", pending.what, pending.event));
        lines.extend(pending.source.as_ref().map(|source| format!("    asked at {}", sources.place(source))));
    }
    if view.more_pending > 0 {
        lines.push(format!("and {} more", view.more_pending));
    }
    lines.join("\n")
}

pub(super) fn logs(logs: &[Logged]) -> String {
    if logs.is_empty() {
        return "nothing was logged so far".to_owned();
    }
    let line = |logged: &Logged| format!("after event {:>4}  {}", logged.event, log_line(logged));
    logs.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn log_line(logged: &Logged) -> String {
    let level = format!("{:?}", logged.line.level).to_uppercase();
    format!("{level:>5} {}: {}", logged.line.target, logged.line)
}

pub(super) fn status(view: &View) -> String {
    let mut lines = Vec::new();
    lines.push(match &view.custom_status {
        Some(status) => format!("custom status: {status}"),
        None => "no custom status".to_owned(),
    });
    lines.extend(view.tags.iter().map(|(name, value)| format!("tag {name}={value}")));
    lines.extend(view.untaken_events.iter().map(|name| format!("the event {name:?} came and nobody has taken it")));
    if let Some(completion) = &view.last_completion {
        lines.push(format!("last completion: event {}, {} {}", completion.number, completion.kind, completion.summary));
    }
    lines.join("\n")
}

pub(super) fn memory(bytes: Option<usize>) -> String {
    match bytes {
        Some(bytes) => format!("the guest has {} KiB of memory", bytes / 1024),
        None => "the guest has not run yet".to_owned(),
    }
}
