//! What guests ask for in live turns: counted, and interrupted where that is wanted.

use std::sync::{Arc, Mutex, Weak};

use dacapo::sandbox::interrupt::Interrupt;

use super::lock;
use super::store::WatchedStore;

/// What happens at the import at which a turn is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// The host lives, and runs the turn again later.
    PutOff,
    /// The host dies at that moment.
    Death,
}

/// The imports of a world's live turns, in the order in which they were called.
#[derive(Default)]
pub(crate) struct Imports(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    called: Vec<String>,
    interruption: Option<(usize, Interruption)>,
    is_interrupted: bool,
    store: Weak<WatchedStore>,
}

impl Imports {
    /// From now on, the import of that number (from 1) interrupts its turn.
    pub(crate) fn interrupt_at(&self, number: usize, how: Interruption) {
        lock(&self.0).interruption = Some((number, how));
    }

    /// What was called so far.
    pub(crate) fn called(&self) -> Vec<String> {
        lock(&self.0).called.clone()
    }

    /// Whether a turn was interrupted; once for each.
    pub(crate) fn take_interruption(&self) -> bool {
        std::mem::take(&mut lock(&self.0).is_interrupted)
    }

    pub(super) fn serve(&self, store: &Arc<WatchedStore>) {
        lock(&self.0).store = Arc::downgrade(store);
    }

    pub(super) fn interrupt(self: &Arc<Self>) -> Interrupt {
        let imports = self.clone();
        Interrupt::when(move |_, import| {
            let mut seen = lock(&imports.0);
            seen.called.push(import.to_owned());
            let called = seen.called.len();
            let Some((_, how)) = seen.interruption.take_if(|(number, _)| *number == called) else {
                return false;
            };
            seen.is_interrupted = true;
            let store = seen.store.upgrade();
            drop(seen);
            if how == Interruption::Death {
                store.expect("a guest runs on a host that has a store").die();
            }
            true
        })
    }
}
