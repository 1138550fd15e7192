//! One pass over a view that selects a replica for a request, and the record of what it compared.
//!
//! Requests and dry runs make the same pass: they differ only in how many replicas are compared.

use std::time::{Duration, Instant};

use flotilla_core::routing::{
    AffinityRecord, CandidateStatus, ExpectedAnswer, RejectReason, SpentResources, best_score,
    choose_from_all, sample_and_choose, score_candidates,
};
use flotilla_core::{ModelName, NodeName};

use crate::affinity_cache::{AffinityCache, AffinityHit};
use crate::candidate_estimate::{CandidateEstimate, EstimateContext, set_reasons};
use crate::plan::DispatchPlan;
use crate::retry_state::RetryState;
use crate::selection_record::SelectionRecord;
use crate::{DispatchView, EligibleReplicas, PendingQueue, ReplicaView, stats_clock};

/// The rejection's detail for a model whose upstream server is outside the zones of a request.
const SERVER_OUTSIDE: &str = "its server is outside: options.zone may say otherwise";

/// Everything that a selection depends on.
pub(crate) struct SelectionPass<'a> {
    pub(crate) view: &'a DispatchView,
    pub(crate) plan: &'a DispatchPlan,
    pub(crate) affinity: &'a AffinityCache,
    pub(crate) pending: &'a PendingQueue,
    pub(crate) retry: &'a RetryState,
    /// The index in the plan of the model whose pending queue the request is at the head of.
    pub(crate) head_of: Option<usize>,
    /// The time to the request's own deadline, if it has one.
    pub(crate) remaining: Option<Duration>,
    /// What earlier attempts of the request have taken.
    pub(crate) spent: SpentResources,
    /// The time of the pass.
    pub(crate) now: Instant,
    pub(crate) scope: SelectionScope,
}

/// How many replicas and models a pass compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SelectionScope {
    /// A sample of the replicas, and no further model once one can answer: a request's pass costs the
    /// same however many replicas there are.
    Request,
    /// Every replica of every model of the plan: for explanations.
    Everything,
}

/// The result of a pass.
pub(crate) enum SelectionOutcome {
    /// This replica can take the request.
    Selected(SelectedReplica),
    /// No replica can, but a replica of the plan's model at this index may be able to soon.
    Wait(usize),
    /// No replica can.
    Skipped(SkipReason),
}

/// A replica that can take the request.
pub(crate) struct SelectedReplica {
    /// The index of its model in the plan.
    pub(crate) model: usize,
    pub(crate) replica: ReplicaView,
    /// Bytes of the prompt that the replica has yet to read.
    pub(crate) unread_bytes: u32,
    pub(crate) expected: ExpectedAnswer,
}

/// The replicas of one model that a request may go to.
struct ModelCandidates<'a> {
    /// The index of the model in the plan.
    model: usize,
    name: &'a ModelName,
    eligible: EligibleReplicas<'a>,
    /// `None`: no eligible replica has a part of the conversation in memory.
    cached: Option<CachedReplica>,
}

/// A replica that may have a part of the conversation in memory.
struct CachedReplica {
    /// The index among the eligible replicas of the model.
    index: usize,
    hit: AffinityHit,
}

/// Why a model has no replica for a request. Ordered: with several models, the greatest reason is the one
/// that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SkipReason {
    /// No replica can answer.
    Unavailable,
    /// No replica keeps the request's limits.
    LimitsUnmet,
    /// No replica can answer before the request's deadline.
    DeadlineUnmet,
    /// Every replica is full.
    Full,
    /// A replica has refused the request, and the others cannot take it either.
    Refused,
    /// A replica may be able to take the request soon.
    Coming,
}

impl SelectionPass<'_> {
    /// Selects a replica.
    pub(crate) fn run(&self) -> (SelectionOutcome, SelectionRecord) {
        let mut record = SelectionRecord::default();
        let (mut wait, mut reason) = (None, SkipReason::Unavailable);
        let mut selected: Vec<SelectedReplica> = Vec::new();
        for model in 0..self.plan.models.len() {
            match self.select_of_model(model, &mut record) {
                Ok(replica) => selected.push(replica),
                Err(SkipReason::Coming) => wait = wait.or(Some(model)),
                Err(skipped) => reason = reason.max(skipped),
            }
            let compares_models = self.plan.weights.is_some();
            let needs_more = compares_models || self.scope == SelectionScope::Everything;
            if !needs_more && !selected.is_empty() {
                break;
            }
        }
        let outcome = match (self.best_model(selected, &mut record), wait) {
            (Some(replica), _) => SelectionOutcome::Selected(replica),
            (None, Some(model)) => SelectionOutcome::Wait(model),
            (None, None) => SelectionOutcome::Skipped(reason),
        };
        (outcome, record)
    }

    /// Of the selected replicas of several models, returns the one with the best score, or the first
    /// where the plan has no weights.
    fn best_model(
        &self,
        mut selected: Vec<SelectedReplica>,
        record: &mut SelectionRecord,
    ) -> Option<SelectedReplica> {
        let Some(weights) = self.plan.weights.filter(|_| selected.len() > 1) else {
            return selected.into_iter().next();
        };
        let expected: Vec<_> = selected.iter().map(|replica| replica.expected).collect();
        let scores = score_candidates(weights, &expected);
        for (replica, score) in selected.iter().zip(&scores) {
            let model = &self.plan.models[replica.model];
            for candidate in &mut record.candidates {
                if candidate.node == replica.replica.node && candidate.model == *model {
                    candidate.score = Some(*score);
                }
            }
        }
        best_score(&scores).map(|best| selected.swap_remove(best))
    }

    /// Selects a replica of the plan's model at index `model`. Why there is none is recorded.
    fn select_of_model(
        &self,
        model: usize,
        record: &mut SelectionRecord,
    ) -> Result<SelectedReplica, SkipReason> {
        let name = &self.plan.models[model];
        let mut skip = |reason, detail, skipped| {
            record.reject_model(name, reason, detail);
            Err(skipped)
        };
        let Some(endpoints) = self.view.models.get(name) else {
            return skip(RejectReason::UnknownModel, "", SkipReason::Unavailable);
        };
        if self.head_of != Some(model) && self.pending.has_waiters(name) {
            return skip(RejectReason::Queued, "", SkipReason::Coming);
        }
        if let Some(zones) = &self.plan.zones
            && endpoints.leaves_zones(zones)
        {
            return skip(RejectReason::Zone, SERVER_OUTSIDE, SkipReason::Unavailable);
        }
        let eligible = endpoints.eligible(self.plan.zones.as_ref());
        if eligible.is_empty() {
            return match (endpoints.replicas().is_empty(), endpoints.coming) {
                (false, _) => skip(RejectReason::Zone, "", SkipReason::Unavailable),
                (true, true) => skip(RejectReason::NotLoaded, "", SkipReason::Coming),
                (true, false) => skip(RejectReason::NotLoaded, "", SkipReason::Unavailable),
            };
        }
        let candidates = ModelCandidates {
            model,
            name,
            cached: self.find_cached(name, &eligible),
            eligible,
        };
        match self.select_replica(&candidates, record) {
            Ok((index, estimate)) => {
                record.affinity = candidates.cached.map(|cached| AffinityRecord {
                    node: cached.hit.node,
                    cached_bytes: cached.hit.bytes,
                    chosen: cached.index == index,
                });
                Ok(SelectedReplica {
                    model,
                    replica: candidates.eligible.get(index).clone(),
                    unread_bytes: estimate.unread_bytes,
                    expected: estimate.under_pressure(),
                })
            }
            Err(SkipReason::Refused) => {
                record.reject_model(name, RejectReason::AttemptFailed, "");
                Err(SkipReason::Refused)
            }
            Err(SkipReason::Full) => {
                record.reject_model(name, RejectReason::Full, "");
                Err(SkipReason::Full)
            }
            Err(skipped) => Err(skipped),
        }
    }

    /// Returns the eligible replica that may have the conversation in memory.
    fn find_cached(
        &self,
        model: &ModelName,
        eligible: &EligibleReplicas<'_>,
    ) -> Option<CachedReplica> {
        let hits = self.affinity.find(model, self.plan);
        let mut hits = hits.filter_map(|hit| Some((eligible.index_of(&hit.node)?, hit)));
        // A replica without a prefix cache reads the same beginning as slowly again.
        let (index, hit) = hits.find(|(index, hit)| {
            hit.bytes == 0 || eligible.get(*index).stats.limits().prefix_cache
        })?;
        Some(CachedReplica { index, hit })
    }

    /// Selects one of the eligible replicas of a model. Returns its index among them.
    fn select_replica(
        &self,
        candidates: &ModelCandidates<'_>,
        record: &mut SelectionRecord,
    ) -> Result<(usize, CandidateEstimate), SkipReason> {
        let ModelCandidates {
            model,
            name,
            eligible,
            cached,
        } = candidates;
        let context = self.estimate_context(name);
        let first_candidate = record.candidates.len();
        // Replicas whose circuit breaker is open: the last resort.
        let mut open_breakers = Vec::new();
        let mut reasons = Vec::new();
        let mut skipped = SkipReason::Unavailable;
        let status = |index: usize| {
            let replica = eligible.get(index);
            if self.retry.has_failed(*model, replica, self.now) {
                skipped = skipped.max(SkipReason::Refused);
                return CandidateStatus::Ineligible;
            }
            let cached = cached.as_ref().filter(|cached| cached.index == index);
            match context.estimate(replica, cached.map(|cached| cached.hit.bytes)) {
                Ok(estimate) if estimate.snapshot.admitted => {
                    record.candidates.push(estimate.record(name, replica));
                    CandidateStatus::Eligible(estimate)
                }
                Ok(estimate) => {
                    if !open_breakers.contains(&index) {
                        open_breakers.push(index);
                    }
                    CandidateStatus::LastResort(estimate)
                }
                Err((reason, detail)) => {
                    skipped = skipped.max(skip_reason(reason));
                    record.reject_replica(name, &replica.node, reason, detail);
                    CandidateStatus::Ineligible
                }
            }
        };
        let choose = |estimates: &[CandidateEstimate]| {
            let (selected, why) = context.select_with_reasons(estimates);
            reasons = why;
            selected
        };
        let selected = match self.scope {
            SelectionScope::Request => sample_and_choose(
                eligible.len(),
                cached.as_ref().map(|cached| cached.index),
                status,
                choose,
                |n| fastrand::usize(..n),
            ),
            SelectionScope::Everything => choose_from_all(eligible.len(), status, choose),
        };
        // The compared replicas are recorded in the order in which they were compared: all whose
        // breaker is closed, or else all whose breaker is open.
        set_reasons(&mut record.candidates[first_candidate..], &reasons);
        for (position, index) in open_breakers.into_iter().enumerate() {
            let replica = eligible.get(index);
            let estimate = selected
                .as_ref()
                .filter(|(selected, _)| *selected == index)
                .map(|(_, estimate)| estimate);
            record.add_open_breaker(name, replica, estimate, reasons.get(position).copied());
        }
        selected.ok_or(skipped)
    }

    /// Selects an idle replica of the plan's model at index `model` on another node than `slow`, for a
    /// hedged request.
    pub(crate) fn select_spare(&self, model: usize, slow: &NodeName) -> Option<ReplicaView> {
        let name = &self.plan.models[model];
        let endpoints = self.view.models.get(name)?;
        let eligible = endpoints.eligible(self.plan.zones.as_ref());
        let context = self.estimate_context(name);
        let status = |index: usize| {
            let replica = eligible.get(index);
            if replica.node == *slow || self.retry.has_failed(model, replica, self.now) {
                return CandidateStatus::Ineligible;
            }
            match context.estimate(replica, None) {
                Ok(estimate)
                    if estimate.snapshot.admitted && estimate.snapshot.load.has_free_slot() =>
                {
                    CandidateStatus::Eligible(estimate)
                }
                _ => CandidateStatus::Ineligible,
            }
        };
        let choose = |estimates: &[CandidateEstimate]| context.select(estimates);
        let selected = sample_and_choose(eligible.len(), None, status, choose, |n| {
            fastrand::usize(..n)
        });
        selected.map(|(index, _)| eligible.get(index).clone())
    }

    fn estimate_context(&self, model: &ModelName) -> EstimateContext<'_> {
        let task = self.plan.task.as_ref().map(|task| task.task.name());
        let endpoints = self.view.models.get(model);
        EstimateContext {
            plan: self.plan,
            cost: self.plan.cost_at(endpoints.map(|e| &e.model.spec)),
            quality: self.view.routing.measured(task, model),
            remaining: self.remaining,
            spent: self.spent,
            now: stats_clock(),
        }
    }
}

fn skip_reason(reason: RejectReason) -> SkipReason {
    match reason {
        RejectReason::Full => SkipReason::Full,
        RejectReason::Zone => SkipReason::Unavailable,
        RejectReason::Deadline => SkipReason::DeadlineUnmet,
        _ => SkipReason::LimitsUnmet,
    }
}
