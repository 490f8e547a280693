//! Interrupting a guest in the middle of a turn, between two things that it asks for.
//!
//! That is trouble of the host, not of the guest: the turn is abandoned, nothing that
//! it asked for is recorded or let out, and it is run again later, by this host or by
//! the next. A host uses it to get a turn off its hands; tests use it to show that no
//! place in a turn is special.

use std::fmt;
use std::sync::Arc;

use crate::core::ids::InstanceId;

type Decide = dyn Fn(&InstanceId, &str) -> bool + Send + Sync;

/// Says at which import a live turn is abandoned. The default: at none.
#[derive(Clone, Default)]
pub struct Interrupt(Option<Arc<Decide>>);

impl Interrupt {
    /// Abandons a turn where `decide` says so: it is asked, with the instance and the
    /// import's name (`call-activity`), before each import is answered. Never at a
    /// replay or in a query.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// use dacapo::sandbox::interrupt::Interrupt;
    /// use dacapo::sandbox::settings::SandboxSettings;
    ///
    /// let leaving = Arc::new(AtomicBool::new(false));
    /// let asked = leaving.clone();
    /// let interrupt = Interrupt::when(move |_instance, _import| asked.load(Ordering::Relaxed));
    /// let settings = SandboxSettings { interrupt, ..SandboxSettings::default() };
    /// # let _ = settings;
    /// ```
    pub fn when(decide: impl Fn(&InstanceId, &str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(decide)))
    }

    /// Whether the turn of `instance` is to be abandoned before `import` is answered.
    pub(super) fn at(&self, instance: &InstanceId, import: &str) -> bool {
        self.0.as_ref().is_some_and(|decide| decide(instance, import))
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Interrupt(when asked)" } else { "Interrupt(never)" })
    }
}
