//! Finds the replica that a request is sent to next, and waits for one.

use std::time::Instant;

use flotilla_core::NodeName;
use flotilla_core::generate::RequestError;
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;
use tokio::sync::watch;

use crate::plan_execution::PlanExecution;
use crate::selection_pass::{SelectionOutcome, SelectionPass, SelectionScope, SkipReason};
use crate::selection_record::SelectionRecord;
use crate::{DispatchView, LoadGuard, ReplicaView, refusal, stats_clock};

/// What the request does next.
enum NextStep {
    /// It is sent to this replica, which counts its load already.
    Attempt(ReplicaView, LoadGuard),
    /// It waits in the pending queue for a replica of the plan's model at this index.
    Queue(usize),
    /// It waits outside the queue until this time, when a replica that refused it may be tried again.
    BackOff(Instant),
}

impl PlanExecution<'_> {
    /// Returns the next replica to try, with the request counted as its load. Waits in the pending queue
    /// if no replica is ready but one is expected. Where all replicas have refused the request, it waits
    /// for their back-off outside the queue: nobody waits behind it, and nothing is loaded for it.
    ///
    /// # Errors
    /// Why no replica can take the request.
    pub(crate) async fn next_replica(&mut self) -> Result<(ReplicaView, LoadGuard), RequestError> {
        let mut changes = self.dispatch.view.changes();
        loop {
            // Seen before the pass, so that no change after it is missed.
            changes.borrow_and_update();
            let mut step = self.select_first()?;
            if let NextStep::Queue(model) = step {
                step = self.wait_in_queue(model, &mut changes).await?;
            }
            let until = match step {
                NextStep::Attempt(replica, load) => return Ok((replica, load)),
                NextStep::BackOff(until) => until,
                NextStep::Queue(_) => continue,
            };
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                changed = changes.changed() => if changed.is_err() {
                    return Err(self.unavailable());
                },
            }
        }
    }

    /// Waits in the pending queue of the plan's model at index `model` until a replica can take the
    /// request, or until all have refused it.
    async fn wait_in_queue(
        &mut self,
        model: usize,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<NextStep, RequestError> {
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
                let step = self.select(Some(model))?;
                if !matches!(step, NextStep::Queue(_)) {
                    return Ok(step);
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

    /// Makes a selection pass for a request that is in no queue, with its time and its span.
    fn select_first(&mut self) -> Result<NextStep, RequestError> {
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
        step
    }

    /// Makes a selection pass over the current view. `head_of` is the number of the model whose pending
    /// queue the request is at the head of.
    fn select(&mut self, head_of: Option<usize>) -> Result<NextStep, RequestError> {
        let view = self.dispatch.view.peek();
        let now = Instant::now();
        let outcome = loop {
            let (outcome, record) = self.pass(&view, head_of, now).run();
            self.keep_record(record);
            // Without a token the replica is ruled out, and another one may be selected.
            match &outcome {
                SelectionOutcome::Selected(selected)
                    if !self.take_retry_token(selected.model, &selected.replica) => {}
                _ => break outcome,
            }
        };
        let overloaded = self.retry.last_was_overloaded();
        let skipped = match outcome {
            SelectionOutcome::Selected(selected) => {
                self.model = selected.model;
                self.decision.model = Some(self.model().clone());
                self.decision.node = Some(selected.replica.node.clone());
                self.expected_joules = selected.expected.joules.unwrap_or_default();
                let load = self.begin_request(&selected.replica, selected.unread_bytes);
                return Ok(NextStep::Attempt(selected.replica, load));
            }
            SelectionOutcome::Wait(model) if !overloaded && self.may_wait => {
                return Ok(NextStep::Queue(model));
            }
            SelectionOutcome::Wait(model) if !overloaded => {
                self.dispatch.pending.wake_up(&self.plan.models[model]);
                SkipReason::Coming
            }
            SelectionOutcome::Wait(_) => SkipReason::Full,
            SelectionOutcome::Skipped(reason) => reason,
        };
        if let (SkipReason::Refused, Some(at)) = (skipped, self.retry.next_retry(now))
            && self.may_wait
            && at < self.begin_at.min(self.answer_limit.at)
        {
            return Ok(NextStep::BackOff(at));
        }
        Err(match skipped {
            SkipReason::Full if !overloaded => refusal::full(&self.plan),
            SkipReason::DeadlineUnmet => refusal::deadline_unmet(&self.plan),
            SkipReason::LimitsUnmet => refusal::limits_unmet(&self.plan, &self.decision),
            SkipReason::Coming => {
                let last = self.retry.take_last_error();
                last.unwrap_or_else(|| refusal::unavailable_yet(&self.plan, &self.decision))
            }
            // The answer is that of the last replica, with its delay for a retry.
            SkipReason::Full | SkipReason::Refused | SkipReason::Unavailable => self.unavailable(),
        })
    }

    fn pass<'p>(
        &'p self,
        view: &'p DispatchView,
        head_of: Option<usize>,
        now: Instant,
    ) -> SelectionPass<'p> {
        SelectionPass {
            view,
            plan: &self.plan,
            affinity: &self.dispatch.affinity,
            pending: &self.dispatch.pending,
            retry: &self.retry,
            head_of,
            remaining: self.remaining(),
            spent: self.context.spent(),
            now,
            scope: SelectionScope::Request,
        }
    }

    /// Replaces what the last pass recorded.
    fn keep_record(&mut self, record: SelectionRecord) {
        self.decision.candidates = record.candidates;
        self.decision.rejected = record.rejected;
        self.decision.affinity = record.affinity;
    }

    /// Selects an idle replica beside `slow`, for a hedged request. Hedges count as retries: there are none
    /// while the model's budget of retries is used up.
    pub(crate) fn select_spare(&self, slow: &NodeName) -> Option<ReplicaView> {
        if !self
            .dispatch
            .retries
            .allows_retry(self.model(), stats_clock())
        {
            return None;
        }
        let view = self.dispatch.view.peek();
        let mut pass = self.pass(&view, None, Instant::now());
        // Both replicas compute the answer.
        pass.spent.joules.0 += self.expected_joules.0;
        pass.select_spare(self.model, slow)
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

    /// The error of a request that waited too long for a replica.
    fn timed_out(&self) -> RequestError {
        if self.answer_limit.at <= self.begin_at {
            return self.answer_limit.error();
        }
        refusal::timed_out(&self.plan, self.dispatch.config.first_token_timeout)
    }

    /// The error of a request that no replica can take: that of the last attempt, if there was one.
    fn unavailable(&mut self) -> RequestError {
        let last = self.retry.take_last_error();
        last.unwrap_or_else(|| refusal::unavailable(&self.plan, &self.decision))
    }
}
