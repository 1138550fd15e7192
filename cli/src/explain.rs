//! `flotilla route` and `flotilla explain`.

use std::collections::BTreeMap;

use flotilla_controller::admin::DryRun;
use flotilla_controller::decisions::DecisionRecord;
use flotilla_core::Joules;
use flotilla_core::admission::Priority;
use flotilla_core::routing::{
    AnswerLimits, CandidateRecord, ClassificationRecord, HedgeRecord, NgramKind, ObjectiveScore,
    OutcomeStatus, RejectReason, RejectedCandidate, RequestOutcome, RoutingDecision, TierOutcome,
    TierRecord,
};
use serde_json::json;

use crate::args::{ExplainArgs, RouteArgs};
use crate::client::Fleet;
use crate::describe::facts;
use crate::output;

/// Rejected replicas that are shown one by one.
const SHOWN: usize = 20;

/// Says where a request would go.
pub(crate) async fn route(args: RouteArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let body = json!({
        "model": args.model,
        "messages": [{"role": "user", "content": args.text}],
        "flotilla": {"zone": args.zone},
    });
    let dry: DryRun = fleet.post(&["v1", "route"], &body).await?.json().await?;
    if output::machine(args.output, &dry)? {
        return Ok(());
    }
    print!("{}", told(&dry.record));
    if let Some(error) = dry.error {
        println!("\nIt would be refused: {error}");
    }
    Ok(())
}

/// Says why a request went where it went.
pub(crate) async fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let record: DecisionRecord = fleet.get(&["v1", "decisions", &args.id]).await?;
    if !output::machine(args.output, &record)? {
        print!("{}", told(&record));
    }
    Ok(())
}

/// A decision in words.
pub(crate) fn told(record: &DecisionRecord) -> String {
    let decision = &record.decision;
    let text = |of: Option<String>| of.unwrap_or_default();
    let zones: Vec<_> = decision.zones.iter().map(|zone| zone.as_str()).collect();
    let mut told = facts(&[
        ("Decision", text(record.id.clone())),
        ("Asked for", decision.requested.clone()),
        (
            "Task",
            text(decision.task.as_ref().map(ToString::to_string)),
        ),
        ("Only in zones", zones.join(", ")),
        (
            "Priority",
            match decision.priority {
                Priority::Normal => String::new(),
                other => other.as_str().to_owned(),
            },
        ),
        ("Limits", limits(decision)),
        ("Prompt", text(decision.prompt.clone())),
        (
            "Model",
            text(decision.model.as_ref().map(ToString::to_string)),
        ),
        (
            "Node",
            text(decision.node.as_ref().map(ToString::to_string)),
        ),
    ]);
    if let Some(classified) = &decision.classified {
        told += &why_task(classified);
    }
    told += &why_replica(decision);
    told += &before(decision);
    if let Some(outcome) = &record.outcome {
        told += "\n";
        told += &ended(outcome);
    }
    told
}

/// The task, and the words that decided it.
fn why_task(classified: &ClassificationRecord) -> String {
    let verdict = if classified.abstained {
        "too unsure"
    } else {
        "sure enough"
    };
    let runner_up = classified.runner_up.as_ref();
    let runner_up = runner_up.map(|r| format!("{} ({:.3})", r.task, r.confidence));
    let mut told = String::from("\n");
    told += &facts(&[
        (
            "Classified as",
            format!(
                "{} ({:.3}, {verdict}: {:.3} is needed)",
                classified.best_task, classified.confidence, classified.threshold
            ),
        ),
        ("Runner-up", runner_up.unwrap_or_default()),
        (
            "Score",
            format!(
                "{:.2}, of which {:.2} is how common it is",
                classified.score, classified.bias
            ),
        ),
    ]);
    let rows = classified.evidence.iter().map(|evidence| {
        let ngram = &*evidence.ngram;
        vec![
            match evidence.kind {
                NgramKind::Words => ngram.to_owned(),
                // Spaces at its ends mean something.
                NgramKind::Letters => format!("letters '{ngram}'"),
            },
            format!("{:+.3}", evidence.weight),
        ]
    });
    told + &output::table(&["N-GRAM", "WEIGHT"], rows)
}

/// Why a replica was chosen, or why not.
fn why(decision: &RoutingDecision, candidate: &CandidateRecord, chosen: bool) -> String {
    let won = |hedge: &&HedgeRecord| chosen && hedge.won && hedge.node == candidate.node;
    let spare = decision.hedges.iter().find(won);
    let selection = match spare {
        Some(HedgeRecord { slow, .. }) => Some(format!("asked beside {slow}, and answered first")),
        None => candidate.selection.map(|selection| selection.to_string()),
    };
    let mut told: Vec<_> = chosen.then(|| "chosen".to_owned()).into_iter().collect();
    told.extend(selection);
    told.extend(candidate.strain.clone());
    told.join("; ")
}

/// The replicas that were compared, and those that were not.
fn why_replica(decision: &RoutingDecision) -> String {
    let mut told = String::new();
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
                candidate.score.map(scored).unwrap_or_default(),
                why(decision, candidate, chosen),
            ]
        });
        told += "\n";
        let headings = [
            "CANDIDATE",
            "NODE",
            "BUSY",
            "FIRST TOKEN",
            "WHOLE",
            "ENERGY",
            "QUALITY",
            "SCORE",
            "WHY",
        ];
        told += &output::table(&headings, rows);
    }
    if decision.rejected.is_empty() {
        return told;
    }
    // A large fleet's many nodes without the model are one line.
    let mut rows = Vec::new();
    let mut not_loaded: BTreeMap<&str, usize> = BTreeMap::new();
    for rejected in &decision.rejected {
        if rejected.reason == RejectReason::NotLoaded && rejected.node.is_some() {
            *not_loaded.entry(rejected.model.as_str()).or_default() += 1;
        } else if rows.len() < SHOWN {
            rows.push(row(rejected));
        }
    }
    rows.extend(not_loaded.into_iter().map(|(model, nodes)| {
        vec![
            model.to_owned(),
            format!("{nodes} nodes"),
            reason(RejectReason::NotLoaded).into(),
            String::new(),
        ]
    }));
    told += "\n";
    told + &output::table(&["REJECTED", "NODE", "REASON", ""], rows)
}

/// What the request or its task asks of the answer.
fn limits(decision: &RoutingDecision) -> String {
    let AnswerLimits {
        min_quality,
        max_latency,
        max_joules,
    } = decision.limits;
    let limits = [
        min_quality.map(|quality| format!("quality {} or more", percent(quality))),
        max_latency.map(|latency| format!("at most {latency}")),
        max_joules.map(|most| format!("at most {}", joules(most))),
        decision
            .deadline_ms
            .map(|ms| format!("complete within {ms} ms")),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    limits.join(", ")
}

/// What happened before the one that answered was found: memory, smaller models, hedges.
fn before(decision: &RoutingDecision) -> String {
    let mut told = String::new();
    if let Some(affinity) = &decision.affinity {
        let what = match affinity.known_bytes {
            0 => "had the session before".to_owned(),
            bytes => format!("has read {bytes} bytes of the conversation before"),
        };
        let taken = if affinity.taken {
            "was chosen"
        } else {
            "another one was sooner all the same"
        };
        told += &format!("\n{} {what}; {taken}\n", affinity.node);
    }
    if !decision.tiers.is_empty() {
        let rows = decision.tiers.iter().map(|tier| {
            let sure = tier.confidence.map(|sure| format!("{sure:.3}"));
            vec![
                tier.model.to_string(),
                tier.node
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                format!("{} {}", tier.measure.as_str(), sure.unwrap_or_default()),
                format!("{:.3}", tier.threshold),
                verdict(tier).to_owned(),
                format!("{:.1} ms", tier.ms),
                tier.joules.map(joules).unwrap_or_default(),
            ]
        });
        told += "\n";
        let headings = ["TIER", "NODE", "SURE", "NEEDED", "", "TOOK", "ENERGY"];
        told += &output::table(&headings, rows);
    }
    for hedge in &decision.hedges {
        let first = if hedge.won { &hedge.node } else { &hedge.slow };
        told += &format!(
            "\n{} had not begun after {:.0} ms: {} was asked as well; {first} answered first\n",
            hedge.slow, hedge.after_ms, hedge.node
        );
    }
    told
}

fn verdict(tier: &TierRecord) -> &'static str {
    match tier.verdict {
        TierOutcome::Kept => "kept",
        TierOutcome::Unsure => "too unsure",
        TierOutcome::StoppedEarly => "too unsure, stopped early",
        TierOutcome::Malformed => "not of the form asked for",
        TierOutcome::Failed => "did not answer",
        TierOutcome::KeptForWantOfBetter => "kept: no larger model could answer",
    }
}

fn joules(Joules(joules): Joules) -> String {
    format!("{joules:.3} J")
}

fn percent(part: f32) -> String {
    format!("{:.1} %", part * 100.0)
}

fn scored(score: ObjectiveScore) -> String {
    format!(
        "{:.3} (quality {:.2}, latency {:.2}, energy {:.2})",
        score.total, score.quality, score.latency, score.energy
    )
}

fn row(rejected: &RejectedCandidate) -> Vec<String> {
    let node = rejected.node.as_ref();
    vec![
        rejected.model.to_string(),
        node.map_or_else(|| "any".into(), ToString::to_string),
        reason(rejected.reason).to_owned(),
        rejected.detail.clone(),
    ]
}

fn reason(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Unknown => "not in the fleet",
        RejectReason::NotLoaded => "not loaded",
        RejectReason::Loading => "loading",
        RejectReason::Failed => "failed to load",
        RejectReason::Draining => "draining",
        RejectReason::NodeAway => "node away",
        RejectReason::Zone => "outside its zones",
        RejectReason::Full => "full",
        RejectReason::Queued => "others wait for it",
        RejectReason::Breaker => "failed too often",
        RejectReason::Error => "did not answer",
        RejectReason::Memory => "too little memory",
        RejectReason::Quality => "not good enough",
        RejectReason::Latency => "too slow",
        RejectReason::Energy => "takes too much energy",
        RejectReason::Deadline => "too late",
    }
}

fn ended(outcome: &RequestOutcome) -> String {
    let end = match outcome.end {
        OutcomeStatus::Answered => "answered",
        OutcomeStatus::Failed => "failed",
        OutcomeStatus::Abandoned => "the client went away",
    };
    let millis = |ms: f64| format!("{ms:.1} ms");
    let source = outcome.joules_source.unwrap_or_default();
    let energy = outcome
        .joules
        .map(|spent| format!("{}, {source}", joules(spent)));
    let energy = energy.unwrap_or_default();
    let tokens = |of: Option<u32>| of.map(|n| n.to_string()).unwrap_or_default();
    facts(&[
        ("Ended", end.to_owned()),
        ("Error", outcome.error.clone().unwrap_or_default()),
        (
            "First token after",
            outcome.first_token_ms.map(millis).unwrap_or_default(),
        ),
        ("Whole answer after", millis(outcome.total_ms)),
        ("Prompt tokens", tokens(outcome.prompt_tokens)),
        ("Answer's tokens", tokens(outcome.completion_tokens)),
        (
            "Waited on the node",
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
