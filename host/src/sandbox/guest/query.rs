//! A query: the guest's state is asked, and then thrown away.
//!
//! Whatever the export changed in memory is gone with the guest, so a query can
//! change nothing; every import but `info` and `log` traps, so it can ask for
//! nothing either.

use super::{Exports, Guest, failure_of};
use crate::core::payload::{Outcome, Payload};
use crate::core::turn::LogLine;

impl Guest {
    /// Asks the guest for `name`, with what it logged. A trap or an exhausted
    /// budget is a failure of this query and of nothing else.
    pub fn query(mut self, name: &str, input: Payload) -> (Outcome, Vec<LogLine>) {
        let state = self.store.data_mut();
        state.calling = "query";
        if let Some(recorder) = &mut state.recorder {
            recorder.logs.clear();
            recorder.raw_logs = true;
        }
        self.store.set_epoch_deadline(self.budget_ticks);
        let (store, input) = (&mut self.store, input.into());
        let answered = match &mut self.exports {
            Exports::Component(guest) => guest.dacapo_workflow_guest().call_query(store, name, &input),
            Exports::Direct(guest) => guest.query(store, name, &input),
        };
        let answer = match answered {
            Ok(Ok(answer)) => Ok(answer.into()),
            Ok(Err(failure)) => Err(failure.into()),
            Err(error) => Err(failure_of(&error)),
        };
        let logs = self.store.into_data().recorder.map(|recorder| recorder.logs).unwrap_or_default();
        (answer, logs)
    }
}
