//! The screen: keys in, pictures out, until somebody quits.

use std::io::{self, Write as _};

use crossterm::cursor::{Hide, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{execute, queue};

use super::frame::Frame;
use super::panes;
use crate::cli::output::clean;
use crate::replay::debugger::command::{Command, Debugger, HELP};
use crate::replay::debugger::{Moved, Target};

/// Shows the debugger until it is quit; the terminal is as before then.
pub(super) fn run(debugger: &mut Debugger) -> io::Result<()> {
    let _terminal = Terminal::take()?;
    let mut screen = Screen::default();
    let mut before: Option<Frame> = None;
    loop {
        let (width, height) = terminal::size()?;
        let frame = screen.draw(debugger, usize::from(width), usize::from(height));
        let mut out = io::stdout().lock();
        if before.as_ref().is_none_or(|before| before.area() != frame.area()) {
            queue!(out, terminal::Clear(terminal::ClearType::All))?;
            before = None;
        }
        frame.write(before.as_ref(), &mut out)?;
        out.flush()?;
        before = Some(frame);
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release && screen.key(key, debugger) => return Ok(()),
            // Another key, or another size: drawn anew.
            _ => {}
        }
    }
}

/// The terminal, while it is ours.
struct Terminal;

impl Terminal {
    fn take() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let taken = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        let then = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            then(panic);
        }));
        Ok(taken)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = terminal::disable_raw_mode();
}

/// What is on the screen beside the debugger's own state.
#[derive(Debug, Default)]
struct Screen {
    /// A command being typed.
    prompt: Option<String>,
    /// Commands that were typed, and which of them is shown.
    typed: Vec<String>,
    recalled: usize,
    /// An answer of several lines, and how far it is scrolled.
    answer: Option<(String, usize)>,
    /// One line at the foot.
    note: String,
    /// What `n` looks for.
    search: Option<Target>,
}

impl Screen {
    fn draw(&mut self, debugger: &mut Debugger, width: usize, height: usize) -> Frame {
        let mut frame = Frame::new(width, height);
        if width > 0 && height > 1 {
            panes::draw(&mut frame, debugger, self.prompt.as_deref(), &self.note);
            if let Some((text, from)) = &mut self.answer {
                let most = panes::answer(&mut frame, text, *from);
                *from = (*from).min(most);
            }
        }
        frame
    }

    /// Takes one key; true: enough.
    fn key(&mut self, key: KeyEvent, debugger: &mut Debugger) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return true;
        }
        if self.scrolled(key.code) {
            return false;
        }
        if self.prompt.is_some() {
            return self.typing(key.code, debugger);
        }
        self.note.clear();
        let command = match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Right | KeyCode::Char('l' | 's' | ' ') => Command::Step(1),
            KeyCode::Left | KeyCode::Char('h' | 'b') => Command::Step(-1),
            KeyCode::Down | KeyCode::Char('j' | 't') => Command::Turn(1),
            KeyCode::Up | KeyCode::Char('k') => Command::Turn(-1),
            KeyCode::PageDown => Command::Step(20),
            KeyCode::PageUp => Command::Step(-20),
            KeyCode::Home | KeyCode::Char('g') => Command::Run { target: Target::End, back: true },
            KeyCode::End | KeyCode::Char('G') => Command::Run { target: Target::End, back: false },
            KeyCode::Char(again @ ('n' | 'N')) => match self.search.clone() {
                Some(target) => Command::Run { target, back: again == 'N' },
                None => {
                    self.note = "nothing was looked for yet: / or :run".to_owned();
                    return false;
                }
            },
            KeyCode::Char('/') => {
                self.prompt = Some("run log ".to_owned());
                return false;
            }
            KeyCode::Char(':') => {
                self.prompt = Some(String::new());
                self.recalled = self.typed.len();
                return false;
            }
            KeyCode::Char('e') | KeyCode::Enter => Command::Event(None),
            KeyCode::Char('p') => Command::Pending,
            KeyCode::Char('r') => Command::Report,
            KeyCode::Char('?') => {
                self.answer = Some((format!("{KEYS}\n\nafter `:`\n{HELP}"), 0));
                return false;
            }
            _ => return false,
        };
        self.does(&command, debugger)
    }

    /// An answer is on the screen: whether the key was for it.
    fn scrolled(&mut self, key: KeyCode) -> bool {
        let Some((_, from)) = &mut self.answer else { return false };
        match key {
            KeyCode::Down | KeyCode::Char('j') => *from += 1,
            KeyCode::Up | KeyCode::Char('k') => *from = from.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => *from += 10,
            KeyCode::PageUp => *from = from.saturating_sub(10),
            _ => self.answer = None,
        }
        true
    }

    fn typing(&mut self, key: KeyCode, debugger: &mut Debugger) -> bool {
        let Some(prompt) = &mut self.prompt else { return false };
        match key {
            KeyCode::Char(c) => prompt.push(c),
            KeyCode::Backspace if prompt.pop().is_none() => self.prompt = None,
            KeyCode::Esc => self.prompt = None,
            KeyCode::Up if self.recalled > 0 => {
                self.recalled -= 1;
                prompt.clone_from(&self.typed[self.recalled]);
            }
            KeyCode::Down if self.recalled + 1 < self.typed.len() => {
                self.recalled += 1;
                prompt.clone_from(&self.typed[self.recalled]);
            }
            KeyCode::Enter => {
                let line = self.prompt.take().unwrap_or_default();
                self.note.clear();
                match Command::parse(&line) {
                    Ok(None) => {}
                    Ok(Some(command)) => {
                        self.typed.push(line);
                        return self.does(&command, debugger);
                    }
                    Err(error) => self.note = clean(&error.to_string()),
                }
            }
            _ => {}
        }
        false
    }

    fn does(&mut self, command: &Command, debugger: &mut Debugger) -> bool {
        if let Command::Run { target, .. } = command
            && !matches!(target, Target::End | Target::Event(_))
        {
            self.search = Some(target.clone());
        }
        let answer = debugger.answer(command);
        // The panes show the place; what is beyond it is said once.
        if let Some((_, report)) = answer.text.split_once("\nreplay of ") {
            self.answer = Some((clean(&format!("replay of {report}")), 0));
            return answer.quit;
        }
        match (command, answer.moved) {
            (_, Some(Moved::There)) | (Command::Where | Command::Quit, _) => {}
            (_, Some(_)) => self.note = clean(answer.text.lines().last().unwrap_or_default().trim()),
            _ => self.answer = Some((clean(&answer.text), 0)),
        }
        answer.quit
    }
}

const KEYS: &str = "\
→ l s space   one event forward          ← h b   one event back
↓ j t         to the end of the turn     ↑ k     to the end of the turn before
PageDown      20 events forward          PageUp  20 events back
Home g        to the beginning           End G   to the end
/             run to a log line          n N     the next one, the one before
e Enter       the event in full          p       what is pending
r             the report on a difference
:             a command                  q Esc   the end";
