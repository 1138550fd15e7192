//! What would be decided if a request came now, looking at every replica: for whoever asks, not
//! for the request path.

use std::collections::BTreeMap;

use flotilla_core::generate::{GenerateInput, RequestError, Route};
use flotilla_core::placement::UnschedulableReason;
use flotilla_core::routing::{
    CandidateRecord, ExpectedAnswer, RejectReason, RejectedCandidate, RoutingDecision, nearest,
    score,
};
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::v1::ModelPhase;

use super::Dispatcher;
use super::appraise::{self, CandidateEstimate, appraise};
use super::look::{AWAY, reject};
use super::plan::{DispatchPlan, RequestProfile};
use crate::fleet::{FleetView, MeasuredQuality, ModelView, NodePhase, NodeView, pace_clock};
use crate::reconcile;

/// Nodes that are told of for each model.
const NODES: usize = 200;

impl Dispatcher {
    /// The decision about a request, with all candidates and why the others are none. Nothing is
    /// asked of a model, nothing goes on record.
    ///
    /// # Errors
    /// What the request would be refused with before any replica is looked for; the decision is
    /// filled in as far as it came.
    pub(crate) async fn dry_run(
        &self,
        route: &Route,
        input: &GenerateInput,
        max_tokens: Option<u32>,
    ) -> (RoutingDecision, Option<RequestError>) {
        let mut decision = RoutingDecision::default();
        let asked = RequestProfile { input, max_tokens };
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
fn compare(view: &FleetView, plan: &DispatchPlan, decision: &mut RoutingDecision) {
    let now = pace_clock();
    // Of each model the replica that would be picked: its place among the candidates.
    let mut picks = Vec::new();
    for (at, name) in plan.models.iter().enumerate() {
        let whole = |reason, detail: String| RejectedCandidate {
            model: name.clone(),
            node: None,
            reason,
            detail,
        };
        let Some(model) = view.by_name.get(name) else {
            let absent = "the fleet has no model of this name".into();
            decision.rejected.push(whole(RejectReason::UnknownModel, absent));
            continue;
        };
        if plan
            .zones
            .as_ref()
            .is_some_and(|zones| model.leaves_zones(zones))
        {
            decision
                .rejected
                .push(whole(RejectReason::Zone, AWAY.into()));
            continue;
        }
        let task = decision.task.as_ref();
        let measured = view.routing.measured(task, name);
        let unplaced = reconcile::explain(view, name);
        let unschedulable_nodes = unplaced
            .map(|unplaced| unplaced.reasons)
            .unwrap_or_default();
        let judge = DryRunModel {
            name,
            model,
            plan: &plan.tier(at),
            measured,
            unschedulable_nodes,
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
            let (at, reasons) = appraise::choose(&appraisals, judge.plan, now);
            appraise::tell(&mut decision.candidates[before..], &reasons);
            picks.push((before + at, appraisals[at].compared()));
        }
    }
    choose(plan, &picks, decision);
}

/// The replica that would be asked: of what would be picked of each model the first, or the one that
/// comes nearest to what the task wants.
fn choose(plan: &DispatchPlan, picks: &[(usize, ExpectedAnswer)], decision: &mut RoutingDecision) {
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
struct DryRunModel<'a> {
    name: &'a ModelName,
    model: &'a ModelView,
    plan: &'a DispatchPlan,
    measured: MeasuredQuality,
    /// Why nodes do not get a replica, where some are missing.
    unschedulable_nodes: BTreeMap<NodeName, UnschedulableReason>,
}

impl DryRunModel<'_> {
    fn of(
        &self,
        node: &NodeView,
        now: f32,
    ) -> Result<(CandidateRecord, CandidateEstimate), (RejectReason, String)> {
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
                return Err((RejectReason::Zone, format!("its zone is {zone}")));
            }
            let time = plan.deadline;
            let appraisal = appraise(replica, plan, self.measured, None, time, now)?;
            if !appraisal.prospect.admitted {
                return Err((RejectReason::CircuitOpen, String::new()));
            }
            return Ok((appraisal.candidate(name, replica), appraisal));
        }
        if node.phase != NodePhase::Ready {
            return Err((
                RejectReason::NodeDisconnected,
                format!("the node is {}", node.phase.as_str()),
            ));
        }
        if let Some(failed) = model.failures.get(&node.name) {
            return Err((RejectReason::LoadFailed, failed.problem.clone()));
        }
        let report = node.report.load();
        let phase = report.model(name).map(|status| status.phase());
        match phase {
            Some(ModelPhase::Draining) => Err((RejectReason::Draining, String::new())),
            _ if node.order.draining => {
                Err((RejectReason::Draining, "the node is being drained".into()))
            }
            _ if model.assigned.contains_key(&node.name) => {
                Err((RejectReason::Loading, String::new()))
            }
            _ => Err(match self.unschedulable_nodes.get(&node.name) {
                Some(memory @ UnschedulableReason::InsufficientMemory { .. }) => {
                    (RejectReason::Memory, memory.to_string())
                }
                Some(other) => (RejectReason::NotLoaded, other.to_string()),
                None => (RejectReason::NotLoaded, String::new()),
            }),
        }
    }
}
