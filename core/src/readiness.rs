//! What the leader knows about a replica. Decisions that take something away from users act on
//! knowledge only: a replica that nobody has heard from may serve them.

use crate::ModelRevision;

/// Whether a replica answers, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaReadiness {
    /// Its node reports that it answers, with this revision.
    Ready(ModelRevision),
    /// Its node reports that it does not answer, or the node's time to report is over.
    NotReady,
    /// Its node has not reported yet since the link to it came up, or since its link was lost. The
    /// replica may answer.
    Unknown,
    /// Its node has not reported for so long, although it is linked to another controller, that nothing
    /// waits for it any more. The replica counts as one that does not answer.
    Unreachable,
}

impl ReplicaReadiness {
    /// Returns whether the replica is known to answer.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// Returns whether the replica answers or may answer.
    #[must_use]
    pub fn may_answer(self) -> bool {
        matches!(self, Self::Ready(_) | Self::Unknown)
    }

    /// Returns whether the replica is known to answer with this revision.
    #[must_use]
    pub fn serves(self, revision: ModelRevision) -> bool {
        self == Self::Ready(revision)
    }
}
