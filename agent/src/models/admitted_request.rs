//! A request that was admitted by the queue of its model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::QueueKey;
use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{AnswerTiming, RequestError, Usage};

use super::ServedModel;
use super::admission_queue::Permit;
use crate::energy_accounting::LedgerEntry;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestEnd {
    /// It was dropped before its answer was complete, usually because the client disconnected.
    Cancelled,
    /// Its answer is complete.
    Complete,
    /// The engine failed.
    Failed,
}

/// A request that is being computed. Dropping it gives its permit back and counts how it ended.
pub struct AdmittedRequest {
    served: Arc<ServedModel>,
    end: RequestEnd,
    started: Instant,
    permit: Permit,
    energy: LedgerEntry,
}

impl ServedModel {
    /// Waits in the queue until the request may be computed. Dropping the future leaves the queue.
    /// `deadline` is the longest wait; `None` waits without a limit.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when the queue is full, [`RequestError::DeadlineUnmet`] after the
    /// deadline, [`RequestError::Unavailable`] when the model is being unloaded.
    pub async fn admit(
        self: Arc<Self>,
        queue_key: QueueKey,
        deadline: Option<Duration>,
    ) -> Result<AdmittedRequest, RequestError> {
        match self.queue.clone().acquire(queue_key, deadline).await {
            Ok(permit) => {
                self.live_counters().add_wait(permit.waited);
                Ok(AdmittedRequest::new(self, permit))
            }
            Err(error) => {
                if matches!(error, RequestError::Overloaded { .. }) {
                    self.live_counters().add_refused();
                }
                Err(error)
            }
        }
    }
}

impl AdmittedRequest {
    fn new(served: Arc<ServedModel>, permit: Permit) -> Self {
        served.live_counters().add_request();
        Self {
            energy: served.start_accounting(),
            served,
            end: RequestEnd::Cancelled,
            started: Instant::now(),
            permit,
        }
    }

    /// Ends the request as failed.
    pub fn fail(mut self) {
        self.mark_failed();
    }

    /// Ends a request that has no output tokens, such as one for embeddings, and returns its energy.
    pub fn complete(mut self, prompt_tokens: u32) -> EnergyUsage {
        self.served.live_counters().add_tokens(prompt_tokens, 0);
        self.end = RequestEnd::Complete;
        self.end_accounting(0)
    }

    /// Counts one output token.
    pub(super) fn count_token(&self) {
        self.served.live_counters().add_tokens(0, 1);
        self.energy.record_token();
    }

    /// Records that the engine failed.
    pub(super) fn mark_failed(&mut self) {
        self.end = RequestEnd::Failed;
    }

    /// Ends a generation and completes its usage with timing and energy. `counted` output tokens were
    /// counted before; `first_token` is the time to the first one.
    pub(super) fn complete_usage(
        &mut self,
        usage: &mut Usage,
        counted: u32,
        first_token: Option<Duration>,
    ) {
        let uncounted = usage.completion_tokens.saturating_sub(counted);
        self.served
            .live_counters()
            .add_tokens(usage.prompt_tokens, uncounted);
        let timing = self.timing(first_token);
        self.served.record_timing(timing);
        usage.timing = Some(timing);
        usage.energy = Some(self.end_accounting(usage.completion_tokens));
        self.end = RequestEnd::Complete;
    }

    /// Time since the request was admitted.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn timing(&self, first_token: Option<Duration>) -> AnswerTiming {
        let computed = self.elapsed();
        let prefill = first_token.unwrap_or(computed);
        AnswerTiming {
            queued: self.permit.waited,
            prefill,
            decode: computed.saturating_sub(prefill),
        }
    }

    fn end_accounting(&mut self, output_tokens: u32) -> EnergyUsage {
        let usage = self.energy.settle(output_tokens);
        self.served.live_counters().add_energy(usage);
        usage
    }
}

impl Drop for AdmittedRequest {
    fn drop(&mut self) {
        match self.end {
            RequestEnd::Complete => {}
            RequestEnd::Cancelled => self.served.live_counters().add_cancelled(),
            RequestEnd::Failed => self.served.live_counters().add_failed(),
        }
        if self.end != RequestEnd::Complete {
            // The energy was spent although there is no answer.
            self.end_accounting(0);
        }
        self.served.live_counters().add_busy(self.elapsed());
    }
}
