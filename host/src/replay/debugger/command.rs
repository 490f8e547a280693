//! The debugger's language: one command a line, the same at a prompt, in a script
//! and for a program that asks.

use serde_json::{Value, json};

use super::text;
use super::view::{EventView, View, ViewLimits};
use super::{Halt, Moved, Session, Target};
use crate::core::ids::OperationId;
use crate::replay::source::Sources;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// So many events forward; back if negative.
    Step(i64),
    /// So many turns forward; back if negative.
    Turn(i64),
    /// To the event of that number.
    Goto(u32),
    /// To the next place that is looked for, or the one before.
    Run {
        /// What.
        target: Target,
        /// Before here.
        back: bool,
    },
    /// Where this is.
    Where,
    /// One event in full; none: the one that happened last.
    Event(Option<u32>),
    /// So many events around here.
    List(u32),
    /// What the guest waits for.
    Pending,
    /// The last lines that the guest logged.
    Logs(usize),
    /// Custom status, tags, events that nobody took.
    Status,
    /// The guest's memory.
    Memory,
    /// The report on the difference, if one was found.
    Report,
    /// What can be asked.
    Help,
    /// No more.
    Quit,
}

/// What one can type, for `help` and for documentation.
pub const HELP: &str = "\
step [N], s         N events forward (1)
back [N], b         N events back (1)
turn [N], t         N turns forward, to their ends (1)
turn-back [N], tb   N turns back, to their ends (1)
goto N, g           to event N; 0 is before the first
run TARGET, r       forward to the next TARGET; without one, to the end
run-back TARGET, rb back to the last TARGET; without one, to the beginning
    event N             the event of that number
    kind KIND           an event of that kind: activity-failed, timer-fired, ...
    operation N         an event about that operation
    log TEXT            a log line with that text
    end                 as far as one can go
where, w            where this is, and the line of source that asked
event [N], e        an event in full
list [N], l         N events around here (10)
pending, p          operations that are not complete, and who asked for them
logs [N]            the last N lines of the guest's log (10)
status              custom status, tags, events that nobody has taken
memory, m           the guest's memory
report              how the module differs from the recording, and what can be done
help, h             this
quit, q             the end";

/// A line that is no command.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotACommand(String);

impl Command {
    /// Reads one line. None: it is empty, or a comment (`# ..`).
    ///
    /// # Errors
    /// [`NotACommand`]: expected, found.
    pub fn parse(line: &str) -> Result<Option<Self>, NotACommand> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let (word, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim()));
        let command = match word {
            "step" | "s" | "next" | "n" => Self::Step(count(word, rest, 1)?),
            "back" | "b" => Self::Step(-count(word, rest, 1)?),
            "turn" | "t" => Self::Turn(count(word, rest, 1)?),
            "turn-back" | "tb" => Self::Turn(-count(word, rest, 1)?),
            "goto" | "g" => Self::Goto(number(word, rest)?),
            "run" | "r" | "continue" | "c" => Self::Run { target: target(word, rest)?, back: false },
            "run-back" | "rb" => Self::Run { target: target(word, rest)?, back: true },
            "list" | "l" => Self::List(count(word, rest, 10)? as u32),
            "logs" => Self::Logs(count(word, rest, 10)? as usize),
            "event" | "e" if rest.is_empty() => Self::Event(None),
            "event" | "e" => Self::Event(Some(number(word, rest)?)),
            _ => match (word, rest) {
                ("where" | "w", "") => Self::Where,
                ("pending" | "p", "") => Self::Pending,
                ("status", "") => Self::Status,
                ("memory" | "m", "") => Self::Memory,
                ("report", "") => Self::Report,
                ("help" | "h" | "?", "") => Self::Help,
                ("quit" | "q" | "exit", "") => Self::Quit,
                ("where" | "w" | "pending" | "p" | "status" | "memory" | "m" | "report" | "help" | "quit", more) => {
                    return Err(NotACommand(format!("{word} takes nothing more, found {more:?}")));
                }
                _ => return Err(NotACommand(format!("expected a command, found {word:?}; `help` lists them"))),
            },
        };
        Ok(Some(command))
    }
}

fn count(word: &str, text: &str, default: i64) -> Result<i64, NotACommand> {
    if text.is_empty() { Ok(default) } else { Ok(i64::from(number(word, text)?)) }
}

fn number(word: &str, text: &str) -> Result<u32, NotACommand> {
    text.trim_start_matches('#').parse().map_err(|_| NotACommand(format!("{word} takes a number, found {text:?}")))
}

fn target(word: &str, text: &str) -> Result<Target, NotACommand> {
    let text = text.strip_prefix("to ").unwrap_or(text).trim();
    let (what, rest) = text.split_once(char::is_whitespace).map_or((text, ""), |(what, rest)| (what, rest.trim()));
    match (what, rest) {
        ("" | "end" | "start", "") => Ok(Target::End),
        ("event", n) => number("event", n).map(Target::Event),
        ("operation" | "op", n) => number("operation", n).map(|n| Target::Operation(n as OperationId)),
        ("kind", kind) if !kind.is_empty() => Ok(Target::Kind(kind.to_owned())),
        ("log", text) if !text.is_empty() => Ok(Target::Log(text.trim_matches('"').to_owned())),
        _ => Err(NotACommand(format!(
            "{word} takes `event N`, `kind KIND`, `operation N`, `log TEXT` or `end`, found {text:?}"
        ))),
    }
}

/// A session with the sources at hand: what prompts and scripts talk to.
#[derive(Debug)]
pub struct Debugger {
    /// Where it is.
    pub session: Session,
    /// The sources.
    pub sources: Sources,
    /// Whether the difference that was found was shown.
    told: bool,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For people; several lines, or none.
    pub text: String,
    /// Whether a move got where it was to.
    pub moved: Option<Moved>,
    /// No more commands are wanted.
    pub quit: bool,
    /// For programs: beside the view.
    more: Option<(&'static str, Value)>,
}

impl Debugger {
    /// A debugger at the beginning of `session`.
    pub fn new(session: Session, sources: Sources) -> Self {
        Self { session, sources, told: false }
    }

    /// All that is known where this is.
    pub fn view(&mut self) -> View {
        self.session.view(ViewLimits::default())
    }

    /// Does what is asked.
    pub fn answer(&mut self, command: &Command) -> Answer {
        match command {
            Command::Step(by) => self.moved(|session| session.step(*by)),
            Command::Turn(by) => self.moved(|session| session.step_turns(*by)),
            Command::Goto(event) => self.moved(|session| session.run(&Target::Event(*event), false)),
            Command::Run { target, back } => {
                let answer = self.moved(|session| session.run(target, *back));
                match answer.moved {
                    Some(Moved::NotFound) => {
                        let direction = if *back { "before" } else { "after" };
                        let position = self.session.position();
                        Answer { text: format!("no {target} {direction} event {position}"), ..answer }
                    }
                    _ => answer,
                }
            }
            Command::Where => {
                let view = self.view();
                said(text::place(&view, &mut self.sources))
            }
            Command::Event(number) => {
                let number = number.unwrap_or(self.session.position());
                match self.session.event_view(number) {
                    None => said(format!("there is no event {number}; the history has {}", self.session.events())),
                    Some(event) => {
                        let source = self.session.source(number);
                        let text = text::event(&event, &source, &mut self.sources);
                        Answer { more: Some(("shown", json!(event))), ..said(text) }
                    }
                }
            }
            Command::List(around) => {
                let events = self.around(*around);
                let text = text::list(&events, self.session.position());
                Answer { more: Some(("listed", json!(events))), ..said(text) }
            }
            Command::Pending => {
                let view = self.view();
                said(text::pending(&view, &mut self.sources))
            }
            Command::Logs(last) => {
                let logs = self.session.logs();
                let logs = logs[logs.len().saturating_sub(*last)..].to_vec();
                Answer { more: Some(("lines", json!(logs))), ..said(text::logs(&logs)) }
            }
            Command::Status => said(text::status(&self.view())),
            Command::Memory => said(text::memory(self.session.memory())),
            Command::Report => said(self.report()),
            Command::Help => said(HELP.to_owned()),
            Command::Quit => Answer { quit: true, ..said(String::new()) },
        }
    }

    /// The answer for programs, with the whole view of where this is.
    pub fn answer_json(&mut self, line: &str, answer: &Answer) -> Value {
        let moved = answer.moved.map(|moved| match moved {
            Moved::There => "there",
            Moved::AsFarAsPossible => "as-far-as-possible",
            Moved::NotFound => "not-found",
        });
        let mut object = json!({ "command": line.trim(), "moved": moved, "view": self.view() });
        if let (Some((name, value)), Some(object)) = (&answer.more, object.as_object_mut()) {
            object.insert((*name).to_owned(), value.clone());
        }
        object
    }

    fn moved(&mut self, go: impl FnOnce(&mut Session) -> Moved) -> Answer {
        let moved = go(&mut self.session);
        if moved == Moved::NotFound {
            return Answer { moved: Some(moved), ..said(String::new()) };
        }
        let view = self.view();
        let mut text = text::place(&view, &mut self.sources);
        if view.divergence.is_some() || view.broken.is_some() {
            text.push('\n');
            text.push_str(&if self.told { "  the difference is here; see `report`".to_owned() } else { self.report() });
            self.told = true;
        } else if moved == Moved::AsFarAsPossible {
            let what = if view.position == 0 { "begins" } else { "ends" };
            text.push_str(&format!("\n  the history {what} here"));
        }
        Answer { moved: Some(moved), ..said(text) }
    }

    fn report(&mut self) -> String {
        match self.session.halt() {
            None => "no difference was found so far; `run` goes through the whole history".to_owned(),
            Some(Halt::Broken(why)) => format!("the history cannot be replayed further: {why}"),
            Some(Halt::Diverged(divergence)) => self.sources.report(divergence),
        }
    }

    /// Events around the position, `count` of them.
    pub fn around(&self, count: u32) -> Vec<EventView> {
        let position = self.session.position();
        let from =
            position.saturating_sub(count / 2).max(1).min(self.session.events().saturating_sub(count - 1).max(1));
        (from..from.saturating_add(count)).map_while(|number| self.session.event_view(number)).collect()
    }
}

fn said(text: String) -> Answer {
    Answer { text, moved: None, quit: false, more: None }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event(number) => write!(f, "event {number}"),
            Self::Kind(kind) => write!(f, "{kind}"),
            Self::Operation(operation) => write!(f, "event about operation {operation}"),
            Self::Log(text) => write!(f, "log line with {text:?}"),
            Self::End => f.write_str("end"),
        }
    }
}
