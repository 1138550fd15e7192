//! A decision in its slot of the log, shared with the recorder of its outcome.

use std::sync::OnceLock;

use flotilla_core::routing::{RequestOutcome, RoutingDecision};

/// A decision in its slot.
pub(crate) struct StoredDecision {
    /// The number of the decision, which its id ends with.
    pub(crate) number: u64,
    /// When the decision was recorded, in milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) decision: RoutingDecision,
    /// Set once, when the request ends.
    pub(crate) outcome: OnceLock<RequestOutcome>,
}
