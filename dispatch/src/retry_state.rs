//! Which replicas one request has tried, how they failed, and when they may be tried again.

use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;
use flotilla_core::routing::{MAX_FAILED_ATTEMPTS, RejectedCandidate, retry_backoff};
use flotilla_core::{ModelRevision, NodeName};

use crate::ReplicaView;
use crate::attempt::NodeReached;

/// Processes of models that may end under one request, the first included: the request may be the reason.
const MAX_ENDED_PROCESSES: usize = 3;
/// Connections that may be lost under one request: those of a whole site are when its line breaks.
const MAX_LOST_CONNECTIONS: usize = 16;
/// Failed attempts that are recorded.
const MAX_RECORDED: usize = 8;

/// Which replicas one request has tried, how they failed, and when they may be tried again.
#[derive(Debug, Default)]
pub(crate) struct RetryState {
    /// Requests that were sent to replicas.
    attempts: u32,
    /// Attempts that failed.
    failures: u32,
    /// Processes of models that ended under the request.
    ended_processes: usize,
    /// Connections that were lost under the request.
    lost_connections: usize,
    failed: Vec<FailedReplica>,
    errors: Vec<RejectedCandidate>,
    last_error: Option<RequestError>,
}

/// A replica that failed. After an update of the model it counts as another one.
#[derive(Debug)]
struct FailedReplica {
    /// The index of the model in the plan.
    model: usize,
    node: NodeName,
    revision: ModelRevision,
    /// The time from which on it may be tried again. `None`: not for this request.
    retry_at: Option<Instant>,
    /// Whether the request may have reached the node.
    sent: bool,
}

impl FailedReplica {
    fn is(&self, model: usize, replica: &ReplicaView) -> bool {
        self.model == model && self.node == replica.node && self.revision == replica.revision
    }
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct FailedAttempt<'a> {
    /// The index of the model in the plan.
    pub(crate) model: usize,
    pub(crate) replica: &'a ReplicaView,
    /// The attempt in the decision record.
    pub(crate) rejected: RejectedCandidate,
    pub(crate) error: RequestError,
    /// How far the request came. One that was not sent is repeated without a limit, as gRPC does.
    pub(crate) reached: NodeReached,
    /// Attempts of the request that nodes have answered with an error, with all models of the plan.
    pub(crate) refused_attempts: u32,
    /// Whether the model's budget of retries is used up: then the replica is not tried again.
    pub(crate) throttled: bool,
    /// A random number, 0 to 1, which spreads requests that failed together.
    pub(crate) jitter: f32,
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

    /// Returns whether a replica of the plan's model at index `model` has failed and may not be tried again
    /// at the time `now`.
    pub(crate) fn has_failed(&self, model: usize, replica: &ReplicaView, now: Instant) -> bool {
        let mut failed = self.failed.iter().filter(|one| one.is(model, replica));
        failed.any(|one| one.retry_at.is_none_or(|at| now < at))
    }

    /// Returns whether a replica of the plan's model at index `model` has failed after the request may have
    /// reached it.
    pub(crate) fn is_repeat(&self, model: usize, replica: &ReplicaView) -> bool {
        let mut failed = self.failed.iter().filter(|one| one.is(model, replica));
        failed.any(|one| one.sent)
    }

    /// Records that a replica that failed is not tried again.
    pub(crate) fn rule_out(&mut self, model: usize, replica: &ReplicaView) {
        let failed = self.failed.iter_mut();
        for failed in failed.filter(|one| one.is(model, replica)) {
            failed.retry_at = None;
        }
    }

    /// The earliest time after `now` at which a replica that failed may be tried again. `None`: none may.
    pub(crate) fn next_retry(&self, now: Instant) -> Option<Instant> {
        let times = self.failed.iter().filter_map(|one| one.retry_at);
        times.filter(|at| now < *at).min()
    }

    /// Records a failed attempt at the time `now`. Another replica may answer at once, and this one after
    /// its back-off, except that a replica that is full, or of a model without a budget of retries, is not
    /// asked again.
    ///
    /// # Errors
    /// The error itself, when the request may not be sent again.
    pub(crate) fn record_failure(
        &mut self,
        attempt: FailedAttempt<'_>,
        now: Instant,
    ) -> Result<(), RequestError> {
        let FailedAttempt {
            model,
            replica,
            rejected,
            error,
            reached,
            refused_attempts,
            throttled,
            jitter,
        } = attempt;
        self.failures += 1;
        match reached {
            NodeReached::No => {}
            NodeReached::ConnectionLost => self.lost_connections += 1,
            NodeReached::Answered => {
                self.ended_processes += usize::from(matches!(error, RequestError::NodeLost(_)));
            }
        }
        if self.errors.len() < MAX_RECORDED {
            self.errors.push(rejected);
        }
        let too_many = refused_attempts >= MAX_FAILED_ATTEMPTS
            || self.ended_processes >= MAX_ENDED_PROCESSES
            || self.lost_connections >= MAX_LOST_CONNECTIONS;
        if !error.is_retryable() || too_many {
            return Err(error);
        }
        let backoff = |retry_after| retry_backoff(self.failures, retry_after, jitter);
        let backoff: Option<Duration> = match &error {
            _ if throttled => None,
            RequestError::Overloaded { .. } => None,
            RequestError::Unavailable { retry_after, .. } => backoff(*retry_after),
            _ => backoff(None),
        };
        self.failed.retain(|one| !one.is(model, replica));
        self.failed.push(FailedReplica {
            model,
            node: replica.node.clone(),
            revision: replica.revision,
            retry_at: backoff.and_then(|backoff| now.checked_add(backoff)),
            sent: reached != NodeReached::No,
        });
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
