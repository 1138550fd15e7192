//! The replicas that one request tries, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;
use flotilla_core::routing::{
    CandidateRecord, HedgeRecord, RejectReason, RejectedCandidate, RoutingDecision,
};
use flotilla_core::{ModelName, NodeName};
use flotilla_gateway::{BackendError, ServedBy};
use flotilla_proto::v1;
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;

use super::attempt::{Attempt, AttemptTimeout};
use super::charge::UsageGuard;
use super::look::{SelectionResult, SkipReason, reject};
use super::plan::DispatchPlan;
use super::{Dispatcher, RETRY_AFTER};
use crate::arrival::RequestContext;
use crate::decisions::DecisionRecorder;
use crate::fleet::{LoadGuard, ReplicaView};

/// Replicas that may be lost under one request, the first included.
const ATTEMPTS: usize = 3;
/// Failed tries that are put on record.
const RECORDED: usize = 8;

/// The replicas that one request tries.
pub(super) struct RetryState<'a> {
    pub(super) dispatch: &'a Dispatcher,
    pub(super) plan: DispatchPlan,
    pub(super) decision: RoutingDecision,
    /// What was compared and passed over for smaller models that were asked before.
    earlier: (Vec<CandidateRecord>, Vec<RejectedCandidate>),
    pub(super) arrival: Arc<RequestContext>,
    /// Until when the first events must be there.
    deadline: Instant,
    /// Whether it waits for a replica that is coming.
    pub(super) waits: bool,
    /// The model that the replica last picked is of.
    pub(super) model: usize,
    /// The view that those tried were of.
    pub(super) generation: u64,
    pub(super) tried: Vec<(usize, NodeName)>,
    /// Replicas that were asked.
    asked: u32,
    /// Replicas that were lost under it.
    lost: usize,
    /// What those said that did not answer, for the record.
    errors: Vec<RejectedCandidate>,
    last: Option<RequestError>,
}

/// What a request is told whose own deadline has passed.
pub(super) fn passed(deadline: Duration) -> RequestError {
    RequestError::TooLate(format!(
        "The request's deadline of {} ms has passed.",
        deadline.as_millis()
    ))
}

impl<'a> RetryState<'a> {
    /// The tries of a request.
    pub(super) fn new(
        dispatch: &'a Dispatcher,
        plan: DispatchPlan,
        mut decision: RoutingDecision,
        arrival: Arc<RequestContext>,
    ) -> Self {
        let patience = Instant::now() + dispatch.first_token_timeout;
        let own = plan.deadline.and_then(|own| arrival.at.checked_add(own));
        Self {
            dispatch,
            plan,
            earlier: (
                std::mem::take(&mut decision.candidates),
                std::mem::take(&mut decision.rejected),
            ),
            decision,
            arrival,
            deadline: own.map_or(patience, |own| own.min(patience)),
            waits: true,
            model: 0,
            generation: 0,
            tried: Vec::new(),
            asked: 0,
            lost: 0,
            errors: Vec::new(),
            last: None,
        }
    }

    /// The model that the replica last picked is of.
    pub(super) fn model(&self) -> &ModelName {
        &self.plan.models[self.model]
    }

    /// The next replica to try, with the load counted. Waits where one is coming.
    ///
    /// # Errors
    /// What to tell the client when there is none.
    pub(super) async fn next(&mut self) -> Result<(ReplicaView, LoadGuard), RequestError> {
        let mut changes = self.dispatch.fleet.changes();
        let route = RequestSpan::enter(span::ROUTE);
        let began = Instant::now();
        let taken = self.take(None);
        self.dispatch.observer.front.decided(began.elapsed());
        if route.is_recorded() {
            self.tell(&route);
        }
        drop(route);
        let waits = match taken? {
            Ok(taken) => return Ok(taken),
            Err(waits) => waits,
        };
        let _admission = RequestSpan::enter(span::ADMISSION);
        // Others wait already, or nobody can take it now: in order, until somebody can.
        let name = self.plan.models[waits].clone();
        let queue = match self.dispatch.fleet.peek().by_name.get(&name) {
            Some(model) => model.model.spec.queue,
            None => return Err(RequestError::ModelNotFound(name.to_string())),
        };
        let mut place = self.dispatch.lobby.enter(&name, queue)?;
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let turn = async {
            let verdict = place.turn().await;
            if let Some(verdict) = verdict {
                return Err(verdict);
            }
            loop {
                changes.borrow_and_update();
                if let Ok(taken) = self.take(Some(waits))? {
                    return Ok(taken);
                }
                tokio::select! {
                    verdict = place.verdict() => return Err(verdict),
                    changed = changes.changed() => if changed.is_err() {
                        return Err(self.nobody());
                    },
                }
            }
        };
        let waited = tokio::time::timeout_at(deadline, turn).await;
        waited.unwrap_or_else(|_| Err(self.late()))
    }

    /// What a trace tells of a choice.
    fn tell(&self, route: &RequestSpan) {
        let decision = &self.decision;
        route.set(
            "flotilla.route.candidates",
            decision.candidates.len() as i64,
        );
        route.set("flotilla.route.rejected", decision.rejected.len() as i64);
        if let (Some(model), Some(node)) = (&decision.model, &decision.node) {
            route.set(attr::MODEL, model.to_string());
            route.set(attr::NODE, node.to_string());
        }
    }

    /// A replica that can take the request now, with the load counted; or the model that it has to
    /// wait for.
    fn take(
        &mut self,
        in_line: Option<usize>,
    ) -> Result<Result<(ReplicaView, LoadGuard), usize>, RequestError> {
        let refused = matches!(self.last, Some(RequestError::Overloaded { .. }));
        let passed = match self.look(in_line) {
            SelectionResult::Found(found) => {
                self.model = found.model;
                self.decision.model = Some(self.model().clone());
                self.decision.node = Some(found.replica.node.clone());
                let guard = self.count(&found.replica, found.unread_bytes);
                return Ok(Ok((found.replica, guard)));
            }
            SelectionResult::Wait(at) if !refused && self.waits => return Ok(Err(at)),
            SelectionResult::Wait(at) if !refused => {
                self.dispatch.lobby.nudge(&self.plan.models[at]);
                SkipReason::Out
            }
            SelectionResult::Wait(_) => SkipReason::Full,
            SelectionResult::Nobody(passed) => passed,
        };
        Err(match passed {
            _ if refused => self.full(),
            SkipReason::Full => self.full(),
            SkipReason::Late => RequestError::TooLate(format!(
                "No replica of {} is expected to answer before the request's deadline.",
                self.asked()
            )),
            SkipReason::Unmet => self.unmet(),
            SkipReason::Out | SkipReason::Coming => self.nobody(),
        })
    }

    /// Counts the request as one of a replica's, which has so many bytes of its prompt to read.
    pub(super) fn count(&mut self, replica: &ReplicaView, unread_bytes: u32) -> LoadGuard {
        self.asked += 1;
        replica.load.take(self.plan.queue_key, unread_bytes)
    }

    /// Is about to ask `replica`, where `guard` counts the request.
    pub(super) fn attempt<'r>(&self, replica: &'r ReplicaView, guard: LoadGuard) -> Attempt<'r> {
        Attempt {
            replica,
            charge: UsageGuard::new(replica, guard, self.arrival.clone()),
        }
    }

    /// The request as it goes to the replica last picked.
    pub(super) fn address(&self, request: &v1::GenerateRequest) -> v1::GenerateRequest {
        let mut request = request.clone();
        self.model().as_str().clone_into(&mut request.model);
        if let (Some(queue_key), Some(time)) = (&mut request.queue_key, self.time()) {
            queue_key.deadline_ms = Some(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
        }
        request
    }

    /// Notes that a replica was asked beside one that takes long.
    pub(super) fn hedged(&mut self, slow: &NodeName, node: &NodeName, after: Duration) {
        self.decision.hedges.push(HedgeRecord {
            slow: slow.clone(),
            node: node.clone(),
            after_ms: after.as_secs_f64() * 1e3,
            won: false,
        });
    }

    /// Notes that the replica asked last beside another one answers.
    pub(super) fn hedge_won(&mut self) {
        if let Some(hedge) = self.decision.hedges.last_mut() {
            hedge.won = true;
            self.decision.node = Some(hedge.node.clone());
        }
    }

    /// Notes that a replica failed.
    ///
    /// # Errors
    /// The error itself, when no other replica can do better.
    pub(super) fn failed(
        &mut self,
        replica: &ReplicaView,
        error: RequestError,
    ) -> Result<(), RequestError> {
        self.lost += usize::from(matches!(error, RequestError::NodeLost(_)));
        if self.errors.len() < RECORDED {
            let detail = error.on_record(self.plan.zones.is_some());
            let failed = reject(self.model(), &replica.node, RejectReason::Error, detail);
            self.errors.push(failed);
        }
        if !error.retryable_elsewhere() || self.lost >= ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(model = %self.model(), node = %replica.node, %error, "trying elsewhere");
        self.tried.push((self.model, replica.node.clone()));
        self.last = Some(error);
        Ok(())
    }

    /// Puts on record that there is no answer.
    pub(super) fn refuse(mut self, error: RequestError) -> BackendError {
        let arrival = self.arrival.clone();
        self.dispatch.refuse(self.record(), arrival, error)
    }

    /// Puts on record that `replica` answers.
    pub(super) fn answered(mut self, replica: ReplicaView) -> (ServedBy, DecisionRecorder) {
        let affinity = &self.dispatch.affinity;
        affinity.note(self.model(), &self.plan, &replica.node);
        let (model, task) = (self.model().clone(), self.decision.task.clone());
        let attempts = self.asked;
        let decision = self.record();
        let recorder = self.dispatch.decisions.keep(decision, self.arrival);
        let by = ServedBy {
            model,
            task,
            node: replica.node,
            attempts,
            decision: recorder.id().to_owned(),
        };
        (by, recorder)
    }

    /// The decision as it goes on record: nothing is tried after that.
    pub(super) fn record(&mut self) -> RoutingDecision {
        let mut decision = std::mem::take(&mut self.decision);
        let hedges = decision.hedges.len() as u32;
        let retries = std::mem::take(&mut self.asked).saturating_sub(1 + hedges);
        if retries > 0 {
            self.dispatch.observer.front.retried(u64::from(retries));
        }
        let (mut candidates, mut rejected) = std::mem::take(&mut self.earlier);
        candidates.append(&mut decision.candidates);
        rejected.append(&mut decision.rejected);
        rejected.append(&mut self.errors);
        RoutingDecision {
            candidates,
            rejected,
            ..decision
        }
    }

    /// How long the first events are waited for.
    pub(super) fn patience(&self) -> AttemptTimeout {
        AttemptTimeout {
            left: self.deadline.saturating_duration_since(Instant::now()),
            own: self.end() == Some(self.deadline),
        }
    }

    /// The time left for the whole answer, where there is a deadline.
    pub(super) fn time(&self) -> Option<Duration> {
        Some(self.end()?.saturating_duration_since(Instant::now()))
    }

    /// Whether the request's own deadline has passed.
    pub(super) fn is_over(&self) -> bool {
        self.time().is_some_and(|left| left.is_zero())
    }

    /// When the answer must be complete, where there is a deadline.
    pub(super) fn end(&self) -> Option<Instant> {
        self.arrival.at.checked_add(self.plan.deadline?)
    }

    /// That the time is up.
    fn late(&self) -> RequestError {
        if let Some(deadline) = self.plan.deadline
            && self.patience().own
        {
            return passed(deadline);
        }
        let waited = self.dispatch.first_token_timeout.as_secs();
        RequestError::Deadline(format!(
            "No replica of {} could begin the answer within {waited} s.",
            self.asked()
        ))
    }

    fn full(&self) -> RequestError {
        RequestError::Overloaded {
            message: format!(
                "Every replica of {} is full: try again later.",
                self.asked()
            ),
            retry_after: RETRY_AFTER,
        }
    }

    fn unmet(&self) -> RequestError {
        let breached = |r: &&RejectedCandidate| {
            matches!(
                r.reason,
                RejectReason::Quality | RejectReason::Latency | RejectReason::Energy
            )
        };
        let breaches = self.decision.rejected.iter().filter(breached);
        let breaches: Vec<_> = breaches
            .take(RECORDED)
            .map(|r| format!("{}: {}", r.model, r.detail))
            .collect();
        RequestError::Unmet(format!(
            "No replica of {} keeps the limits ({}).",
            self.asked(),
            breaches.join("; ")
        ))
    }

    /// Why no replica was picked.
    fn nobody(&mut self) -> RequestError {
        if let Some(error) = self.last.take() {
            return error;
        }
        let rejected = &self.decision.rejected;
        let unknown = rejected.iter().all(|r| r.reason == RejectReason::Unknown);
        let models = &self.plan.models;
        if unknown && self.decision.task.is_none() {
            return RequestError::ModelNotFound(models[0].to_string());
        }
        if rejected.iter().any(|r| r.reason == RejectReason::Zone) {
            let zones: Vec<_> = self
                .decision
                .zones
                .iter()
                .map(|z| format!("'{z}'"))
                .collect();
            return RequestError::Unavailable(format!(
                "No replica of {} is ready in the privacy zone {}, and the request may go nowhere else.",
                self.asked(),
                zones.join(" or ")
            ));
        }
        let first = &models[0];
        RequestError::Unavailable(format!(
            "No replica of {} is ready: 'flotilla describe model {first}' says why.",
            self.asked()
        ))
    }

    /// What was asked for, in words.
    fn asked(&self) -> String {
        match &self.decision.task {
            Some(task) => format!("the models of the task '{task}'"),
            None => format!("the model '{}'", self.plan.models[0]),
        }
    }
}
