//! One request on its way through the replicas of its plan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::NodeName;
use flotilla_core::generate::RequestError;
use flotilla_core::routing::{HedgeRecord, RejectReason, RejectedCandidate, RoutingDecision};
use flotilla_gateway::{BackendAnswer, BackendError, EventStream, ServedBy};
use flotilla_proto::v1;
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;

use crate::answer_stream::AnswerStream;
use crate::attempt::Attempt;
use crate::decision_recorder::DecisionRecorder;
use crate::dispatch_context::DispatchContext;
use crate::plan::DispatchPlan;
use crate::refusal;
use crate::request_context::RequestContext;
use crate::retry_state::RetryState;
use crate::selection_pass::{
    SelectionOutcome, SelectionPass, SelectionRecord, SelectionScope, SkipReason,
};
use crate::time_limit::{AnswerLimit, AttemptLimits};
use crate::usage_guard::UsageGuard;
use crate::{LoadGuard, ReplicaView};

/// One request on its way through the replicas of its plan.
pub(crate) struct PlanExecution<'a> {
    dispatch: &'a DispatchContext,
    pub(crate) plan: DispatchPlan,
    pub(crate) decision: RoutingDecision,
    /// The selection record of the cascade's earlier tiers.
    earlier_tiers: SelectionRecord,
    pub(crate) context: Arc<RequestContext>,
    /// The time at which the answer must have begun.
    begin_at: Instant,
    /// The time at which the answer must be complete.
    answer_limit: AnswerLimit,
    /// Whether the request may enter the pending queue. Default: true.
    pub(crate) may_wait: bool,
    /// The index in the plan of the model whose replica was selected last.
    model: usize,
    retry: RetryState,
}

/// What the request does next.
enum NextStep {
    /// It is sent to this replica, which counts its load already.
    Attempt(ReplicaView, LoadGuard),
    /// It waits for a replica of the plan's model at this index.
    Wait(usize),
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
        }
    }

    /// The model whose replica was selected last.
    pub(crate) fn model(&self) -> &ModelName {
        &self.plan.models[self.model]
    }

    /// Returns the next replica to try, with the request counted as its load. Waits in the pending queue
    /// if no replica is ready but one is expected.
    ///
    /// # Errors
    /// Why no replica can take the request.
    pub(crate) async fn next_replica(&mut self) -> Result<(ReplicaView, LoadGuard), RequestError> {
        // Subscribed before the pass, so that no change after it is missed.
        let mut changes = self.dispatch.view.changes();
        let route = RequestSpan::child_of_current(span::ROUTE);
        let began = Instant::now();
        let step = self.select(None);
        self.dispatch
            .observer
            .metrics
            .record_dispatch(began.elapsed());
        if route.is_recording() {
            self.set_route_attributes(&route);
        }
        drop(route);
        let model = match step? {
            NextStep::Attempt(replica, load) => return Ok((replica, load)),
            NextStep::Wait(model) => model,
        };
        let _admission = RequestSpan::child_of_current(span::ADMISSION);
        let name = self.plan.models[model].clone();
        let limit = match self.dispatch.view.peek().models.get(&name) {
            Some(endpoints) => endpoints.model.spec.queue,
            None => return Err(RequestError::ModelNotFound(name.to_string())),
        };
        let mut waiter = self.dispatch.pending.enter(&name, limit)?;
        let timeout = self.begin_at.min(self.answer_limit.at);
        let wait = async {
            waiter.wait_for_turn().await?;
            loop {
                changes.borrow_and_update();
                if let NextStep::Attempt(replica, load) = self.select(Some(model))? {
                    return Ok((replica, load));
                }
                tokio::select! {
                    error = waiter.wait_for_rejection() => return Err(error),
                    changed = changes.changed() => if changed.is_err() {
                        return Err(self.unavailable());
                    },
                }
            }
        };
        let waited = tokio::time::timeout_at(timeout.into(), wait).await;
        waited.unwrap_or_else(|_| Err(self.timed_out()))
    }

    /// Makes a selection pass over the current view. `head_of` is the number of the model whose pending
    /// queue the request is at the head of.
    fn select(&mut self, head_of: Option<usize>) -> Result<NextStep, RequestError> {
        let view = self.dispatch.view.peek();
        self.retry.use_view(view.generation);
        let (outcome, record) = self.pass(&view, head_of).run();
        self.keep_record(record);
        let overloaded = self.retry.last_was_overloaded();
        let skipped = match outcome {
            SelectionOutcome::Selected(selected) => {
                self.model = selected.model;
                self.decision.model = Some(self.model().clone());
                self.decision.node = Some(selected.replica.node.clone());
                let load = self.begin_request(&selected.replica, selected.unread_bytes);
                return Ok(NextStep::Attempt(selected.replica, load));
            }
            SelectionOutcome::Wait(model) if !overloaded && self.may_wait => {
                return Ok(NextStep::Wait(model));
            }
            SelectionOutcome::Wait(model) if !overloaded => {
                self.dispatch.pending.wake_up(&self.plan.models[model]);
                SkipReason::Unavailable
            }
            SelectionOutcome::Wait(_) => SkipReason::Full,
            SelectionOutcome::Skipped(reason) => reason,
        };
        Err(match skipped {
            _ if overloaded => refusal::full(&self.plan),
            SkipReason::Full => refusal::full(&self.plan),
            SkipReason::DeadlineUnmet => refusal::deadline_unmet(&self.plan),
            SkipReason::LimitsUnmet => refusal::limits_unmet(&self.plan, &self.decision),
            SkipReason::Unavailable | SkipReason::Coming => self.unavailable(),
        })
    }

    fn pass<'p>(
        &'p self,
        view: &'p crate::DispatchView,
        head_of: Option<usize>,
    ) -> SelectionPass<'p> {
        SelectionPass {
            view,
            plan: &self.plan,
            affinity: &self.dispatch.affinity,
            pending: &self.dispatch.pending,
            retry: &self.retry,
            head_of,
            remaining: self.remaining(),
            scope: SelectionScope::Request,
        }
    }

    /// Replaces what the last pass recorded.
    fn keep_record(&mut self, record: SelectionRecord) {
        self.decision.candidates = record.candidates;
        self.decision.rejected = record.rejected;
        self.decision.affinity = record.affinity;
    }

    /// Selects an idle replica beside `slow`, for a hedged request.
    pub(crate) fn select_spare(&self, slow: &NodeName) -> Option<ReplicaView> {
        let view = self.dispatch.view.peek();
        self.pass(&view, None).select_spare(self.model, slow)
    }

    /// Sets the attributes of the span of a selection.
    fn set_route_attributes(&self, route: &RequestSpan) {
        let decision = &self.decision;
        route.set_attribute(
            "flotilla.route.candidates",
            decision.candidates.len() as i64,
        );
        route.set_attribute("flotilla.route.rejected", decision.rejected.len() as i64);
        if let (Some(model), Some(node)) = (&decision.model, &decision.node) {
            route.set_attribute(attr::MODEL, model.to_string());
            route.set_attribute(attr::NODE, node.to_string());
        }
    }

    /// Counts the request as load of a replica. `unread_bytes` is the part of its prompt that the replica
    /// has yet to read.
    pub(crate) fn begin_request(&mut self, replica: &ReplicaView, unread_bytes: u32) -> LoadGuard {
        self.retry.count_attempt();
        replica
            .stats
            .begin_request(self.plan.queue_key, unread_bytes)
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

    /// Records that a replica failed.
    ///
    /// # Errors
    /// The error itself, when no other replica can do better.
    pub(crate) fn record_failure(
        &mut self,
        replica: &ReplicaView,
        error: RequestError,
    ) -> Result<(), RequestError> {
        let rejected = RejectedCandidate {
            model: self.model().clone(),
            node: Some(replica.node.clone()),
            reason: RejectReason::AttemptFailed,
            detail: error.recorded_text(self.plan.zones.is_some()),
        };
        let kind = error.kind();
        if matches!(error, RequestError::NodeLost(_)) {
            // The answer may have begun long ago: another replica has as long to begin it.
            self.begin_at = Instant::now() + self.dispatch.config.first_token_timeout;
        }
        self.retry.record_failure(self.model, rejected, error)?;
        tracing::debug!(model = %self.model(), node = %replica.node, error = kind, "trying another replica");
        Ok(())
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

    /// The error of a request that waited too long for a replica.
    fn timed_out(&self) -> RequestError {
        if self.answer_limit.at <= self.begin_at {
            return self.answer_limit.error();
        }
        refusal::timed_out(&self.plan, self.dispatch.config.first_token_timeout)
    }

    /// The error of a request that no replica can take.
    fn unavailable(&mut self) -> RequestError {
        let last = self.retry.take_last_error();
        last.unwrap_or_else(|| refusal::unavailable(&self.plan, &self.decision))
    }
}
