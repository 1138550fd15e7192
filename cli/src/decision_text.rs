//! Routing decisions as text for people.

use std::collections::BTreeMap;

use flotilla_core::Joules;
use flotilla_core::admission::Priority;
use flotilla_core::routing::{
    AnswerLimits, CandidateRecord, ClassificationRecord, EvidenceKind, HedgeRecord, ObjectiveScore,
    OutcomeStatus, RejectReason, RejectedCandidate, RequestOutcome, RoutingDecision, TierOutcome,
    TierRecord,
};
use flotilla_dispatch::DecisionRecord;

use crate::resource_text::counted;
use crate::{encoder_text, output};

/// Maximum number of rejected replicas with a row of their own.
const MAX_REJECTED_ROWS: usize = 20;

/// Returns a routing decision and its outcome as text for people.
pub(crate) fn decision_text(record: &DecisionRecord) -> String {
    let decision = &record.decision;
    let or_empty = |value: Option<String>| value.unwrap_or_default();
    let zones: Vec<_> = decision.zones.iter().map(|zone| zone.as_str()).collect();
    let mut text = output::fields(&[
        ("Decision", or_empty(record.id.clone())),
        ("Requested model", decision.requested_model.clone()),
        (
            "Task",
            or_empty(decision.task.as_ref().map(ToString::to_string)),
        ),
        ("Zones", zones.join(", ")),
        (
            "Priority",
            match decision.priority {
                Priority::Normal => String::new(),
                other => other.as_str().to_owned(),
            },
        ),
        ("Limits", limits(decision)),
        ("Prompt", or_empty(decision.prompt.clone())),
        (
            "Model",
            or_empty(decision.model.as_ref().map(ToString::to_string)),
        ),
        (
            "Node",
            or_empty(decision.node.as_ref().map(ToString::to_string)),
        ),
    ]);
    if let Some(classified) = &decision.classification {
        text += &classification(classified);
        text += &classified
            .encoder
            .as_ref()
            .map(encoder_text::record)
            .unwrap_or_default();
    }
    text += &candidates(decision);
    text += &earlier_steps(decision);
    if let Some(outcome) = &record.outcome {
        text += "\n";
        text += &request_outcome(outcome);
    }
    text
}

/// Returns the task that the classifier chose, with its confidence and the evidence for it.
fn classification(classified: &ClassificationRecord) -> String {
    let comparison = if classified.abstained {
        "below"
    } else {
        "at least"
    };
    let runner_up = classified.runner_up.as_ref();
    let runner_up = runner_up.map(|r| format!("{} (confidence {:.3})", r.task, r.confidence));
    let nearest = classified.nearest.as_ref().map(|nearest| {
        let text = &*nearest.text;
        format!("'{text}' (similarity {:.2})", nearest.similarity)
    });
    let mut text = String::from("\n");
    text += &output::fields(&[
        (
            "Classified as",
            format!(
                "{} (confidence {:.3}, {comparison} the threshold {:.3})",
                classified.best_task, classified.confidence, classified.threshold
            ),
        ),
        ("Runner-up", runner_up.unwrap_or_default()),
        (
            "Score",
            format!(
                "{:.2}, of which {:.2} is the task's prior",
                classified.score, classified.bias
            ),
        ),
        ("Nearest example", nearest.unwrap_or_default()),
    ]);
    let rows = classified.evidence.iter().map(|evidence| {
        let text = &*evidence.text;
        vec![
            match evidence.kind {
                EvidenceKind::Words => text.to_owned(),
                // Quoted, since spaces at its ends matter.
                EvidenceKind::Letters => format!("letters '{text}'"),
                EvidenceKind::Meaning => format!("in meaning near '{text}'"),
            },
            format!("{:+.3}", evidence.weight),
        ]
    });
    text + &output::table(&["EVIDENCE", "WEIGHT"], rows)
}

/// Returns why a candidate was chosen or not, and the pressure on its node.
fn selection_reason(
    decision: &RoutingDecision,
    candidate: &CandidateRecord,
    chosen: bool,
) -> String {
    let is_winner = |hedge: &&HedgeRecord| chosen && hedge.won && hedge.node == candidate.node;
    let winning_hedge = decision.hedges.iter().find(is_winner);
    let reason = match winning_hedge {
        Some(HedgeRecord {
            slow_node: slow, ..
        }) => Some(format!("hedge for {slow}, answered before it")),
        None => candidate.selection.map(|selection| selection.to_string()),
    };
    let mut parts: Vec<_> = chosen.then(|| "chosen".to_owned()).into_iter().collect();
    parts.extend(reason);
    parts.extend(candidate.pressure.clone());
    parts.join("; ")
}

/// Returns the tables of the compared replicas and of the rejected ones.
fn candidates(decision: &RoutingDecision) -> String {
    let mut text = String::new();
    if !decision.candidates.is_empty() {
        let rows = decision.candidates.iter().map(|candidate| {
            let chosen = decision.model.as_ref() == Some(&candidate.model)
                && decision.node.as_ref() == Some(&candidate.node);
            let load = candidate.load;
            let millis = |ms: Option<f32>| ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default();
            vec![
                candidate.model.to_string(),
                candidate.node.to_string(),
                format!("{} of {}", load.requests(), load.concurrency),
                millis(candidate.predicted_first_token_ms),
                millis(candidate.predicted_ms),
                candidate.predicted_joules.map(joules).unwrap_or_default(),
                candidate.quality.map(percent).unwrap_or_default(),
                candidate.score.map(score_text).unwrap_or_default(),
                selection_reason(decision, candidate, chosen),
            ]
        });
        text += "\n";
        let headings = [
            "CANDIDATE",
            "NODE",
            "LOAD",
            "TTFT (EST.)",
            "TOTAL (EST.)",
            "ENERGY (EST.)",
            "QUALITY",
            "SCORE",
            "REASON",
        ];
        text += &output::table(&headings, rows);
    }
    if decision.rejected.is_empty() {
        return text;
    }
    // In a large fleet many nodes do not have the model loaded: they share one row.
    let mut rows = Vec::new();
    let mut not_loaded: BTreeMap<&str, usize> = BTreeMap::new();
    for rejected in &decision.rejected {
        if rejected.reason == RejectReason::NotLoaded && rejected.node.is_some() {
            *not_loaded.entry(rejected.model.as_str()).or_default() += 1;
        } else if rows.len() < MAX_REJECTED_ROWS {
            rows.push(rejected_row(rejected));
        }
    }
    rows.extend(not_loaded.into_iter().map(|(model, nodes)| {
        vec![
            model.to_owned(),
            counted(nodes, "node"),
            reject_reason(RejectReason::NotLoaded).into(),
            String::new(),
        ]
    }));
    text += "\n";
    text + &output::table(&["REJECTED", "NODE", "REASON", "DETAIL"], rows)
}

/// Returns the limits that the request and its task set for the answer.
fn limits(decision: &RoutingDecision) -> String {
    let AnswerLimits {
        min_quality,
        max_latency,
        max_joules,
    } = decision.limits;
    let limits = [
        min_quality.map(|quality| format!("quality at least {}", percent(quality))),
        max_latency.map(|latency| format!("latency at most {latency}")),
        max_joules.map(|limit| format!("energy at most {}", joules(limit))),
        decision.deadline_ms.map(|ms| format!("deadline {ms} ms")),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    limits.join(", ")
}

/// Returns the steps before the final replica: session affinity, smaller models and hedges.
fn earlier_steps(decision: &RoutingDecision) -> String {
    let mut text = String::new();
    if let Some(affinity) = &decision.affinity {
        let reason = match affinity.cached_bytes {
            0 => "served the session before".to_owned(),
            bytes => format!("has {bytes} bytes of the conversation in its cache"),
        };
        let result = if affinity.chosen {
            "was chosen for that"
        } else {
            "was not chosen, since another replica was expected to answer earlier"
        };
        text += &format!("\n{} {reason}; it {result}\n", affinity.node);
    }
    if !decision.cascade_tiers.is_empty() {
        let rows = decision.cascade_tiers.iter().map(|tier| {
            let confidence = tier.confidence.map(|value| format!("{value:.3}"));
            vec![
                tier.model.to_string(),
                tier.node
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                format!(
                    "{} {}",
                    tier.measure.as_str(),
                    confidence.unwrap_or_default()
                ),
                format!("{:.3}", tier.threshold),
                tier_outcome(tier).to_owned(),
                format!("{:.1} ms", tier.duration_ms),
                tier.joules.map(joules).unwrap_or_default(),
            ]
        });
        text += "\n";
        let headings = [
            "TIER",
            "NODE",
            "CONFIDENCE",
            "THRESHOLD",
            "RESULT",
            "TIME",
            "ENERGY",
        ];
        text += &output::table(&headings, rows);
    }
    for hedge in &decision.hedges {
        let winner = if hedge.won {
            &hedge.node
        } else {
            &hedge.slow_node
        };
        text += &format!(
            "\n{} sent no token within {:.0} ms: the request was also sent to {}; {winner} answered first\n",
            hedge.slow_node, hedge.delay_ms, hedge.node
        );
    }
    text
}

fn tier_outcome(tier: &TierRecord) -> &'static str {
    match tier.outcome {
        TierOutcome::Accepted => "accepted",
        TierOutcome::LowConfidence => "confidence too low",
        TierOutcome::StoppedEarly => "confidence too low, stopped early",
        TierOutcome::SchemaMismatch => "does not match the requested format",
        TierOutcome::Failed => "failed",
        TierOutcome::AcceptedAsFallback => "accepted, since no larger model could answer",
    }
}

pub(crate) fn joules(Joules(joules): Joules) -> String {
    format!("{joules:.3} J")
}

fn percent(fraction: f32) -> String {
    format!("{:.1} %", fraction * 100.0)
}

fn score_text(score: ObjectiveScore) -> String {
    format!(
        "{:.3} (quality {:.2}, latency {:.2}, energy {:.2})",
        score.total, score.quality, score.latency, score.energy
    )
}

fn rejected_row(rejected: &RejectedCandidate) -> Vec<String> {
    let node = rejected.node.as_ref();
    vec![
        rejected.model.to_string(),
        node.map_or_else(|| "any".into(), ToString::to_string),
        reject_reason(rejected.reason).to_owned(),
        rejected.detail.clone(),
    ]
}

fn reject_reason(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::UnknownModel => "not in the fleet",
        RejectReason::NotLoaded => "not loaded",
        RejectReason::Loading => "loading",
        RejectReason::LoadFailed => "failed to load",
        RejectReason::Draining => "draining",
        RejectReason::NodeDisconnected => "node unreachable",
        RejectReason::Zone => "outside the zones",
        RejectReason::Full => "full",
        RejectReason::Queued => "other requests are queued",
        RejectReason::CircuitOpen => "circuit breaker open",
        RejectReason::AttemptFailed => "attempt failed",
        RejectReason::Memory => "not enough memory",
        RejectReason::Quality => "quality too low",
        RejectReason::Latency => "latency too high",
        RejectReason::Energy => "energy too high",
        RejectReason::Deadline => "would miss the deadline",
    }
}

fn request_outcome(outcome: &RequestOutcome) -> String {
    let status = match outcome.status {
        OutcomeStatus::Answered => "answered",
        OutcomeStatus::Failed => "failed",
        OutcomeStatus::Cancelled => "cancelled by the client",
    };
    let millis = |ms: f64| format!("{ms:.1} ms");
    let source = outcome.joules_source.unwrap_or_default();
    let energy = outcome
        .joules
        .map(|energy| format!("{}, {source}", joules(energy)));
    let energy = energy.unwrap_or_default();
    let tokens = |count: Option<u32>| count.map(|n| n.to_string()).unwrap_or_default();
    output::fields(&[
        ("Outcome", status.to_owned()),
        ("Error", outcome.error.clone().unwrap_or_default()),
        (
            "Time to first token",
            outcome.first_token_ms.map(millis).unwrap_or_default(),
        ),
        ("Total time", millis(outcome.total_ms)),
        ("Prompt tokens", tokens(outcome.prompt_tokens)),
        ("Output tokens", tokens(outcome.completion_tokens)),
        (
            "Queued on the node",
            outcome.queued_ms.map(millis).unwrap_or_default(),
        ),
        ("Energy", energy),
        (
            "CO2",
            outcome
                .co2_grams
                .map(|grams| format!("{grams:.6} g"))
                .unwrap_or_default(),
        ),
        (
            "Cost",
            outcome
                .cost
                .zip(outcome.currency)
                .map(|(cost, currency)| format!("{cost:.9} {currency}"))
                .unwrap_or_default(),
        ),
    ])
}
