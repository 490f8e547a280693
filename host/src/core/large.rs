//! Where the large payloads of an encoded turn stand, for a store that keeps them apart.
//!
//! Payloads are borrowed from the bytes they are read from, so where one was found says
//! where it is. That holds for payloads of every event there is and will be.

use std::cell::RefCell;
use std::ops::Range;

use super::turn::TurnRecord;

/// Payloads of up to so many bytes are never kept apart.
pub const SMALL_BYTES: usize = 1 << 10;

thread_local! {
    /// Address and length of the payloads that this thread reads; none: nobody wants to know.
    static SEEN: RefCell<Option<Vec<(usize, usize)>>> = const { RefCell::new(None) };
}

/// Notes a payload's bytes where they were read from.
pub(super) fn note(data: &[u8]) {
    if data.len() > SMALL_BYTES {
        SEEN.with_borrow_mut(|seen| {
            if let Some(seen) = seen {
                seen.push((data.as_ptr().addr(), data.len()));
            }
        });
    }
}

/// Where the payloads of more than `above` bytes ([`SMALL_BYTES`] at least) stand in
/// `turn`, which is an encoded [`TurnRecord`], in order. None in what is no turn.
pub fn places(turn: &[u8], above: usize) -> Vec<Range<usize>> {
    SEEN.set(Some(Vec::new()));
    let is_turn = TurnRecord::decode(turn).is_ok();
    let seen = SEEN.take().unwrap_or_default();
    let start = turn.as_ptr().addr();
    let large = seen.into_iter().filter(|(_, len)| is_turn && *len > above);
    let places = large.map(|(address, len)| address - start..address - start + len);
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::super::event::Event;
    use super::super::ids::{Hash, TimestampMs};
    use super::super::payload::{Failure, FailureKind, Payload};
    use super::*;

    #[test]
    fn every_large_payload_is_found_where_it_is() {
        let text = |byte: u8, len: usize| vec![byte; len];
        let details = Payload::json(text(b'd', 5000));
        let failure = Failure { details: Some(details), ..Failure::fatal(FailureKind::Application, "no") };
        let events = vec![
            Event::EventRaised { name: "small".to_owned(), value: Payload::json(text(b'a', 3000)) },
            Event::EventRaised { name: "large".to_owned(), value: Payload::json(text(b'a', 4000)) },
            Event::ActivityFailed { operation: 1, attempt: 1, failure },
            Event::Completed { output: Payload::json(text(b'e', 3001)) },
        ];
        let turn = TurnRecord { previous: Hash::ZERO, at: TimestampMs(1), ran: true, events }.encode();
        let found: Vec<_> = places(&turn, 3000).into_iter().map(|place| turn[place].to_vec()).collect();
        assert_eq!(found, [text(b'a', 4000), text(b'd', 5000), text(b'e', 3001)]);
        assert!(places(&turn[..turn.len() - 1], 3000).is_empty(), "half a turn");
        assert!(places(&turn, 5000).is_empty());
    }
}
