//! The recorder's part that answers requests.

use super::{Recorder, Stop, too_large};
use crate::core::event::Event;
use crate::core::payload::{Failure, FailureKind, Outcome};
use crate::core::request::RequestId;

impl Recorder {
    /// The guest answers a request. An answer over the limit is replaced by a
    /// failure that says so.
    ///
    /// # Errors
    /// If no such request waits for an answer: the guest broke the contract.
    pub fn respond(&mut self, request: RequestId, answer: Outcome) -> Result<(), Stop> {
        let Some(asked) = self.execution.requests.get(request) else {
            let message = format!("respond: no request {request} waits for an answer");
            return Err(Stop::Failed(Failure::fatal(FailureKind::Trapped, message)));
        };
        let what = format!("the answer to {}", asked.name);
        let answer = match answer {
            Ok(output) => match too_large(&what, output.len(), self.limits.payload_bytes) {
                Some(failure) => Err(failure),
                None => Ok(output),
            },
            Err(failure) => Err(self.fitting(failure)),
        };
        self.answer(Event::Responded { request, answer }, same_answer).map(drop)
    }
}

/// Another host may have another limit: then what was recorded counts.
fn same_answer(recorded: &Event, asked: &Event) -> bool {
    match (recorded, asked) {
        (Event::Responded { request: a, answer: recorded }, Event::Responded { request: b, answer: asked }) => {
            let too_large = |answer: &Outcome| matches!(answer, Err(failure) if failure.kind == FailureKind::TooLarge);
            a == b && (recorded == asked || too_large(recorded) || too_large(asked))
        }
        _ => false,
    }
}
