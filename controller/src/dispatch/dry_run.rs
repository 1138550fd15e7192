//! What would be decided if a request came now, looking at every replica: for whoever asks, not
//! for the request path.

use std::collections::BTreeMap;

use flotilla_core::estimate::crowd;
use flotilla_core::generate::{Input, RequestError, Route};
use flotilla_core::placement::Refusal;
use flotilla_core::routing::{Candidate, Decision, Expected, Reason, Rejected, nearest, score};
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::v1::ModelPhase;

use super::Dispatch;
use super::appraise::appraise;
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
        for node in view.nodes.values().take(NODES) {
            match judge.of(node) {
                Ok(candidate) => decision.candidates.push(candidate),
                Err((reason, detail)) => {
                    let rejected = reject(name, &node.name, reason, detail);
                    decision.rejected.push(rejected);
                }
            }
        }
    }
    choose(plan, decision);
}

/// The replica that would be asked: of each model the one that will answer first, and of those the
/// first model's, or the one that comes nearest to what the task wants. One that has not answered
/// yet counts as one that answers at once: it would be tried.
fn choose(plan: &Plan, decision: &mut Decision) {
    let seconds = |c: &Candidate| (c.predicted_ms.unwrap_or(0.0), crowd(c.load));
    let soonest = |name: &ModelName| {
        let of_model = decision.candidates.iter().enumerate();
        let of_model = of_model.filter(|(_, c)| c.model == *name);
        let first = of_model.min_by(|(_, a), (_, b)| {
            let (a, b) = (seconds(a), seconds(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        first.map(|(at, _)| at)
    };
    let firsts: Vec<usize> = plan.models.iter().filter_map(soonest).collect();
    let cascades = plan.cascade().is_some();
    let chosen = match plan.weights.filter(|_| !cascades && firsts.len() > 1) {
        None => firsts.first().copied(),
        Some(weights) => {
            let expected = |at: &usize| {
                let candidate = &decision.candidates[*at];
                Expected {
                    quality: candidate.quality,
                    seconds: candidate.predicted_ms.map(|ms| ms / 1e3),
                    joules: candidate.predicted_joules,
                }
            };
            let expected: Vec<_> = firsts.iter().map(expected).collect();
            let scores = score(weights, &expected);
            for (at, score) in firsts.iter().zip(&scores) {
                decision.candidates[*at].score = Some(*score);
            }
            nearest(&scores).map(|best| firsts[best])
        }
    };
    let chosen = chosen.map(|at| &decision.candidates[at]);
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
    fn of(&self, node: &NodeView) -> Result<Candidate, (Reason, String)> {
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
            let (time, now) = (plan.deadline, pace_clock());
            let appraisal = appraise(replica, plan, self.measured, None, time, now)?;
            if !appraisal.prospect.admitted {
                return Err((Reason::Breaker, String::new()));
            }
            return Ok(appraisal.candidate(name, replica));
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
