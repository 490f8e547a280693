//! The debugger's language: one command a line, the same at a prompt, in a script
//! and for a program that asks.

use serde_json::{Value, json};

use super::text;
use super::view::{EventView, View, ViewLimits};
use super::what_if::{WentOn, WhatIf};
use super::{Halt, Moved, Session, Target};
use crate::core::ids::OperationId;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
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
    /// From here on, with another answer; none: with the one that there is.
    WhatIf(Option<Outcome>),
    /// In a what-if: what a call comes back with.
    Answer(OperationId, Outcome),
    /// In a what-if: an event comes.
    Raise(String, Payload),
    /// In a what-if: time passes up to what is due next.
    Time,
    /// Back to the recording.
    GiveUp,
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
what-if [RESULT]    from here on, with another result, event or input in place of the
                    last event (without one: as it is); nothing is let out
what-if fail TEXT   the same, and that call failed
answer N RESULT     what-if: call N comes back with this; `answer N fail TEXT`: it fails
raise NAME [VALUE]  what-if: an event comes
time                what-if: time passes up to what is due next
give-up             what-if: back to the recording
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
                ("what-if" | "if", "") => Self::WhatIf(None),
                ("what-if" | "if", rest) => Self::WhatIf(Some(outcome(word, rest)?)),
                ("answer" | "a", rest) => {
                    let (number_text, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                    Self::Answer(number(word, number_text)?, outcome(word, rest.trim())?)
                }
                ("raise", rest) if !rest.is_empty() => {
                    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, "null"));
                    Self::Raise(name.trim_matches('"').to_owned(), json(word, value.trim())?)
                }
                ("time", "") => Self::Time,
                ("give-up", "") => Self::GiveUp,
                ("help" | "h" | "?", "") => Self::Help,
                ("quit" | "q" | "exit", "") => Self::Quit,
                (
                    "where" | "w" | "pending" | "p" | "status" | "memory" | "m" | "report" | "help" | "quit" | "time"
                    | "give-up",
                    more,
                ) => {
                    return Err(NotACommand(format!("{word} takes nothing more, found {more:?}")));
                }
                ("raise", "") => return Err(NotACommand("raise takes the event's name".to_owned())),
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

fn json(word: &str, text: &str) -> Result<Payload, NotACommand> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => Ok(Payload::json(value.to_string())),
        Err(error) => Err(NotACommand(format!("{word} takes JSON (a text is in quotes), found {text:?}: {error}"))),
    }
}

/// JSON, or `fail TEXT`.
fn outcome(word: &str, text: &str) -> Result<Outcome, NotACommand> {
    match text.split_once(char::is_whitespace) {
        Some(("fail", message)) => {
            Ok(Err(Failure::fatal(FailureKind::Application, message.trim().trim_matches('"').to_owned())))
        }
        _ => json(word, text).map(Ok),
    }
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
    /// In a what-if: what lets it go on.
    future: Option<WhatIf>,
    /// The histories that one came from, each with its future and what was told.
    left: Vec<(Session, Option<WhatIf>, bool)>,
}

/// A what-if that goes on by itself for ever is left after so many turns.
const MOST_TURNS: usize = 1_000;

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
        Self { session, sources, told: false, future: None, left: Vec::new() }
    }

    /// All that is known where this is.
    pub fn view(&mut self) -> View {
        self.session.view(ViewLimits::default())
    }

    /// Does what is asked.
    pub fn answer(&mut self, command: &Command) -> Answer {
        match command {
            Command::Step(by) => {
                let wanted = i64::from(self.session.position()) + by;
                let waits = self.lengthen(|session| i64::from(session.events()) >= wanted);
                self.moved(waits, |session| session.step(*by))
            }
            Command::Turn(by) => {
                let wanted = i64::from(self.session.turn_of(self.session.position())) + by;
                let waits = self.lengthen(|session| i64::from(session.turns()) >= wanted);
                self.moved(waits, |session| session.step_turns(*by))
            }
            Command::Goto(event) => {
                let waits = self.lengthen(|session| session.events() >= *event);
                self.moved(waits, |session| session.run(&Target::Event(*event), false))
            }
            Command::Run { target, back } => {
                let waits = match target {
                    _ if *back => None,
                    Target::End => self.lengthen(|_| false),
                    target => self.lengthen(|session| session.is_ahead(target)),
                };
                let answer = self.moved(waits, |session| session.run(target, *back));
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
            Command::WhatIf(edit) => self.what_if(edit.clone()),
            Command::Answer(operation, outcome) => self.brings(|future| future.answer(*operation, outcome.clone())),
            Command::Raise(name, value) => self.brings(|future| future.raise(name, value.clone())),
            Command::Time => self.brings(WhatIf::pass_time),
            Command::GiveUp => self.give_up(),
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

    // ---- what if ----

    fn what_if(&mut self, edit: Option<Outcome>) -> Answer {
        let (session, future) = match self.session.what_if(self.session.position(), edit) {
            Ok(begun) => begun,
            Err(why) => return said(format!("it cannot be asked here: {why}")),
        };
        let recorded = std::mem::replace(&mut self.session, session);
        self.left.push((recorded, self.future.replace(future), std::mem::take(&mut self.told)));
        self.moved(None, |_| Moved::There)
    }

    fn give_up(&mut self) -> Answer {
        let Some((session, future, told)) = self.left.pop() else {
            return said("this is the recording; there is no what-if to give up".to_owned());
        };
        (self.session, self.future, self.told) = (session, future, told);
        self.moved(None, |_| Moved::There)
    }

    /// Something comes in by hand, and the what-if goes on to the end of that turn.
    fn brings(&mut self, bring: impl FnOnce(&mut WhatIf) -> Result<WentOn, String>) -> Answer {
        let Some(future) = &mut self.future else {
            return said("a recording has had its answers; `what-if` asks for another one from here on".to_owned());
        };
        match bring(future) {
            Err(why) | Ok(WentOn::Waits(why) | WentOn::Ended(why)) => said(why),
            Ok(WentOn::Turn(turn)) => {
                self.session.append((*turn).clone());
                let end = i64::from(self.session.events());
                self.moved(None, |session| session.step(end - i64::from(session.position())))
            }
        }
    }

    /// Lets a what-if go on until there is `enough` of it. Why there is not.
    fn lengthen(&mut self, mut enough: impl FnMut(&mut Session) -> bool) -> Option<String> {
        let future = self.future.as_mut()?;
        for _ in 0..MOST_TURNS {
            if enough(&mut self.session) {
                return None;
            }
            match future.go_on() {
                WentOn::Turn(turn) => self.session.append((*turn).clone()),
                WentOn::Waits(why) | WentOn::Ended(why) => return Some(why),
            }
        }
        Some(format!("it goes on for more than {MOST_TURNS} turns; go further in smaller steps"))
    }

    /// The answer to a move. `waits` says why a what-if did not go on.
    fn moved(&mut self, waits: Option<String>, go: impl FnOnce(&mut Session) -> Moved) -> Answer {
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
        } else if let Some(waits) = waits.filter(|_| view.position == view.events) {
            text.push_str(&format!("\n  {waits}"));
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
