//! A decision in its slot of the log, shared with the recorder of its outcome and with feedback on it.

use std::sync::OnceLock;

use flotilla_core::dataset::Feedback;
use flotilla_core::routing::{RequestOutcome, RoutingDecision};
use parking_lot::Mutex;

/// A decision in its slot.
pub(crate) struct StoredDecision {
    /// The number of the decision, which its id ends with.
    pub(crate) number: u64,
    /// When the decision was recorded, in milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) decision: RoutingDecision,
    /// Set once, when the request ends.
    pub(crate) outcome: OnceLock<RequestOutcome>,
    /// Whether the task's dataset has a record of the request. Locked while a record or its removal is
    /// handed over, so that feedback and the end of the answer cannot overtake each other.
    pub(crate) record: Mutex<RecordState>,
}

/// Whether a dataset has a record of a request.
#[derive(Debug, Default)]
pub(crate) enum RecordState {
    /// It has none yet.
    #[default]
    NotKept,
    /// It has one, with the latest feedback.
    Kept(Option<Feedback>),
    /// It must have none: feedback says that the request belongs to a task with privacy zones.
    Forbidden,
}
