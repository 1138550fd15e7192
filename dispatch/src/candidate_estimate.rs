//! The time and energy that a replica is expected to need for a request, and whether it may answer.

use std::time::Duration;

use flotilla_core::estimate::{LatencyPrediction, RequestCost, SpeedEstimate};
use flotilla_core::routing::{
    AnswerLimits, CandidateRecord, ExpectedAnswer, LimitViolation, RejectReason, ReplicaCandidate,
    SelectionReason, choose_replica, exceeds_limit,
};
use flotilla_core::{Joules, ModelName};

use crate::plan::DispatchPlan;
use crate::{CandidateSnapshot, MeasuredQuality, ReplicaView};

/// Factor on the predicted time of the replica that had the request's session before: the session stays
/// there unless another replica is twice as fast.
const SESSION_SHARE: f32 = 0.5;

/// Why a replica may not answer: the reason, and a detail for the reader of the decision.
pub(crate) type Rejection = (RejectReason, String);

/// The time and energy that a replica is expected to need for a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CandidateEstimate {
    pub(crate) snapshot: CandidateSnapshot,
    /// Bytes of the prompt that the replica has yet to read.
    pub(crate) unread_bytes: u32,
    /// `None` until the replica has answered a request.
    prediction: Option<LatencyPrediction>,
    expected: ExpectedAnswer,
    /// The share of the time that remains when the replica has a part of the conversation in memory.
    remaining_share: f32,
}

/// What an estimate depends on besides the replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EstimateContext<'a> {
    pub(crate) plan: &'a DispatchPlan,
    /// The cost of the request at the model, which limits its answers.
    pub(crate) cost: RequestCost,
    /// The measured quality of the model for the request's task.
    pub(crate) quality: MeasuredQuality,
    /// The time to the request's own deadline, if it has one.
    pub(crate) remaining: Option<Duration>,
    /// Seconds on [`crate::stats_clock`].
    pub(crate) now: f32,
}

impl EstimateContext<'_> {
    /// Estimates the time and energy of an answer of `replica`. `cached_bytes` is the part of the
    /// conversation that it has in memory: 0 for the session only, `None` for neither.
    ///
    /// # Errors
    /// Why the replica may not answer.
    pub(crate) fn estimate(
        &self,
        replica: &ReplicaView,
        cached_bytes: Option<u32>,
    ) -> Result<CandidateEstimate, Rejection> {
        let plan = self.plan;
        let quality = self.quality.for_revision(replica.revision);
        check_quality(plan.limits, quality)?;
        let snapshot = replica.stats.snapshot(plan.queue_key, self.now);
        if snapshot.full {
            let requests = snapshot.load.in_flight;
            return Err((RejectReason::Full, format!("{requests} requests")));
        }
        let (speed, load) = (snapshot.speed, snapshot.load);
        let cached = cached_bytes.unwrap_or(0).min(self.cost.prompt_bytes);
        let unread = RequestCost {
            prompt_bytes: self.cost.prompt_bytes - cached,
            ..self.cost
        };
        let prediction = speed.map(|speed| speed.predict(load, unread));
        let alone = speed.map(|speed| speed.unloaded_seconds(unread));
        let expected = ExpectedAnswer {
            quality,
            seconds: prediction.map(|prediction| prediction.total),
            joules: alone.map(|seconds| snapshot.joules(seconds)),
        };
        // An idle replica that was slow long ago counts as faster for the limits: otherwise it would
        // never be tried again.
        let idle = speed.filter(|_| load.requests() == 0);
        let bonus = idle.map_or(1.0, |speed| speed.exploration_bonus(self.now));
        let optimistic = ExpectedAnswer {
            quality,
            seconds: expected.seconds.map(|seconds| seconds * bonus),
            joules: expected.joules.map(|Joules(joules)| Joules(joules * bonus)),
        };
        check_limits(optimistic, plan.limits, self.remaining)?;
        let remaining_share = match (cached_bytes, speed) {
            (None, _) | (Some(1..), None) => 1.0,
            (Some(0), _) => SESSION_SHARE,
            (Some(_), Some(speed)) => {
                speed.unloaded_seconds(unread)
                    / speed.unloaded_seconds(self.cost).max(f32::MIN_POSITIVE)
            }
        };
        Ok(CandidateEstimate {
            snapshot,
            unread_bytes: unread.prompt_bytes,
            // A lower bound is no prediction.
            prediction: prediction.filter(|_| !speed.is_some_and(SpeedEstimate::is_lower_bound)),
            expected,
            remaining_share,
        })
    }

    /// Selects one of several replicas of a model.
    pub(crate) fn select(&self, candidates: &[CandidateEstimate]) -> usize {
        self.select_with_reasons(candidates).0
    }

    /// Selects one of several replicas of a model, and returns for each why it was selected or not.
    pub(crate) fn select_with_reasons(
        &self,
        candidates: &[CandidateEstimate],
    ) -> (usize, Vec<SelectionReason>) {
        let plan = self.plan;
        let candidates = replica_candidates(candidates);
        let choice = choose_replica(&candidates, plan.weights, self.cost, self.now);
        choice.map_or((0, Vec::new()), |choice| (choice.index, choice.explain()))
    }
}

/// Checks the expected time and energy of an answer against the limits and the `remaining` time.
fn check_limits(
    expected: ExpectedAnswer,
    limits: AnswerLimits,
    remaining: Option<Duration>,
) -> Result<(), Rejection> {
    let expected_ms = |seconds: f32| format!("{:.0} ms are expected", seconds * 1e3);
    if let (Some(seconds), Some(remaining)) = (expected.seconds, remaining)
        && exceeds_limit(seconds, remaining)
    {
        let detail = format!("{}, {} remain", expected_ms(seconds), remaining.as_millis());
        return Err((RejectReason::Deadline, detail));
    }
    match limits.replica_violation(expected) {
        Some(LimitViolation::Energy) => {
            let joules = expected.joules.map_or(0.0, |joules| joules.0);
            Err((RejectReason::Energy, format!("{joules:.3} J are expected")))
        }
        Some(_) => Err((
            RejectReason::Latency,
            expected_ms(expected.seconds.unwrap_or(0.0)),
        )),
        None => Ok(()),
    }
}

/// Checks the model's measured quality against the limits.
fn check_quality(limits: AnswerLimits, quality: Option<f32>) -> Result<(), Rejection> {
    let required = limits.min_quality.unwrap_or(0.0);
    match limits.quality_violation(quality) {
        None => Ok(()),
        Some(LimitViolation::NotMeasured) => Err((
            RejectReason::Quality,
            format!("{required:.3} is required, but it was not measured: see 'flotilla eval'"),
        )),
        Some(_) => {
            let quality = quality.unwrap_or(0.0);
            Err((
                RejectReason::Quality,
                format!("{quality:.3}, {required:.3} is required"),
            ))
        }
    }
}

fn replica_candidates(candidates: &[CandidateEstimate]) -> Vec<ReplicaCandidate> {
    candidates
        .iter()
        .map(CandidateEstimate::replica_candidate)
        .collect()
}

/// Sets the selection reasons of the candidates that were compared, in the same order.
pub(crate) fn set_reasons(candidates: &mut [CandidateRecord], reasons: &[SelectionReason]) {
    for (candidate, reason) in candidates.iter_mut().zip(reasons) {
        candidate.selection = Some(*reason);
    }
}

impl CandidateEstimate {
    /// Returns the candidate for the comparison with other replicas of its model.
    fn replica_candidate(&self) -> ReplicaCandidate {
        ReplicaCandidate {
            load: self.snapshot.load,
            speed: self.snapshot.speed,
            joules: self.expected.joules,
            remaining_share: self.remaining_share,
            pressure_factor: self.snapshot.pressure.factor(),
        }
    }

    /// Returns the expected answer for the comparison with other models. Node pressure counts as more time
    /// and more energy.
    pub(crate) fn under_pressure(&self) -> ExpectedAnswer {
        let factor = self.snapshot.pressure.factor();
        ExpectedAnswer {
            quality: self.expected.quality,
            seconds: self.expected.seconds.map(|seconds| seconds * factor),
            joules: self
                .expected
                .joules
                .map(|Joules(joules)| Joules(joules * factor)),
        }
    }

    /// The candidate for the decision record.
    pub(crate) fn record(&self, model: &ModelName, replica: &ReplicaView) -> CandidateRecord {
        let pressure = self.snapshot.pressure;
        CandidateRecord {
            model: model.clone(),
            node: replica.node.clone(),
            load: self.snapshot.load,
            predicted_ms: self.prediction.map(|p| p.total * 1e3),
            predicted_first_token_ms: self.prediction.map(|p| p.first_token * 1e3),
            predicted_joules: self.prediction.and(self.expected.joules),
            quality: self.expected.quality,
            pressure: (!pressure.is_none()).then(|| pressure.to_string()),
            selection: None,
            score: None,
        }
    }
}
