//! Which replicas one request has tried, and how they failed.

use flotilla_core::NodeName;
use flotilla_core::generate::RequestError;
use flotilla_core::routing::RejectedCandidate;

use crate::ReplicaView;

/// Nodes that may be lost under one request, the first included.
const MAX_LOST_NODES: usize = 3;
/// Failed attempts that are recorded.
const MAX_RECORDED: usize = 8;

/// Which replicas one request has tried, and how they failed.
#[derive(Debug, Default)]
pub(crate) struct RetryState {
    /// Requests that were sent to replicas.
    attempts: u32,
    /// Nodes that were lost under the request.
    lost_nodes: usize,
    /// Replicas that failed: the index of the model in the plan, and the node. Forgotten when the view
    /// changes, because the node may have another replica then.
    failed: Vec<(usize, NodeName)>,
    /// The generation of the view that `failed` belongs to.
    generation: u64,
    errors: Vec<RejectedCandidate>,
    last_error: Option<RequestError>,
}

impl RetryState {
    /// Counts an attempt.
    pub(crate) fn count_attempt(&mut self) {
        self.attempts += 1;
    }

    /// The attempts so far.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Takes the number of attempts beyond the first and the `hedges`, once.
    pub(crate) fn take_retries(&mut self, hedges: usize) -> u32 {
        let hedges = u32::try_from(hedges).unwrap_or(u32::MAX);
        std::mem::take(&mut self.attempts).saturating_sub(hedges.saturating_add(1))
    }

    /// Forgets the failed replicas if they belong to an earlier view.
    pub(crate) fn use_view(&mut self, generation: u64) {
        if generation != self.generation {
            self.generation = generation;
            self.failed.clear();
        }
    }

    /// Returns whether a replica of the plan's model at index `model` has failed.
    pub(crate) fn has_failed(&self, model: usize, replica: &ReplicaView) -> bool {
        let mut failed = self.failed.iter();
        failed.any(|(index, node)| *index == model && *node == replica.node)
    }

    /// Records that a replica of the plan's model at index `model` failed.
    ///
    /// # Errors
    /// The error itself, when no other replica can do better.
    pub(crate) fn record_failure(
        &mut self,
        model: usize,
        rejected: RejectedCandidate,
        error: RequestError,
    ) -> Result<(), RequestError> {
        self.lost_nodes += usize::from(matches!(error, RequestError::NodeLost(_)));
        let node = rejected.node.clone();
        if self.errors.len() < MAX_RECORDED {
            self.errors.push(rejected);
        }
        if !error.is_retryable() || self.lost_nodes >= MAX_LOST_NODES {
            return Err(error);
        }
        self.failed.extend(node.map(|node| (model, node)));
        self.last_error = Some(error);
        Ok(())
    }

    /// Takes the failed attempts for the decision record.
    pub(crate) fn take_errors(&mut self) -> Vec<RejectedCandidate> {
        std::mem::take(&mut self.errors)
    }

    /// Returns whether the last replica refused the request because it was full.
    pub(crate) fn last_was_overloaded(&self) -> bool {
        matches!(self.last_error, Some(RequestError::Overloaded { .. }))
    }

    /// Takes the error of the last failed attempt.
    pub(crate) fn take_last_error(&mut self) -> Option<RequestError> {
        self.last_error.take()
    }
}
