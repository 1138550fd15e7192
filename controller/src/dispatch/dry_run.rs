//! What would be decided if a request came now, looking at every replica: for whoever asks, not
//! for the request path.

use flotilla_core::ModelName;
use flotilla_core::estimate::crowd;
use flotilla_core::generate::{Input, RequestError, Route};
use flotilla_core::routing::{Candidate, Decision, Reason, Rejected};
use flotilla_proto::v1::ModelPhase;

use super::Dispatch;
use super::plan::Plan;
use super::tries::candidate;
use crate::fleet::{FleetView, ModelView, NodePhase, NodeView, pace_clock};

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
    ) -> (Decision, Option<RequestError>) {
        let mut decision = Decision::default();
        match self.plan(route, input, &mut decision).await {
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
    for name in &plan.models {
        let Some(model) = view.by_name.get(name) else {
            decision.rejected.push(Rejected {
                model: name.clone(),
                node: None,
                reason: Reason::Unknown,
                detail: "the fleet has no model of this name".into(),
            });
            continue;
        };
        let nodes = view.nodes.values().take(NODES);
        for node in nodes {
            match judge(name, model, node, plan) {
                Ok(candidate) => decision.candidates.push(candidate),
                Err((reason, detail)) => decision.rejected.push(Rejected {
                    model: name.clone(),
                    node: Some(node.name.clone()),
                    reason,
                    detail,
                }),
            }
        }
    }
    // The first model that has one; of its replicas the one that will answer first. One that has
    // not answered yet counts as one that answers at once: it would be tried.
    let seconds = |c: &Candidate| (c.predicted_ms.unwrap_or(0.0), crowd(c.load));
    let of_first = plan.models.iter().find_map(|name| {
        let of_model = decision.candidates.iter().filter(|c| c.model == *name);
        of_model.min_by(|a, b| {
            let (a, b) = (seconds(a), seconds(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        })
    });
    decision.model = of_first.map(|candidate| candidate.model.clone());
    decision.node = of_first.map(|candidate| candidate.node.clone());
}

fn judge(
    name: &ModelName,
    model: &ModelView,
    node: &NodeView,
    plan: &Plan,
) -> Result<Candidate, (Reason, String)> {
    if let Some(replica) = model.replicas.iter().find(|r| r.node == node.name) {
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
        let prospect = replica.load.prospect(pace_clock());
        if !prospect.admitted {
            return Err((Reason::Breaker, String::new()));
        }
        if prospect.load.is_full() {
            let requests = prospect.load.in_flight;
            return Err((Reason::Full, format!("{requests} requests")));
        }
        return Ok(candidate(name, replica, prospect));
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
        _ => Err((Reason::NotLoaded, String::new())),
    }
}
