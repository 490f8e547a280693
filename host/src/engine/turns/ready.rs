//! Who runs next.
//!
//! A worker with more to do than it can must finish what it has begun. A guest that is
//! made costs several times what a turn of one in memory does, and more than that where no
//! guest has been before and the system has yet to give it pages. A worker that made all
//! that came in before it looked at those at work would have more and more of them, each of
//! which waits for the others, until none has room; and it would go on so long after
//! less comes in.

use std::collections::VecDeque;

use crate::core::ids::InstanceId;

/// Those without a guest fill a round up to so many: as many as wait for nothing but them,
/// and few where many are at work.
const ROUND: usize = 64;

/// So many of them are in a round however many are at work, so that they run at all.
const LEAST_BARE: usize = 8;

/// After so many rounds in a row in which one was put off, the worker waits until guests may leave.
const PATIENCE: u32 = 16;

/// Instances whose timers are taken before those before them have run: the others stay
/// what they are, an entry among the timers.
const DUE_AT_ONCE: usize = 512;

/// Why an instance is to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Something came in for it.
    CameIn,
    /// A timer of it is due.
    Due,
}

/// Instances that are to run a turn, the first to come first. One that waits for room comes
/// again among the others when something came in that is to be recorded.
#[derive(Default)]
pub(super) struct Ready {
    /// Their guests are in memory.
    resident: VecDeque<InstanceId>,
    /// Their guests are not, and could not be made: there was no room, for them or for one
    /// before them, or not all of their history was durable.
    crowded: VecDeque<(InstanceId, Why)>,
    /// Their guests have to be made, if they need them.
    bare: VecDeque<(InstanceId, Why)>,
    /// How many of those without a guest are due.
    due: usize,
    /// Why the one runs that was taken last, if it has no guest.
    last: Option<Why>,
    /// The one that was taken last waited for room.
    is_of_crowded: bool,
    /// One was put off in this round.
    is_crowded: bool,
    /// Rounds in which one was put off, one after the other.
    rounds_crowded: u32,
}

impl Ready {
    pub(super) fn push(&mut self, id: InstanceId, why: Why, is_resident: bool) {
        if is_resident {
            self.resident.push_back(id);
        } else {
            self.due += usize::from(why == Why::Due);
            self.bare.push_back((id, why));
        }
    }

    /// Whether timers may add one more.
    pub(super) fn takes_due(&self) -> bool {
        self.due < DUE_AT_ONCE
    }

    /// Whether there is one that can be run before anything else comes in.
    pub(super) fn is_any(&self) -> bool {
        !self.resident.is_empty() || !self.bare.is_empty() || !self.crowded.is_empty() && !self.is_crowded
    }

    /// Those that are run before the worker looks at what came in meanwhile.
    pub(super) fn round(&mut self) -> Round {
        self.rounds_crowded = if self.is_crowded { self.rounds_crowded + 1 } else { 0 };
        self.is_crowded = false;
        let resident = self.resident.len();
        let without = self.crowded.len() + self.bare.len();
        Round { resident, without: without.min(ROUND.saturating_sub(resident).max(LEAST_BARE)) }
    }

    /// The next one of a round.
    pub(super) fn next(&mut self, round: &mut Round) -> Option<InstanceId> {
        if round.resident > 0 {
            round.resident -= 1;
            (self.last, self.is_of_crowded) = (None, false);
            return self.resident.pop_front();
        }
        if round.without == 0 {
            return None;
        }
        round.without -= 1;
        let crowded = if self.is_crowded { None } else { self.crowded.pop_front() };
        self.is_of_crowded = crowded.is_some();
        let (id, why) = crowded.or_else(|| self.bare.pop_front())?;
        self.due -= usize::from(why == Why::Due);
        self.last = Some(why);
        Some(id)
    }

    /// Whether the one that was taken last waited for room: it does no more.
    pub(super) fn is_of_crowded(&self) -> bool {
        self.is_of_crowded
    }

    /// Whether one did not find room in this round: no other is to look for it.
    pub(super) fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// Whether there has been no room for so long that it has to be made.
    pub(super) fn is_crowded_for_long(&self) -> bool {
        self.rounds_crowded >= PATIENCE
    }

    /// There is no room for the guest of the one that runs now: it is tried before others
    /// in the next round. None: it waits for room already.
    pub(super) fn put_off(&mut self, id: Option<InstanceId>) {
        let first = !std::mem::replace(&mut self.is_crowded, true);
        let Some(id) = id else { return };
        let why = self.last.unwrap_or(Why::CameIn);
        self.due += usize::from(why == Why::Due);
        if first && self.is_of_crowded {
            self.crowded.push_front((id, why));
        } else {
            self.crowded.push_back((id, why));
        }
    }
}

/// How many are left of a round.
pub(super) struct Round {
    resident: usize,
    without: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(ready: &mut Ready) -> Vec<String> {
        let mut round = ready.round();
        std::iter::from_fn(|| ready.next(&mut round)).map(|id| id.to_string()).collect()
    }

    fn id(name: &str) -> InstanceId {
        InstanceId::new(name).unwrap()
    }

    fn push(ready: &mut Ready, many: usize, name: &str, is_resident: bool) {
        (0..many).for_each(|n| ready.push(id(&format!("{name}-{n}")), Why::CameIn, is_resident));
    }

    #[test]
    fn those_in_memory_go_first_and_the_others_fill_the_round() {
        let mut ready = Ready::default();
        push(&mut ready, 2 * ROUND, "new", false);
        push(&mut ready, 3, "at-work", true);
        let first = ran(&mut ready);
        assert_eq!((first.len(), &first[2..4]), (ROUND, ["at-work-2".to_owned(), "new-0".to_owned()].as_slice()));
        assert_eq!(ran(&mut ready).len(), ROUND, "nobody is at work");
        assert_eq!(ran(&mut ready).len(), 3);
        assert!(!ready.is_any());
    }

    #[test]
    fn some_of_the_others_run_however_many_are_at_work() {
        let mut ready = Ready::default();
        push(&mut ready, ROUND, "new", false);
        for round in 1..=ROUND / LEAST_BARE {
            push(&mut ready, 10 * ROUND, "at-work", true);
            assert_eq!(ran(&mut ready).len(), 10 * ROUND + LEAST_BARE, "round {round}");
        }
        assert!(!ready.is_any());
    }

    #[test]
    fn timers_add_no_more_than_are_run_before_long() {
        let mut ready = Ready::default();
        ready.push(id("new"), Why::CameIn, false);
        let mut due = 0;
        while ready.takes_due() {
            ready.push(id(&format!("due-{due}")), Why::Due, false);
            due += 1;
        }
        assert_eq!((due, ran(&mut ready).len(), ready.takes_due()), (DUE_AT_ONCE, ROUND, true));
    }

    #[test]
    fn without_room_those_that_need_it_wait_for_those_at_work() {
        let mut ready = Ready::default();
        push(&mut ready, 3, "new", false);
        let mut round = ready.round();
        while let Some(new) = ready.next(&mut round) {
            ready.put_off(Some(new));
        }
        assert!(!ready.is_any(), "nothing is tried again until something comes in");
        ready.push(id("cancelled"), Why::CameIn, false);
        let mut round = ready.round();
        let first = ready.next(&mut round).unwrap();
        assert_eq!(first, id("new-0"), "the first to come is the first to be tried");
        ready.put_off(Some(first));
        assert_eq!(ready.next(&mut round), Some(id("cancelled")), "it may need no room");
        assert_eq!(ready.next(&mut round), None);
        push(&mut ready, 1, "at-work", true);
        assert_eq!(ran(&mut ready), ["at-work-0", "new-0", "new-1", "new-2"]);
    }

    #[test]
    fn what_comes_in_for_one_that_waits_for_room_does_not_make_it_wait_twice() {
        let mut ready = Ready::default();
        push(&mut ready, 2, "new", false);
        let mut round = ready.round();
        while let Some(new) = ready.next(&mut round) {
            assert!(!ready.is_of_crowded());
            ready.put_off(Some(new));
        }
        ready.push(id("new-1"), Why::CameIn, false);
        let mut round = ready.round();
        let first = ready.next(&mut round).unwrap();
        assert!(ready.is_of_crowded());
        ready.put_off(Some(first));
        assert_eq!((ready.next(&mut round), ready.is_of_crowded()), (Some(id("new-1")), false), "to be recorded");
        ready.put_off(None);
        assert_eq!(ran(&mut ready), ["new-0", "new-1"]);
        assert!(!ready.is_any());
    }

    #[test]
    fn one_that_finds_no_room_for_long_gets_it() {
        let mut ready = Ready::default();
        ready.push(id("due"), Why::Due, false);
        for round in 0..PATIENCE {
            assert!(!ready.is_crowded_for_long(), "round {round}");
            let mut round = ready.round();
            let due = ready.next(&mut round).unwrap();
            ready.put_off(Some(due));
            assert_eq!(ready.due, 1);
        }
        let mut round = ready.round();
        assert!(ready.next(&mut round).is_some() && ready.is_crowded_for_long());
        ready.round();
        assert!(!ready.is_crowded_for_long() && ready.due == 0);
    }
}
