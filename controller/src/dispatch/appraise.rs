//! What is expected of a replica for a request, and whether it may answer.

use std::time::Duration;

use flotilla_core::estimate::{LatencyPrediction, RequestCost, SpeedEstimate};
use flotilla_core::routing::{
    AnswerLimits, CandidateRecord, ExpectedAnswer, LimitViolation, RejectReason, ReplicaCandidate,
    SelectionReason, is_longer, prefer, selection_reasons,
};
use flotilla_core::{Joules, ModelName};

use super::plan::DispatchPlan;
use crate::fleet::{CandidateSnapshot, MeasuredQuality, ReplicaView};

/// By which factor a replica that had a request's session before counts as faster: the session stays
/// where it is unless another one is twice as fast.
const SESSION: f32 = 0.5;

/// What is expected of a replica.
#[derive(Debug, Clone, Copy)]
pub(super) struct CandidateEstimate {
    pub(super) prospect: CandidateSnapshot,
    /// Bytes of the prompt that it has yet to read.
    pub(super) unread_bytes: u32,
    /// `None`: it has not answered yet.
    prediction: Option<LatencyPrediction>,
    pub(super) expected: ExpectedAnswer,
    /// What of the time is left where it has a part of the conversation in memory.
    left: f32,
}

/// Appraises a replica of a model that was `measured`, with so many bytes of the conversation in
/// memory, for a request that has `time` to its deadline.
///
/// # Errors
/// Why it may not answer.
pub(super) fn appraise(
    replica: &ReplicaView,
    plan: &DispatchPlan,
    measured: MeasuredQuality,
    known_bytes: Option<u32>,
    time: Option<Duration>,
    now: f32,
) -> Result<CandidateEstimate, (RejectReason, String)> {
    let quality = measured.of(replica.revision);
    keeps_quality(plan.limits, quality)?;
    let prospect = replica.load.prospect(plan.queue_key, now);
    if prospect.full {
        let requests = prospect.load.in_flight;
        return Err((RejectReason::Full, format!("{requests} requests")));
    }
    let (pace, load) = (prospect.pace, prospect.load);
    let unread = RequestCost {
        prompt_bytes: plan.work.prompt_bytes - known_bytes.unwrap_or(0).min(plan.work.prompt_bytes),
        ..plan.work
    };
    let prediction = pace.map(|pace| pace.predict(load, unread));
    let alone = pace.map(|pace| pace.alone(unread));
    let expected = ExpectedAnswer {
        quality,
        seconds: prediction.map(|prediction| prediction.total),
        joules: alone.map(|alone| prospect.joules(alone)),
    };
    // Nobody would ever know that it is better by now if it were never tried.
    let hope = pace.filter(|_| load.requests() == 0);
    let hope = hope.map_or(1.0, |pace| pace.hope(now));
    let hoped = ExpectedAnswer {
        quality,
        seconds: expected.seconds.map(|seconds| seconds * hope),
        joules: expected.joules.map(|Joules(joules)| Joules(joules * hope)),
    };
    keeps_limits(hoped, plan.limits, time)?;
    let left = match (known_bytes, pace) {
        (None, _) => 1.0,
        (Some(0), _) => SESSION,
        (Some(_), Some(pace)) => pace.alone(unread) / pace.alone(plan.work).max(f32::MIN_POSITIVE),
        (Some(_), None) => 1.0,
    };
    Ok(CandidateEstimate {
        prospect,
        unread_bytes: unread.prompt_bytes,
        // What it takes at least is no prediction.
        prediction: prediction.filter(|_| !pace.is_some_and(SpeedEstimate::is_least)),
        expected,
        left,
    })
}

/// Whether what is expected of a replica keeps the limits of a request that has `time` to its deadline.
fn keeps_limits(
    expected: ExpectedAnswer,
    limits: AnswerLimits,
    time: Option<Duration>,
) -> Result<(), (RejectReason, String)> {
    let millis = |seconds: f32| format!("{:.0} ms are expected", seconds * 1e3);
    if let (Some(seconds), Some(time)) = (expected.seconds, time)
        && is_longer(seconds, time)
    {
        let told = format!("{}, {} are left", millis(seconds), time.as_millis());
        return Err((RejectReason::Deadline, told));
    }
    match limits.replica_breach(expected) {
        Some(LimitViolation::Energy) => {
            let joules = expected.joules.map_or(0.0, |joules| joules.0);
            Err((RejectReason::Energy, format!("{joules:.3} J are expected")))
        }
        Some(_) => Err((
            RejectReason::Latency,
            millis(expected.seconds.unwrap_or(0.0)),
        )),
        None => Ok(()),
    }
}

/// Whether the model's quality keeps the limits.
///
/// # Errors
/// Why it may not answer.
fn keeps_quality(limits: AnswerLimits, quality: Option<f32>) -> Result<(), (RejectReason, String)> {
    let least = limits.min_quality.unwrap_or(0.0);
    match limits.quality_breach(quality) {
        None => Ok(()),
        Some(LimitViolation::NotMeasured) => Err((
            RejectReason::Quality,
            format!("{least:.3} is asked, but it was not measured: see 'flotilla eval'"),
        )),
        Some(_) => {
            let quality = quality.unwrap_or(0.0);
            Err((
                RejectReason::Quality,
                format!("{quality:.3}, {least:.3} is asked"),
            ))
        }
    }
}

/// Picks one of several replicas of a model: the core decides.
pub(super) fn pick(appraisals: &[CandidateEstimate], plan: &DispatchPlan, now: f32) -> usize {
    prefer(&contenders(appraisals), plan.weights, plan.work, now)
}

fn contenders(appraisals: &[CandidateEstimate]) -> Vec<ReplicaCandidate> {
    appraisals
        .iter()
        .map(CandidateEstimate::contender)
        .collect()
}

/// The same, and how each stood.
pub(super) fn choose(
    appraisals: &[CandidateEstimate],
    plan: &DispatchPlan,
    now: f32,
) -> (usize, Vec<SelectionReason>) {
    let contenders = contenders(appraisals);
    let chosen = prefer(&contenders, plan.weights, plan.work, now);
    let reasons = selection_reasons(&contenders, chosen, plan.weights, plan.work, now);
    (chosen, reasons)
}

/// Puts on record how each of the replicas stood that were compared, in their order.
pub(super) fn tell(candidates: &mut [CandidateRecord], reasons: &[SelectionReason]) {
    for (candidate, selection) in candidates.iter_mut().zip(reasons) {
        candidate.selection = Some(*selection);
    }
}

impl CandidateEstimate {
    /// The replica as it is compared with others of its model.
    fn contender(&self) -> ReplicaCandidate {
        ReplicaCandidate {
            load: self.prospect.load,
            pace: self.prospect.pace,
            joules: self.expected.joules,
            left: self.left,
            strain: self.prospect.strain.factor(),
        }
    }

    /// What is expected of it as it is compared: a node that is strained counts as worse.
    pub(super) fn compared(&self) -> ExpectedAnswer {
        let factor = self.prospect.strain.factor();
        ExpectedAnswer {
            quality: self.expected.quality,
            seconds: self.expected.seconds.map(|seconds| seconds * factor),
            joules: self
                .expected
                .joules
                .map(|Joules(joules)| Joules(joules * factor)),
        }
    }

    /// The replica for the record.
    pub(super) fn candidate(&self, model: &ModelName, replica: &ReplicaView) -> CandidateRecord {
        CandidateRecord {
            model: model.clone(),
            node: replica.node.clone(),
            load: self.prospect.load,
            predicted_ms: self.prediction.map(|p| p.total * 1e3),
            predicted_first_token_ms: self.prediction.map(|p| p.first_token * 1e3),
            predicted_joules: self.prediction.and(self.expected.joules),
            quality: self.expected.quality,
            strain: (!self.prospect.strain.is_none()).then(|| self.prospect.strain.to_string()),
            selection: None,
            score: None,
        }
    }
}
