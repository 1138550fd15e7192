//! One request on its way through the replicas of its plan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::estimate::RequestCost;
use flotilla_core::generate::{AnswerLimit, RequestError};
use flotilla_core::routing::{HedgeRecord, RejectReason, RejectedCandidate, RoutingDecision};
use flotilla_core::{Joules, ModelName, NodeName};
use flotilla_gateway::{BackendAnswer, BackendError, EventStream, ServedBy};
use flotilla_proto::v1;

use crate::answer_stream::AnswerStream;
use crate::attempt::{Attempt, AttemptError, NodeReached};
use crate::decision_recorder::DecisionRecorder;
use crate::dispatch_context::DispatchContext;
use crate::plan::DispatchPlan;
use crate::request_context::RequestContext;
use crate::retry_state::{FailedAttempt, RetryState};
use crate::selection_record::SelectionRecord;
use crate::time_limit::AttemptLimits;
use crate::usage_guard::UsageGuard;
use crate::{LoadGuard, ReplicaView, stats_clock};

/// One request on its way through the replicas of its plan.
pub(crate) struct PlanExecution<'a> {
    pub(crate) dispatch: &'a DispatchContext,
    pub(crate) plan: DispatchPlan,
    pub(crate) decision: RoutingDecision,
    /// The selection record of the cascade's earlier tiers.
    earlier_tiers: SelectionRecord,
    pub(crate) context: Arc<RequestContext>,
    /// The time at which the answer must have begun.
    pub(crate) begin_at: Instant,
    /// The time at which the answer must be complete.
    pub(crate) answer_limit: AnswerLimit,
    /// Whether the request may enter the pending queue. Default: true.
    pub(crate) may_wait: bool,
    /// The index in the plan of the model whose replica was selected last.
    pub(crate) model: usize,
    pub(crate) retry: RetryState,
    /// The energy that the replica selected last is expected to take; 0 if it is not known.
    pub(crate) expected_joules: Joules,
}

impl<'a> PlanExecution<'a> {
    /// Starts executing a plan.
    pub(crate) fn new(
        dispatch: &'a DispatchContext,
        plan: DispatchPlan,
        mut decision: RoutingDecision,
        context: Arc<RequestContext>,
    ) -> Self {
        let timeout = dispatch.config.answer_timeout;
        Self {
            dispatch,
            begin_at: Instant::now() + dispatch.config.first_token_timeout,
            answer_limit: AnswerLimit::new(context.arrived, timeout, plan.deadline),
            plan,
            earlier_tiers: SelectionRecord {
                candidates: std::mem::take(&mut decision.candidates),
                rejected: std::mem::take(&mut decision.rejected),
                affinity: None,
            },
            decision,
            context,
            may_wait: true,
            model: 0,
            retry: RetryState::default(),
            expected_joules: Joules::default(),
        }
    }

    /// The model whose replica was selected last.
    pub(crate) fn model(&self) -> &ModelName {
        &self.plan.models[self.model]
    }

    /// Counts the request as load of a replica. `unread_bytes` is the part of its prompt that the replica
    /// has yet to read.
    pub(crate) fn begin_request(&mut self, replica: &ReplicaView, unread_bytes: u32) -> LoadGuard {
        self.retry.count_attempt();
        self.context.record_attempt();
        let cost = RequestCost {
            prompt_bytes: unread_bytes,
            ..self.plan.cost
        };
        replica.stats.begin_request(self.plan.queue_key, cost)
    }

    /// Prepares an attempt on `replica`, where `load` counts the request.
    pub(crate) fn attempt<'r>(&self, replica: &'r ReplicaView, load: LoadGuard) -> Attempt<'r> {
        Attempt {
            replica,
            usage: UsageGuard::new(replica, load, self.context.clone()),
        }
    }

    /// Returns the request with the model and the remaining time for the replica selected last.
    pub(crate) fn address(&self, request: &v1::GenerateRequest) -> v1::GenerateRequest {
        let mut request = request.clone();
        self.model().as_str().clone_into(&mut request.model);
        if let (Some(queue_key), Some(remaining)) = (&mut request.queue_key, self.remaining()) {
            let millis = u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX);
            queue_key.deadline_ms = Some(millis);
        }
        request
    }

    /// Records that a second replica was tried beside a slow one.
    pub(crate) fn record_hedge(&mut self, slow: &NodeName, node: &NodeName, after: Duration) {
        self.decision.hedges.push(HedgeRecord {
            slow_node: slow.clone(),
            node: node.clone(),
            delay_ms: after.as_secs_f64() * 1e3,
            won: false,
        });
    }

    /// Records that the last hedge answers.
    pub(crate) fn record_hedge_won(&mut self) {
        if let Some(hedge) = self.decision.hedges.last_mut() {
            hedge.won = true;
            self.decision.node = Some(hedge.node.clone());
        }
    }

    /// Records that a replica has begun to answer.
    pub(crate) fn record_start_of_answer(&self) {
        self.dispatch
            .retries
            .record_answer(self.model(), stats_clock());
    }

    /// Records that a replica failed.
    ///
    /// # Errors
    /// The error itself, when the request may not be sent again.
    pub(crate) fn record_failure(
        &mut self,
        replica: &ReplicaView,
        AttemptError { error, reached, .. }: AttemptError,
    ) -> Result<(), RequestError> {
        let model = self.model().clone();
        let kind = error.kind();
        self.dispatch
            .observer
            .metrics
            .record_failed_attempt(model.as_str(), kind);
        self.context.count_failed_attempt();
        let sent = reached != NodeReached::No;
        // Another replica may be tried at once. Only a second try on this one, which the request has reached,
        // takes a token of the model's budget.
        let retries = &self.dispatch.retries;
        let throttled = sent && !retries.allows_retry(&model, stats_clock());
        let detail = error.recorded_text(self.plan.zones.is_some());
        if error.is_replica_fault() || matches!(error, RequestError::Unavailable { .. }) {
            replica.stats.note_failed_request(&detail);
        }
        let rejected = RejectedCandidate {
            model,
            node: Some(replica.node.clone()),
            reason: RejectReason::AttemptFailed,
            detail,
        };
        if matches!(error, RequestError::NodeLost(_)) {
            // The answer may have begun long ago: another replica has as long to begin it.
            self.begin_at = Instant::now() + self.dispatch.config.first_token_timeout;
        }
        let attempt = FailedAttempt {
            model: self.model,
            replica,
            rejected,
            error,
            reached,
            refused_attempts: match reached {
                NodeReached::Answered => self.context.count_refused_attempt(),
                NodeReached::No | NodeReached::ConnectionLost => 0,
            },
            throttled,
            jitter: fastrand::f32(),
        };
        self.retry.record_failure(attempt, Instant::now())?;
        tracing::debug!(model = %self.model(), node = %replica.node, error = kind, "trying another replica");
        Ok(())
    }

    /// Takes a token of the model's budget of retries, where the request has already reached this replica of
    /// the plan's model at index `model` without success. Returns `false`, and rules the replica out, if
    /// there is none.
    pub(crate) fn take_retry_token(&mut self, model: usize, replica: &ReplicaView) -> bool {
        if !self.retry.is_repeat(model, replica) {
            return true;
        }
        let retries = &self.dispatch.retries;
        let allowed = retries.take(&self.plan.models[model], stats_clock());
        if !allowed {
            self.retry.rule_out(model, replica);
        }
        allowed
    }

    /// Records that the request ends without an answer, and returns the error for the client.
    pub(crate) fn refuse(mut self, error: RequestError) -> BackendError {
        let context = self.context.clone();
        let decision = self.take_decision();
        self.dispatch.refuse(decision, context, error)
    }

    /// Records that `replica` answers.
    pub(crate) fn record_answer(mut self, replica: ReplicaView) -> (ServedBy, DecisionRecorder) {
        let affinity = &self.dispatch.affinity;
        affinity.insert(self.model(), &self.plan, &replica.node);
        let (model, task) = (self.model().clone(), self.decision.task.clone());
        let attempts = self.retry.attempts();
        let decision = self.take_decision();
        let recorder = self.dispatch.decisions.record(decision, self.context);
        let served_by = ServedBy {
            model,
            task,
            node: replica.node,
            attempts,
            decision_id: recorder.id().to_owned(),
        };
        (served_by, recorder)
    }

    /// Returns the answer of a replica as a stream for the client.
    pub(crate) fn relay(
        self,
        replica: ReplicaView,
        answer: AnswerStream,
    ) -> BackendAnswer<EventStream> {
        let limit = self.answer_limit;
        let trace_content = self.plan.zones.is_none() && self.context.span.captures_content();
        let (served_by, mut recorder) = self.record_answer(replica);
        recorder.record_first_events();
        let content: EventStream = Box::pin(answer.record_with(recorder, limit, trace_content));
        BackendAnswer { served_by, content }
    }

    /// Takes the complete decision for the record. Called once, after the last attempt.
    pub(crate) fn take_decision(&mut self) -> RoutingDecision {
        let mut decision = std::mem::take(&mut self.decision);
        let retries = self.retry.take_retries(decision.hedges.len());
        if retries > 0 {
            self.dispatch
                .observer
                .metrics
                .record_retries(u64::from(retries));
        }
        let SelectionRecord {
            mut candidates,
            mut rejected,
            affinity: _,
        } = std::mem::take(&mut self.earlier_tiers);
        candidates.append(&mut decision.candidates);
        rejected.append(&mut decision.rejected);
        rejected.append(&mut self.retry.take_errors());
        RoutingDecision {
            candidates,
            rejected,
            failed_attempts: self.context.failed_attempts(),
            ..decision
        }
    }

    /// The time limits of the next attempt.
    pub(crate) fn attempt_limits(&self) -> AttemptLimits {
        AttemptLimits {
            begin_at: self.begin_at.min(self.answer_limit.at),
            answer: self.answer_limit,
        }
    }

    /// The time at which the answer must be complete.
    pub(crate) fn answer_limit(&self) -> AnswerLimit {
        self.answer_limit
    }

    /// The time to the request's own deadline, if it has one.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let deadline = self.context.arrived.checked_add(self.plan.deadline?)?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}
