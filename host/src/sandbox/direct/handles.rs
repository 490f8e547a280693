//! The handles of a guest that is called directly, numbered as the component's runtime numbers
//! them: from 1, and the one given back last is given again first.

use wasmtime::{Result, bail};

/// More than this at a time are refused, as by the component's runtime.
const MOST: usize = 100_000;

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdin,
    Stdout,
    Stderr,
    Pollable,
}

impl Kind {
    /// The resource that it is, by its name in WASI.
    fn resource(self) -> &'static str {
        match self {
            Self::Stdin => "input-stream",
            Self::Stdout | Self::Stderr => "output-stream",
            Self::Pollable => "pollable",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Held(Kind),
    /// Which slot is given after this one.
    Free(usize),
}

#[derive(Debug, Default)]
pub(super) struct Handles {
    slots: Vec<Slot>,
    /// The slot that is given next.
    next: usize,
    held: usize,
}

impl Handles {
    pub(super) fn give(&mut self, kind: Kind) -> Result<u32> {
        if self.held == MOST {
            bail!("a guest may hold {MOST} handles at a time");
        }
        self.held += 1;
        let slot = self.next;
        match self.slots.get_mut(slot) {
            Some(free) => {
                let Slot::Free(next) = std::mem::replace(free, Slot::Held(kind)) else { unreachable!("it is free") };
                self.next = next;
            }
            None => {
                self.slots.push(Slot::Held(kind));
                self.next = slot + 1;
            }
        }
        Ok(slot as u32 + 1)
    }

    /// What that handle is, which must be of the resource named.
    pub(super) fn held(&self, handle: u32, resource: &str) -> Result<Kind> {
        match (handle as usize).checked_sub(1).and_then(|slot| self.slots.get(slot)) {
            Some(Slot::Held(kind)) if kind.resource() == resource => Ok(*kind),
            _ => bail!("there is no {resource} with the handle {handle}"),
        }
    }

    /// The same for the time of a call, during which it counts as one more that is held.
    pub(super) fn lent(&self, handle: u32, resource: &str) -> Result<Kind> {
        if self.held == MOST {
            bail!("a guest that holds {MOST} handles can use none of them");
        }
        self.held(handle, resource)
    }

    pub(super) fn give_back(&mut self, handle: u32, resource: &str) -> Result<()> {
        self.held(handle, resource)?;
        self.held -= 1;
        let slot = handle as usize - 1;
        self.slots[slot] = Slot::Free(self.next);
        self.next = slot;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handle_given_back_last_is_given_again_first() {
        let mut handles = Handles::default();
        let given: Vec<u32> = (0..3).map(|_| handles.give(Kind::Stdout).unwrap()).collect();
        assert_eq!(given, [1, 2, 3]);
        handles.give_back(1, "output-stream").unwrap();
        handles.give_back(3, "output-stream").unwrap();
        let again: Vec<u32> = (0..3).map(|_| handles.give(Kind::Pollable).unwrap()).collect();
        assert_eq!(again, [3, 1, 4]);
        assert_eq!(handles.held(2, "output-stream").unwrap(), Kind::Stdout);
    }

    #[test]
    fn a_handle_that_is_not_held_or_of_another_kind_is_refused() {
        let mut handles = Handles::default();
        let stdin = handles.give(Kind::Stdin).unwrap();
        for (handle, resource) in [(0, "input-stream"), (2, "input-stream"), (stdin, "output-stream")] {
            assert!(handles.give_back(handle, resource).is_err(), "{handle} {resource}");
        }
        handles.give_back(stdin, "input-stream").unwrap();
        assert!(handles.give_back(stdin, "input-stream").is_err());
    }
}
