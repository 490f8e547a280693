//! Steps for people: who, what.

use super::step::{How, Item, Step, called};
use super::world::{Number, State, Task, TaskKey};
use super::{Explorer, Model};
use crate::core::event::ActivityScheduled;
use crate::core::ids::OperationId;
use crate::core::mail::Content;
use crate::core::payload::shortened;
use crate::replay::life::Inbound;
use crate::replay::neighbours::{News, What};

impl<M: Model> State<M> {
    /// One line.
    pub(super) fn describe(&self, step: &Step, after: Option<&Self>, explorer: &Explorer<M>) -> String {
        match step {
            Step::Effect(key, how) => self.describe_effect(*key, *how, after),
            Step::Turn(instance, items) => self.describe_turn(*instance, items, after, explorer),
            Step::Begin(call) => {
                let (name, input) = (&call.scheduled.name, shortened(&call.scheduled.input.to_string(), 40));
                format!("{}  is called by {}: {name}({input})", called(call), call.caller.instance)
            }
            Step::Clock(to) => format!("clock  moves to {to}"),
            Step::Crash(to) => self.describe_crash(*to),
        }
    }

    fn describe_effect(&self, key: TaskKey, how: How, after: Option<&Self>) -> String {
        let task = &self.tasks[&key];
        let late = task.orphan || task.outcome.is_some();
        let did = match (how, after.and_then(|after| after.tasks.get(&key)?.outcome.as_ref())) {
            (How::FailsBefore, _) => "fails before it does anything (injected)".to_owned(),
            (How::FailsAfter, _) => "does it, and its result is lost (injected)".to_owned(),
            (How::Expires, _) => "takes too long (injected)".to_owned(),
            (How::Answers, _) if late => "does it, and nobody waits for it".to_owned(),
            (How::Answers, Some(Ok(result))) => format!("does it: {}", shortened(&result.to_string(), 60)),
            (How::Answers, Some(Err(why))) => format!("fails: {}", shortened(&why.to_string(), 60)),
            (How::Answers, None) => "stops here".to_owned(),
        };
        let attempt = if key.attempt > 1 { format!(" attempt {}", key.attempt) } else { String::new() };
        format!("{}{attempt} {did}", self.named(key, task))
    }

    fn describe_turn(&self, instance: Number, items: &[Item], after: Option<&Self>, explorer: &Explorer<M>) -> String {
        let life = &self.lives[&instance].life;
        let mut news: Vec<String> = items.iter().map(|item| self.item(instance, item, explorer)).collect();
        news.extend(life.execution.timers_due(self.clock).iter().map(|timer| timer.summary(40)));
        let news = if news.is_empty() { "begins".to_owned() } else { format!("is told {}", news.join(", ")) };
        let end = match after.and_then(|after| after.lives[&instance].life.outcome()) {
            Some(Ok(output)) => format!(" and returns {}", shortened(&output.to_string(), 60)),
            Some(Err(why)) => format!(" and fails: {}", shortened(&why.to_string(), 80)),
            None => String::new(),
        };
        format!("{}  {news}{end}", life.id())
    }

    fn describe_crash(&self, to: crate::core::ids::TimestampMs) -> String {
        let down = if to > self.clock { format!(" and is down until {to}") } else { String::new() };
        let lost = self.tasks.iter().filter(|(_, task)| task.outcome.is_some());
        let again: Vec<String> = lost.map(|(key, task)| self.named(*key, task).replacen("  ", " ", 1)).collect();
        if again.is_empty() {
            return format!("host  crashes{down}");
        }
        format!("host  crashes{down}; what it had not recorded is run again: {}", again.join(", "))
    }

    fn item(&self, instance: Number, item: &Item, explorer: &Explorer<M>) -> String {
        match item {
            Item::Result(key) => {
                let operation = key.operation;
                match self.tasks.get(key).and_then(|task| task.outcome.as_ref()) {
                    Some(Err(_)) => format!("#{operation} failed"),
                    _ => format!("#{operation} returned"),
                }
            }
            Item::Input(number) => match &explorer.inputs[*number].1 {
                Inbound::Event(name, value) => format!("event {name:?} with {}", shortened(&value.to_string(), 40)),
                Inbound::Update(_, name, input) => format!("update {name}({})", shortened(&input.to_string(), 40)),
                _ => "to end".to_owned(),
            },
            Item::News(news) => self.news(instance, news),
        }
    }

    fn news(&self, instance: Number, news: &News) -> String {
        let of = &news.of;
        match news.what {
            What::Letter(key) => {
                let sender = self.lives.values().find(|turned| turned.life.id() == of);
                match sender.and_then(|sender| Some(&sender.life.execution.outbox.get(key)?.content)) {
                    Some(Content::Signal { name, value }) => {
                        format!("{name:?} from {of} with {}", shortened(&value.to_string(), 40))
                    }
                    _ => format!("a letter from {of}"),
                }
            }
            What::Answer((_, operation)) => {
                let life = &self.lives[&instance].life;
                match self.neighbours().inbound(life, news) {
                    Some(Inbound::Answered(_, Err(why))) => {
                        format!("that #{operation} was not taken: {}", shortened(&why.to_string(), 60))
                    }
                    _ => format!("that {of} took #{operation}"),
                }
            }
            What::Outcome(operation) => {
                let life = &self.lives[&instance].life;
                match self.neighbours().inbound(life, news) {
                    Some(Inbound::Returned(_, Err(_))) => format!("#{operation} failed ({of})"),
                    _ => format!("#{operation} returned ({of})"),
                }
            }
            What::Left => format!("that {of} goes without it"),
        }
    }

    fn named(&self, key: TaskKey, task: &Task) -> String {
        format!("{}  {}", self.lives[&key.instance].life.id(), called_as(key.operation, &task.call))
    }
}

fn called_as(operation: OperationId, call: &ActivityScheduled) -> String {
    format!("#{operation} {}({})", call.name, shortened(&call.input.to_string(), 40))
}
