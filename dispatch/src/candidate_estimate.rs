//! The time and energy that a replica is expected to need for a request, and whether it may answer.

use std::time::Duration;

use flotilla_core::estimate::{LatencyPrediction, RequestCost, SpeedEstimate};
use flotilla_core::routing::{
    CandidateRecord, ExpectedAnswer, ExpectedReplica, LimitViolation, RejectReason,
    ReplicaCandidate, RequestLimits, SelectionReason, SpentResources, choose_replica,
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
    /// What earlier attempts of the request have taken.
    pub(crate) spent: SpentResources,
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
        let snapshot = replica.stats.snapshot(plan.queue_key, self.now);
        let (speed, load) = (snapshot.speed, snapshot.load);
        let cached = cached_bytes.unwrap_or(0).min(self.cost.prompt_bytes);
        let unread = RequestCost {
            prompt_bytes: self.cost.prompt_bytes - cached,
            ..self.cost
        };
        let prediction = speed.map(|speed| speed.predict(load, unread));
        let alone = speed.map(|speed| speed.compute_seconds(unread));
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
        let limits = RequestLimits {
            answer: plan.limits,
            zones: plan.zones.as_ref(),
            remaining: self.remaining,
            spent: self.spent,
        };
        let violation = limits.violation(ExpectedReplica {
            zones: Some(&replica.zones),
            answer: optimistic,
        });
        match violation {
            Some(violation) if violation.is_lasting() || !snapshot.full => {
                return Err(rejection(violation, optimistic, &limits));
            }
            _ if snapshot.full => {
                let requests = load.in_flight;
                return Err((RejectReason::Full, format!("{requests} requests")));
            }
            _ => {}
        }
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

/// Describes the limit that the `expected` answer violates.
fn rejection(
    violation: LimitViolation,
    expected: ExpectedAnswer,
    limits: &RequestLimits<'_>,
) -> Rejection {
    let expected_ms = || {
        format!(
            "{:.0} ms are expected",
            expected.seconds.unwrap_or(0.0) * 1e3
        )
    };
    let required = limits.answer.min_quality.unwrap_or(0.0);
    match violation {
        LimitViolation::Zone => (RejectReason::Zone, String::new()),
        LimitViolation::NotMeasured => (
            RejectReason::Quality,
            format!("{required:.3} is required, but it was not measured: see 'flotilla eval'"),
        ),
        LimitViolation::Quality => {
            let quality = expected.quality.unwrap_or(0.0);
            (
                RejectReason::Quality,
                format!("{quality:.3}, {required:.3} is required"),
            )
        }
        LimitViolation::Deadline => {
            let remaining = limits.remaining.unwrap_or_default().as_millis();
            (
                RejectReason::Deadline,
                format!("{}, {remaining} remain", expected_ms()),
            )
        }
        LimitViolation::Latency => (RejectReason::Latency, expected_ms()),
        LimitViolation::Energy => {
            let joules = expected.joules.map_or(0.0, |joules| joules.0);
            (RejectReason::Energy, format!("{joules:.3} J are expected"))
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
