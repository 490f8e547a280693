//! The life of an instance as a whole, as a host can ask for it: held and let go,
//! begun anew.

use super::turns::Inbound;
use super::{Engine, EngineError, IdReuse};
use crate::core::ids::InstanceId;
use crate::core::summary::Status;

impl IdReuse {
    /// Whether a start with this policy takes the place of an instance that stands
    /// so.
    pub(super) fn replaces(self, status: Status) -> bool {
        match self {
            Self::Reject | Self::ReturnExisting => false,
            Self::ReplaceFinished => status.is_final(),
            Self::TerminateAndReplace => true,
        }
    }
}

impl Engine {
    /// Holds an instance: completions, events and fired timers are recorded and
    /// kept, nothing of it is run and no further attempt of an activity begins.
    /// An attempt that had begun goes on. Durable when this returns; one that is
    /// suspended already stays so.
    ///
    /// # Errors
    /// If the instance is unknown or has ended.
    pub async fn suspend(&self, id: &InstanceId, reason: &str) -> Result<(), EngineError> {
        let reason = reason.to_owned();
        self.tell(id, |reply| Inbound::Hold { suspend: true, reason, reply }).await
    }

    /// Lets a suspended instance go on with all that has come in. Durable when
    /// this returns; one that is not suspended is left as it is.
    ///
    /// # Errors
    /// If the instance is unknown or has ended.
    pub async fn resume(&self, id: &InstanceId, reason: &str) -> Result<(), EngineError> {
        let reason = reason.to_owned();
        self.tell(id, |reply| Inbound::Hold { suspend: false, reason, reply }).await
    }
}
