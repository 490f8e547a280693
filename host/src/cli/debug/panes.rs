//! What the screen shows, and where: the history, the source, what is pending,
//! what the guest logged, and a line to type in.

use super::frame::{Area, BAD, BOLD, DIM, Frame, GOOD, GUEST, PLAIN, REVERSE, Style, WORLD};
use crate::core::event::{Event, Origin};
use crate::core::turn::LogLevel;
use crate::replay::debugger::command::Debugger;
use crate::replay::debugger::view::{View, ViewLimits};

/// From here on panes stand side by side.
const WIDE: usize = 96;

/// What the keys do, at the foot.
const KEYS: &str = " q quit   ? help   ← → event   ↑ ↓ turn   Home End   / log   n N again   : command";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame, debugger: &mut Debugger, prompt: Option<&str>, note: &str) {
    let area = frame.area();
    let (head, rest) = area.split_rows(1);
    let (body, foot) = rest.split_rows(rest.height.saturating_sub(1));
    let view = debugger.session.view(ViewLimits { logs: 200, pending: pending_rows(body) });
    title(frame, head, &view);
    let logs = if body.height >= 14 { (body.height / 4).min(12) } else { 0 };
    let (upper, lower) = body.split_rows(body.height - logs);
    if area.width >= WIDE {
        let (left, right) = upper.split_columns(area.width * 11 / 20);
        history(frame, left, debugger, &view);
        let (top, bottom) = right.split_rows(right.height / 2);
        source(frame, top, debugger, &view);
        state(frame, bottom, debugger, &view);
    } else if upper.height >= 12 {
        let (top, bottom) = upper.split_rows(upper.height * 2 / 5);
        history(frame, top, debugger, &view);
        let (top, bottom) = bottom.split_rows(bottom.height / 2);
        source(frame, top, debugger, &view);
        state(frame, bottom, debugger, &view);
    } else {
        let (top, bottom) = upper.split_rows(upper.height.saturating_sub(3));
        history(frame, top, debugger, &view);
        source(frame, bottom, debugger, &view);
    }
    if logs > 0 {
        log(frame, lower, &view);
    }
    match prompt {
        Some(typed) => {
            let used = frame.text(foot, 0, 0, ":", BOLD);
            let used = used + frame.text(foot, 0, used, typed, PLAIN);
            frame.text(foot, 0, used, " ", REVERSE);
        }
        None if note.is_empty() => {
            frame.text(foot, 0, 0, KEYS, DIM);
        }
        None => {
            frame.text(foot, 0, 1, note, WORLD);
        }
    }
}

/// An answer of several lines, over everything else. Returns how far it can scroll.
pub(super) fn answer(frame: &mut Frame, text: &str, from: usize) -> usize {
    let area = frame.area();
    let width = area.width.saturating_sub(2).max(1);
    let lines: Vec<String> = text.lines().flat_map(|line| wrapped(line, width)).collect();
    let height = (lines.len() + 2).min(area.height);
    let area = Area { y: area.height - height, height, ..area };
    for row in 0..area.height {
        frame.fill(area, row, PLAIN);
    }
    let body = frame.pane(area, "answer");
    let (body, foot) = body.split_rows(body.height.saturating_sub(1));
    let most = lines.len().saturating_sub(body.height);
    for (row, line) in lines.iter().skip(from.min(most)).take(body.height).enumerate() {
        frame.text(body, row, 1, line, PLAIN);
    }
    let more = if most > 0 { "↑ ↓ scroll   any other key goes back" } else { "any key goes back" };
    frame.text(foot, 0, 1, more, DIM);
    most
}

/// `line` in pieces of at most `width` characters, further ones as indented as the first.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let indent: String = line.chars().take_while(|c| *c == ' ').take(width / 2).collect();
    let mut rows = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let row = rows.last_mut().expect("there is one");
        if !row.trim().is_empty() && row.chars().count() + word.trim_end().chars().count() > width {
            rows.push(format!("{indent}  {word}"));
        } else {
            row.push_str(word);
        }
    }
    rows
}

fn title(frame: &mut Frame, area: Area, view: &View) {
    frame.fill(area, 0, REVERSE);
    let used = frame.text(area, 0, 1, &format!("{} ", view.instance), Style { bold: true, ..REVERSE });
    let execution = if view.execution > 1 { format!("execution {}  ", view.execution) } else { String::new() };
    let supposed = view.what_if.map(|event| format!("  what if from event {event} on")).unwrap_or_default();
    let place = format!(
        "{}  {execution}event {}/{}  turn {}/{}  {}{supposed}",
        view.orchestration,
        view.position,
        view.events,
        view.turn,
        view.turns,
        view.at.as_deref().unwrap_or_default()
    );
    frame.text(area, 0, 1 + used, &place, REVERSE);
}

fn history(frame: &mut Frame, area: Area, debugger: &Debugger, view: &View) {
    let body = frame.pane(area, "history");
    let rows = body.height as u32;
    // The position stays in the middle, but for the ends.
    let last_from = (view.events + 1).saturating_sub(rows);
    let from = view.position.saturating_sub(rows / 2).min(last_from);
    for (row, number) in (from..=view.events).take(body.height).enumerate() {
        let here = number == view.position;
        let mark = if here { '▶' } else { ' ' };
        if number == 0 {
            frame.text(body, row, 0, &format!("{mark}     0  the beginning"), if here { BOLD } else { DIM });
            continue;
        }
        let Some(event) = debugger.session.event(number) else { continue };
        let turn = debugger.session.turn_of(number);
        let style = if here { BOLD } else { PLAIN };
        let used = frame.text(body, row, 0, &format!("{mark}{number:>6} {turn:>5} "), if here { BOLD } else { DIM });
        let colour = if number > view.position { DIM } else { colour(event) };
        frame.text(body, row, used, event.kind(), Style { bold: here, ..colour });
        let summary = crate::cli::output::brief(&event.summary(160), 200);
        frame.text(body, row, used + 24, &summary, if number > view.position { DIM } else { style });
    }
}

fn colour(event: &Event) -> Style {
    match event {
        Event::Failed { .. } | Event::ActivityFailed { .. } | Event::ActivityAttemptFailed { .. } => BAD,
        Event::Completed { .. } => GOOD,
        _ if event.origin() == Origin::Delivery => WORLD,
        _ if event.origin() == Origin::Guest => GUEST,
        _ => PLAIN,
    }
}

fn source(frame: &mut Frame, area: Area, debugger: &mut Debugger, view: &View) {
    let Some(line) = view.source.first() else {
        let body = frame.pane(area, "source");
        let why = match &view.event {
            None => "nothing has happened yet",
            Some(_) => "no line of the guest asked for this event, or the module has no line tables",
        };
        frame.text(body, 0, 1, why, DIM);
        return;
    };
    let body = frame.pane(area, &ending(&debugger.sources.place(line), area.width.saturating_sub(4)));
    let before = body.height.saturating_sub(1) / 2;
    let lines = debugger.sources.around(line, before, body.height.saturating_sub(before + 1));
    if lines.is_empty() {
        frame.text(body, 0, 1, "the source is not at hand", DIM);
    }
    for (row, (number, text)) in lines.iter().enumerate() {
        let here = *number == line.line;
        let used = frame.text(body, row, 0, &format!("{}{number:>5} ", if here { '▶' } else { ' ' }), DIM);
        frame.text(body, row, used, text, if here { BOLD } else { PLAIN });
    }
}

/// The end of a path, which says more than its beginning.
fn ending(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    "…".chars().chain(text.chars().skip(length + 1 - width)).collect()
}

fn pending_rows(body: Area) -> usize {
    // No more than could ever be shown: each costs a look at the guest.
    (body.height / 4).clamp(2, 12)
}

fn state(frame: &mut Frame, area: Area, debugger: &Debugger, view: &View) {
    let memory = view.memory_bytes.map(|bytes| format!("   memory {} KiB", bytes / 1024)).unwrap_or_default();
    let body = frame.pane(area, &format!("{} pending{memory}", view.pending.len() + view.more_pending));
    let mut row = 0;
    for pending in &view.pending {
        let due = pending.due.as_ref().map(|due| format!(", due {due}")).unwrap_or_default();
        frame.text(body, row, 1, &format!("{}{due}", pending.what), WORLD);
        row += 1;
        if let Some(source) = &pending.source
            && body.height > 6
        {
            frame.text(body, row, 3, &debugger.sources.place(source), DIM);
            row += 1;
        }
    }
    if view.more_pending > 0 {
        frame.text(body, row, 1, &format!("and {} more", view.more_pending), DIM);
        row += 1;
    }
    let mut also = |name: &str, text: String, style: Style| {
        let used = frame.text(body, row, 1, &format!("{name} "), DIM);
        frame.text(body, row, 1 + used, &text, style);
        row += 1;
    };
    if view.divergence.is_some() {
        also("here", "the module differs from the recording: `:report`".to_owned(), BAD);
    }
    if let Some(why) = &view.broken {
        also("here", why.clone(), BAD);
    }
    if let Some(completion) = &view.last_completion {
        also("last completion", format!("event {} {}", completion.number, completion.summary), PLAIN);
    }
    if let Some(status) = &view.custom_status {
        also("custom status", status.to_string(), PLAIN);
    }
    if !view.tags.is_empty() {
        let tags: Vec<String> = view.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        also("tags", tags.join(" "), PLAIN);
    }
    if !view.untaken_events.is_empty() {
        also("not taken", view.untaken_events.join(" "), PLAIN);
    }
}

fn log(frame: &mut Frame, area: Area, view: &View) {
    let body = frame.pane(area, "log");
    let skipped = view.logs.len().saturating_sub(body.height);
    for (row, logged) in view.logs[skipped..].iter().enumerate() {
        let style = match logged.line.level {
            LogLevel::Error => BAD,
            LogLevel::Warn => WORLD,
            LogLevel::Info => PLAIN,
            LogLevel::Debug | LogLevel::Trace => DIM,
        };
        let used = frame.text(body, row, 0, &format!("{:>7} ", logged.event), DIM);
        frame.text(body, row, used, &format!("{}: {}", logged.line.target, logged.line), style);
    }
}
