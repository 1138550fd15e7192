//! A request that was admitted by the queue of its model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::QueueKey;
use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{AnswerTiming, EmbedRequest, Embeddings, RequestError, Usage};

use tokio_util::sync::WaitForCancellationFutureOwned;

use super::admission_queue::{Permit, SplitRequest};
use super::{ServedModel, SpentEnergy};
use crate::energy_accounting::LedgerEntry;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestEnd {
    /// It was dropped before its answer was complete, usually because the client disconnected.
    Cancelled,
    /// Its answer is complete.
    Complete,
    /// It failed.
    Failed,
}

/// Which turn of its request an admitted one is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TurnPosition {
    /// The request has no other.
    Only,
    /// Others follow.
    First,
    Later,
}

/// A request, or one turn of it, that is being computed. Dropping it gives its permit back and counts how
/// it ended.
pub struct AdmittedRequest {
    served: Arc<ServedModel>,
    turn: TurnPosition,
    end: RequestEnd,
    started: Instant,
    permit: Permit,
    energy: LedgerEntry,
    spent: SpentEnergy,
}

/// A request with several turns, of which the first has been admitted. Dropping it counts how the request
/// ended.
pub(crate) struct AdmittedSplit {
    served: Arc<ServedModel>,
    split: Arc<SplitRequest>,
    end: RequestEnd,
    spent: SpentEnergy,
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
        let spent = SpentEnergy::default();
        self.admit_charging(queue_key, deadline, spent).await
    }

    /// Admits as [`Self::admit`] does. What the request takes is added to `spent`.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub(crate) async fn admit_charging(
        self: Arc<Self>,
        queue_key: QueueKey,
        deadline: Option<Duration>,
        spent: SpentEnergy,
    ) -> Result<AdmittedRequest, RequestError> {
        let permit = self.acquire(queue_key, deadline).await?;
        Ok(AdmittedRequest::new(
            self,
            permit,
            TurnPosition::Only,
            spent,
        ))
    }

    /// Waits as [`Self::admit`] does, for a request that has several turns. Returns its first turn, and the
    /// request, which admits the others. What they take is added to `spent`.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub(crate) async fn admit_first_turn(
        self: Arc<Self>,
        queue_key: QueueKey,
        deadline: Option<Duration>,
        spent: SpentEnergy,
    ) -> Result<(AdmittedRequest, AdmittedSplit), RequestError> {
        let mut permit = self.acquire(queue_key, deadline).await?;
        let split = AdmittedSplit {
            split: Arc::new(permit.split(queue_key)),
            served: self.clone(),
            end: RequestEnd::Cancelled,
            spent: spent.clone(),
        };
        let first = AdmittedRequest::new(self, permit, TurnPosition::First, spent);
        Ok((first, split))
    }

    async fn acquire(
        &self,
        queue_key: QueueKey,
        deadline: Option<Duration>,
    ) -> Result<Permit, RequestError> {
        let acquired = self.queue.clone().acquire(queue_key, deadline).await;
        match &acquired {
            Ok(permit) => self.live_counters().add_wait(permit.waited),
            Err(RequestError::Overloaded { .. }) => self.live_counters().add_refused(),
            Err(_) => {}
        }
        acquired
    }
}

impl AdmittedSplit {
    /// Waits in the queue until the next turn may be computed. Call it for one turn at a time. Dropping the
    /// future leaves the queue. `deadline` is the longest wait; `None` waits without a limit.
    ///
    /// # Errors
    /// [`RequestError::DeadlineUnmet`] after the deadline.
    pub(crate) fn admit_turn(
        &self,
        deadline: Option<Duration>,
    ) -> impl Future<Output = Result<AdmittedRequest, RequestError>> + Send + use<> {
        let (served, split) = (self.served.clone(), self.split.clone());
        let spent = self.spent.clone();
        async move {
            let permit = split.acquire(deadline).await?;
            Ok(AdmittedRequest::new(
                served,
                permit,
                TurnPosition::Later,
                spent,
            ))
        }
    }

    /// Records that a turn failed, and the request with it.
    pub(crate) fn mark_failed(&mut self, error: &RequestError) {
        self.end = RequestEnd::Failed;
        self.served.count_fault(error);
    }

    /// Records that all turns are complete.
    pub(crate) fn mark_complete(&mut self) {
        self.end = RequestEnd::Complete;
    }
}

impl Drop for AdmittedSplit {
    fn drop(&mut self) {
        self.served.count_end(self.end);
    }
}

impl ServedModel {
    fn count_end(&self, end: RequestEnd) {
        match end {
            RequestEnd::Complete => {}
            RequestEnd::Cancelled => self.live_counters().add_cancelled(),
            RequestEnd::Failed => self.live_counters().add_failed(),
        }
    }

    /// Counts a failure of a request. The end of the model's process fails many requests and is one fault, which
    /// [`record_engine_fault`](Self::record_engine_fault) counts.
    fn count_fault(&self, error: &RequestError) {
        if error.is_model_fault() && !matches!(error, RequestError::NodeLost(_)) {
            self.live_counters().add_model_fault();
        }
    }
}

impl AdmittedRequest {
    fn new(
        served: Arc<ServedModel>,
        permit: Permit,
        turn: TurnPosition,
        spent: SpentEnergy,
    ) -> Self {
        if turn != TurnPosition::Later {
            served.live_counters().add_request();
        }
        Self {
            energy: served.start_accounting(),
            served,
            turn,
            end: RequestEnd::Cancelled,
            started: Instant::now(),
            permit,
            spent,
        }
    }

    /// Ends the request, or the turn, as failed.
    pub fn fail(mut self, error: &RequestError) {
        self.mark_failed(error);
    }

    /// Embeds the inputs of the request, or those of the turn, and ends it.
    ///
    /// # Errors
    /// When the request is invalid for the model, or the engine fails.
    pub(crate) async fn embed(mut self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        match self.served.model.embed(request).await {
            Ok(mut embeddings) => {
                let counters = self.served.live_counters();
                counters.add_tokens(embeddings.prompt_tokens, 0);
                self.end = RequestEnd::Complete;
                embeddings.energy = Some(self.end_accounting());
                Ok(embeddings)
            }
            Err(error) => {
                self.mark_failed(&error);
                Err(error)
            }
        }
    }

    /// Counts one output token.
    pub(super) fn count_token(&self) {
        self.served.live_counters().add_tokens(0, 1);
        self.energy.record_token();
    }

    /// Records how long the engine has computed the request so far.
    pub(super) fn record_computed(&self, time: Duration) {
        self.energy.record_computed(time);
    }

    /// Records that the request failed, with what it has taken.
    pub(super) fn mark_failed(&mut self, error: &RequestError) {
        self.end = RequestEnd::Failed;
        // A request with several turns counts once.
        if self.turn == TurnPosition::Only {
            self.served.count_fault(error);
        }
        // The error is sent before this is dropped.
        self.end_accounting();
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
        // All turns have the same prompt.
        let prompt = match self.turn {
            TurnPosition::Later => 0,
            TurnPosition::Only | TurnPosition::First => usage.prompt_tokens,
        };
        let counters = self.served.live_counters();
        counters.add_tokens(prompt, uncounted);
        self.served
            .record_length(usage.prompt_tokens.saturating_add(usage.completion_tokens));
        let timing = self.timing(first_token);
        // The wait of a later turn is a wait for the earlier ones.
        let is_wait_of_request = self.turn != TurnPosition::Later;
        self.served.record_timing(timing, is_wait_of_request);
        usage.timing = Some(timing);
        usage.energy = Some(self.end_accounting());
        self.end = RequestEnd::Complete;
    }

    /// Waits until all running answers of the model end with an error.
    pub(super) fn cut(&self) -> WaitForCancellationFutureOwned {
        self.served.cut_token().clone().cancelled_owned()
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

    fn end_accounting(&mut self) -> EnergyUsage {
        let usage = self.energy.settle();
        self.served.live_counters().add_energy(usage);
        self.spent.add(usage);
        usage
    }
}

impl Drop for AdmittedRequest {
    fn drop(&mut self) {
        if self.turn == TurnPosition::Only {
            self.served.count_end(self.end);
        }
        if self.end == RequestEnd::Cancelled {
            // The energy was spent although there is no answer.
            self.end_accounting();
        }
        self.served.live_counters().add_busy(self.elapsed());
    }
}
