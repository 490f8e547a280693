//! Requests to a running execution: who asks, what was asked, what was answered.
//!
//! [`Requests`] is a part of an execution's state, so it is derived from events
//! alone. It owns the numbering of requests, those that are not answered, and the
//! answers that are remembered for callers who ask again. Requests that are not
//! answered go along with continue-as-new, and so does the [`Gate`] of an entity.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entity::Gate;
use super::event::Event;
use super::mail::Source as Letter;
use super::payload::{Failure, Outcome, Payload};

/// Names one request to an instance, counted from 1 over all its executions.
pub type RequestId = u32;

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestKind {
    /// An update of an orchestration.
    Update,
    /// An operation of an entity.
    EntityOperation,
}

/// Who asks. The same source again is the same request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Somebody outside, with a key of their own.
    Outside(String),
    /// A letter of an instance.
    Instance(Letter),
}

/// A request as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// What kind it is. (In JSON, `kind` is the event's.)
    #[serde(rename = "request_kind")]
    pub kind: RequestKind,
    /// The update's or operation's name.
    pub name: String,
    /// Its argument.
    pub input: Payload,
    /// Who asks.
    pub source: Source,
    /// Nobody waits for the answer.
    pub one_way: bool,
}

impl Request {
    /// The letter that brought it, if one did.
    pub fn sender(&self) -> Option<&Letter> {
        match &self.source {
            Source::Instance(letter) => Some(letter),
            Source::Outside(_) => None,
        }
    }
}

/// An answer that is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Who asked.
    pub source: Source,
    /// What they were told.
    pub answer: Outcome,
}

/// What goes along from one execution to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// Requests so far.
    pub count: RequestId,
    /// Those that are not answered, in the order in which they came.
    pub open: Vec<Request>,
    /// Remembered answers, the oldest first.
    pub answered: Vec<Answered>,
}

/// What is known of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Known {
    /// Its request is not answered.
    Open(RequestId),
    /// It was answered so.
    Answered(Outcome),
}

/// Answers remembered for callers outside who ask again: the last so many. (Those
/// for instances are remembered as long as their letters can come again.) A caller asks
/// again when a connection or a host was lost, not for ever.
const ANSWERS_REMEMBERED: usize = 1000;

/// Bytes of such answers: they are part of each next execution's first event.
const ANSWER_BYTES_REMEMBERED: usize = 1 << 20;

/// The state. See the module's page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    count: RequestId,
    /// Not answered.
    open: BTreeMap<RequestId, Arc<Request>>,
    known: HashMap<Source, Known>,
    /// Whose answers are remembered, the oldest first.
    answered: VecDeque<Source>,
    answered_bytes: usize,
    /// Letters of instances that were answered, and not just taken.
    letters: Vec<Source>,
    /// The order in which an entity is reached.
    pub gate: Gate,
    /// Answered in the turn under way, which the host may yet take back.
    #[serde(skip)]
    answered_now: Vec<Arc<Request>>,
}

impl Requests {
    /// The state that an execution begins with; the updates to hand over. Operations
    /// are for the gate to let through.
    pub(super) fn of(carried: &Carried) -> (Self, Vec<Arc<Request>>) {
        let mut requests = Self { count: carried.count, ..Self::default() };
        for Answered { source, answer } in &carried.answered {
            requests.remember(source.clone(), answer.clone());
        }
        let open: Vec<_> = carried.open.iter().cloned().map(Arc::new).collect();
        open.iter().for_each(|request| requests.open(request));
        let updates = open.into_iter().filter(|request| request.kind == RequestKind::Update);
        (requests, updates.collect())
    }

    /// What the next execution begins with, if anything: the requests, and who waits
    /// before the gate. Answers to letters go along where `may_come_again` says that
    /// of the letter.
    pub fn carried_on(&self, mut may_come_again: impl FnMut(&Letter) -> bool) -> Vec<Event> {
        let mut carried = self.carried();
        carried.answered.retain(|answered| match &answered.source {
            Source::Instance(letter) => may_come_again(letter),
            Source::Outside(_) => true,
        });
        let requests = (self.count > 0).then(|| Event::RequestsCarried(Box::new(carried)));
        let gate = self.gate.carried(|request| self.sender(request));
        let gate = (!gate.is_idle()).then(|| Event::GateCarried(Box::new(gate)));
        requests.into_iter().chain(gate).collect()
    }

    fn carried(&self) -> Carried {
        let answered = self.letters.iter().chain(&self.answered).filter_map(|source| match self.known.get(source) {
            Some(Known::Answered(answer)) => Some(Answered { source: source.clone(), answer: answer.clone() }),
            _ => None,
        });
        Carried {
            count: self.count,
            open: self.open.values().map(|request| (**request).clone()).collect(),
            answered: answered.collect(),
        }
    }

    /// The number that the next request gets.
    pub fn next_id(&self) -> RequestId {
        self.count + 1
    }

    /// What is known of a source; none: it has not asked, or long ago.
    pub fn known(&self, source: &Source) -> Option<&Known> {
        self.known.get(source)
    }

    /// An update by somebody outside, as it is recorded; none: it has come before.
    pub fn update(&self, key: String, name: String, input: Payload) -> Option<Arc<Request>> {
        let source = Source::Outside(key);
        let (id, kind) = (self.next_id(), RequestKind::Update);
        let new = self.known(&source).is_none();
        new.then(|| Arc::new(Request { id, kind, name, input, source, one_way: false }))
    }

    /// Requests that are not answered.
    pub fn unanswered(&self) -> impl Iterator<Item = &Request> {
        self.open.values().map(|request| &**request)
    }

    /// A request that is not answered.
    pub fn get(&self, id: RequestId) -> Option<&Arc<Request>> {
        self.open.get(&id)
    }

    /// Whether an entity may go: nothing is asked of it.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.gate.is_idle()
    }

    pub(super) fn receive(&mut self, request: &Arc<Request>) {
        self.count = self.count.max(request.id);
        self.open(request);
        if request.kind == RequestKind::EntityOperation {
            self.gate.ask(request.id, self.sender(request.id));
        }
    }

    fn sender(&self, request: RequestId) -> Option<Letter> {
        self.open.get(&request)?.sender().cloned()
    }

    pub(super) fn answer(&mut self, id: RequestId, answer: &Outcome) -> Option<Arc<Request>> {
        let request = self.open.remove(&id)?;
        self.gate.answered(id);
        match (&request.source, request.one_way) {
            // It was answered when it was taken.
            (Source::Instance(_), true) => drop(self.known.remove(&request.source)),
            _ => self.remember(request.source.clone(), answer.clone()),
        }
        self.answered_now.push(request.clone());
        Some(request)
    }

    /// A new turn: what was answered before it stays so.
    pub(super) fn begin_turn(&mut self) {
        self.answered_now.clear();
    }

    /// The host ends the turn under way: nothing was answered in it.
    pub(super) fn take_back(&mut self) {
        for request in std::mem::take(&mut self.answered_now) {
            self.answered.retain(|source| *source != request.source);
            self.letters.retain(|source| *source != request.source);
            self.open(&request);
        }
    }

    fn open(&mut self, request: &Arc<Request>) {
        self.known.insert(request.source.clone(), Known::Open(request.id));
        self.open.insert(request.id, request.clone());
    }

    fn remember(&mut self, source: Source, answer: Outcome) {
        if matches!(source, Source::Instance(_)) {
            self.letters.push(source.clone());
            self.known.insert(source, Known::Answered(answer));
            return;
        }
        self.answered_bytes += size_of_answer(&answer);
        self.known.insert(source.clone(), Known::Answered(answer));
        self.answered.push_back(source);
        // The last one stays, whatever its size.
        while self.answered.len() > ANSWERS_REMEMBERED
            || (self.answered_bytes > ANSWER_BYTES_REMEMBERED && self.answered.len() > 1)
        {
            let Some(oldest) = self.answered.pop_front() else { return };
            if let Some(Known::Answered(answer)) = self.known.remove(&oldest) {
                self.answered_bytes -= size_of_answer(&answer);
            }
        }
    }
}

/// In JSON an outcome is an object with the field `output` or `failure`.
pub(super) fn readable_outcome<S: serde::Serializer>(outcome: &Outcome, s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Readable<'a> {
        Output(&'a Payload),
        Failure(&'a Failure),
    }
    match outcome {
        outcome if !s.is_human_readable() => outcome.serialize(s),
        Ok(output) => Readable::Output(output).serialize(s),
        Err(failure) => Readable::Failure(failure).serialize(s),
    }
}

fn size_of_answer(answer: &Outcome) -> usize {
    match answer {
        Ok(output) => output.len(),
        Err(failure) => Failure::len(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: RequestId, key: &str) -> Arc<Request> {
        Arc::new(Request {
            id,
            kind: RequestKind::Update,
            name: "add".to_owned(),
            input: Payload::null(),
            source: Source::Outside(key.to_owned()),
            one_way: false,
        })
    }

    #[test]
    fn the_last_answers_are_remembered_in_their_order_and_in_bounds() {
        let mut requests = Requests::default();
        for n in 1..=1500 {
            let request = request(n, &n.to_string());
            requests.receive(&request);
            assert_eq!(requests.known(&request.source), Some(&Known::Open(n)));
            requests.answer(n, &Ok(Payload::json(n.to_string())));
        }
        let known = |n: u32| requests.known(&Source::Outside(n.to_string())).cloned();
        assert_eq!(known(500), None);
        assert_eq!(known(501), Some(Known::Answered(Ok(Payload::json("501")))));
        let (again, open) = Requests::of(&requests.carried());
        assert!(open.is_empty());
        assert_eq!(again.carried(), requests.carried());
        assert_eq!(again.next_id(), 1501);
    }

    #[test]
    fn large_answers_push_out_older_ones_and_the_last_one_stays() {
        let mut requests = Requests::default();
        for n in 1..=3 {
            requests.receive(&request(n, &n.to_string()));
            requests.answer(n, &Ok(Payload::json(vec![b' '; 2 << 20])));
        }
        assert_eq!(requests.carried().answered.len(), 1);
    }

    #[test]
    fn what_was_answered_in_a_turn_can_be_taken_back() {
        let mut requests = Requests::default();
        requests.receive(&request(1, "a"));
        requests.begin_turn();
        requests.answer(1, &Ok(Payload::null()));
        requests.take_back();
        assert_eq!(requests.known(&Source::Outside("a".to_owned())), Some(&Known::Open(1)));
        assert_eq!(requests.unanswered().count(), 1);
        assert!(requests.carried().answered.is_empty());
    }
}
