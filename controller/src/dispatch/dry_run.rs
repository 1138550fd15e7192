//! What would be decided if a request came now, looking at every replica: for whoever asks, not
//! for the request path.

use std::collections::BTreeMap;

use flotilla_core::generate::{Input, RequestError, Route};
use flotilla_core::placement::Refusal;
use flotilla_core::routing::{Candidate, Decision, Expected, Reason, Rejected, nearest, score};
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::v1::ModelPhase;

use super::Dispatch;
use super::appraise::{self, Appraisal, appraise};
use super::look::{AWAY, reject};
use super::plan::{Asked, Plan};
use crate::fleet::{FleetView, Measured, ModelView, NodePhase, NodeView, pace_clock};
use crate::reconcile;

/// Nodes that are told of for each model.
const NODES: usize = 200;

impl Dispatch {
    /// The decision about a request, with all candidates and why the others are none. Nothing is
    /// asked of a model, nothing goes on record.
    ///
    /// # Errors
    /// What the request would be refused with before any replica is looked for; the decision is
    /// filled in as far as it came.
    pub(crate) async fn dry_run(
        &self,
        route: &Route,
        input: &Input,
        max_tokens: Option<u32>,
    ) -> (Decision, Option<RequestError>) {
        let mut decision = Decision::default();
        let asked = Asked { input, max_tokens };
        match self.plan(route, asked, &mut decision).await {
            Ok(plan) => {
                compare(&self.fleet.view(), &plan, &mut decision);
                (decision, None)
            }
            Err(error) => (decision, Some(error)),
        }
    }
}

/// Fills in who could answer and who could not.
fn compare(view: &FleetView, plan: &Plan, decision: &mut Decision) {
    let now = pace_clock();
    // Of each model the replica that would be picked: its place among the candidates.
    let mut picks = Vec::new();
    for (at, name) in plan.models.iter().enumerate() {
        let whole = |reason, detail: String| Rejected {
            model: name.clone(),
            node: None,
            reason,
            detail,
        };
        let Some(model) = view.by_name.get(name) else {
            let absent = "the fleet has no model of this name".into();
            decision.rejected.push(whole(Reason::Unknown, absent));
            continue;
        };
        if plan.zones.as_ref().is_some_and(|zones| model.leaves(zones)) {
            decision.rejected.push(whole(Reason::Zone, AWAY.into()));
            continue;
        }
        let task = decision.task.as_ref();
        let measured = view.routing.measured(task, name);
        let unplaced = reconcile::explain(view, name);
        let refusals = unplaced
            .map(|unplaced| unplaced.refusals)
            .unwrap_or_default();
        let judge = Judge {
            name,
            model,
            plan: &plan.tier(at),
            measured,
            refusals,
        };
        let mut appraisals = Vec::new();
        let before = decision.candidates.len();
        for node in view.nodes.values().take(NODES) {
            match judge.of(node, now) {
                Ok((candidate, appraisal)) => {
                    decision.candidates.push(candidate);
                    appraisals.push(appraisal);
                }
                Err((reason, detail)) => {
                    let rejected = reject(name, &node.name, reason, detail);
                    decision.rejected.push(rejected);
                }
            }
        }
        if !appraisals.is_empty() {
            let (at, standings) = appraise::choose(&appraisals, judge.plan, now);
            appraise::tell(&mut decision.candidates[before..], &standings);
            picks.push((before + at, appraisals[at].compared()));
        }
    }
    choose(plan, &picks, decision);
}

/// The replica that would be asked: of what would be picked of each model the first, or the one that
/// comes nearest to what the task wants.
fn choose(plan: &Plan, picks: &[(usize, Expected)], decision: &mut Decision) {
    let cascades = plan.cascade().is_some();
    let chosen = match plan.weights.filter(|_| !cascades && picks.len() > 1) {
        None => picks.first(),
        Some(weights) => {
            let expected: Vec<_> = picks.iter().map(|(_, expected)| *expected).collect();
            let scores = score(weights, &expected);
            for ((at, _), score) in picks.iter().zip(&scores) {
                decision.candidates[*at].score = Some(*score);
            }
            nearest(&scores).map(|best| &picks[best])
        }
    };
    let chosen = chosen.map(|(at, _)| &decision.candidates[*at]);
    decision.model = chosen.map(|candidate| candidate.model.clone());
    decision.node = chosen.map(|candidate| candidate.node.clone());
}

/// Judges nodes for one model.
struct Judge<'a> {
    name: &'a ModelName,
    model: &'a ModelView,
    plan: &'a Plan,
    measured: Measured,
    /// Why nodes do not get a replica, where some are missing.
    refusals: BTreeMap<NodeName, Refusal>,
}

impl Judge<'_> {
    fn of(&self, node: &NodeView, now: f32) -> Result<(Candidate, Appraisal), (Reason, String)> {
        let Self {
            name, model, plan, ..
        } = self;
        if let Some(place) = model.places.get(&node.name) {
            let replica = &model.replicas[*place];
            let allowed = |zones: &std::collections::BTreeSet<_>| {
                replica
                    .zone
                    .as_ref()
                    .is_some_and(|zone| zones.contains(zone))
            };
            if !plan.zones.as_ref().is_none_or(allowed) {
                let zone = replica.zone.as_ref().map_or("none", |zone| zone.as_str());
                return Err((Reason::Zone, format!("its zone is {zone}")));
            }
            let time = plan.deadline;
            let appraisal = appraise(replica, plan, self.measured, None, time, now)?;
            if !appraisal.prospect.admitted {
                return Err((Reason::Breaker, String::new()));
            }
            return Ok((appraisal.candidate(name, replica), appraisal));
        }
        if node.phase != NodePhase::Ready {
            return Err((
                Reason::NodeAway,
                format!("the node is {}", node.phase.as_str()),
            ));
        }
        if let Some(failed) = model.failures.get(&node.name) {
            return Err((Reason::Failed, failed.problem.clone()));
        }
        let report = node.report.load();
        let phase = report.model(name).map(|status| status.phase());
        match phase {
            Some(ModelPhase::Draining) => Err((Reason::Draining, String::new())),
            _ if node.order.draining => Err((Reason::Draining, "the node is being drained".into())),
            _ if model.assigned.contains_key(&node.name) => Err((Reason::Loading, String::new())),
            _ => Err(match self.refusals.get(&node.name) {
                Some(memory @ Refusal::Memory { .. }) => (Reason::Memory, memory.to_string()),
                Some(other) => (Reason::NotLoaded, other.to_string()),
                None => (Reason::NotLoaded, String::new()),
            }),
        }
    }
}
